//! What a run comes to: the figures that are printed and written, from its
//! records alone. Knows nothing of how they are shown.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Outcome, Record, Run};
use crate::measure::arrivals::Service;
use crate::measure::stats::Summary;

/// Version of this schema; it changes when a reader would have to.
pub(super) const SCHEMA: u32 = 2;

/// A run's figures: `srv load --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When the run began, UTC, as in RFC 3339.
    pub began: String,
    /// What was asked for.
    pub asked: Settings,
    /// Whether it ran to its end; else it was stopped.
    pub complete: bool,
    /// Requests that were under way when it was stopped; counted nowhere else.
    pub unanswered: usize,
    /// How long it ran, s.
    pub span_s: f64,
    /// Requests that have an outcome.
    pub requests: usize,
    /// Those answered in time, completely, with a status that counts as a success.
    pub answered: usize,
    /// Those per second of the span.
    pub answered_per_s: f64,
    /// Those that the server lost, by how they ended.
    pub lost: BTreeMap<String, usize>,
    /// Those that were not sent because of the generator's own limits, by the limit.
    pub unsent: BTreeMap<String, usize>,
    /// Complete responses by status, whether it counts as a success or not.
    pub statuses: BTreeMap<u16, usize>,
    /// With `--resume`: those answered on a connection whose TLS session continues an earlier one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resumed: Option<usize>,
    /// What went wrong first, for people.
    pub first_error: Option<String>,
    /// Of those that were answered or timed out.
    pub latency: Summary,
    /// Of those among them with the usual service time.
    pub latency_short: Summary,
    /// How late the generator was in picking up each request.
    pub lateness: Summary,
    /// The share of the span for which the generator used a CPU.
    pub generator_busy: f64,
    /// Answers per worker (`X-Worker`), from worker 0; empty without that header.
    pub answers_per_worker: Vec<u64>,
    /// Reasons not to believe the above: sentences.
    pub doubts: Vec<String>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// As written; the first one of `--targets`.
    pub url: String,
    /// How many targets there are, which requests take in turn.
    pub targets: usize,
    /// The servers' addresses, each once.
    pub addresses: Vec<String>,
    /// Statuses that count as a success.
    pub success: String,
    /// `scheduled` (open loop) or `sent` (closed loop): the instant from which
    /// latency counts.
    pub latency_from: String,
    /// `poisson`, `constant` or `burst:N`; `None` in a closed loop.
    pub arrivals: Option<String>,
    /// Open loop: requests per second.
    pub rate_per_s: Option<f64>,
    /// Closed loop: how many.
    pub clients: Option<usize>,
    /// Closed loop: at most this many requests.
    pub requests: Option<usize>,
    /// For how long requests are sent, s.
    pub duration_s: Option<f64>,
    /// Of arrivals and service times.
    pub seed: u64,
    /// Law of the service times.
    pub service: Option<String>,
    /// Keep-alive connections; `None`: a new one per request.
    pub keep_alive: Option<usize>,
    /// A request not answered by then is lost, s.
    pub timeout_s: f64,
    /// Whether new connections may resume TLS sessions.
    #[serde(default)]
    pub resume: bool,
}

/// Whether a request's latency counts. One that timed out waited at least that
/// long, and leaving it out would flatter the server; what failed otherwise did
/// not take the time that an answer takes.
pub(super) fn has_latency(record: &&Record) -> bool {
    matches!(record.outcome, Outcome::Ok | Outcome::Timeout)
}

impl Figures {
    /// Sums up `run`.
    pub(super) fn of(
        run: &Run,
        began: SystemTime,
        asked: Settings,
        service: Service,
        doubts: Vec<String>,
    ) -> Self {
        let timed = || run.records.iter().filter(has_latency);
        let short = timed().filter(|record| service.is_short(record.service_us));
        let answered = run.records.len() - run.lost();
        let span_s = run.span_ns as f64 / 1e9;
        let (mut lost, mut unsent) = (BTreeMap::new(), BTreeMap::new());
        for record in run.records.iter().filter(|r| r.outcome != Outcome::Ok) {
            let counts = match record.outcome.is_unsent() {
                true => &mut unsent,
                false => &mut lost,
            };
            *counts.entry(record.outcome.name().to_owned()).or_default() += 1;
        }
        let mut statuses = BTreeMap::new();
        for status in run.records.iter().filter_map(|record| record.status) {
            *statuses.entry(status).or_default() += 1;
        }
        let resumed = asked.resume.then_some(run.resumed);
        let workers = run.records.iter().filter_map(|record| record.worker).max();
        let shares = run.shares(workers.map_or(0, |slot| usize::from(slot) + 1));
        Self {
            schema: SCHEMA,
            began: humantime::format_rfc3339_millis(began).to_string(),
            asked,
            complete: run.is_complete,
            unanswered: run.unanswered,
            span_s,
            requests: run.records.len(),
            answered,
            answered_per_s: if span_s > 0.0 {
                answered as f64 / span_s
            } else {
                0.0
            },
            lost,
            unsent,
            statuses,
            resumed,
            first_error: run.first_error.clone(),
            latency: Summary::of(timed().map(Record::latency_ns)),
            latency_short: Summary::of(short.map(Record::latency_ns)),
            lateness: run.lateness,
            generator_busy: run.busy,
            answers_per_worker: shares,
            doubts,
        }
    }
}
