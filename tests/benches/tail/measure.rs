//! One arm under one plan, and where an arm's kept connections live.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;
use srv::hold::{Held, Opening};
use srv::load::{Connections, Load, Record, Run};
use srv::stats::{Summary, coefficient_of_variation};
use srv_tests::arm::{Arm, Running};
use srv_tests::report::Raw;
use srv_tests::usage::Tree;

use crate::{HELD, Plan, WORKERS};

/// One arm in one round.
#[derive(Debug, Serialize)]
pub struct Sample {
    pub arm: &'static str,
    pub service: String,
    pub per_second: f64,
    pub seed: u64,
    /// Latency of all requests.
    pub all: Summary,
    /// Latency of the short ones.
    pub short: Summary,
    /// Requests that each worker answered; one connection each, thus accepts.
    pub shares: Vec<f64>,
    /// Of the shares.
    pub shares_cv: f64,
    /// CPU time of all the server's processes per request, ns.
    pub cpu_ns: f64,
    /// Requests that were not answered.
    pub lost: usize,
    /// How late the generator was.
    pub lateness: Summary,
    /// What went wrong first.
    pub first_error: Option<String>,
}

/// Longer than any request waits in a queue that is stable.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Requests before the first that is measured.
const WARM_UP: usize = 64;

impl Sample {
    /// Starts the arm, sends the plan, and keeps the raw records.
    pub fn measure(arm: &Arm, plan: &Plan, raw: &mut Raw) -> Result<Self> {
        let running = start_warm(arm)?;
        let server = Tree::of(running.pid())?;
        let before_ns = server.cpu_ns()?;
        let run = load(&running)
            .run(&plan.draws)
            .with_context(|| format!("load arm `{}`", arm.name))?;
        let cpu_ns = (server.cpu_ns()? - before_ns) as f64 / plan.draws.len() as f64;
        let sample = Self::of(arm.name, plan, &run, cpu_ns);
        raw.write(&sample)?;
        raw.write(&Columns::of(&run.records))?;
        Ok(sample)
    }

    fn of(arm: &'static str, plan: &Plan, run: &Run, cpu_ns: f64) -> Self {
        let is_short = |record: &&Record| plan.service.is_short(record.service_us);
        let short = run.records.iter().filter(is_short);
        let shares = run.shares(WORKERS);
        Self {
            arm,
            service: plan.service.to_string(),
            per_second: plan.per_second,
            seed: plan.seed,
            all: Summary::of(run.records.iter().map(Record::latency_ns)),
            short: Summary::of(short.map(Record::latency_ns)),
            shares_cv: coefficient_of_variation(&shares),
            shares,
            cpu_ns,
            lost: run.lost(),
            lateness: run.lateness,
            first_error: run.first_error.clone(),
        }
    }
}

/// The raw records, column by column; instants in ns from the start of the run.
#[derive(Serialize)]
struct Columns {
    scheduled_ns: Vec<u64>,
    sent_ns: Vec<Option<u64>>,
    finished_ns: Vec<u64>,
    service_us: Vec<u32>,
    worker: Vec<Option<u16>>,
    /// The record's number and outcome, for those that were not answered.
    lost: Vec<(usize, srv::load::Outcome)>,
}

impl Columns {
    fn of(records: &[Record]) -> Self {
        let lost = records.iter().enumerate();
        let lost = lost.filter(|(_, record)| record.outcome != srv::load::Outcome::Ok);
        Self {
            scheduled_ns: records.iter().map(|r| r.scheduled_ns).collect(),
            sent_ns: records.iter().map(|r| r.sent_ns).collect(),
            finished_ns: records.iter().map(|r| r.finished_ns).collect(),
            service_us: records.iter().map(|r| r.service_us).collect(),
            worker: records.iter().map(|r| r.worker).collect(),
            lost: lost
                .map(|(number, record)| (number, record.outcome))
                .collect(),
        }
    }
}

/// Over which workers an arm's kept connections are spread.
#[derive(Debug, Serialize)]
pub struct Homes {
    pub arm: &'static str,
    pub connections: usize,
    pub burst: bool,
    pub per_worker: Vec<f64>,
}

impl Homes {
    /// Opens each number of connections, one by one and in a burst, each time
    /// to fresh processes.
    pub fn measure(arm: &Arm) -> Result<Vec<Self>> {
        let mut homes = Vec::new();
        for connections in HELD {
            for opening in [Opening::OneByOne, Opening::Burst] {
                let running = arm.start()?;
                let held = Held::open(running.address(), IDLE, connections, opening)
                    .with_context(|| format!("hold connections to arm `{}`", arm.name))?;
                homes.push(Self {
                    arm: arm.name,
                    connections,
                    burst: opening == Opening::Burst,
                    per_worker: held.shares(WORKERS),
                });
            }
        }
        Ok(homes)
    }

    /// Live connections of the worker with most, less those of the worker with fewest.
    pub fn gap(&self) -> f64 {
        let most = self.per_worker.iter().copied().fold(0.0, f64::max);
        most - self
            .per_worker
            .iter()
            .copied()
            .fold(f64::INFINITY, f64::min)
    }
}

const IDLE: &str = "/work?sleep_us=0";

/// The load that every arm gets.
pub fn load(running: &Running) -> Load {
    Load {
        target: running.address(),
        host: None,
        path: "/work?sleep_us={us}".into(),
        connections: Connections::PerRequest,
        timeout: TIMEOUT,
    }
}

fn start_warm(arm: &Arm) -> Result<Running> {
    let running = arm.start()?;
    Held::open(running.address(), IDLE, WARM_UP, Opening::OneByOne)
        .with_context(|| format!("warm up arm `{}`", arm.name))?;
    Ok(running)
}
