//! A child process that can be signalled for as long as it exists, and never after that, because
//! its number may then be another process's.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitStatus, kill_process,
    pidfd_open, pidfd_send_signal, waitid,
};

/// A child of this process.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    /// `None` if the kernel or a sandbox refuses it (gVisor has none).
    pidfd: Option<OwnedFd>,
}

impl Process {
    /// The child that was just spawned. It must not have been waited for, or its number
    /// could be another's already.
    pub fn new(child: &std::process::Child) -> Self {
        let pid = Pid::from_child(child);
        Self {
            pid,
            pidfd: pidfd_open(pid, PidfdFlags::empty()).ok(),
        }
    }

    /// Its number: a name for people, and its own until it has been reaped.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(self.id(), options), Ok(None))
    }

    /// Reaps it, if it has ended.
    ///
    /// # Errors
    /// `ECHILD` if it has been reaped.
    pub fn reap(&self) -> io::Result<Option<WaitIdStatus>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        Ok(waitid(self.id(), options)?)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// `ESRCH` if it has been reaped, `EPERM` if it became another user and this process
    /// has no `CAP_KILL`.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match &self.pidfd {
            Some(pidfd) => pidfd_send_signal(pidfd, signal)?,
            // As near as the number alone comes: it is that of a child that runs.
            None if self.is_alive() => kill_process(self.pid, signal)?,
            None => return Err(Errno::SRCH.into()),
        }
        Ok(())
    }

    fn id(&self) -> WaitId<'_> {
        match &self.pidfd {
            Some(pidfd) => WaitId::PidFd(pidfd.as_fd()),
            None => WaitId::Pid(self.pid),
        }
    }
}

/// How a process has ended.
pub fn cause_of_death(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => format!("status {status:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn it_is_signalled_while_it_exists_and_not_after() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::new(&child);
        let by_number = Process {
            pid: process.pid,
            pidfd: None,
        };
        for process in [&process, &by_number] {
            assert!(process.is_alive());
            process.signal(Signal::CONT).unwrap();
        }
        process.signal(Signal::KILL).unwrap();
        // This awaits its end, without reaping it.
        waitid(process.id(), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        assert!(!process.is_alive() && !by_number.is_alive());
        child.wait().unwrap();
        for process in [&process, &by_number] {
            assert!(!process.is_alive());
            let refusal = process.signal(Signal::KILL).unwrap_err();
            assert_eq!(refusal.raw_os_error(), Some(libc::ESRCH));
        }
    }
}
