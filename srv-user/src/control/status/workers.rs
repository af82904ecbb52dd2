//! The figures of each worker: their keys in the JSON of `srv status`, where shared memory
//! has them, their sums, and the lines of text that show what the table has no column for.
//! A new figure of a worker is named here, and in srv-common's layout. Knows no table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use srv_common::{Group as Memory, Refusal, Slot, State, StatusClass};

use super::{AcceptDelayStatus, AcceptDelays, HistogramStatus};
use crate::values::StateName;
use crate::values::reported::Reported;
use srv_steer::balance::{coefficient_of_variation, max_over_mean, sum};

/// A worker's state and counts within one listener group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The worker's number.
    pub slot: u32,
    /// Whether it belongs to the secondary server, which has joined.
    #[serde(default)]
    pub joined: bool,
    /// Its process, 0 if there is none.
    pub pid: u32,
    /// Whether it does not serve yet by the newest settings, or the newest listeners. For a worker
    /// of the secondary server this is not known, and false.
    #[serde(default)]
    pub behind: bool,
    /// absent, starting, ready, draining, dead, hung or full; `unknown` if the memory has no state.
    pub state: Reported<StateName>,
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
    /// How often a worker of this slot has stalled, as far as the master has noticed.
    #[serde(default)]
    pub hangs: u32,
    /// Workers killed in this slot because they stalled (`--hang-kill`).
    pub hang_kills: u32,
    /// Requests answered.
    pub served: u64,
    /// How often it stopped accepting, because it had as many requests in service as it may have
    /// (`srv run --capacity`).
    #[serde(default)]
    pub full: u64,
    /// How often it went on accepting all the same, because no worker answered a request.
    #[serde(default)]
    pub overfull: u64,
    /// Requests refused, by reason; reasons that never occurred are left out.
    pub refused: BTreeMap<String, u64>,
    /// Requests that have ended, by the class of their status (`1xx` to `5xx`), and those without an
    /// answer (`unanswered`); refusals are among them. Of a server of others it is not known.
    #[serde(default)]
    pub ended: Option<BTreeMap<String, u64>>,
    /// Records for the access log for which the log writer had left no room; the requests were answered.
    #[serde(default)]
    pub unlogged: u64,
    /// How long these requests took, from the event that brought the first byte of a request to the
    /// moment when srv had given away the last byte of the answer: to the kernel, or, if that had no
    /// room or hyper writes, to what writes the rest.
    #[serde(default)]
    pub request_duration: Option<HistogramStatus>,
    /// How long the slot's workers have been away from `epoll_wait` in all, ns. Of a server of
    /// others it is not known.
    #[serde(default)]
    pub busy_sum_ns: Option<u64>,
    /// For how long the connections that it accepted had waited; `None` if nothing records that
    /// ([`ProgramStatus::accept_delay_unknown`](super::ProgramStatus)), or an older server answers.
    #[serde(default)]
    pub accept_delay: Option<AcceptDelayStatus>,
}

/// A line of `srv status` beneath the table of workers. It is left out if its figure is zero.
pub struct Line {
    /// What the figure means.
    pub meaning: &'static str,
    /// The figure of all workers together.
    pub figure: fn(&[WorkerStatus]) -> u64,
}

/// The figures for which the table of workers has no column. (A terminal has no room for another
/// column.)
pub const LINES: &[Line] = &[
    Line {
        meaning: "killed because they stalled",
        figure: |workers| sum_of(workers, |worker| worker.hang_kills.into()),
    },
    Line {
        meaning: "times at capacity, in which a worker left new connections to its siblings",
        figure: |workers| sum_of(workers, |worker| worker.full),
    },
    Line {
        meaning: "times over capacity, because no worker answered a request for a second",
        figure: |workers| sum_of(workers, |worker| worker.overfull),
    },
    Line {
        meaning: "requests missing in the access log, because the log writer left no room",
        figure: |workers| sum_of(workers, |worker| worker.unlogged),
    },
];

impl WorkerStatus {
    /// The figures of the worker in `slot`, as `memory` has them at `now_ns` of `CLOCK_MONOTONIC`.
    /// What the memory does not have is false or zero.
    pub(crate) fn of(memory: &Memory, slot: u32, now_ns: u64) -> Self {
        let nth = slot as usize;
        let (at, steering) = (&memory.slots[nth], &memory.steering[nth]);
        let busy_ns = match at.load.busy_since_ns.get() {
            0 => 0,
            busy_since_ns => now_ns.saturating_sub(busy_since_ns),
        };
        Self {
            slot,
            joined: false,
            pid: steering.pid.get(),
            behind: false,
            state: state(steering.state.get()),
            starts: steering.starts.get(),
            steered: steering.steered.get(),
            taken_own: at.load.own.get(),
            taken_stolen: at.load.stolen.get(),
            waiting: memory.waiting(nth),
            active: at.load.active.get(),
            running: at.load.running.get(),
            busy_us: busy_ns / 1000,
            hangs: 0,
            hang_kills: 0,
            served: at.load.served.get(),
            full: at.figures.full.get(),
            overfull: at.figures.overfull.get(),
            refused: refused(at),
            ended: Some(ended(at)),
            unlogged: at.figures.unlogged.get(),
            request_duration: Some((&at.figures.request_duration.snapshot()).into()),
            busy_sum_ns: Some(at.figures.busy.sum_ns(now_ns)),
            accept_delay: accept_delay(memory, at),
        }
    }

    /// Says that requests are not known: a server of others publishes its load alone.
    pub(crate) fn forget_requests(&mut self) {
        (self.ended, self.request_duration, self.busy_sum_ns) = (None, None, None);
    }
}

fn ended(slot: &Slot) -> BTreeMap<String, u64> {
    let counts = slot.figures.ended.0.iter().map(|count| count.get());
    let names = StatusClass::NAMES.map(str::to_owned);
    names.into_iter().zip(counts).collect()
}

/// For how long the connections of all these workers waited; `None` if it is known of none.
pub fn accept_delays(workers: &[WorkerStatus]) -> Option<AcceptDelays> {
    AcceptDelays::of(
        workers
            .iter()
            .filter_map(|worker| worker.accept_delay.as_ref()),
    )
}

fn accept_delay(memory: &Memory, slot: &Slot) -> Option<AcceptDelayStatus> {
    let status = AcceptDelayStatus::of(&slot.figures.accept_delay);
    let is_known = memory.recorded.port.get() != 0 || status != AcceptDelayStatus::default();
    is_known.then_some(status)
}

fn state(number: u32) -> Reported<StateName> {
    match State::from_number(number) {
        Some(state) => Reported::Known(StateName(state)),
        None => "unknown".into(),
    }
}

fn refused(slot: &Slot) -> BTreeMap<String, u64> {
    let counts = slot.figures.refused.0.iter().map(|count| count.get());
    Refusal::NAMES
        .into_iter()
        .zip(counts)
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name.to_string(), count))
        .collect()
}

/// A listener group's sums over its workers, and how evenly they share.
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

impl Totals {
    /// The sums over these workers.
    pub fn of(workers: &[WorkerStatus]) -> Self {
        let of = |count: fn(&WorkerStatus) -> u64| workers.iter().map(count).collect::<Vec<u64>>();
        let accepted = of(|worker| worker.taken_own.saturating_add(worker.taken_stolen));
        let active = of(|worker| worker.active.into());
        Self {
            accepted: sum(accepted.iter().copied()),
            active: sum(active.iter().copied()),
            running: sum(of(|worker| worker.running.into())),
            waiting: sum(of(|worker| worker.waiting)),
            served: sum(of(|worker| worker.served)),
            accepts_cv: coefficient_of_variation(&accepted),
            accepts_max_over_mean: max_over_mean(&accepted),
            active_cv: coefficient_of_variation(&active),
            active_max_over_mean: max_over_mean(&active),
        }
    }
}

fn sum_of(workers: &[WorkerStatus], figure: fn(&WorkerStatus) -> u64) -> u64 {
    sum(workers.iter().map(figure))
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
        hangs: 0,
        hang_kills: 0,
        served: 0,
        full: 0,
        overfull: 0,
        refused: BTreeMap::new(),
        ended: None,
        unlogged: 0,
        request_duration: None,
        busy_sum_ns: None,
        accept_delay: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_count_accepts_of_both_kinds() {
        let mut workers = [worker_for_tests(0), worker_for_tests(1)];
        (workers[0].taken_own, workers[0].taken_stolen) = (30, 10);
        workers[1].taken_own = 20;
        (workers[0].active, workers[1].active) = (3, 1);
        (workers[0].served, workers[1].waiting, workers[1].running) = (100, 5, 2);
        let totals = Totals::of(&workers);
        assert_eq!(
            (totals.accepted, totals.active, totals.served),
            (60, 4, 100)
        );
        assert_eq!((totals.waiting, totals.running), (5, 2));
        assert!((totals.accepts_cv - 1.0 / 3.0).abs() < 1e-12);
        assert!((totals.active_max_over_mean - 1.5).abs() < 1e-12);
    }
}
