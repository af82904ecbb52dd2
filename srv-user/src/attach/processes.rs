//! The processes of the server that an agent steers. A reload may replace all workers and keep
//! their sockets (nginx does). A scan of the sockets does not show that.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::kernel::owners::Owners;

const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// The processes that had the sockets at one moment.
#[derive(Default)]
pub(crate) struct Processes {
    pids: Vec<i32>,
    pidfds: Vec<OwnedFd>,
}

impl Processes {
    /// The processes that have the sockets.
    pub(crate) fn of(owners: &Owners) -> Self {
        let pids = owners.owners.iter().map(|owner| owner.pid);
        let pidfds = pids.clone().map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        Self {
            pids: pids.clone().map(|pid| pid.as_raw_nonzero().get()).collect(),
            // If a process has just ended, it has no pidfd. The other processes suffice.
            pidfds: pidfds.filter_map(Result::ok).collect(),
        }
    }

    /// Whether one of the processes has ended. This costs one system call.
    pub(crate) fn has_ended(&self) -> bool {
        let ends = |pidfd| PollFd::new(pidfd, PollFlags::IN);
        let mut ends: Vec<PollFd<'_>> = self.pidfds.iter().map(ends).collect();
        poll(&mut ends, Some(&AT_ONCE)).is_ok_and(|ended| ended > 0)
    }

    /// The processes that are not among `before`.
    pub(crate) fn new_since(&self, before: &Self) -> Vec<i32> {
        let pids = self.pids.iter().copied();
        pids.filter(|pid| !before.pids.contains(pid)).collect()
    }
}
