//! Starting a worker process: it executes this same binary and inherits listeners and memory. A
//! task forwards what the worker says.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Context;
use command_fds::{CommandFdExt, FdMapping};
use rustix::process::Pid;
use tokio::sync::mpsc::UnboundedSender;

use super::log_writer::WorkersEnd;
use super::receive::{self, ProcessEvent};
use super::worker::{Progress, Tenure, Worker};
use crate::kernel::packets;
use crate::kernel::process::Process;
use crate::serve::channel::{Inherited, Start, ToMaster, ToWorker};
use crate::serve::master::dispatch::Dispatch;
use crate::serve::orders::{Orders, Task};
use srv_steer::Group;

/// Spawns a worker. What it says arrives as `events`, made by `event`.
///
/// # Errors
/// If the kernel gives out no process or file descriptor.
pub fn spawn<E: ProcessEvent>(
    start: Start,
    groups: &[Group],
    ring: WorkersEnd,
    events: &UnboundedSender<E>,
    event: impl Fn(Pid, ToMaster) -> E + Send + Sync + 'static,
) -> anyhow::Result<Worker> {
    let slot = start.slot;
    let orders = Orders::initial(start.serving.clone(), start.beside, start.listeners);
    let (mine, theirs) = packets::pair().context("create a worker's channel")?;
    // Not the path: the binary may have been replaced since.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("srv").arg("worker").stdin(Stdio::null());
    command
        .fd_mappings(inheritance(groups, theirs, ring)?)
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
        // A worker exits after this message. A compromised one may send it without end.
        let is_last = |said: &ToMaster| matches!(said, ToMaster::Failed(_));
        receive::forward(&incoming, &events, is_last, |said| event(pid, said)).await;
    });
    let worker = Worker {
        process,
        slot,
        spawned: Instant::now(),
        progress: Progress::Starting { checks: 0 },
        tenure: Tenure::InCharge,
        stall_killed: false,
        task: Task::Serve,
        rescans: 0,
        generation: 0,
        dispatch: Dispatch::new(channel, orders, groups),
    };
    if let Err(error) = worker.dispatch.send(&ToWorker::Start(start)) {
        // It would wait for ever.
        worker.kill();
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

fn inheritance(
    groups: &[Group],
    channel: OwnedFd,
    ring: WorkersEnd,
) -> anyhow::Result<Vec<FdMapping>> {
    let inherited = inherited(groups);
    let own = [
        (channel, Inherited::CHANNEL),
        (ring.memory, inherited.ring()),
        (ring.bell, inherited.bell()),
    ];
    let own = own.map(|(parent_fd, child_fd)| FdMapping {
        parent_fd,
        child_fd,
    });
    let mut mappings = Vec::from(own);
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
