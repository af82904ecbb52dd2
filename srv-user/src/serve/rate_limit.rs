//! One log line a second, with a count, for what may happen at every iteration of a worker's loop.

const INTERVAL_NS: u64 = 1_000_000_000;

/// One kind of line.
#[derive(Debug, Default)]
pub struct RateLimit {
    count: u64,
    next_ns: u64,
}

impl RateLimit {
    /// It happened at `now_ns` of `CLOCK_MONOTONIC`. If a line is due: how often it has
    /// happened since the last one.
    pub fn happened(&mut self, now_ns: u64) -> Option<u64> {
        self.count += 1;
        if now_ns < self.next_ns {
            return None;
        }
        self.next_ns = now_ns + INTERVAL_NS;
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_second_counts_those_before_it() {
        let mut limit = RateLimit::default();
        assert_eq!(limit.happened(5), Some(1), "the first at once");
        assert_eq!(limit.happened(6), None);
        assert_eq!(limit.happened(INTERVAL_NS), None);
        assert_eq!(limit.happened(INTERVAL_NS + 5), Some(3));
    }
}
