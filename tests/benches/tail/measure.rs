//! One arm under one plan, and where an arm's keep-alive connections live.

use anyhow::{Context as _, Result};
use serde::Serialize;
use srv::measure::ab::arm::Arm;
use srv::measure::ab::measure::{Measured, Plan, measure};
use srv::measure::ab::scenario::Scenario;
use srv::measure::load::Record;
use srv::measure::load::keep_alive::{KeepAlive, Opening};
use srv::measure::result::Round;
use srv_tests::report::Raw;

use crate::KEEP_ALIVE;

/// One arm in one round.
#[derive(Debug, Serialize)]
pub(crate) struct Sample {
    pub arm: String,
    pub service: String,
    pub per_second: Option<f64>,
    /// What it came to.
    pub round: Round,
    /// What went wrong first.
    pub first_error: Option<String>,
}

impl Sample {
    /// Starts the arm, sends the plan, and keeps the raw records.
    pub(crate) fn measure(
        arm: &Arm,
        scenario: &Scenario,
        plan: &Plan,
        raw: &mut Raw,
    ) -> Result<Self> {
        let Measured { round, run } = measure(arm, scenario, plan, None)?;
        let sample = Self {
            arm: arm.label(),
            service: scenario.service.to_string(),
            per_second: scenario.per_second(),
            round,
            first_error: run.first_error,
        };
        raw.write(&sample)?;
        raw.write(&Columns::of(&run.records))?;
        Ok(sample)
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
    lost: Vec<(usize, srv::measure::load::Outcome)>,
}

impl Columns {
    fn of(records: &[Record]) -> Self {
        let lost = records.iter().enumerate();
        let lost = lost.filter(|(_, record)| record.outcome != srv::measure::load::Outcome::Ok);
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

/// Over which workers an arm's keep-alive connections are spread.
#[derive(Debug, Serialize)]
pub(crate) struct Homes {
    pub arm: String,
    pub connections: usize,
    pub burst: bool,
    pub per_worker: Vec<u64>,
}

impl Homes {
    /// Opens each number of connections, one by one and in a burst, each time
    /// to fresh processes.
    pub(crate) fn measure(arm: &Arm, scenario: &Scenario) -> Result<Vec<Self>> {
        let mut homes = Vec::new();
        for connections in KEEP_ALIVE {
            for opening in [Opening::OneByOne, Opening::Burst] {
                let running = arm.start(scenario, None)?;
                let held = KeepAlive::open(running.address(), IDLE, connections, opening)
                    .with_context(|| format!("open keep-alive connections to arm {}", arm.name))?;
                homes.push(Self {
                    arm: arm.label(),
                    connections,
                    burst: opening == Opening::Burst,
                    per_worker: held.shares(scenario.workers),
                });
            }
        }
        Ok(homes)
    }

    /// Live connections of the worker with most, less those of the worker with fewest.
    pub(crate) fn gap(&self) -> u64 {
        let most = self.per_worker.iter().max().copied().unwrap_or(0);
        let fewest = self.per_worker.iter().min().copied().unwrap_or(0);
        most - fewest
    }
}

const IDLE: &str = "/work?sleep_us=0";
