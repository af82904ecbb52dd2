//! The secondary of two servers on one address (`--join`). Its workers are in slots of the
//! primary's groups, and the primary's master writes to the shared memory what masters write. When
//! the primary ends, everything belongs to this server.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use socket2::Socket;
use srv_common::{MAX_WORKERS, Policy};

use super::Master;
use super::event::Event;
use super::role::{PrimaryServer, Role};
use crate::control;
use crate::serve::config::Settings;
use crate::serve::master::between_masters::Peer;
use crate::serve::master::join::{self, Given, ToPrimary, ToSecondary};
use crate::serve::master::takeover::Takeover;
use crate::serve::orders::Task;
use crate::values::PolicyName;
use crate::values::reported::Reported;
use srv_steer::{Group, HashingReason, ListenerGroup, SelectProgram, SharedMemory, Stage, Stall};

/// The kernel closes the files of a dead process within this time.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);
/// How often this server tries whether it has.
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

/// Joins the running server that is meant. Its groups, with slots for the workers of this server.
///
/// # Errors
/// There is none, or it refuses, or systemd has passed listeners to this server.
pub(super) fn join(settings: &Settings, takeover: &Takeover) -> anyhow::Result<(Vec<Group>, Role)> {
    takeover.ensure_empty()?;
    let Given {
        control,
        channel,
        welcome,
        fds,
    } = join::ask(settings)?;
    let mut fds = fds.into_iter();
    let mut groups = Vec::new();
    for (address, handles) in &welcome.groups {
        let memory = fds.next().context("no memory was handed over")?;
        let memory = SharedMemory::checked(memory).context("look at its memory")?;
        let handles = fds.by_ref().take((*handles as usize).saturating_sub(1));
        let steering = adopt(settings, &memory, handles.collect());
        let sockets = fds.by_ref().take(welcome.listeners as usize);
        let listeners = ListenerGroup {
            sockets: sockets.map(Socket::from).collect(),
            ..ListenerGroup::empty(*address)
        };
        groups.push(Group::join(listeners, memory, steering, &settings.group())?);
    }
    // Sites refer to listeners by their numbers.
    let own = groups.iter().map(|group| group.listeners.address);
    ensure!(
        !settings.serving.sites.refer_to_listeners() || own.eq(settings.listen.iter().copied()),
        "join a server whose sites refer to listeners: name the addresses in the order of the \
         running server, which `srv sockets` shows"
    );
    let slots_end = welcome.first_slot.checked_add(settings.workers);
    ensure!(
        !groups.is_empty()
            && slots_end.is_some_and(|end| end <= welcome.listeners)
            && welcome.listeners as usize <= MAX_WORKERS,
        "the running server has handed over less than it promised"
    );
    let primary = PrimaryServer {
        peer: Peer::new(channel),
        pid: welcome.pid,
        control,
        first_slot: welcome.first_slot,
        policy: policy(welcome.policy),
    };
    Ok((groups, Role::Secondary(primary)))
}

/// The program with which this server steers once the primary has ended.
fn adopt(
    settings: &Settings,
    memory: &SharedMemory<srv_common::Group>,
    handles: Vec<OwnedFd>,
) -> Result<SelectProgram, HashingReason> {
    if !settings.bpf {
        return Err(HashingReason::SwitchedOff);
    }
    let mut handles = handles.into_iter();
    let steering = handles.next().zip(handles.next());
    let (program, listeners) = steering.ok_or(HashingReason::NothingToAdopt)?;
    let memory = memory.try_clone();
    memory
        .and_then(|memory| SelectProgram::adopt(program, listeners, handles.next(), memory))
        .map_err(|error| HashingReason::Refused(Arc::new(error)))
}

/// If only the primary knows the policy, this server hashes once the primary has ended.
fn policy(reported: Reported<PolicyName>) -> Policy {
    let known = reported.known();
    known.map_or(Policy::Hash, |PolicyName(policy)| policy)
}

impl Master {
    /// The primary says something, or (`None`) is gone.
    pub(super) fn primary_says(&mut self, said: Option<ToSecondary>) {
        let Some(primary) = self.role.primary_mut() else {
            return;
        };
        match said {
            Some(ToSecondary::Policy(reported)) => primary.policy = policy(reported),
            Some(ToSecondary::Registered(slot)) => self.staff.note_newcomer(slot),
            Some(ToSecondary::Probe(slot)) => self.probe(slot),
            Some(ToSecondary::Stalled { slot, lasted }) => self.kill_if_stalled_too_long(&Stall {
                slot,
                lasted,
                stage: Stage::Continues,
            }),
            Some(ToSecondary::Rescan) => self.request_rescan(),
            // This server has told the primary that it leaves as well.
            Some(ToSecondary::Take) if self.phase.is_stopping() => {}
            Some(ToSecondary::Take) => {
                if let Some(primary) = self.take_everything() {
                    primary.peer.tell(ToPrimary::Taken);
                }
            }
            Some(ToSecondary::Welcome(_) | ToSecondary::More) => {}
            None if self.phase.is_stopping() => drop(self.role.end_of_primary()),
            None => drop(self.take_everything()),
        }
    }

    fn take_everything(&mut self) -> Option<PrimaryServer> {
        let primary = self.role.end_of_primary()?;
        let own = self.staff.own_slots();
        self.policy = primary.policy;
        let taken = self.groups.iter_mut();
        let whys: Vec<_> = taken
            .filter_map(|group| group.take_over(own.clone(), primary.policy))
            .collect();
        match whys.first() {
            None => tracing::info!(
                policy = self.policy.name(),
                "server {} ends: this one goes on alone, and steers",
                primary.pid
            ),
            Some(why) => {
                self.policy = Policy::Hash;
                tracing::warn!(
                    "server {} ends: this one goes on alone, and the kernel hashes: {why}",
                    primary.pid
                );
            }
        }
        self.staff.leave_to_all(0..own.start);
        self.staff
            .leave_to_all(own.end..self.groups[0].listeners.sockets.len() as u32);
        self.request_rescan();
        self.answer_at(primary.control.clone(), Instant::now() + CLOSED_WITHIN);
        self.keep_listeners();
        Some(primary)
    }

    /// Opens the control socket where the primary had its own, and the admin sockets. If the primary was killed, the
    /// kernel may close that socket a moment after the channel, so this is tried until `deadline`.
    pub(super) fn answer_at(&mut self, path: PathBuf, deadline: Instant) {
        match self.try_to_answer_at(&path) {
            Ok(()) => {}
            Err(error) if Instant::now() > deadline => match self.control {
                Some(_) => tracing::error!("{error:#}; the server goes on without it"),
                None => tracing::error!(
                    "{error:#}; no command can reach this server until it is restarted"
                ),
            },
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

    fn try_to_answer_at(&mut self, path: &Path) -> anyhow::Result<()> {
        if self.control.is_none() {
            let control = control::Server::open(path.to_owned(), self.events.clone())?;
            self.control = Some(control);
        }
        self.reopen_admin(path)?;
        self.answer_admin();
        Ok(())
    }

    /// This server stops, and the primary goes on and drains what is left.
    pub(super) fn leave_to_primary(&mut self) {
        self.role.tell_primary(ToPrimary::Leaving);
        self.staff.give_all(Task::Retire);
    }

    /// Watches the channel to the primary, if this server has joined one.
    pub(super) fn watch_primary(&mut self) -> anyhow::Result<()> {
        match self.role.primary_mut() {
            None => Ok(()),
            Some(primary) => primary
                .peer
                .listen(self.events.clone(), Event::FromPrimary)
                .context("watch the channel to the primary"),
        }
    }
}
