//! What a request costs an arm beyond its service time, so that the single-queue bound can
//! be given the same: what keeps the worker busy (sleeping too long, reading, writing), and
//! what only delays the answer (connecting, waking).

use std::time::Duration;

use anyhow::Result;

use super::arm::Arm;
use super::measure::{Plan, measure};
use super::scenario::{Arrivals, Scenario};
use crate::measure::arrivals::Service;
use crate::measure::load::Connections;
use crate::measure::stats;

/// Per request, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overhead {
    /// For how long it keeps its worker busy beyond the service time.
    pub occupies_ns: u64,
    /// What the answer is delayed beyond that when the request is alone.
    pub delays_ns: u64,
}

/// A service time that is known, ns.
const ALONE_NS: f64 = 1e6;
/// Few enough workers that the cores are not what saturates.
const SATURATED_WORKERS: usize = 2;
const PARTS: u64 = 3;

impl Overhead {
    /// Measures `arm` in the surroundings of `scenario`.
    ///
    /// # Errors
    /// The arm does not start or ends.
    pub fn measure(arm: &Arm, scenario: &Scenario) -> Result<Self> {
        if scenario.service == Service::Fixed(0) {
            return Self::measure_idle(arm, scenario);
        }
        let plain = Scenario {
            service: Service::Fixed((ALONE_NS / 1e3) as u32),
            duration: Duration::from_secs(1),
            connections: Connections::PerRequest,
            fault: None,
            rtt: None,
            ..scenario.clone()
        };
        let alone = Scenario {
            arrivals: Arrivals::Poisson(100.0),
            ..plain.clone()
        };
        let saturated = Scenario {
            arrivals: Arrivals::Poisson(3000.0),
            workers: SATURATED_WORKERS,
            ..plain
        };
        let mut totals_ns = Vec::new();
        let mut occupied_ns = Vec::new();
        for seed in 1..=PARTS {
            let run = measure(arm, &alone, &Plan::of(&alone, seed), None)?;
            totals_ns.push(run.round.all.mean_ns - ALONE_NS);
            let plan = Plan::of(&saturated, seed);
            let run = measure(arm, &saturated, &plan, None)?;
            // From an instant at which every worker is certainly busy until the last arrival.
            let end_ns = plan.draws.last().map_or(1, |draw| draw.at_ns);
            let span = end_ns / 4..end_ns;
            let finished = run.run.records.iter();
            let finished = finished.filter(|record| span.contains(&record.finished_ns));
            let gap_ns = (end_ns - end_ns / 4) as f64 / finished.count() as f64;
            occupied_ns.push(gap_ns * SATURATED_WORKERS as f64 - ALONE_NS);
        }
        let occupies_ns = stats::median(&occupied_ns).max(0.0);
        let delays_ns = (stats::median(&totals_ns) - occupies_ns).max(0.0);
        Ok(Self {
            occupies_ns: occupies_ns as u64,
            delays_ns: delays_ns as u64,
        })
    }

    /// A handler that does nothing keeps its worker busy for too short a time to tell it from
    /// the rest: all of it counts as delay.
    fn measure_idle(arm: &Arm, scenario: &Scenario) -> Result<Self> {
        let alone = Scenario {
            arrivals: Arrivals::Poisson(100.0),
            duration: Duration::from_secs(1),
            connections: Connections::PerRequest,
            fault: None,
            rtt: None,
            ..scenario.clone()
        };
        let mut totals_ns = Vec::new();
        for seed in 1..=PARTS {
            let run = measure(arm, &alone, &Plan::of(&alone, seed), None)?;
            totals_ns.push(run.round.all.mean_ns);
        }
        Ok(Self {
            occupies_ns: 0,
            delays_ns: stats::median(&totals_ns) as u64,
        })
    }
}
