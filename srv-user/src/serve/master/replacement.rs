//! Replacing the worker of a slot while it serves. What a worker has given up it cannot have back,
//! so another root, for example, needs another worker. The new worker starts beside the old one,
//! which accepts until the new one waits on the listeners, and then finishes what it has.

use rustix::process::Pid;

use super::Master;
use super::worker::{Tenure, Worker};
use crate::serve::master::join::ToPrimary;

impl Master {
    /// Has every worker replaced.
    pub(super) fn replace_workers(&mut self) {
        for slot in self.staff.own_slots() {
            self.staff.slots[slot].generation += 1;
            self.fill_slot(slot);
        }
    }

    /// Has the worker in a slot replaced, for this reason. It serves until the new worker can,
    /// and is killed if it does not leave.
    pub(super) fn replace(&mut self, slot: u32, why: &str) {
        let wanted = self.staff.slots[slot].generation;
        // Once: it may refuse more than one order before the next worker has come up.
        let to_replace = self.staff.in_charge(slot);
        let to_replace = to_replace.filter(|worker| worker.generation >= wanted);
        let Some(pid) = to_replace.map(Worker::pid) else {
            return;
        };
        tracing::warn!(slot, "replacing worker {slot}: {why}");
        self.suspects
            .kill_unless_it_leaves(pid, self.settings.grace);
        self.staff.slots[slot].generation += 1;
        self.fill_slot(slot);
    }

    /// Starts the next worker of a slot beside the one that is there.
    pub(super) fn spawn_beside(&mut self, slot: u32) -> anyhow::Result<()> {
        let mut worker = self.start_worker(slot)?;
        worker.tenure = Tenure::Beside;
        self.staff.workers.insert(worker.pid(), worker);
        Ok(())
    }

    /// A worker waits on its own listeners. If it was started beside another, it is in charge of
    /// the slot from now on.
    pub(super) fn take_charge(&mut self, pid: Pid) {
        let Some(newcomer) = self.staff.workers.get_mut(&pid) else {
            return;
        };
        newcomer.tenure = match newcomer.tenure {
            Tenure::Beside => Tenure::InCharge,
            Tenure::LeavingBeside => Tenure::Leaving,
            Tenure::InCharge | Tenure::Leaving | Tenure::Yielded => return,
        };
        let (slot, spawned) = (newcomer.slot, newcomer.spawned);
        let mut others = self.staff.workers.values_mut().filter(|worker| {
            let is_other = worker.slot == slot && worker.pid() != pid;
            is_other && worker.is_in_charge()
        });
        if let Some(other) = others.next() {
            // If both were started beside another, the later one knows the newer root.
            if other.spawned <= spawned {
                other.yield_slot();
            } else if let Some(newcomer) = self.staff.workers.get_mut(&pid) {
                newcomer.yield_slot();
            }
        }
        let newcomer = self.staff.workers.get(&pid);
        if newcomer.is_some_and(Worker::is_in_charge) {
            let pid = pid.as_raw_nonzero().get() as u32;
            self.groups
                .iter()
                .for_each(|group| group.worker_replaced(slot, pid));
            self.role.tell_primary(ToPrimary::Replaced { slot, pid });
        }
    }
}
