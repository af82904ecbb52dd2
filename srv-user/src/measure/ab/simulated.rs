//! `srv ab --simulate`: the scenarios with simulated workers, for what this machine is too
//! small to run. The result is of the same kind. It has no control, since the same draws
//! would give the very same figures.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail, ensure};

use super::arm::{self, Arm};
use super::files::Folder;
use super::judge;
use super::scenario::{self, Arrivals, Scenario};
use super::{Options, blank, blank_arm, catch_interrupt};
use crate::measure::arrivals::{Draw, burst, endless};
use crate::measure::distribution::over_rounds;
use crate::measure::environment::Environment;
use crate::measure::load::Connections;
use crate::measure::result::{Bound, Comparison, Round};
use crate::measure::simulate::{self, Latencies, Model, Outcome};
use crate::measure::stats::{Summary, coefficient_of_variation, jain, max_over_mean};

/// Simulates each scenario that was asked for.
///
/// # Errors
/// A scenario or an arm is beyond what the simulation knows: before anything starts.
pub fn run(options: &Options) -> Result<ExitCode> {
    let arms = match options.arms.as_str() {
        arm::DEFAULT => arm::list(arm::DEFAULT)?
            .into_iter()
            .filter(Arm::is_srv)
            .collect(),
        names => arm::list(names)?,
    };
    let arms: Vec<(Arm, simulate::Dispatch)> = arms
        .into_iter()
        .map(|arm| arm.simulated().map(|simulated| (arm, simulated)))
        .collect::<Result<_>>()?;
    let scenarios = options.scenarios(&[scenario::DEFAULT_SIMULATED])?;
    scenarios.iter().try_for_each(check)?;
    let interrupted = catch_interrupt()?;
    options.each(&scenarios, |scenario, _: &Folder| {
        Simulation::new(options, scenario, &arms, &interrupted).complete()
    })
}

fn check(scenario: &Scenario) -> Result<()> {
    let obstacle = match scenario {
        Scenario {
            arrivals: Arrivals::Closed(_),
            ..
        } => "clients that wait for answers",
        Scenario {
            connections: Connections::Pool(_),
            ..
        } => "keep-alive connections",
        Scenario { fault: Some(_), .. } => "a stopped worker",
        _ => return simulate::check(scenario.workers),
    };
    bail!(
        "scenario {} cannot be simulated: it has {obstacle}; Poisson arrivals and bursts with a \
         connection per request can",
        scenario.name
    )
}

/// One in progress.
struct Simulation<'a> {
    scenario: &'a Scenario,
    seeds: std::ops::Range<u64>,
    arms: &'a [(Arm, simulate::Dispatch)],
    interrupted: &'a AtomicBool,
    comparison: Comparison,
    /// The short requests' latencies by arm, then the bound's; of each by round.
    short: Vec<Vec<Latencies>>,
    bound: Bound,
}

impl<'a> Simulation<'a> {
    fn new(
        options: &Options,
        scenario: &'a Scenario,
        arms: &'a [(Arm, simulate::Dispatch)],
        interrupted: &'a AtomicBool,
    ) -> Self {
        let blank_arms = arms
            .iter()
            .map(|(arm, _)| blank_arm(arm, format!("simulated: {}", arm.about()), scenario));
        let environment = Environment::read().of_the_program();
        let comparison = Comparison {
            simulated: true,
            ..blank(options, scenario, blank_arms.collect(), environment)
        };
        let bound = Bound {
            about: "simulated: one first-come-first-served queue, the same draws".into(),
            overhead_ns: 0,
            delay_ns: 2 * rtt_ns(scenario),
            short: Vec::new(),
            all: Vec::new(),
            deviation_ns: Vec::new(),
            cdf: Vec::new(),
        };
        Self {
            scenario,
            seeds: options.seed..options.seed + options.rounds as u64,
            arms,
            interrupted,
            comparison,
            short: vec![Vec::new(); arms.len() + 1],
            bound,
        }
    }

    /// Every round; what ends it early is noted in the result.
    fn complete(mut self) -> Result<Comparison> {
        super::table::announce(&self.comparison);
        for seed in self.seeds.clone() {
            if let Err(error) = self.round(seed) {
                self.comparison.incomplete = Some(format!("{error:#}"));
                break;
            }
        }
        let Self {
            mut comparison,
            mut bound,
            short,
            ..
        } = self;
        for (arm, short) in comparison.arms.iter_mut().zip(&short) {
            arm.cdf = over_rounds(short);
        }
        if let (false, Some(short)) = (bound.short.is_empty(), short.last()) {
            bound.cdf = over_rounds(short);
            comparison.bound = Some(bound);
        }
        judge::judge(&mut comparison);
        say_simulated(&mut comparison);
        Ok(comparison)
    }

    fn round(&mut self, seed: u64) -> Result<()> {
        let model = Model {
            workers: self.scenario.workers,
            service: self.scenario.service,
            overhead_ns: 0,
            rtt_ns: rtt_ns(self.scenario),
            seed,
        };
        let arms: Vec<simulate::Dispatch> = self.arms.iter().map(|(_, arm)| *arm).collect();
        let go_on = |_: &Draw| !self.interrupted.load(Ordering::Relaxed);
        let draws = || draws(self.scenario, seed).take_while(go_on);
        let table = simulate::compare(&model, &arms, draws)?;
        // It has been cut short.
        ensure!(
            !self.interrupted.load(Ordering::Relaxed),
            "it was interrupted"
        );
        println!("\nseed {seed}\n{table}");
        let all = arms.iter().chain([&simulate::Dispatch::SINGLE_QUEUE]);
        for (nth, arm) in all.enumerate() {
            // An arm that is the single queue itself is simulated once.
            if let Some((_, outcome)) = table.rows.iter().find(|(ran, _)| ran == arm) {
                self.keep(nth, seed, outcome);
            }
        }
        Ok(())
    }

    fn keep(&mut self, nth: usize, seed: u64, outcome: &Outcome) {
        self.short[nth].push(outcome.short_latencies.clone());
        let Some(arm) = self.comparison.arms.get_mut(nth) else {
            self.bound.short.push(outcome.short);
            self.bound.all.push(outcome.all);
            self.bound.deviation_ns.push(outcome.deviation_ns);
            return;
        };
        for (sum, accepts) in arm.accepts.iter_mut().zip(&outcome.accepts) {
            *sum += accepts;
        }
        arm.rounds.push(round(seed, outcome));
    }
}

fn rtt_ns(scenario: &Scenario) -> u64 {
    scenario.rtt.map_or(0, |rtt| rtt.as_nanos() as u64)
}

/// One by one: there may be more than fit into memory.
fn draws(scenario: &Scenario, seed: u64) -> Box<dyn Iterator<Item = Draw>> {
    let Scenario {
        service, duration, ..
    } = *scenario;
    let end_ns = duration.as_nanos() as u64;
    match scenario.arrivals {
        Arrivals::Poisson(rate) => {
            let draws = endless(seed, rate, service);
            Box::new(draws.take_while(move |draw| draw.at_ns < end_ns))
        }
        Arrivals::Burst(size, rate) => {
            Box::new(burst(seed, rate, size, duration, service).into_iter())
        }
        Arrivals::Closed(_) => Box::new(std::iter::empty()),
    }
}

fn round(seed: u64, outcome: &Outcome) -> Round {
    let accepts = &outcome.accepts;
    Round {
        seed,
        requests: outcome.all.count,
        lost: 0,
        short: outcome.short,
        all: outcome.all,
        deviation_ns: outcome.deviation_ns,
        accepts: accepts.clone(),
        accepts_cv: coefficient_of_variation(accepts),
        accepts_max_over_mean: max_over_mean(accepts),
        accepts_jain: jain(accepts),
        live_gap: None,
        served: None,
        cpu_ns_per_request: 0.0,
        lateness: Summary::default(),
        accept_delay_p50_ns: None,
        accept_delay_p99_ns: None,
        hypervisor_share: 0.0,
        repeats: 0,
    }
}

/// In the sentence that is read first, and instead of the control's.
fn say_simulated(comparison: &mut Comparison) {
    let rounds = comparison.arms.iter().map(|arm| arm.rounds.len()).max();
    if let Some(first) = comparison.verdict.first_mut() {
        *first = format!("Simulated, not measured: {first}");
    }
    comparison.verdict.push(format!(
        "There is no A/A control, the same draws would give the same figures; the confidence is \
         over {} seeds. A request costs nothing beyond its service time here, and workers never \
         wait for a core.",
        rounds.unwrap_or(0)
    ));
}
