//! `result.json`: what a comparison found, complete enough that a report only
//! reads it. Plain data; [`SCHEMA`] changes when a reader would have to. What the file
//! writes otherwise than the types here is known to [`mod@format`].

mod format;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, VariantArray};

pub use self::format::name_in_file;
use crate::measure::stats::{Judgement, Ratio, Summary, median};

/// Version of this schema.
pub const SCHEMA: u32 = 1;
/// The label of the injected fault in [`ScenarioRecord::parameters`].
pub const FAULT: &str = "fault injection";
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

    /// Whether it asked the same of its arms as `other`. The sentence about the scenario may
    /// have been put otherwise since.
    pub fn is_like(&self, other: &Self) -> bool {
        let asked = |comparison: &Self| {
            let ScenarioRecord {
                name,
                about: _,
                parameters,
                workers,
                key,
            } = comparison.scenario.clone();
            (name, parameters, workers, key)
        };
        asked(self) == asked(other)
    }

    /// Whether anything can be concluded from it.
    pub fn is_usable(&self) -> bool {
        let mut doubts = self.doubts.iter();
        doubts.all(|doubt| doubt.gravity != Gravity::Unusable)
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
    pub scenario: ScenarioRecord,
    /// In the order in which they were named.
    pub arms: Vec<ArmResult>,
    /// What the single queue makes of the very same draws; `None` if there is not one
    /// round.
    #[serde(rename = "limit")]
    pub bound: Option<Bound>,
    /// What other processes used meanwhile; `None` if it was simulated, or in older files.
    #[serde(default)]
    pub others: Option<Others>,
    /// Arms against each other, the control included.
    pub ratios: Vec<Compared>,
    /// What it comes to, the most important first: sentences for people.
    pub verdict: Vec<String>,
    /// Reasons not to believe it. Empty: none were found.
    pub doubts: Vec<Doubt>,
}

/// What was asked of each arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "format::Scenario")]
pub struct ScenarioRecord {
    /// Its name on the command line.
    pub name: String,
    /// One sentence.
    pub about: String,
    /// Label and value, in the order in which to print them.
    pub parameters: Vec<(String, String)>,
    /// Worker processes of each arm.
    pub workers: usize,
    /// What the verdict is about.
    pub key: Key,
}

/// The figure by which arms are judged, and the control with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Key {
    /// If requests wait for others: the latency that one request in a hundred exceeds.
    #[default]
    #[serde(rename = "short p99")]
    ShortP99,
    /// If hardly any request waits: the tail then shows the machine's own stalls.
    #[serde(rename = "short p50")]
    ShortP50,
    /// If all requests wait about equally long: how much they differ.
    #[serde(rename = "deviation")]
    Deviation,
}

impl Key {
    /// The same as one of the figures that are compared.
    pub fn figure(self) -> Figure {
        match self {
            Self::ShortP99 => Figure::ShortP99,
            Self::ShortP50 => Figure::ShortP50,
            Self::Deviation => Figure::Deviation,
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
        self.figure().of(round)
    }

    /// Of the single-queue bound, round by round, ns.
    pub fn of_bound(self, bound: &Bound) -> Vec<f64> {
        let short = bound.short.iter();
        match self {
            Self::ShortP99 => short.map(|short| short.p99_ns as f64).collect(),
            Self::ShortP50 => short.map(|short| short.p50_ns as f64).collect(),
            Self::Deviation => bound.deviation_ns.clone(),
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

/// One way of distributing connections, as it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "format::Arm", into = "format::Arm")]
pub struct ArmResult {
    /// Its name on the command line (`least+ring`), which the control shares with the arm
    /// that it repeats.
    pub name: String,
    /// Whether it is compared, or is the control.
    pub role: ArmRole,
    /// What ran, versions included.
    pub about: String,
    /// Why it was left out; then everything below is empty.
    pub left_out: Option<String>,
    /// In order.
    pub rounds: Vec<Round>,
    /// Of the short requests' latency: at each part the median over
    /// [`ArmResult::judged`], so that it agrees with the medians in every table.
    pub cdf: Vec<CdfPoint>,
    /// Connections accepted per worker, all rounds together.
    pub accepts: Vec<u64>,
    /// Of the first round; `None` if it has none.
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
    /// fewest; `None` without keep-alive connections.
    pub live_gap: Option<u64>,
    /// How evenly the requests over keep-alive connections fell on the workers. `None` if
    /// each request had a connection of its own, and in older files.
    pub served: Option<Served>,
    /// For how long half of the connections, at most, waited until a worker accepted them, ns. Only
    /// srv's own server tells; `None` of others, if it does not know, and in older files.
    #[serde(default)]
    pub accept_delay_p50_ns: Option<u64>,
    /// Likewise of 99 in 100.
    #[serde(default)]
    pub accept_delay_p99_ns: Option<u64>,
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

impl ArmResult {
    /// How it is called where people read it.
    pub fn label(&self) -> String {
        label(&self.name, self.role)
    }

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

/// The single-queue bound: one first-come-first-served queue before the same workers, with
/// the overhead per request that was measured of the first arm beforehand. If an arm is
/// below it, either its requests cost less in the rounds than in that measurement, or it
/// does not serve in order of arrival.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bound {
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

/// What an arm is there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArmRole {
    /// It is compared with the others.
    #[default]
    Candidate,
    /// It repeats another arm. What differs between the two is chance: the A/A control.
    Control,
}

/// How the arm of this name and role is called where people read it.
pub fn label(name: &str, role: ArmRole) -> String {
    match role {
        ArmRole::Candidate => name.to_owned(),
        ArmRole::Control => format!("{name} (control)"),
    }
}

/// One figure of two arms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "format::Compared", into = "format::Compared")]
pub struct Compared {
    /// What was compared.
    pub figure: Figure,
    /// Whose figure is divided by whose.
    pub pair: Pair,
    /// By round, paired.
    pub ratio: Ratio,
    /// What the rounds say.
    pub judgement: Judgement,
}

/// Whose figure is divided by whose. Arms are given by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pair {
    /// One arm's by another's.
    Arms {
        /// Numerator.
        arm: String,
        /// Denominator.
        base: String,
    },
    /// The control's by that of the arm that it repeats.
    Control(String),
    /// An arm's by the single-queue bound's.
    Bound(String),
}

impl Pair {
    /// Numerator and denominator, for people.
    pub fn labels(&self) -> [String; 2] {
        match self {
            Self::Arms { arm, base } => [arm.clone(), base.clone()],
            Self::Control(arm) => [label(arm, ArmRole::Control), arm.clone()],
            Self::Bound(arm) => [arm.clone(), BOUND.to_owned()],
        }
    }

    /// Whether this is the A/A control.
    pub fn is_control(&self) -> bool {
        matches!(self, Self::Control(_))
    }
}

/// How the single-queue bound is called where people read it.
pub const BOUND: &str = "single-queue bound";

/// A figure that is compared between arms. Its name is the one in `result.json`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Display, EnumString, VariantArray,
)]
#[serde(into = "String", try_from = "String")]
pub enum Figure {
    /// 99th percentile of the short requests' latency.
    #[strum(serialize = "short p99")]
    ShortP99,
    /// Median of the short requests' latency.
    #[strum(serialize = "short p50")]
    ShortP50,
    /// Mean latency of all requests.
    #[strum(serialize = "mean")]
    Mean,
    /// 99th percentile of the latency of all requests.
    #[strum(serialize = "p99")]
    P99,
    /// Standard deviation of the latency of all requests.
    #[strum(serialize = "deviation")]
    Deviation,
    /// Coefficient of variation of the accepts per worker.
    #[strum(serialize = "accepts CV")]
    AcceptsCv,
    /// CPU time of the server per request.
    #[strum(serialize = "CPU per request")]
    CpuPerRequest,
}

impl Figure {
    /// In a round; times are in ns.
    pub fn of(self, round: &Round) -> f64 {
        match self {
            Self::ShortP99 => round.short.p99_ns as f64,
            Self::ShortP50 => round.short.p50_ns as f64,
            Self::Mean => round.all.mean_ns,
            Self::P99 => round.all.p99_ns as f64,
            Self::Deviation => round.deviation_ns,
            Self::AcceptsCv => round.accepts_cv,
            Self::CpuPerRequest => round.cpu_ns_per_request,
        }
    }
}

/// A reason not to believe a comparison: a sentence, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Doubt {
    /// What follows from it.
    pub gravity: Gravity,
    /// The sentence.
    pub sentence: String,
}

/// What follows from a doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gravity {
    /// The reader has to know it.
    Caveat,
    /// Nothing can be concluded from the comparison.
    Unusable,
}

impl Doubt {
    /// What the reader has to know.
    pub fn caveat(sentence: impl Into<String>) -> Self {
        Self {
            gravity: Gravity::Caveat,
            sentence: sentence.into(),
        }
    }

    /// Why nothing can be concluded.
    pub fn unusable(sentence: impl Into<String>) -> Self {
        Self {
            gravity: Gravity::Unusable,
            sentence: sentence.into(),
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.gravity {
            Gravity::Caveat => f.write_str(&self.sentence),
            Gravity::Unusable => write!(f, "{}{}", format::UNUSABLE, self.sentence),
        }
    }
}
