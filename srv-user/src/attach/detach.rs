//! Leaving a group to the kernel's hash again, whoever attached the program:
//! any socket of the group will do. Keeps nothing, so that it also serves when
//! everything else has failed.

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

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detached {
    /// A program, which is gone now.
    Program,
    /// No program was attached.
    Nothing,
}

/// Detaches whatever program the group has.
///
/// # Errors
/// Nobody listens there, or none of its sockets may be taken.
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
            // ENOENT: no program; EINVAL: bound without SO_REUSEPORT, so there is no group
            // (reuseport_detach_prog, net/core/sock_reuseport.c).
            Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::INVAL)) => {
                Ok(Detached::Nothing)
            }
            Err(error) => Err(of_option(error.context("detach the program"), "5.3")),
        };
    }
    Err(Refusal::OwnersHidden(target.address).into())
}

/// `srv detach`: ends the agent, if one is left, and detaches.
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
    // With a group that is gone, its program is gone as well.
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

/// An agent that is told to end does so in a few milliseconds.
const AGENT_EXIT_TIMEOUT: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// Ends the agent that holds a group's lock, and returns the lock.
///
/// # Errors
/// It may not be signalled, does not end, or another agent has followed it.
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
            "agent {pid} did not end in {} s: `kill -9 {pid}`, the server serves on",
            AGENT_EXIT_TIMEOUT.tv_sec
        );
    }
    Lock::acquire(holder.namespace, holder.address)?.map_err(|next| {
        anyhow!(
            "agent {pid} has ended, and agent {} has taken its place: try again",
            next.process.pid
        )
    })
}

/// Removes what a killed agent left of its control socket. What answers is another
/// process's, and what is no socket was never the agent's.
fn remove_dead_socket(path: &Path) {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket());
    let refuses = || {
        let answer = UnixStream::connect(path);
        answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    if is_socket && refuses() {
        // It may have gone by itself.
        let _ = fs::remove_file(path);
    }
}
