//! Workers that do not come up: stopped, or waiting for a root that does not answer. Each is
//! killed after a while, and its slot gets another.

use rustix::process::Signal;

use super::{HEAL_EVERY, Master};

/// After so many looks, of [`HEAL_EVERY`] each, a start has failed. A healthy one needs
/// milliseconds, or seconds on a crowded machine. Looks and not time, so that a machine that
/// stood still costs no worker.
const LOOKS_BEFORE_GIVING_UP: u32 = 15;

impl Master {
    /// A look at all workers that do not wait on their listeners yet. One that does may serve
    /// already: whether that one hangs is for [`super::hangs`] to judge.
    pub(super) fn give_up_late_starters(&mut self) {
        let sweepers = self
            .sweeping
            .iter_mut()
            .map(|leftover| &mut leftover.worker);
        let workers = self.workers.values_mut().chain(sweepers);
        for worker in workers.filter(|worker| !worker.registered) {
            worker.looks_starting += 1;
            if worker.looks_starting != LOOKS_BEFORE_GIVING_UP {
                continue;
            }
            let (slot, pid) = (worker.slot, worker.pid().as_raw_nonzero());
            let why = format!(
                "worker {slot} (process {pid}) has not come up in {:?}: it is stopped, or the \
                 file system of the root does not answer",
                LOOKS_BEFORE_GIVING_UP * HEAL_EVERY
            );
            tracing::error!(slot, "{why}; killing it, and another takes its place");
            self.last_failure = Some(why);
            // It may have ended by itself.
            let _ = worker.process.signal(Signal::KILL);
        }
    }
}
