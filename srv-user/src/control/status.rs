//! The state of a listener group, as other processes see it: what a group of srv-steer has counted,
//! in the types that are sent. The state of each of its workers is in `workers`.

mod accept_delay;
mod histogram;
mod workers;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use socket2::Socket;
use srv_common::Reason;
use srv_steer::{Group, GroupState, HashingReason, accept_queue, monotonic_ns};

pub use accept_delay::{AcceptDelayStatus, AcceptDelays};
pub use histogram::HistogramStatus;
#[cfg(test)]
pub(crate) use workers::worker_for_tests;
pub use workers::{LINES, Line, Totals, WorkerStatus, accept_delays};

/// A listener group's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupStatus {
    /// The address, with the port that the kernel chose if 0 was asked for.
    pub listen: SocketAddr,
    /// When these figures were read, µs of `CLOCK_MONOTONIC`; 0 if the server is of a version that
    /// does not say it.
    #[serde(default)]
    pub read_at_us: u64,
    /// The BPF program.
    pub program: ProgramStatus,
    /// Worker by worker, in order of slot.
    pub workers: Vec<WorkerStatus>,
    /// Sums over the workers, and how evenly they share.
    pub totals: Totals,
    /// The accept queues, in order of slot. Of a server of an older version there is none.
    #[serde(default)]
    pub queues: Vec<QueueStatus>,
}

/// The accept queue of a listening socket, as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// The slot of the worker that the socket belongs to; `None` if all workers share it.
    pub slot: Option<u32>,
    /// Connections that wait to be accepted, without half-open ones.
    pub length: u32,
    /// The most that can wait.
    pub limit: u32,
}

impl QueueStatus {
    /// The queues of these sockets. One that the kernel says nothing of is left out.
    fn of<'a>(sockets: impl Iterator<Item = (u32, &'a Socket)>) -> Vec<Self> {
        let queues = sockets.filter_map(|(slot, socket)| {
            let (length, limit) = accept_queue(socket).ok()?;
            Some(Self {
                slot: Some(slot),
                length,
                limit,
            })
        });
        queues.collect()
    }
}

impl GroupStatus {
    /// The state of the group now.
    pub fn of(group: &Group) -> Self {
        let now_ns = monotonic_ns();
        let worker = |slot: u32| {
            let mut status = WorkerStatus::of(group.figures(), slot, now_ns);
            status.waiting = group.waiting(slot);
            status
        };
        let workers: Vec<_> = group.slots().map(worker).collect();
        Self {
            listen: group.address(),
            read_at_us: now_ns / 1000,
            program: ProgramStatus::of(group),
            totals: Totals::of(&workers),
            queues: QueueStatus::of(group.listeners.sockets.by_slot()),
            workers,
        }
    }
}

/// The BPF program's state and counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// Whether it decides now.
    pub attached: bool,
    /// The reason, if it does not decide.
    pub why_not: Option<String>,
    /// Runs so far: those that steered and those that fell back.
    pub runs: u64,
    /// Connections assigned to a worker.
    pub steered: u64,
    /// ACKs that belong to no connection and were given to a worker's listener: SYN cookies that
    /// come back, and strays. If each handshake begins with a SYN cookie
    /// (`net.ipv4.tcp_syncookies=2`), these ACKs count as `steered` instead, and SYNs do not.
    #[serde(default)]
    pub acks: u64,
    /// Runs that left the choice to the kernel's hash, by reason.
    pub fallbacks: BTreeMap<String, u64>,
    /// The reason, if nothing records for how long connections wait to be accepted.
    #[serde(default)]
    pub accept_delay_unknown: Option<String>,
}

impl ProgramStatus {
    fn of(group: &Group) -> Self {
        let counts = group.counts();
        let names = Reason::NAMES.map(str::to_string).into_iter();
        let state = group.state();
        Self {
            attached: matches!(state, GroupState::Steered),
            why_not: match state {
                GroupState::Steered => None,
                GroupState::Hashing(reason) => Some(why_hashing(&reason)),
            },
            runs: counts.runs,
            steered: counts.steered,
            acks: counts.acks,
            fallbacks: names.zip(counts.fallbacks).collect(),
            accept_delay_unknown: match group.why_unsteered() {
                Some(why) => Some(why_hashing(why)),
                None => group.why_not_recording(),
            },
        }
    }
}

/// The reason in the words that a user of srv knows: by the flag.
pub fn why_hashing(reason: &HashingReason) -> String {
    match reason {
        HashingReason::SwitchedOff => "--no-bpf was given".into(),
        reason => reason.to_string(),
    }
}

/// A group of these workers that has steered, and has left some choices to the hash.
#[cfg(test)]
pub(crate) fn group_for_tests(workers: Vec<WorkerStatus>) -> GroupStatus {
    GroupStatus {
        listen: "127.0.0.1:8080".parse().unwrap(),
        read_at_us: 0,
        program: ProgramStatus {
            attached: true,
            why_not: None,
            runs: 1204,
            steered: 1200,
            acks: 0,
            fallbacks: [
                ("not_syn".into(), 3),
                ("none_ready".into(), 1),
                ("truncated".into(), 0),
            ]
            .into(),
            accept_delay_unknown: None,
        },
        totals: Totals::of(&workers),
        queues: vec![QueueStatus {
            slot: Some(0),
            length: 2,
            limit: 4096,
        }],
        workers,
    }
}
