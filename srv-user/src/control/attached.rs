//! What is known of another server's group, for people and programs: part of
//! `srv status --json` and of `srv observe --json`. What is unknown is `None`, never 0.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Another server's group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachedStatus {
    /// Its address.
    pub listen: SocketAddr,
    /// Inode number of its network namespace.
    pub namespace: u64,
    /// Command name of the server.
    pub server: String,
    /// The process id of the agent that steers it; `None`: no agent of this user.
    pub agent: Option<u32>,
    /// The policy, by name; `None` where this user has attached nothing.
    pub policy: Option<String>,
    /// The BPF program.
    pub program: AttachedProgram,
    /// What it goes by: `known`, or why not; `None` where no agent tells.
    pub signals: Option<BTreeMap<String, String>>,
    /// Socket by socket.
    pub listeners: Vec<AttachedListener>,
    /// Handshakes that wait for their last packet, of all sockets together.
    pub half_open: u64,
    /// How evenly it is shared.
    pub balance: Balance,
}

/// The BPF program of another server's group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedProgram {
    /// Whether it decides now; `None`: unknown.
    pub attached: Option<bool>,
    /// If it does not, or that is unknown: why.
    pub why_not: Option<String>,
    /// Runs so far: those that steered and those that fell back. Like the two below
    /// `None` where no agent tells.
    pub runs: Option<u64>,
    /// Connections assigned to a listener.
    pub steered: Option<u64>,
    /// Runs that left the choice to the kernel's hash, by reason.
    pub fallbacks: Option<BTreeMap<String, u64>>,
}

/// One of its sockets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachedListener {
    /// Its slot in the program's array; `None` where no agent tells.
    pub slot: Option<u32>,
    /// The processes that accept from it; empty where that is unknown.
    pub workers: Vec<u32>,
    /// How many processes have it.
    pub owners: usize,
    /// Connections that the program assigned to it; `None` where no agent tells.
    pub steered: Option<u64>,
    /// `asleep`, `busy`, `gone` or `unknown`: its worker, when the program last
    /// looked; `None` where no agent tells.
    pub sleep: Option<String>,
    /// Live connections that came through it since it was attached; `None` where no
    /// agent tells, or they are not counted.
    pub live: Option<u64>,
    /// Accept queue length now.
    pub queued: u32,
    /// Accept queue limit.
    pub backlog: u32,
    /// Open connections of those workers to this address; `None` where they
    /// accept from other sockets of it, too.
    pub connections: Option<u64>,
    /// Inode number.
    pub inode: u64,
    /// `SO_COOKIE`.
    pub cookie: u64,
    /// A descriptor of it, in the first process that has it; `None`: no process is seen.
    pub fd: Option<i32>,
}

/// How evenly open connections are shared, and what waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Balance {
    /// Open connections; `None` where nobody knows which socket they came by.
    pub connections: Option<Shares>,
    /// Connections that wait in accept queues.
    pub queued: u64,
    /// Sockets whose queue is empty while another's is not: connections may
    /// wait that could be served.
    pub empty_while_others_queue: usize,
}

/// How evenly something is shared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shares {
    /// All of it.
    pub sum: u64,
    /// Standard deviation over mean; 0 is even.
    pub cv: f64,
    /// The most over the mean; 1 is even.
    pub max_over_mean: f64,
}
