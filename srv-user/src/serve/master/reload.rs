//! Changing to another configuration while the server runs. `reading` reads it, `replies` answers
//! the commands that asked.
//!
//! The number of listeners never falls: closing one would reset the connections that wait there
//! (the kernel moves the queue of a closing listener only if a system-wide setting says so). If
//! workers become fewer, their listeners stay, and the program assigns nothing to them any more.
//! The workers that remain accept what the kernel's hash still assigns to them.

pub(super) mod reading;
mod replies;

use anyhow::{Context as _, ensure};
use srv_common::{Policy, State};

use super::Master;
use crate::serve::config::{Changes, Settings};
use crate::serve::master::join::ToSecondary;
use crate::values::PolicyName;
use crate::values::reported::Reported;
use srv_steer::ensure_workers_fit;

impl Master {
    /// Changes to the configuration that was read again. Describes what has changed.
    ///
    /// # Errors
    /// If it cannot be used, or asks for what this server cannot do now. The old configuration
    /// then stays in force.
    pub(super) fn change_to(&mut self, next: anyhow::Result<Settings>) -> anyhow::Result<String> {
        ensure!(!self.phase.is_stopping(), "the server is stopping");
        let next = next?;
        let changes = Changes::between(&self.settings, &next);
        if self.settings.workers != next.workers {
            self.ensure_alone(&format!("{} workers", next.workers))?;
        }
        super::opening::raise_open_files(&next)?;
        let policy = self.next_policy(&next)?;
        let slots = self.staff.slots_for(next.workers);
        for (nth, group) in self.groups.iter_mut().enumerate() {
            group
                .open_listeners(slots.end, &next.group_of(nth))
                .context("open listeners for more workers")?;
        }
        self.keep_listeners();
        let what = self.describe(&changes, &next, policy);
        let slots_before = self.staff.own_slots();
        let old = std::mem::replace(&mut self.settings, next);
        self.staff.resize(self.settings.workers);
        self.apply_settings();
        self.change_policy(policy)?;
        self.stalls.apply(&self.settings);
        if !self.settings.serving.has_roots_of(&old.serving) {
            self.watch_roots();
        }
        if !self.settings.serving.fits_workers_of(&old.serving) {
            self.replace_workers();
        }
        if self.settings.serving.certificates().list != old.serving.certificates().list {
            self.watch_certificates();
        }
        self.settings.warn_of_certificates();
        self.ask_for_logs();
        self.adjust_staff(slots_before.end);
        Ok(what)
    }

    /// The policy from now on. One that was switched by `srv policy` stays, unless the file names
    /// another than before.
    fn next_policy(&self, next: &Settings) -> anyhow::Result<Policy> {
        let policy = match next.policy == self.settings.policy {
            true => self.policy,
            false => super::opening::initial_policy(next, &self.groups)?,
        };
        let own = self.staff.slots_for(next.workers);
        let slots_end = own.end.max(self.role.secondary_slots_end());
        ensure_workers_fit(policy, slots_end)
            .with_context(|| format!("steer {} workers by {}", next.workers, policy.name()))?;
        Ok(policy)
    }

    pub(super) fn change_policy(&mut self, policy: Policy) -> anyhow::Result<()> {
        for group in &mut self.groups {
            group.steer(policy)?;
        }
        self.policy = policy;
        self.role
            .tell_secondary(ToSecondary::Policy(Reported::Known(PolicyName(policy))));
        Ok(())
    }

    /// Describes what a reload changes. A policy that was switched by `srv policy` may differ from
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

    /// Fills the slots that are new, and dismisses the workers of those that are too many. The
    /// slots ended at `before`.
    fn adjust_staff(&mut self, before: u32) {
        let end = self.staff.own_slots().end;
        for slot in before..end {
            self.fill_slot(slot);
        }
        for slot in end..before {
            // A worker that has died is not to be replaced.
            if !self.staff.is_occupied(slot) {
                self.set_slot_state(slot, State::Absent);
            }
        }
        let workers = self.staff.workers.values_mut();
        for worker in workers.filter(|worker| worker.slot >= end && !worker.is_leaving()) {
            worker.dismiss();
            for group in &self.groups {
                group.set_state(worker.slot, State::Draining);
            }
        }
        self.staff.leave_to_all(end..before);
    }
}
