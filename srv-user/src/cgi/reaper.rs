//! Ends and reaps children: those of a supervisor, after its script; and those of this process that
//! are no supervisors, because a script has killed its own.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::rc::Rc;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// The supervisors that run.
#[derive(Clone, Debug, Default)]
pub(super) struct Supervisors(Rc<RefCell<HashSet<libc::pid_t>>>);

/// One of them. If this is dropped before its end, the script is ended all the same.
#[derive(Debug)]
pub(super) struct Supervisor {
    pid: libc::pid_t,
    all: Supervisors,
    ends: Signal,
    end: Option<End>,
}

impl Supervisors {
    /// Starts a supervisor by `start`, which returns its process id beside something else.
    ///
    /// # Errors
    /// Those of `start`.
    pub(super) fn start<T>(
        &self,
        start: impl FnOnce() -> io::Result<(libc::pid_t, T)>,
    ) -> io::Result<(Supervisor, T)> {
        // It must be there before there is a child that can end.
        let ends = signal(SignalKind::child())?;
        let (pid, started) = start()?;
        self.0.borrow_mut().insert(pid);
        let supervisor = Supervisor {
            pid,
            all: self.clone(),
            ends,
            end: None,
        };
        Ok((supervisor, started))
    }

    /// Ends the processes of scripts that have killed their supervisors, for as long as it is polled.
    ///
    /// # Errors
    /// The runtime has no signals.
    pub(super) async fn end_strays(self) -> io::Result<()> {
        let mut ends = signal(SignalKind::child())?;
        loop {
            ends.recv().await;
            // What dies of it sends another SIGCHLD, and so do the orphans that it leaves.
            for pid in kill_children(|pid| self.0.borrow().contains(&pid)) {
                // SAFETY: no status is asked for.
                unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
            }
        }
    }
}

impl Supervisor {
    /// Has it end its script.
    pub(super) fn stop(&self) {
        if self.end.is_none() {
            // SAFETY: this child has not been reaped, so that its number is its own.
            unsafe { libc::kill(self.pid, libc::SIGTERM) };
        }
    }

    /// Waits until it has ended. This may be dropped and called again.
    pub(super) async fn ended(&mut self) -> End {
        loop {
            if let Some(end) = self.end {
                return end;
            }
            let mut status = 0;
            // SAFETY: the status is this function's own.
            let pid = unsafe { libc::waitpid(self.pid, &raw mut status, libc::WNOHANG) };
            match pid {
                0 => {
                    self.ends.recv().await;
                }
                pid if pid == self.pid && libc::WIFEXITED(status) => {
                    self.forget(End::Code(libc::WEXITSTATUS(status)));
                }
                pid if pid == self.pid => self.forget(End::Signal(libc::WTERMSIG(status))),
                // It cannot be waited for: another reaped it, which none here does.
                _ => self.forget(End::Signal(libc::SIGKILL)),
            }
        }
    }

    fn forget(&mut self, end: End) {
        self.end = Some(end);
        self.all.0.borrow_mut().remove(&self.pid);
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop();
        // Once it has ended, it is reaped as a stray.
        self.all.0.borrow_mut().remove(&self.pid);
    }
}

/// Kills a process group. The kernel does that in one step: no member can fork out of it.
pub(super) fn end_group(group: libc::pid_t) {
    // SAFETY: the group is a child's, which this process has started.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}

/// Kills and reaps each child, and what becomes a child by that, until there is none. It waits for them.
pub(super) fn end_all_children() {
    loop {
        let killed = kill_children(|_| false);
        if killed.is_empty() {
            return;
        }
        for pid in killed {
            // SAFETY: no status is asked for.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        }
    }
}

/// Kills each child that is not `spared`, with its process group if it has its own. Those that are
/// dead already are among them.
fn kill_children(is_spared: impl Fn(libc::pid_t) -> bool) -> Vec<libc::pid_t> {
    let mut children = children();
    children.retain(|pid| !is_spared(*pid));
    for pid in &children {
        // SAFETY: these are children that were not reaped, and their own groups.
        unsafe {
            if libc::getpgid(*pid) == *pid {
                libc::kill(-pid, libc::SIGKILL);
            }
            libc::kill(*pid, libc::SIGKILL);
        }
    }
    children
}

/// The children of this process, which has one thread.
fn children() -> Vec<libc::pid_t> {
    let listed = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let pids = listed.split_ascii_whitespace();
    pids.filter_map(|pid| pid.parse().ok()).collect()
}
