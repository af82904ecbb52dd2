//! Another configuration while the server runs.
//!
//! Listeners only ever become more: closing one would reset what waits there
//! (the kernel moves a closing listener's queue only where a system-wide switch
//! says so). When workers become fewer, their listeners stay, get nothing from
//! the program any more, and whatever the kernel's hash still sends there is
//! accepted by those who remain.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, ensure};
use rustix::process::Pid;
use srv_common::{Policy, State};

use super::{Master, hang_check};
use crate::channel::{FDS_MAX, ToWorker};
use crate::config::{self, AcceptMode, Changes, Settings};
use crate::join::ToJoined;

impl Master {
    /// Changes to the configuration that was read again. What has changed, for people.
    ///
    /// # Errors
    /// If it cannot be used, or asks for what this server cannot do now; the old one
    /// then goes on.
    pub(super) fn change_to(&mut self, next: anyhow::Result<Settings>) -> anyhow::Result<String> {
        ensure!(self.stopping.is_none(), "the server is stopping");
        let next = next?;
        let changes = Changes::between(&self.settings, &next);
        if self.settings.workers != next.workers {
            self.ensure_alone(&format!("{} workers", next.workers))?;
        }
        super::raise_open_files(&next)?;
        let policy = self.next_policy(&next)?;
        let before = self.groups[0].listeners.sockets.len() as u32;
        for group in &mut self.groups {
            group
                .open_listeners(self.first_slot + next.workers, &next)
                .context("open listeners for more workers")?;
        }
        self.keep_listeners();
        let what = self.describe(&changes, &next, policy);
        let old = std::mem::replace(&mut self.settings, next);
        self.apply_settings();
        self.change_policy(policy)?;
        self.hang_check = hang_check(&self.settings);
        self.hand_out_listeners(before);
        self.tell_serving(&old);
        self.set_workers(old.workers);
        Ok(what)
    }

    /// A policy that was switched by hand stays, unless the file names another
    /// than before.
    fn next_policy(&self, next: &Settings) -> anyhow::Result<Policy> {
        let policy = match next.policy == self.settings.policy {
            true => self.policy,
            false => super::first_policy(next, &self.groups)?,
        };
        let second = self.second.as_ref().map_or(0, |second| second.slots.end);
        let slots_end = second.max(self.first_slot + next.workers);
        config::ensure_workers_fit(policy, slots_end)
            .with_context(|| format!("steer {} workers by {}", next.workers, policy.name()))?;
        Ok(policy)
    }

    pub(super) fn change_policy(&mut self, policy: Policy) -> anyhow::Result<()> {
        for group in &mut self.groups {
            group.steer(policy)?;
        }
        self.policy = policy;
        self.tell_second(&ToJoined::Policy(policy.name().into()));
        Ok(())
    }

    /// What a reload changes, for people. A policy that was switched by hand may differ from
    /// the file's.
    fn describe(&self, changes: &Changes, next: &Settings, policy: Policy) -> String {
        let mut what = Vec::new();
        if self.policy != policy {
            let (old, new) = (self.policy.name(), policy.name());
            what.push(format!("policy {old} to {new}"));
        }
        let others = changes.live.iter().filter(|key| **key != "policy");
        what.extend(others.map(|key| match *key {
            "workers" => format!("workers {} to {}", self.settings.workers, next.workers),
            key => key.to_owned(),
        }));
        match what.is_empty() {
            true => "reloaded: nothing has changed".into(),
            false => format!("reloaded: {}", what.join(", ")),
        }
    }

    /// Those who live have not inherited the listeners from `before` on.
    pub(super) fn hand_out_listeners(&self, before: u32) {
        let count = self.groups[0].listeners.sockets.len();
        for nth in before as usize..count {
            let sockets = self
                .groups
                .iter()
                .map(|group| &group.listeners.sockets[nth]);
            let fds: Vec<_> = sockets.map(|socket| socket.as_fd()).collect();
            debug_assert!(fds.len() <= FDS_MAX);
            for worker in self.workers.values() {
                worker.hand(&ToWorker::Listeners, &fds);
            }
        }
    }

    fn tell_serving(&mut self, old: &Settings) {
        if self.settings.serving == old.serving {
            return;
        }
        if self.settings.serving.root != old.serving.root {
            self.watch_root();
            return self.replace_workers();
        }
        for worker in self.workers.values() {
            worker.tell(&ToWorker::Serve(self.settings.serving.clone()));
        }
    }

    /// Fills the slots that are new and has those that are too many leave.
    fn set_workers(&mut self, before: u32) {
        let before = self.first_slot + before;
        let count = self.own_slots().end;
        for slot in before..count {
            self.fill(slot);
        }
        for slot in count..before {
            // One that has died is not to come back.
            if !self.workers.values().any(|worker| worker.slot == slot) {
                self.set_slot_state(slot, State::Absent);
            }
        }
        let leaving = |worker: &&mut super::Worker| worker.slot >= count && !worker.leaves;
        let mut orphans = Vec::new();
        for worker in self.workers.values_mut().filter(leaving) {
            worker.leaves = true;
            orphans.push(worker.slot);
            for group in &self.groups {
                group.set_state(worker.slot, State::Draining);
            }
        }
        // First somebody else waits there.
        if self.settings.serving.accept == AcceptMode::Own {
            (count..before).for_each(|slot| self.tell_staying(&ToWorker::Adopt(slot)));
        }
        for worker in self.workers.values() {
            if orphans.contains(&worker.slot) {
                worker.tell(&ToWorker::Retire);
            }
        }
    }

    pub(super) fn tell_staying(&self, message: &ToWorker) {
        let staying = self.workers.values().filter(|worker| !worker.leaves);
        staying.for_each(|worker| worker.tell(message));
    }

    /// In mode own a newcomer has its listeners to itself, and a part in those
    /// that nobody owns.
    pub(super) fn share_orphans(&self, newcomer: Pid, slot: u32) {
        if self.settings.serving.accept != AcceptMode::Own {
            return;
        }
        // Not the slot's other workers: one yields, and one that is still starting would
        // leave its own listener as soon as it waits there.
        let others = self.workers.values().filter(|worker| worker.slot != slot);
        others.for_each(|worker| worker.tell(&ToWorker::Release(slot)));
        if let Some(worker) = self.workers.get(&newcomer) {
            self.orphans()
                .for_each(|orphan| worker.tell(&ToWorker::Adopt(orphan)));
        }
    }

    /// The slots whose listeners are nobody's, as far as this server knows.
    fn orphans(&self) -> impl Iterator<Item = u32> {
        let listeners = match self.first {
            // They are that server's to share out.
            Some(_) => 0,
            None => self.groups[0].listeners.sockets.len() as u32,
        };
        let second = self.second.as_ref();
        let (own, seconds) = (self.own_slots(), second.map(|second| second.slots.clone()));
        (0..listeners).filter(move |slot| {
            let is_seconds = seconds.as_ref().is_some_and(|slots| slots.contains(slot));
            !own.contains(slot) && !is_seconds
        })
    }
}
