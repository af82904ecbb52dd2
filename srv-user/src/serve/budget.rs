//! How much of its time a worker may spend on work that a client can ask for at will. These functions
//! know no clock.

/// A part of a worker's time.
#[derive(Debug)]
pub struct Budget {
    /// The work may take one of so many parts of the time.
    parts: u64,
    /// Work that comes together may be ahead of that by so much, ns of time.
    ahead_ns: u64,
    /// When what was spent is no more than its part, ns.
    paid_ns: u64,
}

impl Budget {
    /// One of `parts` of the time, and `at_once_ns` of work more if it comes together.
    pub const fn new(parts: u64, at_once_ns: u64) -> Self {
        Self {
            parts,
            ahead_ns: parts * at_once_ns,
            paid_ns: 0,
        }
    }

    /// How long the next piece of work has to wait, ns; 0: it need not.
    pub fn wait_ns(&self, now_ns: u64) -> u64 {
        self.paid_ns.saturating_sub(now_ns + self.ahead_ns)
    }

    /// Notes that a piece of work has taken so long.
    pub fn spend(&mut self, now_ns: u64, took_ns: u64) {
        self.paid_ns = self.paid_ns.max(now_ns) + took_ns * self.parts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_time_is_spent_and_no_more() {
        let mut budget = Budget::new(10, 50);
        let mut spent_ns = 0;
        for now_ns in 1000..101_000 {
            if budget.wait_ns(now_ns) == 0 {
                budget.spend(now_ns, 20);
                spent_ns += 20;
            }
        }
        assert!((10_000..10_100).contains(&spent_ns), "{spent_ns}");
        assert_eq!(budget.wait_ns(1_000_000), 0);
        (0..3).for_each(|_| budget.spend(1_000_000, 20));
        assert_eq!(budget.wait_ns(1_000_000), 100);
    }
}
