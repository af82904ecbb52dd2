//! Leaving a group to the kernel's hash again, whoever attached the program:
//! any socket of the group will do. Keeps nothing, so that it also serves when
//! everything else has failed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use aya::programs::SkReuseport;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::group::Target;
use super::lock::{Lock, Record};
use super::owners::Owners;
use super::refusal::{Refusal, errno, of_option};
use super::sock_diag::SockDiag;
use super::take::take;

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
            Err(error) if errno(&error) == Some(Errno::NOENT) => Ok(Detached::Nothing),
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
        Err(record) => (end_agent(&record)?, Some(record.pid)),
    };
    let record = lock.record();
    let detached = detach(target, &mut diag);
    // With a group that is gone, its program is gone as well.
    if detached.is_ok() || record.is_none() || diag.listeners_on(target.address)?.is_empty() {
        lock.remove()?;
        // A killed agent's, if it is there.
        let control = record.and_then(|record| record.control);
        let _ = control.map(std::fs::remove_file);
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
const PATIENCE: Duration = Duration::from_secs(5);
const CHECK_EVERY: Duration = Duration::from_millis(5);

/// Ends the agent that holds a group's lock, and returns the lock.
///
/// # Errors
/// It may not be signalled, or does not end.
pub fn end_agent(holder: &Record) -> anyhow::Result<Lock> {
    let pid = Pid::from_raw(holder.pid as i32).context("read the agent's process id")?;
    match kill_process(pid, Signal::TERM) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => return Err(errno).with_context(|| format!("end agent {}", holder.pid)),
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(lock) = Lock::acquire(holder.namespace, holder.address)? {
            return Ok(lock);
        }
        ensure!(
            Instant::now() < deadline,
            "agent {} did not end in {PATIENCE:?}: `kill -9 {}`, the server serves on",
            holder.pid,
            holder.pid
        );
        std::thread::sleep(CHECK_EVERY);
    }
}
