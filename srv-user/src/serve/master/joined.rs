//! A server that has joined another (`--join`): its workers are in slots of that
//! one's groups, of which the other writes what masters write. When the other one
//! goes, everything is this one's.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use socket2::Socket;
use srv_common::{MAX_WORKERS, Policy};

use super::event::Event;
use super::{Master, Stopping};
use crate::control;
use crate::serve::config::Settings;
use crate::serve::master::between_masters::Peer;
use crate::serve::master::join::{self, Given, ToFirst, ToJoined};
use crate::serve::master::takeover::Takeover;
use crate::serve::orders::Task;
use crate::values::PolicyName;
use srv_steer::{Group, HashingReason, ListenerGroup, SelectProgram, SharedMemory, Stage, Stall};

/// The kernel closes a dead process's files in this time.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

/// The first server, as the second knows it.
pub(super) struct First {
    pub(super) peer: Peer<ToFirst>,
    pub(super) pid: u32,
    /// Where it is asked, and this one will be.
    control: PathBuf,
    pub(super) first_slot: u32,
    policy: Policy,
}

impl First {
    /// In force there.
    pub(super) fn policy(&self) -> Policy {
        self.policy
    }
}

/// Joins the running server that is meant: its groups, with slots for this one's
/// workers.
///
/// # Errors
/// There is none, or it refuses, or systemd has passed listeners to this one.
pub(super) fn join(
    settings: &Settings,
    takeover: &Takeover,
) -> anyhow::Result<(Vec<Group>, Option<First>)> {
    takeover.ensure_empty()?;
    let Given {
        control,
        channel,
        welcome,
        fds,
    } = join::ask(settings)?;
    let mut fds = fds.into_iter();
    let mut groups = Vec::new();
    for (address, is_steered) in &welcome.groups {
        let memory = fds.next().context("no memory was handed over")?;
        let memory = SharedMemory::checked(memory).context("look at its memory")?;
        let handles = is_steered.then(|| fds.next().zip(fds.next())).flatten();
        let steering = adopt(settings, &memory, handles);
        let sockets = fds.by_ref().take(welcome.listeners as usize);
        let listeners = ListenerGroup {
            sockets: sockets.map(Socket::from).collect(),
            ..ListenerGroup::empty(*address)
        };
        groups.push(Group::join(listeners, memory, steering, &settings.group())?);
    }
    let slots_end = welcome.first_slot.checked_add(settings.workers);
    ensure!(
        !groups.is_empty()
            && slots_end.is_some_and(|end| end <= welcome.listeners)
            && welcome.listeners as usize <= MAX_WORKERS,
        "the running server has handed over less than it promised"
    );
    let first = First {
        peer: Peer::new(channel),
        pid: welcome.pid,
        control,
        first_slot: welcome.first_slot,
        policy: policy(&welcome.policy),
    };
    Ok((groups, Some(first)))
}

/// The program, for when the other server has gone.
fn adopt(
    settings: &Settings,
    memory: &SharedMemory<srv_common::Group>,
    handles: Option<(OwnedFd, OwnedFd)>,
) -> Result<SelectProgram, HashingReason> {
    if !settings.bpf {
        return Err(HashingReason::SwitchedOff);
    }
    let (program, listeners) = handles.ok_or(HashingReason::NothingToAdopt)?;
    let memory = memory.try_clone();
    memory
        .and_then(|memory| SelectProgram::adopt(program, listeners, memory))
        .map_err(|error| HashingReason::Refused(Arc::new(error)))
}

fn policy(name: &str) -> Policy {
    let policy = name.parse::<PolicyName>();
    policy.map_or(Policy::Hash, |policy| policy.0)
}

impl Master {
    pub(super) fn tell_first(&self, message: ToFirst) {
        if let Some(first) = &self.first {
            first.peer.tell(message);
        }
    }

    /// The first server says something, or (`None`) is gone.
    pub(super) fn first_says(&mut self, said: Option<ToJoined>) {
        let Some(first) = &mut self.first else {
            return;
        };
        match said {
            Some(ToJoined::Policy(name)) => first.policy = policy(&name),
            Some(ToJoined::Registered(slot)) => self.step_back(slot),
            Some(ToJoined::Nudge(slot)) => self.nudge(slot),
            Some(ToJoined::Hangs { slot, lasted }) => self.kill_if_hung_too_long(&Stall {
                slot,
                lasted,
                stage: Stage::Continues,
            }),
            Some(ToJoined::LookAround) => self.have_somebody_look_around(),
            // Its answer is underway: this one leaves as well.
            Some(ToJoined::Take) if self.stopping.is_some() => {}
            Some(ToJoined::Take) => {
                if let Some(first) = self.take_everything() {
                    first.peer.tell(ToFirst::Taken);
                }
            }
            Some(ToJoined::Welcome(_) | ToJoined::More) => {}
            None if self.stopping.is_some() => self.first = None,
            None => {
                self.take_everything();
            }
        }
    }

    fn take_everything(&mut self) -> Option<First> {
        let first = self.first.take()?;
        let own = self.own_slots();
        self.policy = first.policy;
        let taken = self.groups.iter_mut();
        let whys: Vec<_> = taken
            .filter_map(|group| group.take_over(own.clone(), first.policy))
            .collect();
        match whys.first() {
            None => tracing::info!(
                policy = self.policy.name(),
                "server {} goes: this one goes on alone, and steers",
                first.pid
            ),
            Some(why) => {
                self.policy = Policy::Hash;
                tracing::warn!(
                    "server {} goes: this one goes on alone, and the kernel hashes: {why}",
                    first.pid
                );
            }
        }
        self.leave_to_all(0..own.start);
        self.leave_to_all(own.end..self.groups[0].listeners.sockets.len() as u32);
        self.have_somebody_look_around();
        self.answer_at(first.control.clone(), Instant::now() + CLOSED_WITHIN);
        self.keep_listeners();
        Some(first)
    }

    /// Opens the control socket where the first server had its own. Of one that was
    /// killed the kernel may close it a moment after the channel.
    pub(super) fn answer_at(&mut self, path: PathBuf, deadline: Instant) {
        match control::Server::open(path.clone(), self.events.clone()) {
            Ok(control) => self.control = Some(control),
            Err(error) if Instant::now() > deadline => {
                tracing::error!("{error:#}; nobody can ask this server anything");
            }
            Err(_) => {
                let events = self.events.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(BETWEEN_TRIES).await;
                    // The receiver lives as long as the master.
                    let _ = events.send(Event::AnswerAt(path, deadline));
                });
            }
        }
    }

    /// Instead of a stop: the first server goes on, and drains what is left.
    pub(super) fn leave_first(&mut self, stopping: Stopping) {
        self.stopping = Some(stopping);
        self.tell_first(ToFirst::Leaving);
        self.give_all(Task::Retire);
    }

    /// For the log.
    pub(super) fn announce_joined(&self, workers: u32) {
        if let Some(first) = &self.first {
            tracing::info!(workers, "joined server {}, which steers", first.pid);
        }
    }

    pub(super) fn watch_first(&mut self) -> anyhow::Result<()> {
        match &mut self.first {
            None => Ok(()),
            Some(first) => first
                .peer
                .listen(self.events.clone(), Event::FromFirst)
                .context("watch the channel to the server that was joined"),
        }
    }
}
