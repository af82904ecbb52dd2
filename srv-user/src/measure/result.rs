//! `result.json`: what a comparison found, complete enough that a report only
//! reads it. Plain data; [`SCHEMA`] changes when a reader would have to.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::measure::stats::{Ratio, Summary, median};

/// Version of this schema.
pub const SCHEMA: u32 = 1;
/// The name of its file.
pub const RESULT: &str = "result.json";

impl Comparison {
    /// Reads it from its file, or from the folder that holds [`RESULT`].
    ///
    /// # Errors
    /// It is not there, is none, or has another schema.
    pub fn read(path: &Path) -> Result<Self> {
        let path = match path.is_dir() {
            true => path.join(RESULT),
            false => path.to_owned(),
        };
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let json: serde_json::Value =
            serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
        let schema = &json["schema"];
        ensure!(
            *schema == SCHEMA,
            "read {}: it has schema {schema}, this srv reads {SCHEMA}; use the srv that wrote it",
            path.display()
        );
        serde_json::from_value(json).with_context(|| format!("read {}", path.display()))
    }
}

/// A comparison of arms under one scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Why it ended early; `None` if every round of every arm is here.
    pub incomplete: Option<String>,
    /// Whether all of it is simulated; `false` in older files.
    #[serde(default)]
    pub simulated: bool,
    /// When it began, RFC 3339.
    pub began: String,
    /// How to run it again, as typed in a shell.
    pub command: String,
    /// Where it ran: label and value, in the order in which to print them.
    pub environment: Vec<(String, String)>,
    /// What was asked of each arm.
    pub scenario: Scenario,
    /// In the order in which they were named.
    pub arms: Vec<Arm>,
    /// The FCFS single queue, replaying the very same draws; `None` if not one
    /// round was.
    pub limit: Option<Limit>,
    /// What other processes used meanwhile; `None` if it was simulated, or in older files.
    #[serde(default)]
    pub others: Option<Others>,
    /// Arms against each other, the control included.
    pub ratios: Vec<Compared>,
    /// What it comes to, the most important first: sentences for people.
    pub verdict: Vec<String>,
    /// Reasons not to believe it: sentences. Empty: none were found.
    pub doubts: Vec<String>,
}

/// What was asked of each arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: String,
    /// One sentence.
    pub about: String,
    /// Label and value, in the order in which to print them.
    pub parameters: Vec<(String, String)>,
    /// Worker processes of each arm.
    pub workers: usize,
    /// What the verdict is about.
    #[serde(default)]
    pub key: Key,
}

/// The figure by which arms are judged, and the control with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Key {
    /// Where requests wait for others: what the unluckiest hundredth meets.
    #[default]
    #[serde(rename = "short p99")]
    ShortP99,
    /// Where hardly any waits: the tail is then the machine's own stalls.
    #[serde(rename = "short p50")]
    ShortP50,
    /// Where all wait for as long: how unequally they do.
    #[serde(rename = "deviation")]
    Deviation,
}

impl Key {
    /// Its name, also in [`Compared::figure`].
    pub fn name(self) -> &'static str {
        match self {
            Self::ShortP99 => "short p99",
            Self::ShortP50 => "short p50",
            Self::Deviation => "deviation",
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::ShortP99 => "short-request p99",
            Self::ShortP50 => "the short requests' median",
            Self::Deviation => "the latency's standard deviation",
        }
    }

    /// In a round, ns.
    pub fn of(self, round: &Round) -> f64 {
        match self {
            Self::ShortP99 => round.short.p99_ns as f64,
            Self::ShortP50 => round.short.p50_ns as f64,
            Self::Deviation => round.deviation_ns,
        }
    }

    /// Of the limit, round by round, ns.
    pub fn of_limit(self, limit: &Limit) -> Vec<f64> {
        let short = limit.short.iter();
        match self {
            Self::ShortP99 => short.map(|short| short.p99_ns as f64).collect(),
            Self::ShortP50 => short.map(|short| short.p50_ns as f64).collect(),
            Self::Deviation => limit.deviation_ns.clone(),
        }
    }
}

/// What processes that had no part in a comparison used of this machine's CPUs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Others {
    /// All of them together, as a part of the CPUs' time, 0 to 1.
    pub share: f64,
    /// The busiest of those that were there from begin to end: name and part.
    pub busiest: Vec<(String, f64)>,
}

/// One way of distributing connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// Its name on the command line (`least+ring`); the control's ends in `again`.
    pub name: String,
    /// What ran, versions included.
    pub about: String,
    /// Why it was left out; then everything below is empty.
    pub left_out: Option<String>,
    /// In order.
    pub rounds: Vec<Round>,
    /// Of the short requests' latency: at each part the median over
    /// [`Arm::judged`], so that it agrees with the medians in every table.
    pub cdf: Vec<CdfPoint>,
    /// Connections accepted per worker, all rounds together.
    pub accepts: Vec<u64>,
    /// Of the first round; `None` if nothing was kept of it.
    pub live: Option<Live>,
}

/// One arm in one round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Of the draws, the same for each arm.
    pub seed: u64,
    /// How many were sent.
    pub requests: usize,
    /// How many were not answered with 200.
    pub lost: usize,
    /// Latency of the requests with the usual service time, from the scheduled instant.
    pub short: Summary,
    /// Latency of all requests.
    pub all: Summary,
    /// Standard deviation of the latency of all requests, ns.
    pub deviation_ns: f64,
    /// Connections accepted per worker.
    pub accepts: Vec<u64>,
    /// Coefficient of variation of the accepts.
    pub accepts_cv: f64,
    /// Most accepts of a worker over the mean.
    pub accepts_max_over_mean: f64,
    /// Jain's index of the accepts.
    pub accepts_jain: f64,
    /// Live connections of the worker with most, less those of the one with
    /// fewest; `None` where connections are not kept.
    pub live_gap: Option<u64>,
    /// How evenly the requests over kept connections fell on the workers;
    /// `None` where each request had its own, and in older files.
    pub served: Option<Served>,
    /// User and system time of the arm's processes per request, ns.
    pub cpu_ns_per_request: f64,
    /// How late the generator was.
    pub lateness: Summary,
    /// The part of this machine's CPU time that its hypervisor gave to others
    /// meanwhile, 0 to 1; `stolen` in older files.
    #[serde(default, alias = "stolen")]
    pub hypervisor_share: f64,
    /// How often it was measured before, when the hypervisor took more than
    /// [`HYPERVISOR_SHARE_MAX`].
    #[serde(default)]
    pub repeats: u32,
}

/// Requests answered, by worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Served {
    /// How many.
    pub per_worker: Vec<u64>,
    /// Their coefficient of variation.
    pub cv: f64,
    /// Most of a worker over the mean.
    pub max_over_mean: f64,
}

/// If the hypervisor took more than this part of the CPUs' time, the round measured
/// the hypervisor, too.
pub const HYPERVISOR_SHARE_MAX: f64 = 0.02;

impl Arm {
    /// The rounds that figures are taken from: those that the hypervisor did not
    /// disturb, or all rounds if it disturbed each of them.
    pub fn judged(&self) -> Vec<&Round> {
        let rounds = self.rounds.iter();
        let quiet: Vec<&Round> = rounds.filter(|round| !round.is_disturbed()).collect();
        match quiet.is_empty() {
            true => self.rounds.iter().collect(),
            false => quiet,
        }
    }

    /// The one statistic of a figure that is shown of an arm, wherever it is
    /// shown: the median over [`Self::judged`]. 0 if there are no rounds.
    pub fn median(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        let rounds = self.judged().into_iter();
        median(&rounds.map(figure).collect::<Vec<_>>())
    }
}

impl Round {
    /// Whether the hypervisor took so much that it is not to be judged.
    pub fn is_disturbed(&self) -> bool {
        self.hypervisor_share > HYPERVISOR_SHARE_MAX
    }
}

/// This part of the requests took at most so long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CdfPoint {
    /// ns.
    pub latency_ns: u64,
    /// 0 to 1.
    pub at_most: f64,
}

/// Live connections over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// Between two samples, ns.
    pub step_ns: u64,
    /// By worker, then by sample.
    pub per_worker: Vec<Vec<u32>>,
}

/// The limit: one first-come-first-served queue before the same workers, with the
/// overhead per request that was measured of the first arm beforehand. An arm that is
/// below it either had less overhead in its rounds than in that measurement, or does
/// not serve first come, first served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// How the overhead was put in, for people.
    pub about: String,
    /// What a request keeps a worker beyond its service time, ns.
    pub overhead_ns: u64,
    /// What only delays the answer, ns.
    pub delay_ns: u64,
    /// The short requests, round by round.
    pub short: Vec<Summary>,
    /// All requests, round by round.
    pub all: Vec<Summary>,
    /// Standard deviation of the latency of all requests, round by round, ns.
    #[serde(default)]
    pub deviation_ns: Vec<f64>,
    /// Of the short requests' latency: at each part the median over the rounds.
    pub cdf: Vec<CdfPoint>,
}

/// One figure of two arms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// What was compared: `short p99`, `accepts CV`, `CPU per request` …
    pub figure: String,
    /// Numerator.
    pub arm: String,
    /// Denominator: an arm's name, or `limit`.
    pub base: String,
    /// By round, paired.
    pub ratio: Ratio,
    /// `no difference`, `differs`, or what the control says.
    pub judgement: String,
    /// Whether this is the A/A control.
    pub control: bool,
}
