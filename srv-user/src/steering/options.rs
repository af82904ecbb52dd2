//! What a listener group is opened and steered by.

use std::time::Duration;

use anyhow::{Result, ensure};
use srv_common::Policy;

use super::accept_mode::AcceptMode;

/// See the module.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// How connections are accepted.
    pub accept: AcceptMode,
    /// Workers to begin with.
    pub workers: u32,
    /// Accept queue limit of each listening socket.
    pub backlog: u32,
    /// TCP Fast Open queue length; 0 leaves it off.
    pub fast_open: u32,
    /// IPv6 sockets refuse IPv4-mapped peers.
    pub v6_only: bool,
    /// Steer in the kernel; false: hash and ring only.
    pub bpf: bool,
    /// A worker away from `epoll_wait` for longer gets no new connections; zero: never.
    pub hang_after: Duration,
}

/// # Errors
/// If the policy can't choose between that many workers.
pub fn ensure_workers_fit(policy: Policy, workers: u32) -> Result<()> {
    let most = policy.workers_max();
    ensure!(
        workers <= most,
        "it chooses between {most} workers at most and there are {workers}; \
         use fewer, or another policy such as least"
    );
    Ok(())
}
