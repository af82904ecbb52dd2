//! Whether a worker serves or drains, and until when. This module knows no listeners and no
//! connections.

use std::time::Duration;

/// How often a worker checks deadlines, ns.
pub(super) const SWEEP_NS: u64 = 250_000_000;
/// How often a draining worker checks deadlines, and whether it has finished.
const DRAIN_CHECK: Duration = Duration::from_millis(20);
/// How long handshakes may take to complete after the kernel has stopped answering SYNs, ns.
const LAST_HANDSHAKES_NS: u64 = 100_000_000;
/// How long a worker may drain after its master has died, ns.
const WITHOUT_MASTER_NS: u64 = 10_000_000_000;

/// Whether a worker serves or drains. Times are ns of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It serves.
    Serving,
    /// It has drained since this time: it finishes the connections that it has.
    Draining { since_ns: u64 },
    /// It drains because its master has died. At `exit_ns` it exits, even if it has not finished.
    Orphaned { since_ns: u64, exit_ns: u64 },
}

impl Mode {
    /// Since when it drains, if it does.
    pub(super) fn draining_since_ns(self) -> Option<u64> {
        match self {
            Self::Serving => None,
            Self::Draining { since_ns } | Self::Orphaned { since_ns, .. } => Some(since_ns),
        }
    }

    pub(super) fn is_draining(self) -> bool {
        self != Self::Serving
    }

    /// Begins to drain at `now_ns`. Returns whether it did not drain before.
    pub(super) fn drain(&mut self, now_ns: u64) -> bool {
        let is_new = !self.is_draining();
        if is_new {
            *self = Self::Draining { since_ns: now_ns };
        }
        is_new
    }

    /// Notes that the master has died at `now_ns`. If the worker drains already, this bounds the
    /// drain; if it does not, it begins one.
    pub(super) fn orphan(&mut self, now_ns: u64) {
        *self = Self::Orphaned {
            since_ns: self.draining_since_ns().unwrap_or(now_ns),
            exit_ns: now_ns + WITHOUT_MASTER_NS,
        };
    }

    /// Whether the worker must exit at `now_ns`, even if it has not finished.
    pub(super) fn is_over(self, now_ns: u64) -> bool {
        matches!(self, Self::Orphaned { exit_ns, .. } if now_ns >= exit_ns)
    }

    /// Whether the time for handshakes that had begun before the drain is over at `now_ns`.
    pub(super) fn are_handshakes_over(self, now_ns: u64) -> bool {
        let since_ns = self.draining_since_ns();
        since_ns.is_some_and(|since_ns| now_ns >= since_ns + LAST_HANDSHAKES_NS)
    }

    /// How often the worker checks deadlines.
    pub(super) fn sweep_interval(self) -> Duration {
        match self {
            Self::Serving => Duration::from_nanos(SWEEP_NS),
            Self::Draining { .. } | Self::Orphaned { .. } => DRAIN_CHECK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_begins_once_and_ends_in_time_without_a_master() {
        let mut mode = Mode::Serving;
        assert!(mode.drain(5) && !mode.drain(6));
        assert_eq!(mode.draining_since_ns(), Some(5));
        assert!(!mode.is_over(u64::MAX), "the master has its own grace");
        mode.orphan(9);
        assert_eq!(mode.draining_since_ns(), Some(5));
        let exit_ns = 9 + WITHOUT_MASTER_NS;
        assert!(!mode.is_over(exit_ns - 1) && mode.is_over(exit_ns));
        assert!(!mode.drain(10));
    }
}
