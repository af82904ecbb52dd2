//! The workers of a server: started, awaited until they are ready, replaced when they die.

use std::time::Duration;

use rustix::process::{Pid, WaitOptions, WaitStatus};
use srv_common::State;

use super::Master;
use super::event::Event;
use super::join::{ToFirst, ToJoined};
use super::spawn::{self, Worker};
use super::takeover::ToPredecessor;
use crate::control::Confinement;
use crate::serve::channel::Start;

impl Master {
    pub(super) fn start_worker(&self, slot: u32) -> anyhow::Result<Worker> {
        let start = Start {
            slot,
            listeners: spawn::inherited(&self.groups).listeners,
            groups: self.groups.len() as u32,
            user: self.user,
            beside: self.is_joined(),
            log_json: self.settings.log_json,
            serving: self.settings.serving.clone(),
        };
        let mut worker = spawn::spawn(start, &self.groups, &self.events, Event::FromWorker)?;
        worker.generation = self.slots[slot].generation;
        let pid = worker.pid().as_raw_nonzero().get();
        tracing::debug!(slot, pid, "worker started");
        Ok(worker)
    }

    pub(super) fn spawn(&mut self, slot: u32) -> anyhow::Result<()> {
        let worker = self.start_worker(slot)?;
        let pid = worker.pid();
        let number = pid.as_raw_nonzero().get() as u32;
        for group in &self.groups {
            group.worker_starts(slot, number);
        }
        self.tell_first(ToFirst::Starts { slot, pid: number });
        self.workers.insert(pid, worker);
        Ok(())
    }

    /// Starts a worker in a slot that is to have one and has none, or beside one that is to be
    /// replaced. What cannot be started now is tried again.
    pub(super) fn staff(&mut self, slot: u32) {
        if self.stopping.is_some() || !self.own_slots().contains(&slot) {
            return;
        }
        let started = match self.workers.values().any(|worker| worker.slot == slot) {
            false => self.spawn(slot),
            true if self.is_outdated(slot) => self.spawn_beside(slot),
            true => return,
        };
        if let Err(error) = started {
            tracing::error!("spawn worker {slot}: {error:#}");
            let wait = self.slots[slot].back_off.after_death(Duration::ZERO, false);
            self.respawn_in(slot, wait);
        }
    }

    /// A worker waits on its own listeners. At the start the ring is joined
    /// when all do, so that each is first in line at its own; later the
    /// others step back behind the newcomer.
    pub(super) fn registered(&mut self, pid: Pid, confinement: Confinement) {
        let Some(worker) = self.workers.get_mut(&pid) else {
            return;
        };
        if std::mem::replace(&mut worker.registered, true) {
            return;
        }
        worker.confinement = Some(confinement);
        let slot = worker.slot;
        self.take_charge(pid);
        if self.workers.get(&pid).is_none_or(|worker| worker.leaves) {
            // Its listeners are others' by now, perhaps a later newcomer's: who stepped
            // back would leave them to nobody.
            return self.join_ring_if_whole();
        }
        self.tell_first(ToFirst::Registered(slot));
        self.tell_second(ToJoined::Registered(slot));
        self.step_back(slot);
        self.join_ring_if_whole();
        // It may have been started before its slot was to be replaced once more.
        self.staff(slot);
    }

    pub(super) fn join_ring_if_whole(&mut self) {
        self.started |= self.workers.values().all(|worker| worker.registered);
    }

    pub(super) fn ready(&mut self, pid: Pid) {
        let Some(worker) = self.workers.get_mut(&pid) else {
            return;
        };
        if std::mem::replace(&mut worker.ready, true) {
            return;
        }
        if worker.leaves {
            return;
        }
        self.set_state(pid, State::Ready);
        if self.stopping.is_some() {
            return self.dismiss(pid);
        }
        let first_time = !self.ever_ready && self.workers.values().all(|worker| worker.ready);
        if first_time {
            self.ever_ready = true;
            match &self.predecessor {
                Some(predecessor) => predecessor.tell(ToPredecessor::Ready),
                None => self.announce(),
            }
        }
    }

    pub(super) fn reap(&mut self) {
        // Any child: as PID 1 the master also inherits orphans.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(worker) = self.workers.remove(&pid) {
                self.bury(&worker, status);
            }
            self.swept(pid);
        }
        self.look_after_successor();
    }

    pub(super) fn bury(&mut self, worker: &Worker, status: WaitStatus) {
        let slot = worker.slot;
        let then = if worker.leaves {
            State::Absent
        } else {
            State::Dead
        };
        if !worker.is_second && !worker.has_yielded {
            self.groups
                .iter()
                .for_each(|group| group.worker_died(slot, then));
            let has_left = worker.leaves;
            self.tell_first(ToFirst::Died { slot, has_left });
        }
        if self.stopping.is_some() {
            return;
        }
        if worker.has_yielded {
            return tracing::info!(slot, "worker has left its slot to another");
        }
        if worker.leaves {
            tracing::info!(slot, "worker has left");
            // Meanwhile its slot may be wanted again.
            return self.staff(slot);
        }
        let lived = worker.started.elapsed();
        let wait = self.slots[slot].back_off.after_death(lived, worker.ready);
        let pid = worker.pid().as_raw_nonzero().get();
        match status.exit_status() {
            // It drains and exits so at SIGTERM, which is not the master's alone to send.
            Some(0) => tracing::info!(
                slot,
                pid,
                "worker was told to end and has; the next starts in {wait:?}"
            ),
            _ => tracing::warn!(
                slot,
                pid,
                "worker died: {}; the next starts in {wait:?}",
                fate(status)
            ),
        }
        // The ring must not wait for one that cannot start.
        self.join_ring_if_whole();
        self.have_somebody_look_around();
        self.look_at_root();
        self.respawn_in(slot, wait);
    }

    /// A worker may have been woken for a connection and never come to accept
    /// it; the kernel woke nobody else. Who is awake finds it by itself.
    pub(super) fn have_somebody_look_around(&mut self) {
        let workers = self.workers.values_mut();
        let ready =
            workers.filter(|worker| worker.is_in_charge() && self.groups[0].is_ready(worker.slot));
        match ready.min_by_key(|worker| self.groups[0].is_busy(worker.slot)) {
            Some(worker) => worker.looks = worker.looks.wrapping_add(1),
            None => self.tell_second(ToJoined::LookAround),
        }
    }

    pub(super) fn respawn_in(&self, slot: u32, wait: Duration) {
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // The receiver lives as long as the master.
            let _ = events.send(Event::Respawn(slot));
        });
    }

    pub(super) fn set_state(&self, pid: Pid, state: State) {
        if let Some(worker) = self.workers.get(&pid) {
            self.set_slot_state(worker.slot, state);
        }
    }

    pub(super) fn set_slot_state(&self, slot: u32, state: State) {
        let groups = self.groups.iter();
        groups.for_each(|group| group.set_state(slot, state));
        match state {
            State::Ready => self.tell_first(ToFirst::Ready(slot)),
            State::Draining => self.tell_first(ToFirst::Draining(slot)),
            _ => {}
        }
    }
}

fn fate(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => format!("status {status:?}"),
    }
}
