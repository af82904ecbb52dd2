//! Starting a worker process: exec of this same binary with what it inherits,
//! and the task that hears it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Context;
use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal};
use tokio::sync::mpsc::UnboundedSender;

use super::hear::{self, Heard};
use crate::control::Confinement;
use crate::kernel::packets;
use crate::kernel::process::Process;
use crate::serve::channel::{Inherited, Start, ToMaster, ToWorker};
use crate::serve::master::dispatch::Dispatch;
use crate::serve::orders::{Orders, Task};
use srv_steer::Group;

/// A worker process as the master knows it.
pub struct Worker {
    /// Its process.
    pub process: Process,
    /// Its slot.
    pub slot: u32,
    /// When it was spawned.
    pub started: Instant,
    /// For how many looks it has been starting ([`crate::serve::master`]'s `starting`).
    pub looks_starting: u32,
    /// It waits on its own listeners.
    pub registered: bool,
    /// It accepts.
    pub ready: bool,
    /// It hung for too long and was killed.
    pub hang_killed: bool,
    /// It was told to go, and its slot is to stay empty (or another's).
    pub leaves: bool,
    /// Its slot has had a worker before it, which still is in charge.
    pub is_second: bool,
    /// Its slot is another worker's now.
    pub has_yielded: bool,
    /// What it has given up, once it is registered.
    pub confinement: Option<Confinement>,
    /// Whether it serves on.
    pub task: Task,
    /// How often it is to have looked around.
    pub looks: u32,
    /// [`Start`] and the settings that it was made of are those of this generation of its slot.
    pub generation: u64,
    /// Its orders.
    pub dispatch: Dispatch,
}

impl Worker {
    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Whether its slot is its own.
    pub fn is_in_charge(&self) -> bool {
        !self.leaves && !self.is_second
    }

    /// Gives it a task that comes after the one that it has.
    pub fn give(&mut self, task: Task) {
        self.task = self.task.max(task);
    }
}

/// Spawns a worker; what it says arrives as `events`, made by `event`.
///
/// # Errors
/// If the kernel gives out no process or file descriptor.
pub fn spawn<E: Heard>(
    start: Start,
    groups: &[Group],
    events: &UnboundedSender<E>,
    event: impl Fn(Pid, ToMaster) -> E + Send + Sync + 'static,
) -> anyhow::Result<Worker> {
    let slot = start.slot;
    let orders = Orders::first(start.serving.clone(), start.beside, start.listeners);
    let (mine, theirs) = packets::pair().context("create a worker's channel")?;
    // Not the path: the binary may have been replaced since.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("srv").arg("worker").stdin(Stdio::null());
    command
        .fd_mappings(inheritance(groups, theirs)?)
        .context("number a worker's file descriptors")?;
    // Sequenced packets are received and sent just as datagrams are.
    let channel = UnixDatagram::from(mine);
    let incoming = channel
        .try_clone()
        .context("duplicate a worker's channel")?;
    let incoming = tokio::net::UnixDatagram::from_std(incoming);
    let incoming = incoming.context("watch a worker's channel")?;
    let child = command
        .spawn()
        .with_context(|| format!("spawn worker {slot}"))?;
    let process = Process::new(&child);
    let (pid, events) = (process.pid(), events.clone());
    tokio::spawn(async move {
        // It exits then. If it is compromised it may go on, and say so without end.
        let is_last = |said: &ToMaster| matches!(said, ToMaster::Failed(_));
        hear::pass_on(&incoming, &events, is_last, |said| event(pid, said)).await;
    });
    let started = Instant::now();
    let worker = Worker {
        process,
        slot,
        started,
        looks_starting: 0,
        registered: false,
        ready: false,
        hang_killed: false,
        leaves: false,
        is_second: false,
        has_yielded: false,
        confinement: None,
        task: Task::Serve,
        looks: 0,
        generation: 0,
        dispatch: Dispatch::new(channel, orders, groups),
    };
    if let Err(error) = worker.dispatch.send(&ToWorker::Start(start)) {
        // It would wait for ever.
        let _ = worker.process.signal(Signal::KILL);
        return Err(error).with_context(|| format!("start worker {slot}"));
    }
    Ok(worker)
}

/// Where the workers of these groups find things.
pub fn inherited(groups: &[Group]) -> Inherited {
    let listeners = groups
        .first()
        .map_or(0, |group| group.listeners.sockets.len());
    Inherited {
        groups: groups.len() as u32,
        listeners: listeners as u32,
    }
}

fn inheritance(groups: &[Group], channel: OwnedFd) -> anyhow::Result<Vec<FdMapping>> {
    let inherited = inherited(groups);
    let mut mappings = vec![FdMapping {
        parent_fd: channel,
        child_fd: Inherited::CHANNEL,
    }];
    let mut inherit = |fd: &dyn AsFd, child_fd| {
        let parent_fd = fd
            .as_fd()
            .try_clone_to_owned()
            .context("duplicate a file descriptor")?;
        mappings.push(FdMapping {
            parent_fd,
            child_fd,
        });
        anyhow::Ok(())
    };
    for (nth_group, group) in groups.iter().enumerate() {
        inherit(&group.memory(), inherited.memory(nth_group as u32))?;
        for (nth, socket) in group.listeners.sockets.iter().enumerate() {
            inherit(socket, inherited.listener(nth_group as u32, nth as u32))?;
        }
    }
    Ok(mappings)
}
