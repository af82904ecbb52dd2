//! A worker process as its master knows it: how far its start has come, whether its slot is its
//! own, and its orders.

use std::time::Instant;

use rustix::process::{Pid, Signal};

use super::dispatch::Dispatch;
use crate::control::SandboxStatus;
use crate::kernel::process::Process;
use crate::serve::orders::Task;

/// A worker process as its master knows it.
pub struct Worker {
    /// Its process.
    pub process: Process,
    /// Its slot.
    pub slot: u32,
    /// When it was spawned.
    pub spawned: Instant,
    /// How far its start has come.
    pub progress: Progress,
    /// Whether its slot is its own.
    pub tenure: Tenure,
    /// It has stalled for too long, and the master has killed it.
    pub stall_killed: bool,
    /// Whether it serves on.
    pub task: Task,
    /// How often it is to have scanned the listeners again.
    pub rescans: u32,
    /// The generation of its slot that [`crate::serve::channel::Start`] and its settings belong to.
    pub generation: u64,
    /// Its orders.
    pub dispatch: Dispatch,
}

/// How far the start of a worker has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It does not wait on its listeners yet.
    Starting {
        /// How many checks for late starts it has seen ([`super::late_starts`]).
        checks: u32,
    },
    /// It waits on its own listeners, in this sandbox.
    Registered(SandboxStatus),
    /// It accepts.
    Ready(SandboxStatus),
}

/// Whether a slot is its worker's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// The slot is its own.
    InCharge,
    /// Another worker is in charge of the slot. This one takes charge once it waits on its
    /// listeners.
    Beside,
    /// It was told to leave, and its slot stays empty or gets another worker later.
    Leaving,
    /// It was told to leave before it took charge of its slot.
    LeavingBeside,
    /// It was told to leave, and its slot is another worker's.
    Yielded,
}

impl Worker {
    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Whether its slot is its own.
    pub fn is_in_charge(&self) -> bool {
        self.tenure == Tenure::InCharge
    }

    /// Whether it was told to leave.
    pub fn is_leaving(&self) -> bool {
        match self.tenure {
            Tenure::InCharge | Tenure::Beside => false,
            Tenure::Leaving | Tenure::LeavingBeside | Tenure::Yielded => true,
        }
    }

    /// Whether it waits on its own listeners.
    pub fn is_registered(&self) -> bool {
        !matches!(self.progress, Progress::Starting { .. })
    }

    /// Whether it accepts.
    pub fn is_ready(&self) -> bool {
        matches!(self.progress, Progress::Ready(_))
    }

    /// What it has given up, once it waits on its listeners.
    pub fn sandbox(&self) -> Option<&SandboxStatus> {
        match &self.progress {
            Progress::Starting { .. } => None,
            Progress::Registered(sandbox) | Progress::Ready(sandbox) => Some(sandbox),
        }
    }

    /// It waits on its own listeners. Whether that is new.
    pub fn register(&mut self, sandbox: SandboxStatus) -> bool {
        let is_new = !self.is_registered();
        if is_new {
            self.progress = Progress::Registered(sandbox);
        }
        is_new
    }

    /// It accepts. Whether that is new. A worker that has not registered is not believed.
    pub fn become_ready(&mut self) -> bool {
        match &self.progress {
            Progress::Registered(sandbox) => {
                self.progress = Progress::Ready(sandbox.clone());
                true
            }
            Progress::Starting { .. } | Progress::Ready(_) => false,
        }
    }

    /// Has it leave: its slot is not to be its own any more.
    pub fn dismiss(&mut self) {
        self.tenure = match self.tenure {
            Tenure::InCharge => Tenure::Leaving,
            Tenure::Beside => Tenure::LeavingBeside,
            leaving => leaving,
        };
        self.give(Task::Retire);
    }

    /// Has it leave: its slot is another worker's.
    pub fn yield_slot(&mut self) {
        self.tenure = Tenure::Yielded;
        self.give(Task::Yield);
    }

    /// Gives it a task that comes after the one that it has.
    pub fn give(&mut self, task: Task) {
        self.task = self.task.max(task);
    }

    /// Kills its process. Its end is handled when the kernel reports it.
    pub fn kill(&self) {
        // The process may have ended by itself.
        let _ = self.process.signal(Signal::KILL);
    }
}
