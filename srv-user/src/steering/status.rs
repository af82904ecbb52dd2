//! The state of a listener group, as others see it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

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
/// ([`crate::steering::balance::totals`]).
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
    /// ACKs of no connection that were given to a worker's listener: SYN cookies
    /// that come back, and strays.
    #[serde(default)]
    pub acks: u64,
    /// Runs that left the choice to the kernel's hash, by reason.
    pub fallbacks: BTreeMap<String, u64>,
}

/// A worker's state and counts within one listener group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The worker's number.
    pub slot: u32,
    /// It belongs to the server that has joined.
    #[serde(default)]
    pub joined: bool,
    /// Its process, 0 if there is none.
    pub pid: u32,
    /// It does not serve yet by the newest settings, or the newest listeners; of a worker of
    /// the server that has joined this is not known, and false.
    #[serde(default)]
    pub behind: bool,
    /// absent, starting, ready, draining, dead, hung or full.
    pub state: String,
    /// Workers started in this slot so far.
    pub starts: u32,
    /// Connections that the program assigned to its listener.
    pub steered: u64,
    /// Connections it accepted from its own listener.
    #[serde(rename = "own")]
    pub taken_own: u64,
    /// Connections it accepted from its siblings' listeners.
    #[serde(rename = "stolen")]
    pub taken_stolen: u64,
    /// Connections that wait at its listener, half-open ones included.
    pub waiting: u64,
    /// Open connections.
    pub active: u32,
    /// Requests in service.
    pub running: u32,
    /// How long it has been away from `epoll_wait`, µs; 0 while it sleeps.
    pub busy_us: u64,
    /// Workers killed in this slot because they hung (`--hang-kill`).
    pub hang_kills: u32,
    /// Requests answered.
    pub served: u64,
    /// Requests refused, by reason; reasons that never occurred are left out.
    pub refused: BTreeMap<String, u64>,
}

/// A ready worker that has done nothing.
#[cfg(test)]
pub(crate) fn worker_for_tests(slot: u32) -> WorkerStatus {
    WorkerStatus {
        slot,
        joined: false,
        pid: 0,
        behind: false,
        state: "ready".into(),
        starts: 1,
        steered: 0,
        taken_own: 0,
        taken_stolen: 0,
        waiting: 0,
        active: 0,
        running: 0,
        busy_us: 0,
        hang_kills: 0,
        served: 0,
        refused: BTreeMap::new(),
    }
}
