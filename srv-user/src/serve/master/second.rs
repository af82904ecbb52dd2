//! A second worker in a slot: what a worker has given up it cannot have back, so
//! another root is another worker's to serve. It starts beside the first, which
//! accepts until the second waits on its listeners, and then finishes what it has.

use rustix::process::Pid;

use super::Master;
use crate::serve::master::join::ToFirst;
use crate::serve::master::spawn::Worker;
use crate::serve::orders::Task;

impl Master {
    /// Has every worker replaced.
    pub(super) fn replace_workers(&mut self) {
        for slot in self.own_slots() {
            self.slots[slot].generation += 1;
            self.staff(slot);
        }
    }

    /// Has the worker in a slot replaced, for this reason. It serves until the other can, and
    /// is killed if it does not leave.
    pub(super) fn replace(&mut self, slot: u32, why: &str) {
        let wanted = self.slots[slot].generation;
        // Once: it may refuse more than one order before the next worker has come up.
        let to_replace = self.in_charge(slot).filter(|at| at.generation >= wanted);
        let Some(pid) = to_replace.map(Worker::pid) else {
            return;
        };
        tracing::warn!(slot, "replacing worker {slot}: {why}");
        self.kill_unless_it_leaves(pid);
        self.slots[slot].generation += 1;
        self.staff(slot);
    }

    /// Whether the worker in charge of a slot is to be replaced and no other has been started
    /// for that.
    pub(super) fn is_outdated(&self, slot: u32) -> bool {
        let wanted = self.slots[slot].generation;
        let in_slot = |worker: &&Worker| worker.slot == slot && !worker.leaves;
        let mut workers = self.workers.values().filter(in_slot);
        self.in_charge(slot).is_some() && workers.all(|worker| worker.generation < wanted)
    }

    /// Starts the next worker of a slot beside the one that is there.
    pub(super) fn spawn_beside(&mut self, slot: u32) -> anyhow::Result<()> {
        let mut worker = self.start_worker(slot)?;
        worker.is_second = true;
        self.workers.insert(worker.pid(), worker);
        Ok(())
    }

    /// A worker waits on its own listeners: if it is its slot's second, it is the
    /// one in charge from now on.
    pub(super) fn take_charge(&mut self, pid: Pid) {
        let Some(newcomer) = self.workers.get_mut(&pid) else {
            return;
        };
        if !std::mem::take(&mut newcomer.is_second) {
            return;
        }
        let (slot, started) = (newcomer.slot, newcomer.started);
        let mut others = self.workers.values_mut().filter(|worker| {
            let is_other = worker.slot == slot && worker.pid() != pid;
            is_other && worker.is_in_charge()
        });
        if let Some(other) = others.next() {
            // Of two seconds the later one knows the newer root.
            let loser = if other.started > started {
                pid
            } else {
                other.pid()
            };
            self.yield_slot(loser);
        }
        let Some(newcomer) = self.workers.get(&pid) else {
            return;
        };
        if !newcomer.leaves {
            let pid = pid.as_raw_nonzero().get() as u32;
            self.groups
                .iter()
                .for_each(|group| group.worker_replaced(slot, pid));
            self.tell_first(ToFirst::Replaced { slot, pid });
        }
    }

    fn yield_slot(&mut self, pid: Pid) {
        if let Some(worker) = self.workers.get_mut(&pid) {
            worker.leaves = true;
            worker.has_yielded = true;
            worker.give(Task::Yield);
        }
    }

    /// The worker whose slot it is.
    pub(super) fn in_charge(&self, slot: u32) -> Option<&Worker> {
        let mut workers = self.workers.values();
        workers.find(|worker| worker.slot == slot && worker.is_in_charge())
    }
}
