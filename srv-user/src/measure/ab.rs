//! `srv ab`: an A/B comparison of ways of distributing connections. Arms take
//! turns in rounds, each time in fresh processes, all with the same draws, the
//! first one twice as the control. This file owns the order of things:
//! [`scenario`] is what is asked ([`capacity`] whether this machine can), [`arm`] who answers, [`mod@measure`] one arm in
//! one round, [`overhead`] what the limit is given, [`judge`] what it comes to,
//! [`files`] and [`table`] where it goes.

pub mod args;
pub mod arm;
mod capacity;
pub mod compare;
mod distribution;
pub mod doubts;
pub mod files;
pub mod judge;
pub mod measure;
pub mod overhead;
mod roles;
pub mod scenario;
pub mod simulated;
pub mod table;
mod verdict;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};

use crate::measure::arrivals::{Draw, Service};
use crate::measure::baseline::others;
use crate::measure::bound;
use crate::measure::delay_line::DelayLine;
use crate::measure::environment::Environment;
use crate::measure::load::Record;
use crate::measure::result::{self, Comparison, Limit, Round, SCHEMA};
use crate::measure::stats::{Summary, deviation};

use arm::Arm;
use distribution::{Sorted, over_rounds};
use files::Folder;
use measure::{Measured, Plan, live, measure};
use overhead::Overhead;
use scenario::{Arrivals, Keeping, Scenario};

/// What was asked for; `None`: as the scenario says.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Names of scenarios; none: [`scenario::DEFAULT`], or what of it can be simulated.
    pub scenarios: Vec<String>,
    /// Names of arms, separated by commas.
    pub arms: String,
    /// How often each arm runs.
    pub rounds: usize,
    /// How often runs are repeated that the hypervisor disturbed.
    pub repeats: usize,
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
    /// Connections that are kept.
    pub kept: Option<usize>,
    /// Whether the handler burns CPU instead of sleeping.
    pub spin: bool,
    /// Whether arms may be left out because this process cannot steer.
    pub unsteered: bool,
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
    let scenarios = asked.scenarios(&scenario::DEFAULT)?;
    let arms = arm::list(&asked.arms)?;
    for scenario in &scenarios {
        capacity::check(scenario)?;
    }
    if !asked.unsteered {
        arm::ensure_can_steer(&arms)?;
    }
    let interrupted = catch_interrupt()?;
    let mut overheads = BTreeMap::new();
    asked.each(&scenarios, |scenario, folder| {
        Run::new(asked, scenario, &arms, &interrupted, &mut overheads).complete(folder)
    })
}

impl Asked {
    /// Makes a comparison of each scenario, in a folder of its own, and writes
    /// and prints what it comes to.
    fn each(
        &self,
        scenarios: &[Scenario],
        mut compare: impl FnMut(&Scenario, &Folder) -> Result<Comparison>,
    ) -> Result<ExitCode> {
        let mut code = ExitCode::SUCCESS;
        for scenario in scenarios {
            let folder = match scenarios.len() {
                1 => self.out.clone(),
                _ => self.out.join(scenario.name),
            };
            let folder = Folder::create(folder)?;
            let comparison = compare(scenario, &folder)?;
            folder.write_report(&comparison)?;
            table::conclude(&comparison);
            println!("\n{}\n", folder.about());
            if let Some(why) = &comparison.incomplete {
                eprintln!("srv: scenario {} is incomplete: {why}", scenario.name);
                return Ok(ExitCode::FAILURE);
            }
            if doubts::is_unusable(&comparison) {
                code = ExitCode::from(2);
            }
        }
        Ok(code)
    }

    /// The scenarios that were asked for, else those `by_default`, with what is to be
    /// different.
    fn scenarios(&self, by_default: &[&str]) -> Result<Vec<Scenario>> {
        let mut scenarios = Vec::new();
        let names = self.scenarios.iter().map(String::as_str);
        let names: Vec<&str> = match self.scenarios.is_empty() {
            true => by_default.to_vec(),
            false => names.collect(),
        };
        for name in names {
            let scenario = self.applied_to(scenario::by_name(name)?)?;
            scenario.check(self.overload)?;
            scenarios.push(scenario);
        }
        ensure!(self.rounds > 0, "--rounds 0 would measure nothing");
        Ok(scenarios)
    }

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
        if let Some(count) = self.kept {
            ensure!(
                count > 0 && scenario.connections != Keeping::PerRequest,
                "--kept {count}: scenario {} keeps no connections, or none would be kept",
                scenario.name
            );
            scenario.connections = Keeping::Kept(count);
        }
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

/// A comparison in which nothing has been measured yet.
fn blank(
    asked: &Asked,
    scenario: &Scenario,
    arms: Vec<result::Arm>,
    environment: Vec<(String, String)>,
) -> Comparison {
    Comparison {
        schema: SCHEMA,
        incomplete: None,
        simulated: false,
        began: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        command: asked.command.clone(),
        environment,
        scenario: result::Scenario {
            name: scenario.name.into(),
            about: scenario.about.into(),
            parameters: scenario.parameters(),
            workers: scenario.workers,
            key: scenario.key,
        },
        arms,
        limit: None,
        others: None,
        ratios: Vec::new(),
        verdict: Vec::new(),
        doubts: Vec::new(),
    }
}

fn blank_arm(arm: &Arm, about: String, scenario: &Scenario) -> result::Arm {
    result::Arm {
        name: arm.name.clone(),
        about,
        left_out: None,
        rounds: Vec::new(),
        cdf: Vec::new(),
        accepts: vec![0; scenario.workers],
        live: None,
    }
}

/// A run in progress.
struct Run<'a> {
    asked: &'a Asked,
    scenario: &'a Scenario,
    arms: Vec<Arm>,
    interrupted: &'a AtomicBool,
    comparison: Comparison,
    /// By arm and round: the short requests' latencies.
    short_ns: Vec<Vec<Vec<u64>>>,
    plans: Vec<Plan>,
    overhead: Overhead,
    /// Those that are known, by the arm's name, whether it burns CPU, whether it does nothing.
    overheads: &'a mut BTreeMap<(String, bool, bool), Overhead>,
}

impl<'a> Run<'a> {
    fn new(
        asked: &'a Asked,
        scenario: &'a Scenario,
        arms: &'a [Arm],
        interrupted: &'a AtomicBool,
        overheads: &'a mut BTreeMap<(String, bool, bool), Overhead>,
    ) -> Self {
        let mut arms = arms.to_vec();
        // The first that can run is compared with the others, and is the control.
        if let Some(first) = arms.iter().find(|arm| arm.obstacle(scenario).is_none()) {
            arms.insert(arms.len() / 2 + 1, first.again());
        }
        let blank_arms = arms.iter().map(|arm| result::Arm {
            left_out: arm.obstacle(scenario),
            ..blank_arm(arm, arm.about(), scenario)
        });
        let environment = Environment::read().labelled();
        let comparison = blank(asked, scenario, blank_arms.collect(), environment);
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
        let watch = others::Watch::begin()?;
        if let Err(error) = self.rounds(folder) {
            self.comparison.incomplete = Some(format!("{error:#}"));
        }
        self.comparison.others = Some(watch.end()?);
        self.sum_up();
        Ok(self.comparison)
    }

    fn rounds(&mut self, folder: &Folder) -> Result<()> {
        let path = match self.scenario.rtt {
            Some(rtt) => Some(DelayLine::new(rtt)?),
            None => None,
        };
        let able = |nth: &usize| self.comparison.arms[*nth].left_out.is_none();
        if let Some(nth) = (0..self.arms.len()).find(able) {
            self.overhead = self.overhead_of(nth)?;
        }
        for round in 0..self.asked.rounds {
            let plan = Plan::of(self.scenario, self.asked.seed + round as u64);
            self.plans.push(plan);
            // Each round begins with another arm, so that none always follows
            // the same neighbour.
            for step in 0..self.arms.len() {
                let nth = (round + step) % self.arms.len();
                if self.comparison.arms[nth].left_out.is_none() {
                    self.one(nth, round, path.as_ref(), folder)?;
                }
            }
        }
        // After all others: a hypervisor takes its time for seconds or minutes.
        for _ in 0..self.asked.repeats {
            for (nth, round) in self.disturbed() {
                self.one(nth, round, path.as_ref(), folder)?;
            }
        }
        Ok(())
    }

    /// Arm and round of what the hypervisor disturbed. It is told by what it took,
    /// not by what came out: no arm can gain by a repeat.
    fn disturbed(&self) -> Vec<(usize, usize)> {
        let arms = self.comparison.arms.iter().enumerate();
        arms.flat_map(|(nth, arm)| {
            let rounds = arm.rounds.iter().enumerate();
            let disturbed = rounds.filter(|(_, figures)| figures.is_disturbed());
            disturbed.map(move |(round, _)| (nth, round))
        })
        .collect()
    }

    fn overhead_of(&mut self, nth: usize) -> Result<Overhead> {
        let arm = &self.arms[nth];
        let does_nothing = self.scenario.service == Service::Fixed(0);
        let key = (arm.name.clone(), self.scenario.spins, does_nothing);
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
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("it was interrupted");
        }
        let arm = &self.arms[nth];
        let measured = measure(arm, self.scenario, &self.plans[round], path);
        if self.interrupted.load(Ordering::Relaxed) {
            // The servers were interrupted by the same key.
            bail!("it was interrupted");
        }
        let Measured {
            round: mut figures,
            run,
        } = measured?;
        println!(
            "  round {} of {}, {}: {} {:.2} ms, {} requests, {:.1} % of the CPUs taken by the hypervisor{}",
            round + 1,
            self.asked.rounds,
            arm.name,
            self.scenario.key.name(),
            self.scenario.key.of(&figures) / 1e6,
            figures.requests,
            figures.hypervisor_share * 100.0,
            run.first_error
                .as_ref()
                .map_or_else(String::new, |error| format!(", first error: {error}")),
        );
        folder.write_samples(&arm.name, round, &run)?;
        let is_short = |record: &&Record| self.scenario.service.is_short(record.service_us);
        let judged = measure::judged(self.scenario, &run.records);
        let short = judged.iter().filter(is_short).map(Record::latency_ns);
        let short = short.collect();
        let out = &mut self.comparison.arms[nth];
        if round == 0 {
            out.live = live(&run.records, self.scenario.workers);
        }
        match out.rounds.get_mut(round) {
            None => {
                out.rounds.push(figures);
                self.short_ns[nth].push(short);
            }
            Some(before) => {
                figures.repeats = before.repeats + 1;
                *before = figures;
                self.short_ns[nth][round] = short;
            }
        }
        Ok(())
    }

    fn sum_up(&mut self) {
        for (arm, short_ns) in self.comparison.arms.iter_mut().zip(&mut self.short_ns) {
            let short = std::mem::take(short_ns).into_iter().map(Sorted::new);
            let short: Vec<Sorted> = short.collect();
            let all_disturbed = arm.rounds.iter().all(Round::is_disturbed);
            let judged = arm.rounds.iter().zip(&short);
            arm.cdf = over_rounds(judged.filter_map(|(round, short)| {
                (all_disturbed || !round.is_disturbed()).then_some(short)
            }));
            for round in &arm.rounds {
                for (sum, accepts) in arm.accepts.iter_mut().zip(&round.accepts) {
                    *sum += accepts;
                }
            }
        }
        if !self.plans.is_empty() {
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
        let workers = self.scenario.workers;
        let replay = |plan: &Plan| -> Vec<(Draw, u64)> {
            let served = match self.scenario.closed(plan.seed) {
                Some(closed) => {
                    let mut sent = bound::replay_closed(&closed, workers, occupies_ns, delay_ns);
                    sent.split_off(closed.clients.min(sent.len()))
                }
                None => {
                    let latencies = bound::replay(&plan.draws, workers, occupies_ns);
                    plan.draws.iter().copied().zip(latencies).collect()
                }
            };
            let delayed = served.into_iter().map(|(draw, ns)| (draw, ns + delay_ns));
            delayed.collect()
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
            deviation_ns: Vec::new(),
            cdf: Vec::new(),
        };
        let mut short_by_round = Vec::new();
        for plan in &self.plans {
            let latencies = replay(plan);
            let short = latencies.iter().filter(|(draw, _)| is_short(draw));
            let short: Vec<u64> = short.map(|(_, ns)| *ns).collect();
            limit.short.push(Summary::of(short.iter().copied()));
            let all = || latencies.iter().map(|(_, ns)| *ns);
            limit.all.push(Summary::of(all()));
            limit
                .deviation_ns
                .push(deviation(all().map(|ns| ns as f64)));
            short_by_round.push(Sorted::new(short));
        }
        limit.cdf = over_rounds(&short_by_round);
        limit
    }
}
