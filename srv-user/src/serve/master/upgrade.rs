//! Replacing the binary while it serves, from both sides.
//!
//! 1. The old master starts the successor with its listeners, and goes on.
//! 2. The successor starts its workers, which accept beside the old ones, and reports ready.
//! 3. The old master removes its program and its control socket. The kernel hashes meanwhile, and
//!    both serve.
//! 4. The successor puts its own program and control socket there, and reports that it serves.
//! 5. The workers of the old master leave.
//!
//! Whatever fails before step 5 leaves the old server as it was.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal};
use tokio::sync::oneshot;

use super::Master;
use super::event::Event;
use super::phase::Phase;
use super::stopping::{Listeners, Stopping};
use super::under_way::{Holding, Outcome, Upgrade, answer};
use crate::control::{self, Reply};
use crate::serve::master::takeover::{ToPredecessor, ToSuccessor, start_successor};
use crate::serve::orders::Task;

impl Master {
    /// Begins an upgrade. Its outcome is logged and sent to `asked_by`.
    pub(super) fn upgrade(&mut self, asked_by: Option<oneshot::Sender<Reply>>) {
        match self.start_upgrade() {
            Ok(mut upgrade) => {
                upgrade.asked_by = asked_by;
                self.phase.begin_upgrade(upgrade);
            }
            Err(error) => {
                tracing::error!("upgrade: {error:#}");
                answer(asked_by, Reply::Refused(format!("{error:#}")));
            }
        }
    }

    fn start_upgrade(&mut self) -> anyhow::Result<Upgrade> {
        let is_stopping = self.phase.is_stopping() || self.leaving.is_some();
        ensure!(!is_stopping, "the server is stopping");
        ensure!(self.phase.upgrade().is_none(), "an upgrade is under way");
        ensure!(
            self.predecessor.is_none(),
            "this server is just taking over from its predecessor"
        );
        self.ensure_alone("upgrade")?;
        ensure!(
            std::process::id() != 1,
            "process 1 cannot leave its place to a successor: restart the container instead"
        );
        let groups = self.groups.iter().map(|group| &group.listeners);
        let (successor, mut peer) =
            start_successor(&self.launch.binary, groups, self.admin_sockets())?;
        let pid = successor.pid();
        let watched = peer.listen(self.events.clone(), move |said| {
            Event::FromSuccessor(pid, said)
        });
        if let Err(error) = watched {
            // The end of its channel would look to it like the end of this process.
            let _ = successor.signal(Signal::KILL);
            return Err(error).context("watch the channel to the successor");
        }
        if let Some(tickets) = self.hand_over_tickets() {
            peer.tell(tickets);
        }
        tracing::info!("upgrade: started {}", self.launch.binary.display());
        Ok(Upgrade {
            successor,
            peer,
            outcome: Outcome::Awaited {
                deadline: Instant::now() + self.settings.upgrade_within,
            },
            holding: Holding::Held,
            asked_by: None,
        })
    }

    /// Whether two servers of an upgrade have the listeners, this one and the other.
    pub(super) fn is_changing_hands(&self) -> bool {
        self.phase.upgrade().is_some() || self.predecessor.is_some()
    }

    pub(super) fn is_successor(&self, pid: Pid) -> bool {
        let successor = self.phase.upgrade();
        successor.is_some_and(|upgrade| upgrade.successor.pid() == pid)
    }

    pub(super) fn successor_says(&mut self, said: Option<ToPredecessor>) {
        let upgrade = self.phase.upgrade();
        if upgrade.is_none_or(Upgrade::has_failed) {
            // It has been killed meanwhile.
            return;
        }
        match said {
            Some(ToPredecessor::Ready) => self.release(),
            Some(ToPredecessor::Serving) => self.hand_over(),
            Some(ToPredecessor::Failed(why)) => self.roll_back(&why),
            None => self.roll_back("it ended"),
        }
    }

    fn release(&mut self) {
        let Some(upgrade) = self.phase.upgrade_mut() else {
            return;
        };
        upgrade.holding = Holding::Released;
        self.control = None;
        for group in &mut self.groups {
            if let Err(error) = group.release() {
                tracing::warn!("upgrade: {error:#}");
            }
        }
        upgrade.peer.tell(ToSuccessor::Take);
    }

    fn hand_over(&mut self) {
        let Some(upgrade) = self.phase.end_upgrade() else {
            return;
        };
        let pid = upgrade.successor.pid().as_raw_nonzero();
        let what = format!("upgraded: process {pid} serves now");
        tracing::info!("{what}; draining {} workers", self.staff.workers.len());
        answer(upgrade.asked_by, Reply::Done(what));
        if self.reloads.take_due()
            && let Err(error) = upgrade.successor.signal(Signal::HUP)
        {
            tracing::error!("pass the reload on to process {pid}: {error}");
        }
        let grace = Some(self.settings.grace);
        self.phase = Phase::Stopping(Stopping::new(grace, Listeners::Leave));
        self.leave_admin();
        for group in &mut self.groups {
            // They are kept for the successor now.
            (group.listeners.activated, group.listeners.kept) = (0, 0);
        }
        self.staff.give_all(Task::Retire);
    }

    /// The successor has not taken over in time, or does not end in time.
    pub(super) fn give_up_successor(&mut self) {
        let Some(upgrade) = self.phase.upgrade() else {
            return;
        };
        if upgrade.has_failed() {
            return self.finish_roll_back();
        }
        match upgrade.successor.is_alive() {
            true => self.roll_back("it was not ready in time"),
            false => self.roll_back("it ended"),
        }
    }

    /// A child has ended, perhaps the successor.
    pub(super) fn check_successor(&mut self) {
        if let Some(upgrade) = self.phase.upgrade_mut()
            && !upgrade.successor.is_alive()
        {
            // If it left a process that holds the channel, only this shows that it has ended.
            upgrade.hurry();
            self.finish_roll_back();
        }
    }

    /// The successor did not come up: everything is to be as before.
    fn roll_back(&mut self, why: &str) {
        if let Some(upgrade) = self.phase.upgrade_mut() {
            upgrade.fail(why);
            self.finish_roll_back();
        }
    }

    /// Goes on alone once the successor is dead: then it neither attaches its program nor answers
    /// at the control socket any more. Its end is not waited for here: it comes as a signal, or
    /// too late to be waited for.
    fn finish_roll_back(&mut self) {
        let is_over = |upgrade: &Upgrade| {
            let has_ended = !upgrade.successor.is_alive() || upgrade.deadline() <= Instant::now();
            upgrade.has_failed() && has_ended
        };
        if !self.phase.upgrade().is_some_and(is_over) {
            return;
        }
        let Some(upgrade) = self.phase.end_upgrade() else {
            return;
        };
        if upgrade.holding == Holding::Released
            && let Err(error) = self.take_back().and_then(|()| self.open_control())
        {
            tracing::error!("take back what the new binary had: {error:#}");
        }
        upgrade.report_failure();
        self.reload_if_due();
    }

    /// The server is stopping: there is to be no successor.
    pub(super) fn abandon_upgrade(&mut self) {
        let Some(mut upgrade) = self.phase.end_upgrade() else {
            return;
        };
        upgrade.fail("the server is stopping");
        if upgrade.holding == Holding::Released
            && let Err(error) = self.take_back()
        {
            tracing::error!("take back what the new binary had: {error:#}");
        }
        upgrade.report_failure();
    }

    fn take_back(&mut self) -> anyhow::Result<()> {
        let policy = self.policy;
        self.groups.iter_mut().try_for_each(|group| {
            // In this order: the successor's program, replaced, lets go of the sockets.
            group.steer(policy)?;
            group.insert_listeners();
            Ok(())
        })
    }

    /// Takes what the predecessor has released, or left behind when it died.
    pub(super) fn take(&mut self) -> anyhow::Result<()> {
        if self.predecessor.is_none() {
            return Ok(());
        }
        self.open_control()?;
        self.answer_admin();
        for group in &mut self.groups {
            group.insert_listeners();
        }
        self.policy = super::opening::initial_policy(&self.settings, &self.groups)?;
        for group in &mut self.groups {
            group.steer(self.policy)?;
        }
        self.announce();
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.tell(ToPredecessor::Serving);
        }
        self.reload_if_due();
        Ok(())
    }

    pub(super) fn open_control(&mut self) -> anyhow::Result<()> {
        let path = self.control_path()?;
        self.control = Some(control::Server::open(path, self.events.clone())?);
        Ok(())
    }
}
