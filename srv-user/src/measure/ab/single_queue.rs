//! What one first-come-first-served queue ([`queue`]) makes of the rounds of a comparison,
//! with the overhead per request that was measured of an arm.

use super::measure::Plan;
use super::overhead::Overhead;
use super::scenario::Scenario;
use crate::measure::arrivals::Draw;
use crate::measure::bound as queue;
use crate::measure::distribution::{Sorted, over_rounds};
use crate::measure::result::Bound;
use crate::measure::stats::{Summary, deviation};

/// Has a single queue serve each of `plans`.
pub(super) fn replay(scenario: &Scenario, plans: &[Plan], overhead: Overhead) -> Bound {
    let rtt_ns = scenario.rtt.map_or(0, |rtt| rtt.as_nanos() as u64);
    // The handshake takes one, the request and its answer another.
    let delay_ns = overhead.delays_ns + 2 * rtt_ns;
    let occupies_ns = overhead.occupies_ns;
    let mut bound = Bound {
        about: format!(
            "one first-come-first-served queue replays the same draws; each request keeps its \
             worker {} µs longer and its answer comes {} µs later, as measured",
            occupies_ns / 1000,
            delay_ns / 1000
        ),
        overhead_ns: occupies_ns,
        delay_ns,
        short: Vec::new(),
        all: Vec::new(),
        deviation_ns: Vec::new(),
        cdf: Vec::new(),
    };
    let is_short = |draw: &Draw| scenario.service.is_short(draw.service_us);
    let mut short_by_round = Vec::new();
    for plan in plans {
        let latencies = latencies(scenario, plan, occupies_ns, delay_ns);
        let short = latencies.iter().filter(|(draw, _)| is_short(draw));
        let short: Vec<u64> = short.map(|(_, ns)| *ns).collect();
        let all = || latencies.iter().map(|(_, ns)| *ns);
        let deviation_ns = deviation(all().map(|ns| ns as f64));
        bound.short.push(Summary::of(short.iter().copied()));
        bound.all.push(Summary::of(all()));
        bound.deviation_ns.push(deviation_ns);
        short_by_round.push(Sorted::new(short));
    }
    bound.cdf = over_rounds(&short_by_round);
    bound
}

/// What is judged of one plan: each request and its latency, ns.
fn latencies(
    scenario: &Scenario,
    plan: &Plan,
    occupies_ns: u64,
    delay_ns: u64,
) -> Vec<(Draw, u64)> {
    let workers = scenario.workers;
    let served = match scenario.closed(plan.seed) {
        Some(closed) => {
            let mut sent = queue::replay_closed(&closed, workers, occupies_ns, delay_ns);
            sent.split_off(closed.clients.min(sent.len()))
        }
        None => {
            let latencies = queue::replay(&plan.draws, workers, occupies_ns);
            plan.draws.iter().copied().zip(latencies).collect()
        }
    };
    let delayed = served.into_iter().map(|(draw, ns)| (draw, ns + delay_ns));
    delayed.collect()
}
