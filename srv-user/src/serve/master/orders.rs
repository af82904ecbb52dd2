//! The orders of each worker. The master works them out anew after every event from what it knows
//! then, sends them if they differ, and checks until the worker has said that it follows them.

use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::Master;
use super::staff::{Owner, RingState};
use super::worker::Worker;
use crate::serve::orders::Orders;
use srv_steer::AcceptMode;

/// How often the master checks workers that are behind.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// After so many checks the log names a worker that is behind.
const CHECKS_BEFORE_WARNING: u32 = 8;
/// After so many checks the master replaces a worker that is behind and has woken since: it has
/// not stalled and is not stopped, which is handled elsewhere. Checks are counted and no time is
/// measured, so that a machine that stood still costs no worker.
const CHECKS_BEFORE_REPLACEMENT: u32 = 40;

impl Master {
    /// Gives every worker the orders that are due.
    pub(super) fn give_orders(&mut self) {
        let all = self.orders_for_all();
        for worker in self.staff.workers.values_mut() {
            let orders = orders_for(worker, &all);
            worker.dispatch.order(orders, &self.groups);
        }
        self.orphans.give_orders();
        let is_behind = |worker: &Worker| worker.dispatch.is_behind();
        let workers = self.staff.workers.values();
        match workers.chain(self.orphans.workers()).any(is_behind) {
            true => {
                let due = || Instant::now() + CHECK_EVERY;
                self.orders_check = Some(self.orders_check.unwrap_or_else(due));
            }
            false => self.orders_check = None,
        }
    }

    fn orders_for_all(&self) -> Orders {
        let listeners = self.groups[0].listeners.sockets.len() as u32;
        let accept = self.settings.serving.accept;
        let serving = self.settings.serving.clone();
        let slots = self.staff.slots.iter().take(listeners as usize);
        let newcomers = slots.clone().map(|slot| slot.newcomers);
        let unowned = (0..)
            .zip(slots)
            .filter(|(_, slot)| slot.owner == Owner::AllWorkers);
        Orders {
            tickets: self.tickets.clone(),
            in_ring: accept == AcceptMode::Ring && self.staff.ring() == RingState::Whole,
            newcomers: newcomers.filter(|_| accept == AcceptMode::Ring).collect(),
            adopted: unowned
                .filter(|_| accept == AcceptMode::Own)
                .map(|(slot, _)| slot)
                .collect(),
            ..Orders::initial(serving, self.role.is_joined(), listeners)
        }
    }

    /// Checks the workers that are behind.
    pub(super) fn check_orders(&mut self) {
        self.orders_check = None;
        let mut broken = Vec::new();
        for worker in self.staff.workers.values_mut() {
            if !worker.dispatch.is_behind() {
                continue;
            }
            worker.dispatch.check(&self.groups);
            let (slot, pid) = (worker.slot, worker.pid().as_raw_nonzero());
            match worker.dispatch.checks_behind() {
                CHECKS_BEFORE_WARNING if worker.is_registered() => tracing::warn!(
                    slot,
                    "worker {slot} (process {pid}) has not taken over its orders yet: it is \
                     stopped, or busy with one request"
                ),
                CHECKS_BEFORE_REPLACEMENT.. if worker.is_in_charge() => {
                    let sent_ns = worker.dispatch.sent_ns();
                    let woke = |sent_ns| self.groups[0].has_woken_since(slot, sent_ns);
                    broken.extend(sent_ns.is_some_and(woke).then_some(slot));
                }
                _ => {}
            }
        }
        self.orphans.check_orders();
        for slot in broken {
            self.replace(slot, "it runs and does not do what it was ordered");
        }
    }

    /// A worker said that it follows its orders.
    pub(super) fn worker_obeyed(&mut self, pid: Pid, revision: u64) {
        if let Some(worker) = self.staff.workers.get_mut(&pid) {
            worker.dispatch.obeyed(revision, &self.groups);
        }
    }

    /// A worker said that it cannot follow its orders.
    pub(super) fn worker_refused(&mut self, pid: Pid, revision: u64, why: &str) {
        let Some(worker) = self.staff.workers.get_mut(&pid) else {
            return;
        };
        let is_new = worker.dispatch.refused(revision, &self.groups);
        let (slot, is_in_charge) = (worker.slot, worker.is_in_charge());
        if is_new && is_in_charge {
            self.replace(slot, why);
        }
    }
}

fn orders_for(worker: &Worker, all: &Orders) -> Orders {
    let now = &worker.dispatch.orders().serving;
    Orders {
        task: worker.task,
        // Other roots and applications are for another worker, with all settings that came with them.
        serving: match now.fits_workers_of(&all.serving) {
            true => all.serving.clone(),
            false => now.clone(),
        },
        in_ring: all.in_ring && worker.is_registered(),
        rescans: worker.rescans,
        ..all.clone()
    }
}
