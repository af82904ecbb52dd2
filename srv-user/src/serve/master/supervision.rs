//! What the master does when a worker is to start, waits on its listeners, is ready, or has ended.

use std::time::Duration;

use rustix::process::{Pid, WaitOptions, WaitStatus};
use srv_common::State;

use super::Master;
use super::event::Event;
use super::join::{ToPrimary, ToSecondary};
use super::spawn;
use super::takeover::ToPredecessor;
use super::worker::{Tenure, Worker};
use crate::control::SandboxStatus;
use crate::kernel::process::cause_of_death;
use crate::serve::channel::Start;

impl Master {
    /// Starts a worker process for a slot. It is not among the workers yet.
    pub(super) fn start_worker(&mut self, slot: u32) -> anyhow::Result<Worker> {
        let start = Start {
            slot,
            listeners: spawn::inherited(&self.groups).listeners,
            groups: self.groups.len() as u32,
            user: self.launch.user,
            beside: self.role.is_joined(),
            log_json: self.settings.log_json,
            serving: self.settings.serving.clone(),
        };
        let ring = self.log_writer.ring()?;
        let mut worker = spawn::spawn(start, &self.groups, ring, &self.events, Event::FromWorker)?;
        worker.generation = self.staff.slots[slot].generation;
        let pid = worker.pid().as_raw_nonzero().get();
        tracing::debug!(slot, pid, "worker started");
        Ok(worker)
    }

    /// Starts the worker of a slot that has none.
    pub(super) fn spawn(&mut self, slot: u32) -> anyhow::Result<()> {
        let worker = self.start_worker(slot)?;
        let pid = worker.pid();
        let number = pid.as_raw_nonzero().get() as u32;
        for group in &self.groups {
            group.worker_starts(slot, number);
        }
        self.role
            .tell_primary(ToPrimary::Starts { slot, pid: number });
        self.staff.workers.insert(pid, worker);
        Ok(())
    }

    /// Starts a worker in a slot that is to have one and has none, or beside a worker that is to
    /// be replaced. If a worker cannot be started now, the master tries again later.
    pub(super) fn fill_slot(&mut self, slot: u32) {
        if self.phase.is_stopping() || !self.staff.own_slots().contains(&slot) {
            return;
        }
        let started = match self.staff.is_occupied(slot) {
            false => self.spawn(slot),
            true if self.staff.is_outdated(slot) => self.spawn_beside(slot),
            true => return,
        };
        if let Err(error) = started {
            tracing::error!("spawn worker {slot}: {error:#}");
            let back_off = &mut self.staff.slots[slot].back_off;
            let wait = back_off.after_death(Duration::ZERO, false);
            self.fill_slot_after(slot, wait);
        }
    }

    /// A worker waits on its own listeners. At the start, the workers join the ring once all of
    /// them do, so that each is the first to be woken at its own listeners. Later, the others
    /// register anew behind the newcomer.
    pub(super) fn worker_registered(&mut self, pid: Pid, sandbox: SandboxStatus) {
        let Some(worker) = self.staff.workers.get_mut(&pid) else {
            return;
        };
        if !worker.register(sandbox) {
            return;
        }
        let slot = worker.slot;
        self.take_charge(pid);
        let worker = self.staff.workers.get(&pid);
        if worker.is_none_or(Worker::is_leaving) {
            // Its listeners are other workers' by now, perhaps a later newcomer's. If the others
            // registered anew behind this one, no worker would be woken first there.
            return self.staff.close_ring_if_complete();
        }
        self.role.tell_primary(ToPrimary::Registered(slot));
        self.role.tell_secondary(ToSecondary::Registered(slot));
        self.staff.note_newcomer(slot);
        self.staff.close_ring_if_complete();
        // Its slot may have come to need another worker since it was started.
        self.fill_slot(slot);
    }

    /// A worker accepts connections.
    pub(super) fn worker_ready(&mut self, pid: Pid) {
        let Some(worker) = self.staff.workers.get_mut(&pid) else {
            return;
        };
        if !worker.become_ready() || worker.is_leaving() {
            return;
        }
        self.set_state(pid, State::Ready);
        if self.phase.is_stopping() {
            return self.dismiss(pid);
        }
        let are_ready = self.staff.workers.values().all(Worker::is_ready);
        if are_ready && self.phase.end_start() {
            match &self.predecessor {
                Some(predecessor) => predecessor.tell(ToPredecessor::Ready),
                None => self.announce(),
            }
        }
    }

    /// Handles the ends of all child processes that have ended.
    pub(super) fn reap(&mut self) {
        // Of any child: as process 1, the master also inherits orphaned processes.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(worker) = self.staff.workers.remove(&pid) {
                self.worker_ended(&worker, status);
            }
            self.orphans.worker_ended(pid);
            self.log_writer.process_ended(pid, status);
        }
        self.check_successor();
    }

    fn worker_ended(&mut self, worker: &Worker, status: WaitStatus) {
        let slot = worker.slot;
        match worker.tenure {
            Tenure::InCharge => self.slot_lost_worker(slot, State::Dead),
            Tenure::Leaving => self.slot_lost_worker(slot, State::Absent),
            // The slot is another worker's.
            Tenure::Beside | Tenure::LeavingBeside | Tenure::Yielded => {}
        }
        if self.phase.is_stopping() {
            return;
        }
        match worker.tenure {
            Tenure::InCharge | Tenure::Beside => self.restart_after_death(worker, status),
            Tenure::Yielded => tracing::info!(slot, "worker has left its slot to another"),
            Tenure::Leaving | Tenure::LeavingBeside => {
                tracing::info!(slot, "worker has left");
                // Meanwhile its slot may have come to need a worker again.
                self.fill_slot(slot);
            }
        }
    }

    fn slot_lost_worker(&self, slot: u32, then: State) {
        self.groups
            .iter()
            .for_each(|group| group.worker_died(slot, then));
        let has_left = then == State::Absent;
        self.role.tell_primary(ToPrimary::Died { slot, has_left });
    }

    fn restart_after_death(&mut self, worker: &Worker, status: WaitStatus) {
        let slot = worker.slot;
        let lived = worker.spawned.elapsed();
        let back_off = &mut self.staff.slots[slot].back_off;
        let wait = back_off.after_death(lived, worker.is_ready());
        let pid = worker.pid().as_raw_nonzero().get();
        match status.exit_status() {
            // A worker that receives SIGTERM drains and exits so. Not only the master sends it.
            Some(0) => tracing::info!(
                slot,
                pid,
                "worker was told to end and has; the next starts in {wait:?}"
            ),
            _ => tracing::warn!(
                slot,
                pid,
                "worker died: {}; the next starts in {wait:?}",
                cause_of_death(status)
            ),
        }
        // The ring must not wait for a worker that cannot start.
        self.staff.close_ring_if_complete();
        self.request_rescan();
        self.check_root_now();
        self.fill_slot_after(slot, wait);
    }

    /// The kernel may have woken a worker for a connection that the worker never came to accept,
    /// and it woke no other. A worker that is awake finds the connection by itself, so this tells
    /// one that sleeps, if there is one, to scan the listeners.
    pub(super) fn request_rescan(&mut self) {
        let workers = self.staff.workers.values_mut();
        let ready =
            workers.filter(|worker| worker.is_in_charge() && self.groups[0].is_ready(worker.slot));
        match ready.min_by_key(|worker| self.groups[0].is_busy(worker.slot)) {
            Some(worker) => worker.rescans = worker.rescans.wrapping_add(1),
            None => self.role.tell_secondary(ToSecondary::Rescan),
        }
    }

    fn fill_slot_after(&self, slot: u32, wait: Duration) {
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // The receiver lives as long as the master.
            let _ = events.send(Event::FillSlot(slot));
        });
    }

    pub(super) fn set_state(&self, pid: Pid, state: State) {
        if let Some(worker) = self.staff.workers.get(&pid) {
            self.set_slot_state(worker.slot, state);
        }
    }

    pub(super) fn set_slot_state(&self, slot: u32, state: State) {
        let groups = self.groups.iter();
        groups.for_each(|group| group.set_state(slot, state));
        match state {
            State::Ready => self.role.tell_primary(ToPrimary::Ready(slot)),
            State::Draining => self.role.tell_primary(ToPrimary::Draining(slot)),
            _ => {}
        }
    }
}
