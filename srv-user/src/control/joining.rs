//! The request of a secondary server to join a running one (`srv serve --join`), and the answer.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use srv_steer::AcceptMode;

/// The request of a secondary server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Joining {
    /// Version of the messages between the masters.
    pub protocol: u32,
    /// Size of the shared memory of one group.
    pub group_bytes: usize,
    /// Its addresses.
    pub listen: Vec<SocketAddr>,
    /// Its accept mode.
    pub accept: AcceptMode,
    /// How many slots it wants.
    pub workers: u32,
    /// Its master.
    pub pid: u32,
}

/// The answer of a primary server that lets a secondary join. What the secondary gets comes through
/// the channel.
#[derive(Debug, Serialize, Deserialize)]
pub struct Joined {
    /// The secondary server's end. It comes beside the message, not in it.
    #[serde(skip)]
    pub channel: Option<OwnedFd>,
}
