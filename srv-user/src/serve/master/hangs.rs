//! Workers that are stuck: somebody looks around for what they left, suspects are
//! told something, and who hangs for too long is killed if that was asked for.

use std::time::Duration;

use rustix::process::Signal;

use super::Master;
use crate::serve::channel::ToWorker;
use srv_steer::monotonic_ns;
use srv_steer::{Group, Stage, Stall};

impl Master {
    pub(super) fn spot_hangs(&mut self) {
        self.note_look();
        let found: Vec<Stall> = self
            .groups
            .iter_mut()
            .flat_map(Group::detect_stalls)
            .collect();
        if found.iter().any(|hang| hang.stage == Stage::Detected) {
            self.have_somebody_look_around();
        }
        let suspects = found.iter().filter(|hang| hang.stage == Stage::Suspected);
        suspects.for_each(|suspect| self.nudge(suspect.slot));
        for hang in found {
            self.tell_of_hang(&hang);
            self.kill_if_hung_too_long(&hang);
        }
    }

    pub(super) fn nudge(&self, slot: u32) {
        if let Some(worker) = self.in_charge(slot) {
            // A full channel is a reason to wake, too.
            let _ = worker.dispatch.send(&ToWorker::Nudge);
        }
    }

    /// A worker of this server's hangs, by this master's account or the other one's.
    pub(super) fn kill_if_hung_too_long(&mut self, hang: &Stall) {
        self.note_look();
        let watched = Duration::from_nanos(self.hang_looks.watched_ns());
        let kill_after = self.settings.hang_kill;
        if !kill_after.is_zero() && hang.lasted.min(watched) > kill_after {
            self.kill_hung(hang);
        }
    }

    /// Late is what would be a good part of the time after which a worker is killed. Less
    /// does not count as late, or on a busy machine none would ever be killed.
    fn note_look(&mut self) {
        let late_after = (self.settings.hang_kill / 4).max(self.hang_check.period() * 2);
        let late_after_ns = u64::try_from(late_after.as_nanos()).unwrap_or(u64::MAX);
        self.hang_looks.look(monotonic_ns(), late_after_ns);
    }

    pub(super) fn kill_hung(&mut self, hang: &Stall) {
        let mut workers = self.workers.values_mut();
        let found = workers.find(|worker| {
            worker.slot == hang.slot && worker.is_in_charge() && !worker.hang_killed
        });
        let Some(worker) = found else { return };
        worker.hang_killed = true;
        self.slots[hang.slot].hang_kills += 1;
        tracing::warn!(
            slot = hang.slot,
            "killing a worker that hangs for {:?}",
            hang.lasted
        );
        // It may have ended by itself.
        let _ = worker.process.signal(Signal::KILL);
    }
}
