//! Whether a worker has stalled, and for how long, judged by what it publishes. Knows no
//! processes and does nothing about a stall.

use srv_common::layout::Load;

/// What was seen of one slot so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StallWatch {
    woke_ns: u64,
    pending: u32,
    /// Since when neither of these has changed, ns.
    still_since_ns: u64,
    accepted: u64,
    /// Since when something came for it that it did not wake for, ns; 0: nothing did.
    passed_over_since_ns: u64,
    /// Looks at it while it slept and nothing was known to wait for it.
    quiet_looks: u32,
}

/// At one of so many looks at a worker that sleeps, the kernel is asked what waits for it, although
/// the counts say that nothing does: they do not have what the kernel hashed. A look costs the
/// process that watches a system call for each worker, 50 times a second.
const ASKED_EVERY: u32 = 5;

/// For how long a worker has stalled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stalled {
    /// Since it was last ready for a new connection, ns; 0 if it is.
    pub away_ns: u64,
    /// Since anything of it moved, ns; 0 if it is not away. A worker that goes through
    /// many events may be away for long, and has not stalled: each event that it is done
    /// with counts. (One connection's turn is bounded, so a transfer cannot be one event.)
    pub still_ns: u64,
}

impl StallWatch {
    /// Looks at a worker with that `load` at `now_ns`. It is away if it is not in
    /// `epoll_wait`, or asleep there although a connection came to its own listener: the
    /// kernel wakes a listener's owner first, so a worker that sleeps on is stopped.
    /// (`accepted`: so many were taken from there; `may_wait`: whether connections wait there by
    /// the counts; `queued`: whether they do by the kernel. Where a listener is not one worker's:
    /// always 0, and none.)
    pub(crate) fn look(
        &mut self,
        load: &Load,
        accepted: u64,
        now_ns: u64,
        may_wait: bool,
        queued: impl FnOnce() -> bool,
    ) -> Stalled {
        let busy_since_ns = load.busy_since_ns.get();
        let woke_ns = load.woke_ns.get();
        if busy_since_ns != 0 || woke_ns != self.woke_ns {
            return self.look_at_one_awake(busy_since_ns, woke_ns, load, accepted, now_ns);
        }
        self.quiet_looks = match may_wait {
            true => 0,
            false => self.quiet_looks.wrapping_add(1),
        };
        let is_asked = self.quiet_looks.is_multiple_of(ASKED_EVERY);
        if self.passed_over_since_ns == 0 && (accepted != self.accepted || (is_asked && queued())) {
            self.passed_over_since_ns = now_ns;
        }
        let away_ns = match self.passed_over_since_ns {
            0 => 0,
            since_ns => now_ns.saturating_sub(since_ns),
        };
        Stalled {
            away_ns,
            still_ns: away_ns,
        }
    }

    /// The worker is busy, or has been since the last look.
    fn look_at_one_awake(
        &mut self,
        busy_since_ns: u64,
        woke_ns: u64,
        load: &Load,
        accepted: u64,
        now_ns: u64,
    ) -> Stalled {
        let pending = load.pending.get();
        if woke_ns != self.woke_ns {
            self.still_since_ns = busy_since_ns;
        } else if pending != self.pending {
            self.still_since_ns = now_ns;
        }
        *self = Self {
            woke_ns,
            pending,
            still_since_ns: self.still_since_ns,
            accepted,
            passed_over_since_ns: 0,
            quiet_looks: self.quiet_looks,
        };
        if busy_since_ns == 0 {
            return Stalled::default();
        }
        Stalled {
            away_ns: now_ns.saturating_sub(busy_since_ns),
            still_ns: now_ns.saturating_sub(self.still_since_ns.max(busy_since_ns)),
        }
    }

    /// Whether the worker has come under suspicion at `now_ns`. It is to be told
    /// something then: a sibling may have been faster with what it woke for
    /// before, and a worker that can wakes up to listen.
    pub(crate) fn is_new_suspect(&self, now_ns: u64) -> bool {
        self.passed_over_since_ns == now_ns
    }
}

/// The looks of the process that watches the workers. If that process does not run either,
/// because both were stopped, frozen or suspended, no worker has stalled: what was before a look
/// that came late does not count.
#[derive(Debug, Default)]
pub struct Looks {
    looked_ns: u64,
    counts_from_ns: u64,
}

impl Looks {
    /// A look at `now_ns`, which is late if the last was longer ago than `late_after_ns`.
    pub fn look(&mut self, now_ns: u64, late_after_ns: u64) {
        if now_ns.saturating_sub(self.looked_ns) > late_after_ns {
            self.counts_from_ns = now_ns;
        }
        self.looked_ns = now_ns;
    }

    /// For how long, ns, the watching process has watched without a gap.
    pub fn watched_ns(&self) -> u64 {
        self.looked_ns - self.counts_from_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away_ns(watch: &mut StallWatch, load: &Load, now_ns: u64) -> u64 {
        watch.look(load, 0, now_ns, false, || false).away_ns
    }

    #[test]
    fn a_busy_worker_has_stalled_since_it_woke() {
        let (load, mut watch) = (Load::default(), StallWatch::default());
        load.woke_ns.set(1_000);
        load.busy_since_ns.set(1_000);
        assert_eq!(away_ns(&mut watch, &load, 5_000), 4_000);
        load.busy_since_ns.set(0);
        assert_eq!(away_ns(&mut watch, &load, 9_000), 0);
    }

    #[test]
    fn a_worker_that_sleeps_while_others_take_what_came_for_it_has_stalled() {
        let (load, mut watch) = (Load::default(), StallWatch::default());
        let mut stuck =
            |accepted, now_ns| watch.look(&load, accepted, now_ns, true, || false).away_ns;
        load.woke_ns.set(1_000);
        assert_eq!(stuck(0, 2_000), 0);
        assert_eq!(stuck(1, 3_000), 0, "it may just wake");
        assert_eq!(stuck(1, 8_000), 5_000);
        load.woke_ns.set(8_500);
        assert_eq!(stuck(1, 9_000), 0, "it did");
    }

    #[test]
    fn it_is_suspected_once() {
        let (load, mut watch) = (Load::default(), StallWatch::default());
        watch.look(&load, 1, 3_000, true, || false);
        assert!(watch.is_new_suspect(3_000));
        watch.look(&load, 1, 8_000, true, || false);
        assert!(!watch.is_new_suspect(8_000));
    }

    #[test]
    fn a_worker_that_sleeps_beside_its_queue_has_stalled() {
        let (load, mut watch) = (Load::default(), StallWatch::default());
        watch.look(&load, 0, 1_000, true, || true);
        let stuck = watch.look(&load, 0, 4_000, true, || true);
        assert_eq!((stuck.away_ns, stuck.still_ns), (3_000, 3_000));
    }

    #[test]
    fn what_the_counts_do_not_have_is_found_at_some_look() {
        let (load, mut watch) = (Load::default(), StallWatch::default());
        let mut asked = 0;
        for now_ns in 1..=u64::from(ASKED_EVERY) {
            watch.look(&load, 0, now_ns, false, || {
                asked += 1;
                true
            });
        }
        assert_eq!(asked, 1);
        assert!(watch.is_new_suspect(ASKED_EVERY.into()));
    }

    #[test]
    fn a_worker_that_nothing_comes_for_may_sleep_for_ever() {
        let (load, mut watch) = (Load::default(), StallWatch::default());
        assert_eq!(away_ns(&mut watch, &load, 1_000), 0);
        assert_eq!(away_ns(&mut watch, &load, u64::MAX / 2), 0);
    }

    #[test]
    fn a_worker_that_goes_through_its_events_is_away_and_not_still() {
        let (load, mut watch) = (Load::default(), StallWatch::default());
        let mut look = |now_ns, busy_since_ns, pending| {
            load.woke_ns.set(busy_since_ns);
            load.busy_since_ns.set(busy_since_ns);
            load.pending.set(pending);
            let stuck = watch.look(&load, 0, now_ns, true, || false);
            (stuck.away_ns, stuck.still_ns)
        };
        assert_eq!(look(3_000, 1_000, 9), (2_000, 2_000));
        assert_eq!(look(5_000, 1_000, 8), (4_000, 0));
        assert_eq!(look(6_000, 1_000, 8), (5_000, 1_000));
        assert_eq!(look(7_000, 1_000, 2), (6_000, 0));
        assert_eq!(
            look(9_000, 8_500, 2),
            (500, 500),
            "another turn of its loop"
        );
    }

    #[test]
    fn what_was_before_a_late_look_does_not_count() {
        let mut looks = Looks::default();
        looks.look(50_000, 100);
        assert_eq!(looks.watched_ns(), 0, "the first");
        looks.look(50_100, 100);
        looks.look(50_200, 100);
        assert_eq!(looks.watched_ns(), 200);
        looks.look(59_000, 100);
        assert_eq!(looks.watched_ns(), 0, "both were frozen");
        looks.look(59_050, 100);
        assert_eq!(looks.watched_ns(), 50);
    }
}
