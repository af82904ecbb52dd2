//! The options with which a listener group is opened and steered.

use std::time::Duration;

use srv_common::Policy;

use crate::accept_mode::AcceptMode;
use crate::error::{Error, ErrorKind, Result};

/// The options with which a listener group is opened. Take [`GroupOptions::default`] and change
/// what differs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GroupOptions {
    /// How workers get connections. Default: [`AcceptMode::Ring`].
    pub accept: AcceptMode,
    /// Workers to begin with. Default: 1.
    pub workers: u32,
    /// Limit of each listener's accept queue, in connections; the kernel cuts it at
    /// `net.core.somaxconn`. Default: 4096.
    pub backlog: u32,
    /// Limit of the TCP Fast Open queue, in connections; 0 leaves TCP Fast Open off. Default: 0.
    pub fast_open: u32,
    /// IPv6 listeners refuse IPv4 clients. Default: true.
    pub v6_only: bool,
    /// `accept` does not wait (`O_NONBLOCK`). A [`Ring`](crate::Ring) needs that. Default: false.
    pub nonblocking: bool,
    /// The kernel waits for a connection's first bytes, for a second at most, before a worker
    /// gets the connection (`TCP_DEFER_ACCEPT`). Only for protocols in which the client speaks
    /// first. Default: false.
    pub defer_accept: bool,
    /// Connections have `TCP_NODELAY` from the start. Default: false.
    pub no_delay: bool,
    /// Steer in the kernel; false: the kernel's hash chooses. Default: true.
    pub steer: bool,
    /// How the program chooses at first. Default: [`Policy::Least`].
    pub policy: Policy,
    /// If a worker has been away from its event loop for longer, new connections are steered
    /// around it; zero: never. Default: 100 ms.
    pub stall_after: Duration,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            accept: AcceptMode::Ring,
            workers: 1,
            backlog: 4096,
            fast_open: 0,
            v6_only: true,
            nonblocking: false,
            defer_accept: false,
            no_delay: false,
            steer: true,
            policy: Policy::Least,
            stall_after: Duration::from_millis(100),
        }
    }
}

/// Refuses more workers than a policy can choose between.
///
/// # Errors
/// [`ErrorKind::Policy`] if there are more.
pub fn ensure_workers_fit(policy: Policy, workers: u32) -> Result<()> {
    let most = policy.workers_max();
    if workers <= most {
        return Ok(());
    }
    let tried = format!(
        "it chooses between {most} workers at most and there are {workers}; \
         use fewer, or another policy such as least"
    );
    Err(Error::new(ErrorKind::Policy, tried))
}
