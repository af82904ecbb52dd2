//! The time that a worker has spent away from `epoll_wait`, in one integer: a reader that looks at
//! any moment sees the stretch that is under way, too, and never a sum that becomes smaller. Knows
//! no clock.

use crate::shared::Shared;

/// Set while the worker is away. The other bits are then the sum minus the instant at which it
/// left, so that the sum now is those bits plus the time now.
const AWAY: u64 = 1 << 63;

/// How long a worker has been away from `epoll_wait` in all, ns. Written by the worker, and, after
/// its end, by the master.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct BusyTime(Shared<u64>);

impl BusyTime {
    /// The worker is away from `now_ns` on, unless it was already.
    #[inline(always)]
    pub fn leaves(&self, now_ns: u64) {
        let sum_ns = self.0.get();
        if sum_ns & AWAY == 0 {
            self.0.set(sum_ns.wrapping_sub(now_ns) | AWAY);
        }
    }

    /// The worker is in `epoll_wait` from `now_ns` on, or has ended.
    #[inline(always)]
    pub fn returns(&self, now_ns: u64) {
        let word = self.0.get();
        if word & AWAY != 0 {
            self.0.set(word.wrapping_add(now_ns) & !AWAY);
        }
    }

    /// How long it has been away until `now_ns`.
    pub fn sum_ns(&self, now_ns: u64) -> u64 {
        match self.0.get() {
            word if word & AWAY != 0 => word.wrapping_add(now_ns) & !AWAY,
            sum_ns => sum_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stretch_that_is_under_way_counts_and_no_sum_becomes_smaller() {
        let busy = BusyTime::default();
        assert_eq!(busy.sum_ns(1_000), 0);
        busy.returns(1_000);
        assert_eq!(busy.sum_ns(1_000), 0, "it was not away");
        for (left_ns, back_ns, before_ns) in [(1_000, 1_500, 0), (9_000, 9_001, 500)] {
            busy.leaves(left_ns);
            assert_eq!(busy.sum_ns(left_ns), before_ns);
            // It looks for events without sleeping.
            busy.leaves(left_ns + 1);
            assert_eq!(busy.sum_ns(back_ns), before_ns + back_ns - left_ns);
            busy.returns(back_ns);
            assert_eq!(busy.sum_ns(u64::MAX), before_ns + back_ns - left_ns);
        }
    }

    #[test]
    fn a_worker_that_ended_while_it_was_away_is_away_no_longer() {
        let busy = BusyTime::default();
        busy.leaves(5);
        busy.returns(8);
        busy.returns(100);
        assert_eq!(busy.sum_ns(1_000), 3);
        busy.leaves(200);
        assert_eq!(busy.sum_ns(201), 4);
    }
}
