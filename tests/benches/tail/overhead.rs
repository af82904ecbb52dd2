//! What a request costs a server beyond its service time, in two parts that
//! queues treat differently: what keeps the worker (sleeping too long, reading,
//! writing) and what only delays the answer (connecting, waking). The limit
//! gets both, so that an arm is judged by its queueing alone.

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use srv_tests::arm::Arm;
use srv_tests::report::Raw;

use crate::measure::{Sample, load};
use crate::{ALONE_NS, Extent, Plan, SATURATED_WORKERS};

/// Per request, mean over the rounds, ns.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Overhead {
    /// What the worker is kept beyond the service time, from the throughput of
    /// workers that never run out of requests.
    pub occupies_ns: u64,
    /// The rest of what a request takes when nobody else is there.
    pub delays_ns: u64,
}

impl Overhead {
    /// Measures `alone` with one request at a time, and `saturated`, the same
    /// server with [`SATURATED_WORKERS`], with more than it can do.
    pub fn measure(extent: &Extent, alone: &Arm, saturated: &Arm, raw: &mut Raw) -> Result<Self> {
        let mut total_ns = Vec::new();
        for plan in extent.alone_plans() {
            let sample = Sample::measure(alone, &plan, raw)?;
            total_ns.push(sample.all.mean_ns - ALONE_NS);
        }
        let mut occupies_ns = Vec::new();
        for plan in extent.saturating_plans() {
            occupies_ns.push(occupies(saturated, &plan)?);
        }
        let occupies_ns = srv::stats::mean(&occupies_ns).max(0.0);
        let overhead = Self {
            occupies_ns: occupies_ns as u64,
            delays_ns: (srv::stats::mean(&total_ns) - occupies_ns).max(0.0) as u64,
        };
        raw.write(&(alone.name, overhead))?;
        Ok(overhead)
    }
}

/// How long a request keeps a worker beyond its service time, ns.
fn occupies(arm: &Arm, plan: &Plan) -> Result<f64> {
    let running = arm.start()?;
    let run = load(&running)
        .run(&plan.draws)
        .with_context(|| format!("saturate arm `{}`", arm.name))?;
    let error = run.first_error.as_deref().unwrap_or_default();
    ensure!(
        run.lost() == 0,
        "saturate arm `{}`: {} lost, first: {error}",
        arm.name,
        run.lost()
    );
    // From when every worker is busy for sure until the last arrival.
    let end_ns = plan.draws.last().map_or(0, |draw| draw.at_ns);
    let begin_ns = end_ns / 4;
    let span = begin_ns..end_ns;
    let finished = run
        .records
        .iter()
        .filter(|record| span.contains(&record.finished_ns));
    let mean_gap_ns = (end_ns - begin_ns) as f64 / finished.count() as f64;
    Ok(mean_gap_ns * SATURATED_WORKERS as f64 - ALONE_NS)
}
