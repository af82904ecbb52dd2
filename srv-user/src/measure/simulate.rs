//! A discrete-event simulation, for what this machine is too small to run: up to
//! [`WORKERS_MAX`] workers and millions of connections, one request each. It asks the very
//! policy code of srv-common where each connection goes.
//!
//! A worker serves one request at a time, from its first byte to its last, as
//! one does whose handler blocks. A connection is assigned when its SYN comes
//! and waits in the accept queue one round trip later, its request with it
//! (TCP_DEFER_ACCEPT); until it is accepted it counts as waiting, as in
//! reality. Accepting, waking and sleeping take no time of their own: what they
//! cost is part of [`Model::overhead_ns`].
//!
//! Every connection comes from another client and over any CPU, so `source`
//! and `cpu` choose as `random` does, but for the same ones.

mod engine;
mod host;
mod ring;
mod tally;

use std::fmt;

use anyhow::ensure;
use srv_common::{MAX_WORKERS, Policy};

use crate::measure::arrivals::{Draw, Service};
use crate::measure::stats::{Summary, coefficient_of_variation};
use crate::output::table::table;
use engine::Engine;
use srv_steer::AcceptMode;
pub use tally::Latencies;

/// Most workers that are simulated.
pub const WORKERS_MAX: usize = 4096;

/// What all arms of a comparison have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// 1 to [`WORKERS_MAX`].
    pub workers: usize,
    /// The law that the draws come from; it says which requests are short.
    pub service: Service,
    /// For how long a request keeps its worker beyond its service time, ns.
    pub overhead_ns: u64,
    /// Between client and server and back, ns.
    pub rtt_ns: u64,
    /// Of the random choices; the draws have a seed of their own.
    pub seed: u64,
}

impl Model {
    /// Connections per second that keep the workers busy for this part of the time.
    pub fn rate(&self, utilisation: f64) -> f64 {
        let each_us = self.service.mean_us() + self.overhead_ns as f64 / 1e3;
        utilisation * self.workers as f64 / each_us * 1e6
    }
}

/// A way of distributing connections to workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dispatch {
    /// Which queue a connection joins; without effect if there is one queue.
    pub policy: Policy,
    /// Which worker accepts it from there. The three modes of one listener are one
    /// first-come-first-served queue here. The first worker in order that sleeps is woken, as
    /// with `EPOLLEXCLUSIVE`.
    pub accept: AcceptMode,
}

impl Dispatch {
    /// One queue before all workers: the single-queue bound ([`crate::measure::bound`]).
    pub const SINGLE_QUEUE: Self = Self {
        policy: Policy::Hash,
        accept: AcceptMode::Shared,
    };
}

impl fmt::Display for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::SINGLE_QUEUE {
            f.pad("single-queue bound")
        } else if self.accept.has_own_listeners() {
            f.pad(&format!("{}+{}", self.policy.name(), self.accept.name()))
        } else {
            f.pad(self.accept.name())
        }
    }
}

/// What became of an arm. Latency is the client's: from sending the SYN to
/// reading the response, two round trips included. Percentiles are within
/// 0.1 %; means, maxima and counts are exact.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Of all requests.
    pub all: Summary,
    /// Standard deviation of all, ns.
    pub deviation_ns: f64,
    /// Of the short ones ([`Service::is_short`]).
    pub short: Summary,
    /// The short ones, to draw their distribution.
    pub short_latencies: Latencies,
    /// Time in the accept queue.
    pub wait: Summary,
    /// Part of the workers' time that they were busy, from the first SYN to the
    /// last response.
    pub utilisation: f64,
    /// Connections accepted, by worker.
    pub accepts: Vec<u64>,
    /// Connections accepted from a sibling's queue.
    pub stolen: u64,
    /// Which worker accepted each of the last 4096 connections, in order.
    pub recent: Vec<u16>,
}

impl Outcome {
    /// Coefficient of variation of the accepts per worker; 0 is perfectly even.
    pub fn accepts_cv(&self) -> f64 {
        coefficient_of_variation(&self.accepts)
    }
}

/// Lets `arm` serve `draws`, which are in order of arrival. They need not fit
/// into memory ([`crate::measure::arrivals::endless`]).
///
/// # Errors
/// If there are no workers or more than [`WORKERS_MAX`].
pub fn run(
    model: &Model,
    arm: Dispatch,
    draws: impl IntoIterator<Item = Draw>,
) -> anyhow::Result<Outcome> {
    let workers = model.workers;
    check(workers)?;
    ensure!(
        arm.policy != Policy::Hermes,
        "simulate hermes: it depends on what workers publish in loops that are not simulated"
    );
    // With the slots of the BPF program where they suffice: the same code runs.
    Ok(if workers <= MAX_WORKERS {
        Engine::<MAX_WORKERS>::new(*model, arm).run(draws)
    } else {
        Engine::<WORKERS_MAX>::new(*model, arm).run(draws)
    })
}

/// Whether so many workers can be simulated.
///
/// # Errors
/// There are none or more than [`WORKERS_MAX`].
pub fn check(workers: usize) -> anyhow::Result<()> {
    ensure!(
        (1..=WORKERS_MAX).contains(&workers),
        "simulate {workers} workers: from 1 to {WORKERS_MAX} are possible"
    );
    Ok(())
}

/// Arms that served the same draws, and the single-queue bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// In the order in which they were named, the bound last.
    pub rows: Vec<(Dispatch, Outcome)>,
}

/// Lets each of `arms` and [`Dispatch::SINGLE_QUEUE`] serve the draws that `draws` begins
/// anew for each.
///
/// # Errors
/// As [`run`].
pub fn compare<D: IntoIterator<Item = Draw>>(
    model: &Model,
    arms: &[Dispatch],
    draws: impl Fn() -> D,
) -> anyhow::Result<Table> {
    let arms = arms.iter().filter(|&&arm| arm != Dispatch::SINGLE_QUEUE);
    let rows = arms.chain([&Dispatch::SINGLE_QUEUE]);
    let rows = rows.map(|&arm| Ok((arm, run(model, arm, draws())?)));
    Ok(Table {
        rows: rows.collect::<anyhow::Result<_>>()?,
    })
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = [
            "latency, ms",
            "short p50",
            "short p99",
            "all p50",
            "all p99",
            "all p99.9",
            "mean wait",
            "busy",
            "stolen",
            "CV",
        ];
        let rows = self.rows.iter().map(|(arm, outcome)| row(*arm, outcome));
        f.write_str(&table(&header, &header[..1], rows))
    }
}

fn row(arm: Dispatch, outcome: &Outcome) -> Vec<String> {
    let ms = |ns: u64| format!("{:.2}", ns as f64 / 1e6);
    let Outcome { all, short, .. } = outcome;
    let stolen = outcome.stolen as f64 / all.count.max(1) as f64;
    vec![
        arm.to_string(),
        ms(short.p50_ns),
        ms(short.p99_ns),
        ms(all.p50_ns),
        ms(all.p99_ns),
        ms(all.p99_9_ns),
        format!("{:.3}", outcome.wait.mean_ns / 1e6),
        format!("{:.3}", outcome.utilisation),
        format!("{stolen:.3}"),
        format!("{:.3}", outcome.accepts_cv()),
    ]
}

#[cfg(test)]
mod tests;
