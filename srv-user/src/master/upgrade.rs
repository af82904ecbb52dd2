//! Replacing the binary while it serves, from both sides.
//!
//! Old: starts the successor with its listeners, goes on. New: starts its
//! workers, which accept beside the old ones, and says so. Old: takes its
//! program and its control socket away (the kernel hashes meanwhile, and both
//! serve). New: puts its own there, and says so. Old: its workers leave. Until
//! then anything that goes wrong leaves the old one as it was.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tokio::sync::oneshot;

use super::{Event, Master, Stopping};
use crate::channel::ToWorker;
use crate::control::{self, Reply};
use crate::takeover::{Peer, ToPredecessor, ToSuccessor, start_successor};

/// What the old master waits for.
pub(super) struct Upgrade {
    successor: Peer,
    pub(super) deadline: Instant,
    /// It has been told to take.
    released: bool,
    /// Whom to tell how it ended.
    asked_by: Option<oneshot::Sender<Reply>>,
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
        let successor = start_successor(&self.binary, groups)?;
        let pid = successor.pid;
        successor
            .listen(self.events.clone(), move |said| {
                Event::FromSuccessor(pid, said)
            })
            .context("watch the channel to the successor")?;
        tracing::info!("upgrade: started {}", self.binary.display());
        Ok(Upgrade {
            successor,
            deadline: Instant::now() + self.settings.upgrade_within,
            released: false,
            asked_by: None,
        })
    }

    pub(super) fn is_successor(&self, pid: Option<Pid>) -> bool {
        let successor = self.upgrade.as_ref().map(|upgrade| upgrade.successor.pid);
        successor == Some(pid)
    }

    pub(super) fn successor_says(&mut self, said: Option<ToPredecessor>) {
        match said {
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
        upgrade.successor.tell(&ToSuccessor::Take);
    }

    fn hand_over(&mut self) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        let pid = upgrade
            .successor
            .pid
            .map_or(0, |pid| pid.as_raw_nonzero().get());
        let what = format!("upgraded: process {pid} serves now");
        tracing::info!("{what}; draining {} workers", self.workers.len());
        answer(upgrade.asked_by, Reply::Done(what));
        self.stopping = Some(Stopping {
            deadline: Some(Instant::now() + self.settings.grace),
            killed: false,
            leaves_listeners: true,
        });
        for group in &mut self.groups {
            // They are kept for the successor now.
            (group.listeners.activated, group.listeners.kept) = (0, 0);
        }
        for worker in self.workers.values() {
            worker.tell(&ToWorker::Retire);
        }
    }

    /// The successor did not come up: everything is as before.
    pub(super) fn roll_back(&mut self, why: &str) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        if let Some(pid) = upgrade.successor.pid {
            // Not reaped before its end is known here; it may be a zombie.
            let _ = kill_process(pid, Signal::KILL);
            // Its control socket's file may go until it is dead.
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
        let why = format!("the new binary did not come up: {why}; the old one goes on");
        tracing::error!("upgrade: {why}");
        if upgrade.released {
            self.take_back();
        }
        answer(upgrade.asked_by, Reply::Refused(why));
    }

    fn take_back(&mut self) {
        let policy = self.policy;
        let steered = self.groups.iter_mut().try_for_each(|group| {
            // In this order: the successor's program, replaced, lets go of the sockets.
            group.steer(policy)?;
            group.insert_listeners();
            Ok(())
        });
        let open = |()| self.open_control();
        if let Err(error) = steered.and_then(open) {
            tracing::error!("take back what the new binary had: {error:#}");
        }
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
        self.policy = super::first_policy(&self.settings, &self.groups)?;
        for group in &mut self.groups {
            group.steer(self.policy)?;
        }
        self.announce();
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.tell(&ToPredecessor::Serving);
        }
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
