//! `srv ab`: an A/B comparison of ways of distributing connections. Arms take
//! turns in rounds, each time in fresh processes, all with the same draws, the
//! first one twice as the control. This file owns the order of things:
//! [`scenario`] is what is asked ([`capacity`] whether this machine can), [`arm`] who answers, [`mod@measure`] one arm in
//! one round, [`overhead`] what the limit is given, [`judge`] what it comes to,
//! [`files`] and [`table`] where it goes.

pub mod arm;
mod capacity;
pub mod compare;
pub mod files;
pub mod judge;
pub mod measure;
pub mod overhead;
pub mod scenario;
pub mod simulated;
pub mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};

use crate::arrivals::Draw;
use crate::delay_line::DelayLine;
use crate::environment::Environment;
use crate::limit;
use crate::load::Record;
use crate::result::{self, Comparison, Limit, SCHEMA};
use crate::stats::Summary;

use arm::Arm;
use files::Folder;
use measure::{Measured, Plan, cdf, live, measure};
use overhead::Overhead;
use scenario::{Arrivals, Scenario};

/// What was asked for; `None`: as the scenario says.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Names of scenarios.
    pub scenarios: Vec<String>,
    /// Names of arms, separated by commas.
    pub arms: String,
    /// How often each arm runs.
    pub rounds: usize,
    /// Of the first round; the next has the next.
    pub seed: u64,
    /// Requests per second.
    pub rate: Option<f64>,
    /// Of a round.
    pub duration: Option<Duration>,
    /// Worker processes of each arm.
    pub workers: Option<usize>,
    /// Of the client's path.
    pub rtt: Option<Duration>,
    /// Whether the handler burns CPU instead of sleeping.
    pub spin: bool,
    /// Whether more may be asked for than can be done.
    pub overload: bool,
    /// Where it goes.
    pub out: PathBuf,
    /// As typed.
    pub command: String,
}

/// Runs each scenario that was asked for.
///
/// # Errors
/// What was asked for makes no sense or cannot be run here: before anything
/// starts. An arm fails: after what was measured has been written.
pub fn run(asked: &Asked) -> Result<ExitCode> {
    let mut scenarios = Vec::new();
    for name in &asked.scenarios {
        let scenario = asked.applied_to(scenario::by_name(name)?)?;
        scenario.check(asked.overload)?;
        scenarios.push(scenario);
    }
    ensure!(asked.rounds > 0, "--rounds 0 would measure nothing");
    let arms = arm::list(&asked.arms)?;
    for scenario in &scenarios {
        capacity::check(scenario)?;
    }
    let interrupted = catch_interrupt()?;
    let mut code = ExitCode::SUCCESS;
    let mut overheads = BTreeMap::new();
    for scenario in &scenarios {
        let folder = match scenarios.len() {
            1 => asked.out.clone(),
            _ => asked.out.join(scenario.name),
        };
        let folder = Folder::create(folder)?;
        let run = Run::new(asked, scenario, &arms, &interrupted, &mut overheads);
        let comparison = run.complete(&folder)?;
        folder.write_report(&comparison)?;
        table::conclude(&comparison);
        println!("\n{}\n", folder.about());
        if let Some(why) = &comparison.incomplete {
            eprintln!("srv: scenario {} is incomplete: {why}", scenario.name);
            return Ok(ExitCode::FAILURE);
        }
        if judge::is_unusable(&comparison) {
            code = ExitCode::from(2);
        }
    }
    Ok(code)
}

impl Asked {
    /// `scenario` with what was asked for differently.
    fn applied_to(&self, mut scenario: Scenario) -> Result<Scenario> {
        if let Some(rate) = self.rate {
            ensure!(
                rate.is_finite() && rate > 0.0,
                "--rate {rate}: expected requests per second above 0"
            );
            match &mut scenario.arrivals {
                Arrivals::Poisson(per_second) | Arrivals::Burst(_, per_second) => {
                    *per_second = rate;
                }
                Arrivals::Closed(_) => bail!(
                    "--rate {rate}: scenario {} is a closed loop, its clients set the rate",
                    scenario.name
                ),
            }
        }
        scenario.duration = self.duration.unwrap_or(scenario.duration);
        scenario.workers = self.workers.unwrap_or(scenario.workers);
        scenario.rtt = self.rtt.or(scenario.rtt);
        scenario.spins |= self.spin;
        Ok(scenario)
    }
}

/// Ends the run at the next opportunity instead of this process at once.
fn catch_interrupt() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone()).context("catch signals")?;
    }
    Ok(interrupted)
}

/// A run in progress.
struct Run<'a> {
    asked: &'a Asked,
    scenario: &'a Scenario,
    arms: Vec<Arm>,
    interrupted: &'a AtomicBool,
    comparison: Comparison,
    /// By arm: the short requests' latencies, all rounds together.
    short_ns: Vec<Vec<u64>>,
    plans: Vec<Plan>,
    overhead: Overhead,
    /// Those that are known, by the arm's name and whether it burns CPU.
    overheads: &'a mut BTreeMap<(String, bool), Overhead>,
}

impl<'a> Run<'a> {
    fn new(
        asked: &'a Asked,
        scenario: &'a Scenario,
        arms: &'a [Arm],
        interrupted: &'a AtomicBool,
        overheads: &'a mut BTreeMap<(String, bool), Overhead>,
    ) -> Self {
        let mut arms = arms.to_vec();
        // The first that can run is compared with the others, and is the control.
        if let Some(first) = arms.iter().find(|arm| arm.obstacle(scenario).is_none()) {
            arms.insert(arms.len() / 2 + 1, first.again());
        }
        let blank = |arm: &Arm| result::Arm {
            name: arm.name.clone(),
            about: arm.about(),
            left_out: arm.obstacle(scenario),
            rounds: Vec::new(),
            cdf: Vec::new(),
            accepts: vec![0; scenario.workers],
            live: None,
        };
        let comparison = Comparison {
            schema: SCHEMA,
            incomplete: None,
            began: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            command: asked.command.clone(),
            environment: Environment::read().labelled(),
            scenario: result::Scenario {
                name: scenario.name.into(),
                about: scenario.about.into(),
                parameters: scenario.parameters(),
                workers: scenario.workers,
            },
            arms: arms.iter().map(blank).collect(),
            limit: None,
            ratios: Vec::new(),
            verdict: Vec::new(),
            doubts: Vec::new(),
        };
        Self {
            asked,
            scenario,
            short_ns: vec![Vec::new(); arms.len()],
            arms,
            interrupted,
            comparison,
            plans: Vec::new(),
            overhead: Overhead::default(),
            overheads,
        }
    }

    /// Runs every round of every arm; what ends it early is noted in the result.
    fn complete(mut self, folder: &Folder) -> Result<Comparison> {
        table::announce(&self.comparison);
        let able = self.comparison.arms.iter();
        ensure!(
            able.filter(|arm| arm.left_out.is_none()).count() > 0,
            "scenario {}: no arm can run here",
            self.scenario.name
        );
        if let Err(error) = self.rounds(folder) {
            self.comparison.incomplete = Some(format!("{error:#}"));
        }
        self.sum_up();
        Ok(self.comparison)
    }

    fn rounds(&mut self, folder: &Folder) -> Result<()> {
        let path = match self.scenario.rtt {
            Some(rtt) => Some(DelayLine::new(rtt)?),
            None => None,
        };
        if self.has_limit() {
            let able = |nth: &usize| self.comparison.arms[*nth].left_out.is_none();
            let nth = (0..self.arms.len()).find(able);
            if let Some(nth) = nth {
                self.overhead = self.overhead_of(nth)?;
            }
        }
        for round in 0..self.asked.rounds {
            let plan = Plan::of(self.scenario, self.asked.seed + round as u64);
            self.plans.push(plan);
            // Each round begins with another arm, so that none always follows
            // the same neighbour.
            for step in 0..self.arms.len() {
                let nth = (round + step) % self.arms.len();
                if self.comparison.arms[nth].left_out.is_some() {
                    continue;
                }
                if self.interrupted.load(Ordering::Relaxed) {
                    bail!("it was interrupted");
                }
                self.one(nth, round, path.as_ref(), folder)?;
            }
        }
        Ok(())
    }

    fn overhead_of(&mut self, nth: usize) -> Result<Overhead> {
        let arm = &self.arms[nth];
        let key = (arm.name.clone(), self.scenario.spins);
        if let Some(known) = self.overheads.get(&key) {
            return Ok(*known);
        }
        println!("  measuring what a request costs beyond its service time");
        let overhead = Overhead::measure(arm, self.scenario)?;
        self.overheads.insert(key, overhead);
        Ok(overhead)
    }

    fn one(
        &mut self,
        nth: usize,
        round: usize,
        path: Option<&DelayLine>,
        folder: &Folder,
    ) -> Result<()> {
        let arm = &self.arms[nth];
        let measured = measure(arm, self.scenario, &self.plans[round], path);
        if self.interrupted.load(Ordering::Relaxed) {
            // The servers were interrupted by the same key.
            bail!("it was interrupted");
        }
        let Measured {
            round: figures,
            run,
        } = measured?;
        println!(
            "  round {} of {}, {}: short p99 {:.2} ms, {} requests{}",
            round + 1,
            self.asked.rounds,
            arm.name,
            figures.short.p99_ns as f64 / 1e6,
            figures.requests,
            run.first_error
                .as_ref()
                .map_or_else(String::new, |error| format!(", first error: {error}")),
        );
        folder.write_samples(&arm.name, round, &run)?;
        let is_short = |record: &&Record| self.scenario.service.is_short(record.service_us);
        let short = run.records.iter().filter(is_short).map(Record::latency_ns);
        self.short_ns[nth].extend(short);
        let out = &mut self.comparison.arms[nth];
        for (sum, accepts) in out.accepts.iter_mut().zip(&figures.accepts) {
            *sum += accepts;
        }
        if round == 0 {
            out.live = live(&run.records, self.scenario.workers);
        }
        out.rounds.push(figures);
        Ok(())
    }

    /// Whether one queue has a meaning: not where clients wait for answers.
    fn has_limit(&self) -> bool {
        !matches!(self.scenario.arrivals, Arrivals::Closed(_))
    }

    fn sum_up(&mut self) {
        for (arm, short_ns) in self.comparison.arms.iter_mut().zip(&mut self.short_ns) {
            arm.cdf = cdf(std::mem::take(short_ns));
        }
        if self.has_limit() && !self.plans.is_empty() {
            self.comparison.limit = Some(self.limit());
        }
        judge::judge(&mut self.comparison);
    }

    fn limit(&self) -> Limit {
        let Overhead {
            occupies_ns,
            delays_ns,
        } = self.overhead;
        let rtt_ns = self.scenario.rtt.map_or(0, |rtt| rtt.as_nanos() as u64);
        // The handshake takes one, the request and its answer another.
        let delay_ns = delays_ns + 2 * rtt_ns;
        let replay = |plan: &Plan| -> Vec<(Draw, u64)> {
            let latencies = limit::replay(&plan.draws, self.scenario.workers, occupies_ns);
            let delayed = latencies.into_iter().map(|ns| ns + delay_ns);
            plan.draws.iter().copied().zip(delayed).collect()
        };
        let is_short = |draw: &Draw| self.scenario.service.is_short(draw.service_us);
        let mut limit = Limit {
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
            cdf: Vec::new(),
        };
        let mut short_ns = Vec::new();
        for plan in &self.plans {
            let latencies = replay(plan);
            let short = latencies.iter().filter(|(draw, _)| is_short(draw));
            let short: Vec<u64> = short.map(|(_, ns)| *ns).collect();
            limit.short.push(Summary::of(short.iter().copied()));
            limit
                .all
                .push(Summary::of(latencies.iter().map(|(_, ns)| *ns)));
            short_ns.extend(short);
        }
        limit.cdf = cdf(short_ns);
        limit
    }
}
