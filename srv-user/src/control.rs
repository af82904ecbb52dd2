//! The control socket's messages.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A question to a running server: one line of JSON, answered by one [`Reply`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// How are you?
    Status,
    /// Which listening sockets do you have?
    Sockets,
    /// Steer by this policy from now on.
    Policy(String),
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Sockets`].
    Sockets(Vec<SocketStatus>),
    /// The change was made; what to tell the user.
    Done(String),
    /// The request was refused, and why.
    Refused(String),
}

/// A server's state; the shape of `srv status --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of srv.
    pub version: String,
    /// The master's process id.
    pub pid: u32,
    /// The policy in force, by name.
    pub policy: String,
    /// The accept mode, by name.
    pub accept: String,
    /// One entry per listen address.
    pub groups: Vec<GroupStatus>,
}

/// A listener group's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupStatus {
    /// The address, with the port that the kernel chose if 0 was asked for.
    pub listen: SocketAddr,
    /// The BPF program.
    pub program: ProgramStatus,
    /// Worker by worker, in order of slot.
    pub workers: Vec<WorkerStatus>,
    /// Sums over the workers, and how evenly they share.
    pub totals: Totals,
}

/// A listener group's sums over its workers, and how evenly they share
/// ([`crate::balance::totals`]).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Totals {
    /// Connections accepted.
    pub accepted: u64,
    /// Open connections.
    pub active: u64,
    /// Requests in service.
    pub running: u64,
    /// Connections that wait to be accepted, half-open ones included.
    pub waiting: u64,
    /// Requests answered.
    pub served: u64,
    /// Accepts per worker: standard deviation over mean; 0 is even.
    pub accepts_cv: f64,
    /// Accepts per worker: largest over mean; 1 is even.
    pub accepts_max_over_mean: f64,
    /// Open connections per worker: standard deviation over mean; 0 is even.
    pub active_cv: f64,
    /// Open connections per worker: largest over mean; 1 is even.
    pub active_max_over_mean: f64,
}

/// The BPF program's state and counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// Whether it decides now.
    pub attached: bool,
    /// If it does not: why.
    pub why_not: Option<String>,
    /// Runs so far: those that steered and those that fell back.
    pub runs: u64,
    /// Connections assigned to a worker.
    pub steered: u64,
    /// Runs that left the choice to the kernel's hash, by reason.
    pub fallbacks: BTreeMap<String, u64>,
}

/// A worker's state and counts within one listener group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The worker's number.
    pub slot: u32,
    /// Its process, 0 if there is none.
    pub pid: u32,
    /// absent, starting, ready, draining or dead.
    pub state: String,
    /// Workers started in this slot so far.
    pub starts: u32,
    /// Connections that the program assigned to its listener.
    pub steered: u64,
    /// Connections it accepted from its own listener.
    pub taken_own: u64,
    /// Connections it accepted from its siblings' listeners.
    pub taken_stolen: u64,
    /// Connections that wait at its listener, half-open ones included.
    pub waiting: u32,
    /// Open connections.
    pub active: u32,
    /// Requests in service.
    pub running: u32,
    /// How long it has been away from `epoll_wait`, µs; 0 while it sleeps.
    pub busy_us: u64,
    /// Requests answered.
    pub served: u64,
    /// Requests refused, by reason; reasons that never occurred are left out.
    pub refused: BTreeMap<String, u64>,
}

/// One listening socket; a line of `srv sockets`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SocketStatus {
    /// Its address.
    pub listen: SocketAddr,
    /// The worker it belongs to; `None` where all share it.
    pub slot: Option<u32>,
    /// Inode number, as in `/proc/PID/fd` and `ss -e`.
    pub inode: u64,
    /// `SO_COOKIE`, as in `ss -e`.
    pub cookie: u64,
    /// The process that serves it, 0 if there is none.
    pub pid: u32,
    /// The file descriptor there.
    pub fd: i32,
    /// Accept queue length now.
    pub recv_q: u32,
    /// Accept queue limit.
    pub backlog: u32,
}

/// A ready worker that has done nothing.
#[cfg(test)]
pub(crate) fn worker_for_tests(slot: u32) -> WorkerStatus {
    WorkerStatus {
        slot,
        pid: 0,
        state: "ready".into(),
        starts: 1,
        steered: 0,
        taken_own: 0,
        taken_stolen: 0,
        waiting: 0,
        active: 0,
        running: 0,
        busy_us: 0,
        served: 0,
        refused: BTreeMap::new(),
    }
}
