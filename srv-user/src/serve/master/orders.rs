//! What each worker is to do now, from what the master knows now: worked out anew after every
//! event, sent if it differs, and looked after until the worker has said that it does it.

use std::time::{Duration, Instant};

use super::Master;
use crate::serve::master::spawn::Worker;
use crate::serve::orders::{Orders, Task};
use srv_steer::AcceptMode;

/// How often workers that are behind are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// After so many looks a worker that is behind is named in the log.
const LOOKS_BEFORE_WARNING: u32 = 8;
/// After so many looks a worker that is behind, and woke since, is replaced: it does not hang
/// and is not stopped, which others see to. Looks and not time, so that a machine that stood
/// still costs no worker.
const LOOKS_BEFORE_REPLACEMENT: u32 = 40;

impl Master {
    /// Gives every worker the orders that are due.
    pub(super) fn give_orders(&mut self) {
        let all = self.orders_for_all();
        for worker in self.workers.values_mut() {
            let orders = orders_for(worker, &all);
            worker.dispatch.order(orders, &self.groups);
        }
        for leftover in &mut self.sweeping {
            let (worker, group) = (&mut leftover.worker, std::slice::from_ref(&leftover.group));
            let orders = Orders {
                task: worker.task,
                in_ring: worker.registered,
                ..worker.dispatch.orders().clone()
            };
            worker.dispatch.order(orders, group);
        }
        let is_behind = |worker: &Worker| worker.dispatch.is_behind();
        let sweepers = self.sweeping.iter().map(|leftover| &leftover.worker);
        match self.workers.values().chain(sweepers).any(is_behind) {
            true => {
                let due = || Instant::now() + LOOK_EVERY;
                self.orders_look = Some(self.orders_look.unwrap_or_else(due));
            }
            false => self.orders_look = None,
        }
    }

    fn orders_for_all(&self) -> Orders {
        let listeners = self.groups[0].listeners.sockets.len() as u32;
        let accept = self.settings.serving.accept;
        let serving = self.settings.serving.clone();
        let slots = self.slots.iter().take(listeners as usize);
        let newcomers = slots.clone().map(|slot| slot.newcomers);
        let orphans = (0..).zip(slots).filter(|(_, slot)| slot.is_orphan);
        Orders {
            in_ring: accept == AcceptMode::Ring && self.started,
            newcomers: newcomers.filter(|_| accept == AcceptMode::Ring).collect(),
            adopted: orphans
                .filter(|_| accept == AcceptMode::Own)
                .map(|(slot, _)| slot)
                .collect(),
            ..Orders::first(serving, self.is_joined(), listeners)
        }
    }

    /// Some workers are behind.
    pub(super) fn look_after_orders(&mut self) {
        self.orders_look = None;
        let mut broken = Vec::new();
        for worker in self.workers.values_mut() {
            if !worker.dispatch.is_behind() {
                continue;
            }
            worker.dispatch.look(&self.groups);
            let (slot, pid) = (worker.slot, worker.pid().as_raw_nonzero());
            match worker.dispatch.looks_behind() {
                LOOKS_BEFORE_WARNING if worker.registered => tracing::warn!(
                    slot,
                    "worker {slot} (process {pid}) has not taken over its orders yet: it is \
                     stopped, or busy with one request"
                ),
                LOOKS_BEFORE_REPLACEMENT.. if worker.is_in_charge() => {
                    let sent_ns = worker.dispatch.sent_ns();
                    let woke = |sent_ns| self.groups[0].has_woken_since(slot, sent_ns);
                    broken.extend(sent_ns.is_some_and(woke).then_some(slot));
                }
                _ => {}
            }
        }
        for leftover in &mut self.sweeping {
            let group = std::slice::from_ref(&leftover.group);
            if leftover.worker.dispatch.is_behind() {
                leftover.worker.dispatch.look(group);
            }
        }
        for slot in broken {
            self.replace(slot, "it runs and does not do what it was ordered");
        }
    }

    /// A worker said that it does what it was ordered.
    pub(super) fn obeyed(&mut self, pid: rustix::process::Pid, revision: u64) {
        if let Some(worker) = self.workers.get_mut(&pid) {
            worker.dispatch.is_obeyed(revision, &self.groups);
        }
    }

    /// A worker said that it cannot do what it was ordered.
    pub(super) fn refused(&mut self, pid: rustix::process::Pid, revision: u64, why: &str) {
        let Some(worker) = self.workers.get_mut(&pid) else {
            return;
        };
        let is_news = worker.dispatch.is_refused(revision, &self.groups);
        let (slot, is_in_charge) = (worker.slot, worker.is_in_charge());
        if is_news && is_in_charge {
            self.replace(slot, why);
        }
    }

    /// Whether the worker in charge of a slot of this server's does not do yet what was ordered
    /// last, or is to be replaced by one that does.
    pub(super) fn is_behind(&self, slot: u32) -> bool {
        let wanted = self.slots[slot].generation;
        let in_charge = self.in_charge(slot);
        in_charge.is_some_and(|worker| worker.dispatch.is_behind() || worker.generation < wanted)
    }

    /// The slots of this server whose workers do not do yet what was ordered last.
    pub(super) fn slots_behind(&self) -> Vec<u32> {
        let is_leaving_late = |slot| {
            let mut workers = self.workers.values();
            workers.any(|worker| worker.slot == slot && worker.dispatch.is_behind())
        };
        let is_behind = |slot: &u32| {
            let is_staffed =
                |worker: &Worker| worker.ready && worker.generation >= self.slots[*slot].generation;
            let is_own = self.own_slots().contains(slot);
            let is_staffed = !is_own || self.in_charge(*slot).is_some_and(is_staffed);
            !is_staffed || is_leaving_late(*slot)
        };
        self.slots.used().filter(is_behind).collect()
    }

    /// All workers get this task.
    pub(super) fn give_all(&mut self, task: Task) {
        self.workers
            .values_mut()
            .for_each(|worker| worker.give(task));
    }
}

fn orders_for(worker: &Worker, all: &Orders) -> Orders {
    let now = &worker.dispatch.orders().serving;
    Orders {
        task: worker.task,
        // Another root is another worker's to serve, with all that came with it.
        serving: match now.root == all.serving.root {
            true => all.serving.clone(),
            false => now.clone(),
        },
        in_ring: all.in_ring && worker.registered,
        looks: worker.looks,
        ..all.clone()
    }
}
