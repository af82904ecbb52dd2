//! Starting a worker process: exec of this same binary with what it inherits,
//! and the task that listens to it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use command_fds::{CommandFdExt, FdMapping};
use rustix::process::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::UnboundedSender;

use crate::channel::{Channel, Inherited, Start, ToMaster, ToWorker};
use crate::group::Group;
use crate::master::Event;

/// A worker process as the master knows it.
pub struct Worker {
    /// Its process.
    pub pid: Pid,
    /// Its slot.
    pub slot: u32,
    /// When it was spawned.
    pub started: Instant,
    /// It waits on its own listeners.
    pub registered: bool,
    /// It accepts.
    pub ready: bool,
    channel: Arc<AsyncFd<Channel>>,
}

impl Worker {
    /// Sends a message; if the worker is gone, its death is told elsewhere.
    pub fn tell(&self, message: &ToWorker) {
        if let Err(error) = self.channel.get_ref().send(message) {
            tracing::debug!(slot = self.slot, "tell {message:?}: {error:#}");
        }
    }
}

/// Spawns a worker; what it says arrives as `events`.
///
/// # Errors
/// If the kernel gives out no process or file descriptor.
pub fn spawn(
    start: Start,
    groups: &[Group],
    events: &UnboundedSender<Event>,
) -> anyhow::Result<Worker> {
    let slot = start.slot;
    let (mine, theirs) = Channel::pair().context("create a worker's channel")?;
    // Not the path: the binary may have been replaced since.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("srv").arg("worker").stdin(Stdio::null());
    command
        .fd_mappings(inheritance(groups, theirs)?)
        .context("number a worker's file descriptors")?;
    let child = command.spawn().with_context(|| format!("spawn worker {slot}"))?;
    let pid = Pid::from_child(&child);
    mine.send(&ToWorker::Start(start)).context("send a worker its orders")?;
    let channel = AsyncFd::with_interest(mine, Interest::READABLE);
    let channel = Arc::new(channel.context("watch a worker's channel")?);
    tokio::spawn(listen(pid, channel.clone(), events.clone()));
    Ok(Worker { pid, slot, started: Instant::now(), registered: false, ready: false, channel })
}

/// Where the workers of these groups find things.
pub fn inherited(groups: &[Group]) -> Inherited {
    let listeners = groups.first().map_or(0, |group| group.listeners.sockets.len());
    Inherited { groups: groups.len() as u32, listeners: listeners as u32 }
}

fn inheritance(groups: &[Group], channel: OwnedFd) -> anyhow::Result<Vec<FdMapping>> {
    let inherited = inherited(groups);
    let mut mappings = vec![FdMapping { parent_fd: channel, child_fd: Inherited::CHANNEL }];
    let mut inherit = |fd: &dyn AsFd, child_fd| {
        let parent_fd = fd.as_fd().try_clone_to_owned().context("duplicate a file descriptor")?;
        mappings.push(FdMapping { parent_fd, child_fd });
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

async fn listen(pid: Pid, channel: Arc<AsyncFd<Channel>>, events: UnboundedSender<Event>) {
    loop {
        let Ok(mut ready) = channel.readable().await else { break };
        loop {
            match channel.get_ref().receive::<ToMaster>() {
                Ok(Some(message)) => {
                    let _ = events.send(Event::FromWorker(pid, Some(message)));
                }
                Ok(None) => break,
                Err(_) => {
                    let _ = events.send(Event::FromWorker(pid, None));
                    return;
                }
            }
        }
        ready.clear_ready();
    }
}
