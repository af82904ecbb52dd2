//! The inspection of the listeners, and what follows when one of them was changed: any worker that
//! holds it may be under an attacker's control, so all of them are replaced.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::Master;
use super::phase::Phase;
use super::staff::RingState;
use super::worker::Worker;
use srv_steer::Group;

/// The shortest time between two replacements of all workers. If another process changes listeners
/// again and again, workers have to serve nevertheless.
const REPLACE_EVERY: Duration = Duration::from_secs(60);

/// Workers that have to leave, and that may not do so by themselves.
#[derive(Default)]
pub(super) struct Suspects {
    /// When each is killed if it is still there.
    deadlines: HashMap<Pid, Instant>,
    /// When all workers were replaced last.
    replaced: Option<Instant>,
}

impl Suspects {
    /// Has this worker killed if it is still there after `grace`.
    pub(super) fn kill_unless_it_leaves(&mut self, pid: Pid, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.deadlines.entry(pid).or_insert(deadline);
    }

    /// A worker that an attacker controls does not leave when it is told to.
    fn kill_overdue(&mut self, workers: &HashMap<Pid, Worker>) {
        let now = Instant::now();
        self.deadlines.retain(|pid, deadline| {
            let Some(worker) = workers.get(pid) else {
                return false;
            };
            if now < *deadline {
                return true;
            }
            tracing::warn!(
                slot = worker.slot,
                "killing worker {pid}, which does not leave"
            );
            worker.kill();
            false
        });
    }

    fn were_just_replaced(&self) -> bool {
        self.replaced.is_some_and(|at| at.elapsed() < REPLACE_EVERY)
    }
}

impl Master {
    /// Once a second: repairs listeners that were changed.
    pub(super) fn inspect(&mut self) {
        self.suspects.kill_overdue(&self.staff.workers);
        let found: Vec<String> = self.groups.iter_mut().flat_map(Group::inspect).collect();
        for what in &found {
            tracing::error!("{what}");
        }
        let is_settled = match self.phase {
            Phase::Starting | Phase::Serving => self.staff.ring() == RingState::Whole,
            Phase::HandingOver { .. } | Phase::Stopping(_) => false,
        };
        if !found.is_empty() && is_settled && !self.suspects.were_just_replaced() {
            self.replace_suspects();
        }
    }

    /// Every worker holds every listener.
    fn replace_suspects(&mut self) {
        let pids: Vec<Pid> = self.staff.workers.keys().copied().collect();
        let names: Vec<_> = pids.iter().map(ToString::to_string).collect();
        tracing::warn!(
            "replacing the workers, any of which could have done that: {}",
            names.join(", ")
        );
        self.suspects.replaced = Some(Instant::now());
        for pid in pids {
            self.suspects
                .kill_unless_it_leaves(pid, self.settings.grace);
        }
        self.replace_workers();
    }
}
