//! Detaching the program of a group, also one that another process attached: any socket of the
//! group suffices for that. This module keeps no state, so that it also works if everything else
//! has failed.

use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::{fs, io};

use anyhow::{Context as _, anyhow, ensure};
use aya::programs::SkReuseport;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use super::group::Target;
use super::lock::{Lock, Record};
use super::refusal::{Refusal, errno, of_option};
use super::take::take;
use crate::kernel::owners::Owners;
use crate::kernel::sock_diag::SockDiag;

/// What a detach found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detached {
    /// A program was attached. It is detached now.
    Program,
    /// No program was attached.
    Nothing,
}

/// Detaches the program of the group, if it has one.
///
/// # Errors
/// No process listens on that address, or this process may take none of the sockets.
pub fn detach(target: &Target, diag: &mut SockDiag) -> anyhow::Result<Detached> {
    let listeners = target.listeners(diag)?;
    let owners = Owners::of(&listeners.iter().map(|each| each.inode).collect());
    for listener in &listeners {
        let Some(socket) = take(listener, &owners)? else {
            continue;
        };
        let detached = SkReuseport::detach(&socket).map_err(anyhow::Error::from);
        return match detached {
            Ok(()) => Ok(Detached::Program),
            // ENOENT means that no program is attached. EINVAL means that the socket was bound
            // without SO_REUSEPORT and has no group (reuseport_detach_prog,
            // net/core/sock_reuseport.c).
            Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::INVAL)) => {
                Ok(Detached::Nothing)
            }
            Err(error) => Err(of_option(error.context("detach the program"), "5.3")),
        };
    }
    Err(Refusal::OwnersHidden(target.address).into())
}

/// `srv detach`: ends the agent, if one runs, and detaches the program. Returns a message for
/// people.
///
/// # Errors
/// The agent does not end, or as [`detach`].
pub fn run(target: &Target) -> anyhow::Result<String> {
    let mut diag = SockDiag::open(target.netns)?;
    let (lock, ended) = match Lock::acquire(target.namespace, target.address)? {
        Ok(lock) => (lock, None),
        Err(record) => (end_agent(&record)?, Some(record.process.pid)),
    };
    let record = lock.record();
    let detached = detach(target, &mut diag);
    // If the group is gone, its program is gone, too.
    if detached.is_ok() || record.is_none() || diag.listeners_on(target.address)?.is_empty() {
        lock.remove()?;
        if let Some(control) = record.and_then(|record| record.control) {
            remove_dead_socket(&control);
        }
    }
    let detached = detached?;
    let address = target.address;
    Ok(match (detached, ended) {
        (_, Some(pid)) => format!("{address}: agent {pid} has ended, the kernel's hash chooses"),
        (Detached::Program, None) => format!("{address}: detached, the kernel's hash chooses"),
        (Detached::Nothing, None) => format!("{address}: nothing was attached"),
    })
}

/// How long an agent may take to end after SIGTERM. It needs a few milliseconds.
const AGENT_EXIT_TIMEOUT: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// Ends the agent that holds a group's lock, and returns the lock.
///
/// # Errors
/// This process may not signal the agent, the agent does not end, or another agent has taken the
/// lock.
pub fn end_agent(holder: &Record) -> anyhow::Result<Lock> {
    let pid = holder.process.pid;
    if let Some(process) = holder.process.open()? {
        match pidfd_send_signal(&process, Signal::TERM) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno).with_context(|| format!("end agent {pid}")),
        }
        // A pidfd is readable once its process has ended.
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        let has_ended =
            poll(&mut ended, Some(&AGENT_EXIT_TIMEOUT)).context("wait for the agent's end")?;
        ensure!(
            has_ended > 0,
            "end agent {pid}: it has not ended {} s after SIGTERM; `kill -9 {pid}` ends it, and the \
             server goes on serving",
            AGENT_EXIT_TIMEOUT.tv_sec
        );
    }
    Lock::acquire(holder.namespace, holder.address)?.map_err(|next| {
        anyhow!(
            "take the lock of the group: agent {pid} has ended, but agent {} has taken the lock; \
             try again",
            next.process.pid
        )
    })
}

/// Removes the control socket that a killed agent left. A socket that answers belongs to another
/// process, and a file that is no socket did not belong to the agent.
fn remove_dead_socket(path: &Path) {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket());
    let refuses = || {
        let answer = UnixStream::connect(path);
        answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    if is_socket && refuses() {
        // Another process may have removed it.
        let _ = fs::remove_file(path);
    }
}
