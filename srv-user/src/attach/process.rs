//! A process that a file names. A process id alone does not suffice: after the process has ended,
//! the kernel gives its id to another one.

use std::os::fd::OwnedFd;

use anyhow::Context as _;
use procfs::process::Process;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// A process id, with the moment at which that process started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process id.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks between the boot and its start.
    pub start_ticks: u64,
}

impl ProcessId {
    /// This process.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn own() -> anyhow::Result<Self> {
        let pid = rustix::process::getpid();
        Ok(Self {
            pid: pid.as_raw_nonzero().get() as u32,
            start_ticks: start_ticks(pid)
                .context("read the start time of this process from /proc/PID/stat")?,
        })
    }

    /// A pidfd of exactly this process; `None` if it has ended.
    ///
    /// # Errors
    /// The error of `pidfd_open`, which needs Linux 5.3.
    pub fn open(&self) -> anyhow::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid as i32) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno).context(format!("open process {}", self.pid)),
        };
        // The start time is read after the pidfd was opened. If it is the expected one, the pidfd
        // belongs to the expected process.
        let is_it = start_ticks(pid).is_some_and(|ticks| ticks == self.start_ticks);
        Ok(is_it.then_some(pidfd))
    }
}

fn start_ticks(pid: Pid) -> Option<u64> {
    let process = Process::new(pid.as_raw_nonzero().get()).ok()?;
    let stat = process.stat().ok()?;
    // A zombie runs no more and holds no file.
    (stat.state != 'Z').then_some(stat.starttime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_started_then_is_opened() {
        let own = ProcessId::own().unwrap();
        assert!(own.open().unwrap().is_some());
        let former = ProcessId {
            start_ticks: own.start_ticks - 1,
            ..own
        };
        assert!(former.open().unwrap().is_none());
    }

    #[test]
    fn a_process_that_has_ended_is_not_opened() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        let process = ProcessId {
            pid: child.id(),
            start_ticks: start_ticks(pid).unwrap(),
        };
        assert!(process.open().unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.open().unwrap().is_none());
    }
}
