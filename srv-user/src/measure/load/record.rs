//! What became of a run: a record of each request, and what the generator noticed. Plain
//! data; the judgement is left to its readers.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use crate::measure::stats::{Summary, per_worker};

/// What became of one request. Instants are ns from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// When it was due.
    pub scheduled_ns: u64,
    /// When it was sent (for a new connection: when the connect began);
    /// `None` if it never had a connection.
    pub sent_ns: Option<u64>,
    /// When its outcome was known.
    pub finished_ns: u64,
    /// How long it asked the handler to work, µs.
    pub service_us: u32,
    /// The slot in the response's `X-Worker`.
    pub worker: Option<u16>,
    /// How it ended.
    pub outcome: Outcome,
    /// The status of a complete response.
    pub status: Option<u16>,
    /// Its place in [`Load::targets`](super::Load::targets).
    pub target: u32,
}

impl Record {
    /// From the scheduled instant to the outcome, ns.
    pub fn latency_ns(&self) -> u64 {
        self.finished_ns - self.scheduled_ns
    }
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Run {
    /// One record per request, in the order in which they became due.
    pub records: Vec<Record>,
    /// How late the generator itself was in picking up each request.
    pub lateness: Summary,
    /// What went wrong first, for people.
    pub first_error: Option<String>,
    /// Whether it ran to its end; else it was stopped through its [`Watch`](super::Watch).
    pub is_complete: bool,
    /// Requests that were due when it was stopped and have no record.
    pub unanswered: usize,
    /// How long it ran, ns.
    pub span_ns: u64,
    /// When the last request was picked up, ns from the start of the run.
    pub picked_up_ns: u64,
    /// The share of that time for which the generator's thread used a CPU.
    pub busy: f64,
    /// How often a request had to wait because this process had as many
    /// connections open as it may have files.
    pub put_off: usize,
    /// Requests that were answered on a connection whose TLS session continues an earlier one.
    pub resumed: usize,
}

impl Run {
    /// Requests that did not end in [`Outcome::Ok`], for whatever reason.
    pub fn lost(&self) -> usize {
        self.records
            .iter()
            .filter(|r| r.outcome != Outcome::Ok)
            .count()
    }

    /// Responses per worker, for workers 0 to `workers`.
    pub fn shares(&self, workers: usize) -> Vec<u64> {
        per_worker(
            self.records.iter().filter_map(|record| record.worker),
            workers,
        )
    }
}

/// How a request ended. Every request ends in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Outcome {
    /// A complete response of a status that counts as a success.
    Ok,
    /// No connection came about, or no TLS session.
    Connect,
    /// The connection ended before the response did.
    Reset,
    /// No complete response within the time allowed, from the scheduled instant.
    Timeout,
    /// A complete response of another status.
    Status,
    /// Something that is not a response.
    Malformed,
    /// It was not sent: this machine had no free local port, or no local address.
    NoPort,
    /// It was not sent: this process may not open more sockets, or there is no memory.
    NoSocket,
    /// It was not sent: the generator picked it up only when its time was over.
    Late,
}

impl Outcome {
    /// Its name in files and on the terminal, the one that serde writes.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether the generator's own limits kept the request from being sent. It
    /// says nothing about the server.
    pub fn is_unsent(self) -> bool {
        matches!(self, Self::NoPort | Self::NoSocket | Self::Late)
    }
}
