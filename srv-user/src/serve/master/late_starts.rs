//! Workers whose start does not end: they are stopped, or wait for a root whose file system does
//! not answer. The master kills such a worker after a while, and starts another in its slot.

use super::worker::Progress;
use super::{Master, RECONCILE_EVERY};

/// After so many checks, one each [`RECONCILE_EVERY`], a start has failed. A healthy start needs
/// milliseconds, or seconds on a crowded machine. Checks are counted and no time is measured, so
/// that a machine that stood still costs no worker.
const CHECKS_BEFORE_GIVING_UP: u32 = 15;

impl Master {
    /// Checks all workers that do not wait on their listeners yet. A worker that does may serve
    /// already: whether it has stalled is for [`super::stalls`] to judge.
    pub(super) fn give_up_late_starters(&mut self) {
        let workers = self.staff.workers.values_mut();
        for worker in workers.chain(self.orphans.workers_mut()) {
            let Progress::Starting { checks } = &mut worker.progress else {
                continue;
            };
            *checks += 1;
            if *checks != CHECKS_BEFORE_GIVING_UP {
                continue;
            }
            let (slot, pid) = (worker.slot, worker.pid().as_raw_nonzero());
            let why = format!(
                "worker {slot} (process {pid}) has not come up in {:?}: it is stopped, or the \
                 file system of the root does not answer",
                CHECKS_BEFORE_GIVING_UP * RECONCILE_EVERY
            );
            tracing::error!(slot, "{why}; killing it, and another takes its place");
            self.staff.last_failure = Some(why);
            worker.kill();
        }
    }
}
