//! Another configuration while the server runs.
//!
//! Listeners only ever become more: closing one would reset what waits there
//! (the kernel moves a closing listener's queue only where a system-wide switch
//! says so). When workers become fewer, their listeners stay, get nothing from
//! the program any more, and whatever the kernel's hash still sends there is
//! accepted by those who remain.

use anyhow::{Context as _, ensure};
use srv_common::{Policy, State};

use super::{Master, hang_check};
use crate::serve::config::{Changes, Settings};
use crate::serve::master::join::ToJoined;
use crate::serve::orders::Task;
use srv_steer::ensure_workers_fit;

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
        super::opening::raise_open_files(&next)?;
        let policy = self.next_policy(&next)?;
        for group in &mut self.groups {
            group
                .open_listeners(self.first_slot + next.workers, &next.group())
                .context("open listeners for more workers")?;
        }
        self.keep_listeners();
        let what = self.describe(&changes, &next, policy);
        let old = std::mem::replace(&mut self.settings, next);
        self.apply_settings();
        self.change_policy(policy)?;
        self.hang_check = hang_check(&self.settings);
        if self.settings.serving.root != old.serving.root {
            self.watch_root();
            self.replace_workers();
        }
        self.set_workers(old.workers);
        Ok(what)
    }

    /// A policy that was switched by hand stays, unless the file names another
    /// than before.
    fn next_policy(&self, next: &Settings) -> anyhow::Result<Policy> {
        let policy = match next.policy == self.settings.policy {
            true => self.policy,
            false => super::opening::first_policy(next, &self.groups)?,
        };
        let second = self.second.as_ref().map_or(0, |second| second.slots.end);
        let slots_end = second.max(self.first_slot + next.workers);
        ensure_workers_fit(policy, slots_end)
            .with_context(|| format!("steer {} workers by {}", next.workers, policy.name()))?;
        Ok(policy)
    }

    pub(super) fn change_policy(&mut self, policy: Policy) -> anyhow::Result<()> {
        for group in &mut self.groups {
            group.steer(policy)?;
        }
        self.policy = policy;
        self.tell_second(ToJoined::Policy(policy.name().into()));
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
        let others = changes.live.iter().filter(|key| *key != "policy");
        what.extend(others.map(|key| match key.as_str() {
            "workers" => format!("workers {} to {}", self.settings.workers, next.workers),
            key => key.to_owned(),
        }));
        match what.is_empty() {
            true => "reloaded: nothing has changed".into(),
            false => format!("reloaded: {}", what.join(", ")),
        }
    }

    /// Fills the slots that are new and has those that are too many leave.
    fn set_workers(&mut self, before: u32) {
        let before = self.first_slot + before;
        let count = self.own_slots().end;
        for slot in before..count {
            self.staff(slot);
        }
        for slot in count..before {
            // One that has died is not to come back.
            if !self.workers.values().any(|worker| worker.slot == slot) {
                self.set_slot_state(slot, State::Absent);
            }
        }
        let leaving = |worker: &&mut super::Worker| worker.slot >= count && !worker.leaves;
        for worker in self.workers.values_mut().filter(leaving) {
            worker.leaves = true;
            worker.give(Task::Retire);
            for group in &self.groups {
                group.set_state(worker.slot, State::Draining);
            }
        }
        self.leave_to_all(count..before);
    }
}
