//! Replacing the binary while it serves, from both sides.
//!
//! Old: starts the successor with its listeners, goes on. New: starts its
//! workers, which accept beside the old ones, and says so. Old: takes its
//! program and its control socket away (the kernel hashes meanwhile, and both
//! serve). New: puts its own there, and says so. Old: its workers leave. Until
//! then anything that goes wrong leaves the old one as it was.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal};
use tokio::sync::oneshot;

use super::event::Event;
use super::stop::ENDS_WITHIN;
use super::{Master, Stopping};
use crate::control::{self, Reply};
use crate::kernel::process::Process;
use crate::serve::master::between_masters::Peer;
use crate::serve::master::takeover::{ToPredecessor, ToSuccessor, start_successor};
use crate::serve::orders::Task;

/// What the old master waits for.
pub(super) struct Upgrade {
    successor: Process,
    peer: Peer<ToSuccessor>,
    /// When the successor is killed; once it was, when its end is not awaited any more.
    pub(super) deadline: Instant,
    /// It has been told to take.
    released: bool,
    /// It has failed for this reason, and its successor has been killed.
    failed: Option<String>,
    /// Whom to tell how it ended.
    asked_by: Option<oneshot::Sender<Reply>>,
}

/// For how long, after the successor's end was noticed, what it said last may still be
/// on its way through the channel.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Upgrade {
    fn say_failed(self) {
        let why = self.failed.unwrap_or_default();
        let why = format!("the new binary did not come up: {why}; the old one goes on");
        tracing::error!("upgrade: {why}");
        answer(self.asked_by, Reply::Refused(why));
    }
}

impl Master {
    /// Begins an upgrade; its end is logged and told to `asked_by`.
    pub(super) fn upgrade(&mut self, asked_by: Option<oneshot::Sender<Reply>>) {
        match self.start_upgrade() {
            Ok(mut upgrade) => {
                upgrade.asked_by = asked_by;
                self.upgrade = Some(upgrade);
            }
            Err(error) => {
                tracing::error!("upgrade: {error:#}");
                answer(asked_by, Reply::Refused(format!("{error:#}")));
            }
        }
    }

    fn start_upgrade(&mut self) -> anyhow::Result<Upgrade> {
        ensure!(self.stopping.is_none(), "the server is stopping");
        ensure!(self.upgrade.is_none(), "an upgrade is under way");
        ensure!(
            self.predecessor.is_none(),
            "this server is just taking over"
        );
        self.ensure_alone("upgrade")?;
        ensure!(
            std::process::id() != 1,
            "process 1 cannot leave its place to a successor: restart the container instead"
        );
        let groups = self.groups.iter().map(|group| &group.listeners);
        let (successor, mut peer) = start_successor(&self.binary, groups)?;
        let pid = successor.pid();
        let watched = peer.listen(self.events.clone(), move |said| {
            Event::FromSuccessor(pid, said)
        });
        if let Err(error) = watched {
            // It would take the end of its channel for this process's end.
            let _ = successor.signal(Signal::KILL);
            return Err(error).context("watch the channel to the successor");
        }
        tracing::info!("upgrade: started {}", self.binary.display());
        Ok(Upgrade {
            successor,
            peer,
            deadline: Instant::now() + self.settings.upgrade_within,
            released: false,
            failed: None,
            asked_by: None,
        })
    }

    /// Whether two servers of an upgrade have the listeners, this one and the other.
    pub(super) fn is_changing_hands(&self) -> bool {
        self.upgrade.is_some() || self.predecessor.is_some()
    }

    pub(super) fn is_successor(&self, pid: Pid) -> bool {
        let successor = self.upgrade.as_ref();
        successor.is_some_and(|upgrade| upgrade.successor.pid() == pid)
    }

    pub(super) fn successor_says(&mut self, said: Option<ToPredecessor>) {
        match said {
            // It has been killed meanwhile.
            _ if self
                .upgrade
                .as_ref()
                .is_none_or(|upgrade| upgrade.failed.is_some()) => {}
            Some(ToPredecessor::Ready) => self.release(),
            Some(ToPredecessor::Serving) => self.hand_over(),
            Some(ToPredecessor::Failed(why)) => self.roll_back(&why),
            None => self.roll_back("it ended"),
        }
    }

    fn release(&mut self) {
        let Some(upgrade) = &mut self.upgrade else {
            return;
        };
        upgrade.released = true;
        self.control = None;
        for group in &mut self.groups {
            if let Err(error) = group.release() {
                tracing::warn!("upgrade: {error:#}");
            }
        }
        upgrade.peer.tell(ToSuccessor::Take);
    }

    fn hand_over(&mut self) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        let pid = upgrade.successor.pid().as_raw_nonzero();
        let what = format!("upgraded: process {pid} serves now");
        tracing::info!("{what}; draining {} workers", self.workers.len());
        answer(upgrade.asked_by, Reply::Done(what));
        if std::mem::take(&mut self.is_reload_due)
            && let Err(error) = upgrade.successor.signal(Signal::HUP)
        {
            tracing::error!("pass the reload on to process {pid}: {error}");
        }
        self.stopping = Some(Stopping {
            since: Instant::now(),
            deadline: Some(Instant::now() + self.settings.grace),
            killed: false,
            leaves_listeners: true,
        });
        for group in &mut self.groups {
            // They are kept for the successor now.
            (group.listeners.activated, group.listeners.kept) = (0, 0);
        }
        self.give_all(Task::Retire);
    }

    /// The successor is not ready in time, or does not end in time.
    pub(super) fn give_up_successor(&mut self) {
        if self.upgrade.as_ref().is_some_and(|at| at.failed.is_some()) {
            return self.finish_roll_back();
        }
        let is_alive = |upgrade: &Upgrade| upgrade.successor.is_alive();
        match self.upgrade.as_ref().is_some_and(is_alive) {
            true => self.roll_back("it was not ready in time"),
            false => self.roll_back("it ended"),
        }
    }

    /// A child has ended; it may have been the successor.
    pub(super) fn look_after_successor(&mut self) {
        if let Some(upgrade) = &mut self.upgrade
            && !upgrade.successor.is_alive()
        {
            // If it left a process that holds the channel, its end shows here alone.
            upgrade.deadline = upgrade.deadline.min(Instant::now() + LAST_WORDS);
            self.finish_roll_back();
        }
    }

    /// The successor did not come up: everything is to be as before.
    fn roll_back(&mut self, why: &str) {
        if let Some(upgrade) = &mut self.upgrade {
            // It may have ended by itself.
            let _ = upgrade.successor.signal(Signal::KILL);
            upgrade.failed = Some(why.into());
            upgrade.deadline = Instant::now() + ENDS_WITHIN;
            self.finish_roll_back();
        }
    }

    /// Once the successor is dead, it neither attaches its program nor answers at the
    /// control socket any more. Its end is not waited for here: it comes as a signal, or
    /// too late to be waited for.
    fn finish_roll_back(&mut self) {
        let is_over = |upgrade: &mut Upgrade| {
            let has_ended = !upgrade.successor.is_alive() || upgrade.deadline <= Instant::now();
            upgrade.failed.is_some() && has_ended
        };
        let Some(upgrade) = self.upgrade.take_if(is_over) else {
            return;
        };
        if upgrade.released
            && let Err(error) = self.take_back().and_then(|()| self.open_control())
        {
            tracing::error!("take back what the new binary had: {error:#}");
        }
        upgrade.say_failed();
        self.reload_if_due();
    }

    /// The server is stopping: without a successor.
    pub(super) fn abandon_upgrade(&mut self) {
        let Some(mut upgrade) = self.upgrade.take() else {
            return;
        };
        let _ = upgrade.successor.signal(Signal::KILL);
        upgrade.failed = Some("the server is stopping".into());
        if upgrade.released
            && let Err(error) = self.take_back()
        {
            tracing::error!("take back what the new binary had: {error:#}");
        }
        upgrade.say_failed();
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

    /// Takes what the predecessor has let go of (or left behind, dead).
    pub(super) fn take(&mut self) -> anyhow::Result<()> {
        if self.predecessor.is_none() {
            return Ok(());
        }
        self.open_control()?;
        for group in &mut self.groups {
            group.insert_listeners();
        }
        self.policy = super::opening::first_policy(&self.settings, &self.groups)?;
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
        let path = match &self.settings.control {
            Some(path) => path.clone(),
            None => control::server_path(self.groups[0].listeners.address.port())?,
        };
        self.control = Some(control::Server::open(path, self.events.clone())?);
        Ok(())
    }
}

fn answer(asked_by: Option<oneshot::Sender<Reply>>, reply: Reply) {
    if let Some(asked_by) = asked_by {
        // Whoever asked may have gone again.
        let _ = asked_by.send(reply);
    }
}
