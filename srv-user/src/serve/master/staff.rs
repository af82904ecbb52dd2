//! The workers of a server and the slots that they are in: which worker is in charge of a slot,
//! which slots are to have another worker, and which listeners have no worker. Starts, kills and
//! tells no process.

use std::collections::HashMap;
use std::ops::Range;

use rustix::process::Pid;

use super::back_off::BackOff;
use super::worker::Worker;
use crate::serve::orders::Task;
use srv_steer::SlotTable;

/// What the master knows of one slot, whichever worker is there.
#[derive(Default)]
pub(super) struct SlotRecord {
    pub(super) back_off: BackOff,
    /// How often a worker has stalled.
    pub(super) stalls: u32,
    /// Workers that were killed because they had stalled.
    pub(super) stall_kills: u32,
    /// The worker of the slot is to be of this generation, or of a later one. Each time that it is
    /// to be replaced, a new generation begins.
    pub(super) generation: u64,
    /// How many workers have come to wait on the listeners of this slot.
    pub(super) newcomers: u32,
    pub(super) owner: Owner,
}

/// The owner of a slot's listeners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Owner {
    /// The worker in the slot, or the one that is about to start there.
    #[default]
    ItsWorker,
    /// No worker. Without a ring, all workers wait on these listeners.
    AllWorkers,
}

/// Whether workers wait on one another's listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RingState {
    /// Each worker waits on its own listeners alone, so that it is the first to be woken there.
    Forming,
    /// All slots have had a worker that waits on its listeners, or a start that has failed.
    Whole,
}

/// All workers of a server, and its slots.
pub(super) struct Staff {
    pub(super) workers: HashMap<Pid, Worker>,
    pub(super) slots: SlotTable<SlotRecord>,
    /// The slots of this server's workers.
    own: Range<u32>,
    ring: RingState,
    /// Why the last worker that could not start could not.
    pub(super) last_failure: Option<String>,
}

impl Staff {
    /// Without a worker yet; there are to be `count`, in the slots from `first_slot` on.
    pub(super) fn new(first_slot: u32, count: u32) -> Self {
        let own = first_slot..first_slot + count;
        let mut slots = SlotTable::default();
        slots.use_until(own.end);
        Self {
            workers: HashMap::new(),
            slots,
            own,
            ring: RingState::Forming,
            last_failure: None,
        }
    }

    /// The slots of this server's workers.
    pub(super) fn own_slots(&self) -> Range<u32> {
        self.own.clone()
    }

    /// The slots that this server would have with `count` workers.
    pub(super) fn slots_for(&self, count: u32) -> Range<u32> {
        self.own.start..self.own.start + count
    }

    /// There are to be `count` workers from now on.
    pub(super) fn resize(&mut self, count: u32) {
        self.own = self.slots_for(count);
    }

    /// The worker that is in charge of a slot.
    pub(super) fn in_charge(&self, slot: u32) -> Option<&Worker> {
        let mut workers = self.workers.values();
        workers.find(|worker| worker.slot == slot && worker.is_in_charge())
    }

    /// As [`Self::in_charge`], to change it.
    pub(super) fn in_charge_mut(&mut self, slot: u32) -> Option<&mut Worker> {
        let mut workers = self.workers.values_mut();
        workers.find(|worker| worker.slot == slot && worker.is_in_charge())
    }

    /// Whether a process is in a slot, be it in charge of it or not.
    pub(super) fn is_occupied(&self, slot: u32) -> bool {
        self.workers.values().any(|worker| worker.slot == slot)
    }

    /// Whether the worker in charge of a slot is to be replaced and no other has been started
    /// for that.
    pub(super) fn is_outdated(&self, slot: u32) -> bool {
        let wanted = self.slots[slot].generation;
        let stays_in_slot = |worker: &&Worker| worker.slot == slot && !worker.is_leaving();
        let mut workers = self.workers.values().filter(stays_in_slot);
        self.in_charge(slot).is_some() && workers.all(|worker| worker.generation < wanted)
    }

    /// Whether the worker in charge of a slot does not do yet what was ordered last, or is to be
    /// replaced by one that does.
    pub(super) fn is_behind(&self, slot: u32) -> bool {
        let wanted = self.slots[slot].generation;
        let in_charge = self.in_charge(slot);
        in_charge.is_some_and(|worker| worker.dispatch.is_behind() || worker.generation < wanted)
    }

    /// The slots whose workers do not do yet what was ordered last.
    pub(super) fn slots_behind(&self) -> Vec<u32> {
        let has_late_worker = |slot| {
            let mut workers = self.workers.values();
            workers.any(|worker| worker.slot == slot && worker.dispatch.is_behind())
        };
        let is_behind = |slot: &u32| {
            let wanted = self.slots[*slot].generation;
            let is_new = |worker: &Worker| worker.is_ready() && worker.generation >= wanted;
            let is_own = self.own.contains(slot);
            let is_filled = !is_own || self.in_charge(*slot).is_some_and(is_new);
            !is_filled || has_late_worker(*slot)
        };
        self.slots.used().filter(is_behind).collect()
    }

    /// A worker, perhaps of another server, waits on the listeners of its slot. It is to be the
    /// first to be woken there, so all others register anew behind it.
    pub(super) fn note_newcomer(&mut self, slot: u32) {
        self.slots.use_until(slot + 1);
        let record = &mut self.slots[slot];
        record.newcomers = record.newcomers.wrapping_add(1);
        record.owner = Owner::ItsWorker;
    }

    /// Without a ring, all workers wait on the listeners of these slots until a worker of the
    /// slot does.
    pub(super) fn leave_to_all(&mut self, slots: Range<u32>) {
        self.slots.use_until(slots.end);
        slots.for_each(|slot| self.slots[slot].owner = Owner::AllWorkers);
    }

    /// Gives every worker this task.
    pub(super) fn give_all(&mut self, task: Task) {
        let workers = self.workers.values_mut();
        workers.for_each(|worker| worker.give(task));
    }

    /// Closes the ring if every worker waits on its own listeners.
    pub(super) fn close_ring_if_complete(&mut self) {
        if self.workers.values().all(Worker::is_registered) {
            self.ring = RingState::Whole;
        }
    }

    pub(super) fn ring(&self) -> RingState {
        self.ring
    }

    /// How many workers in a row have died early, in all slots.
    pub(super) fn early_deaths(&self) -> u32 {
        self.slots.iter().map(|at| at.back_off.early_deaths).sum()
    }
}
