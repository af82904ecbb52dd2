//! Is a worker stuck, and for how long? Told by what it publishes; knows no
//! processes and does nothing about it.

use srv_common::layout::Load;

/// What was seen of one slot so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct HangWatch {
    woke_ns: u64,
    accepted: u64,
    /// Since when something came for it that it did not wake for, ns; 0: nothing did.
    passed_over_since_ns: u64,
}

impl HangWatch {
    /// For how long, ns, a worker with that `load` has been stuck at `now_ns`: away
    /// from `epoll_wait`, or asleep there although a connection came to its own
    /// listener. The kernel wakes a listener's owner first, so one that sleeps
    /// on is stopped. (`accepted`: so many were taken from there; `queued`: whether
    /// connections wait there now.)
    pub fn stuck_ns(
        &mut self,
        load: &Load,
        accepted: u64,
        now_ns: u64,
        queued: impl FnOnce() -> bool,
    ) -> u64 {
        let busy_since_ns = load.busy_since_ns.get();
        let woke_ns = load.woke_ns.get();
        if busy_since_ns != 0 || woke_ns != self.woke_ns {
            *self = Self {
                woke_ns,
                accepted,
                passed_over_since_ns: 0,
            };
            let since_ns = if busy_since_ns == 0 {
                now_ns
            } else {
                busy_since_ns
            };
            return now_ns.saturating_sub(since_ns);
        }
        if self.passed_over_since_ns == 0 && (accepted != self.accepted || queued()) {
            self.passed_over_since_ns = now_ns;
        }
        match self.passed_over_since_ns {
            0 => 0,
            since_ns => now_ns.saturating_sub(since_ns),
        }
    }

    /// Whether the worker has come under suspicion at `now_ns`. It is to be told
    /// something then: a sibling may have been faster with what it woke for
    /// before, and a worker that can wakes up to listen.
    pub fn is_new_suspect(&self, now_ns: u64) -> bool {
        self.passed_over_since_ns == now_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuck(watch: &mut HangWatch, load: &Load, now_ns: u64) -> u64 {
        watch.stuck_ns(load, 0, now_ns, || false)
    }

    #[test]
    fn one_that_is_busy_is_stuck_since_it_woke() {
        let (load, mut watch) = (Load::default(), HangWatch::default());
        load.woke_ns.set(1_000);
        load.busy_since_ns.set(1_000);
        assert_eq!(stuck(&mut watch, &load, 5_000), 4_000);
        load.busy_since_ns.set(0);
        assert_eq!(stuck(&mut watch, &load, 9_000), 0);
    }

    #[test]
    fn one_that_sleeps_while_others_take_what_came_for_it_is_stuck() {
        let (load, mut watch) = (Load::default(), HangWatch::default());
        let mut stuck = |accepted, now_ns| watch.stuck_ns(&load, accepted, now_ns, || false);
        load.woke_ns.set(1_000);
        assert_eq!(stuck(0, 2_000), 0);
        assert_eq!(stuck(1, 3_000), 0, "it may just wake");
        assert_eq!(stuck(1, 8_000), 5_000);
        load.woke_ns.set(8_500);
        assert_eq!(stuck(1, 9_000), 0, "it did");
    }

    #[test]
    fn it_is_suspected_once() {
        let (load, mut watch) = (Load::default(), HangWatch::default());
        watch.stuck_ns(&load, 1, 3_000, || false);
        assert!(watch.is_new_suspect(3_000));
        watch.stuck_ns(&load, 1, 8_000, || false);
        assert!(!watch.is_new_suspect(8_000));
    }

    #[test]
    fn one_that_sleeps_beside_its_queue_is_stuck() {
        let (load, mut watch) = (Load::default(), HangWatch::default());
        watch.stuck_ns(&load, 0, 1_000, || true);
        assert_eq!(watch.stuck_ns(&load, 0, 4_000, || true), 3_000);
    }

    #[test]
    fn one_that_nothing_comes_for_may_sleep_for_ever() {
        let (load, mut watch) = (Load::default(), HangWatch::default());
        assert_eq!(stuck(&mut watch, &load, 1_000), 0);
        assert_eq!(stuck(&mut watch, &load, u64::MAX / 2), 0);
    }
}
