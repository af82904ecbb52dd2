//! Workers that have stalled. A worker that is suspected is probed; what a stalled worker has left
//! is found by a rescan; and a worker that has stalled for too long is killed if that was asked
//! for (`--hang-kill`). How a stall shows is for `srv_steer` to judge.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};

use super::{Master, RECONCILE_EVERY};
use crate::serve::channel::ToWorker;
use crate::serve::config::Settings;
use srv_steer::Looks;
use srv_steer::monotonic_ns;
use srv_steer::{Group, Stage, Stall};

/// The master checks no more often than this, however short `--hang-after` is: it is to sleep.
const CHECK_EVERY_MIN: Duration = Duration::from_millis(10);

/// When workers are checked for stalls, and for how long the checks have come in time.
pub(super) struct StallWatch {
    check: Interval,
    looks: Looks,
}

impl StallWatch {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            check: check_interval(settings),
            looks: Looks::default(),
        }
    }

    /// Takes over new settings.
    pub(super) fn apply(&mut self, settings: &Settings) {
        self.check = check_interval(settings);
    }

    /// Until the next check is due.
    pub(super) async fn due(&mut self) {
        self.check.tick().await;
    }

    /// Takes note of a check. It is late if it misses a good part of the time after which a
    /// worker is killed. If less counted as late, a busy machine would never kill a worker.
    fn note_check(&mut self, kill_after: Duration) {
        let late_after = (kill_after / 4).max(self.check.period() * 2);
        let late_after_ns = u64::try_from(late_after.as_nanos()).unwrap_or(u64::MAX);
        self.looks.look(monotonic_ns(), late_after_ns);
    }

    /// For how long workers have been watched without a gap.
    fn watched(&self) -> Duration {
        Duration::from_nanos(self.looks.watched_ns())
    }
}

/// Checks come often enough that a stall is noticed at most a quarter late.
fn check_interval(settings: &Settings) -> Interval {
    let every = match settings.hang_after {
        Duration::ZERO => RECONCILE_EVERY,
        hang_after => hang_after / 4,
    };
    let mut check = tokio::time::interval(every.clamp(CHECK_EVERY_MIN, RECONCILE_EVERY));
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    check
}

impl Master {
    pub(super) fn check_for_stalls(&mut self) {
        self.stalls.note_check(self.settings.hang_kill);
        let found: Vec<Stall> = self
            .groups
            .iter_mut()
            .flat_map(Group::detect_stalls)
            .collect();
        // A worker has one stall, whatever number of groups it is in.
        let detected = found.iter().filter(|stall| stall.stage == Stage::Detected);
        let detected: BTreeSet<u32> = detected.map(|stall| stall.slot).collect();
        if !detected.is_empty() {
            self.request_rescan();
        }
        for slot in detected {
            self.staff.slots[slot].stalls += 1;
        }
        let every = self.stalls.check.period();
        for stall in found {
            if stall.is_to_be_probed(every) {
                self.probe(stall.slot);
                self.have_probed(stall.slot);
            }
            self.report_stall(&stall);
            self.kill_if_stalled_too_long(&stall);
        }
    }

    /// Sends the worker of a slot a message at which a healthy worker wakes.
    pub(super) fn probe(&self, slot: u32) {
        if let Some(worker) = self.staff.in_charge(slot) {
            // If its channel is full, the worker has a reason to wake already.
            let _ = worker.dispatch.send(&ToWorker::Probe);
        }
    }

    /// A worker of this server has stalled, as this master or the primary's has found.
    pub(super) fn kill_if_stalled_too_long(&mut self, stall: &Stall) {
        let kill_after = self.settings.hang_kill;
        self.stalls.note_check(kill_after);
        let lasted = stall.lasted.min(self.stalls.watched());
        if !kill_after.is_zero() && lasted > kill_after {
            self.kill_stalled(stall);
        }
    }

    fn kill_stalled(&mut self, stall: &Stall) {
        let worker = self.staff.in_charge_mut(stall.slot);
        let Some(worker) = worker.filter(|worker| !worker.stall_killed) else {
            return;
        };
        worker.stall_killed = true;
        tracing::warn!(
            slot = stall.slot,
            "killing a worker that has stalled for {:?}",
            stall.lasted
        );
        worker.kill();
        self.staff.slots[stall.slot].stall_kills += 1;
    }
}
