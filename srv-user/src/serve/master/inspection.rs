//! Looking after the listeners, and what follows when one of them was changed: a worker
//! that holds it may be under an attacker's control, so all of them are replaced.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::Master;
use srv_steer::Group;

/// Between two replacements: should something from outside change listeners over and
/// over, workers are to serve nevertheless.
const REPLACE_EVERY: Duration = Duration::from_secs(60);

/// Workers that may have changed what they must not.
#[derive(Default)]
pub(super) struct Suspects {
    /// When each is killed if it is still there.
    deadlines: HashMap<Pid, Instant>,
    replaced: Option<Instant>,
}

impl Master {
    /// Once a second: mends listeners that were changed.
    pub(super) fn inspect(&mut self) {
        self.kill_overdue_suspects();
        let found: Vec<String> = self.groups.iter_mut().flat_map(Group::inspect).collect();
        for what in &found {
            tracing::error!("{what}");
        }
        let is_soon = |at: Instant| at.elapsed() < REPLACE_EVERY;
        let is_busy = self.stopping.is_some() || self.upgrade.is_some() || !self.started;
        if !found.is_empty() && !is_busy && !self.suspects.replaced.is_some_and(is_soon) {
            self.replace_suspects();
        }
    }

    /// Every worker holds every listener.
    fn replace_suspects(&mut self) {
        let pids: Vec<Pid> = self.workers.keys().copied().collect();
        let names: Vec<_> = pids.iter().map(ToString::to_string).collect();
        tracing::warn!(
            "replacing the workers, any of which could have done that: {}",
            names.join(", ")
        );
        self.suspects.replaced = Some(Instant::now());
        pids.into_iter()
            .for_each(|pid| self.kill_unless_it_leaves(pid));
        self.replace_workers();
    }

    /// A worker is replaced that may not do what it is told to.
    pub(super) fn kill_unless_it_leaves(&mut self, pid: Pid) {
        let deadline = Instant::now() + self.settings.grace;
        self.suspects.deadlines.entry(pid).or_insert(deadline);
    }

    /// A worker that an attacker controls does not leave when it is told to.
    fn kill_overdue_suspects(&mut self) {
        let now = Instant::now();
        let workers = &self.workers;
        self.suspects.deadlines.retain(|pid, deadline| {
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
            // It may have ended by itself.
            let _ = worker.process.signal(Signal::KILL);
            false
        });
    }
}
