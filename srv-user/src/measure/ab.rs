//! `srv ab`: an A/B comparison of ways of distributing connections. Arms run one after
//! another in rounds, each time in fresh processes, all with the same draws. The first one
//! runs twice, as the control. This file owns what was asked for, and the order of scenarios.
//!
//! [`scenario`] is what is asked of each arm, and [`capacity`] whether this machine can
//! generate it. [`arm`] is what answers ([`baselines`], if it is not srv), [`mod@run`] the rounds, [`mod@measure`] one arm in one
//! round. [`single_queue`] is the bound, with the overhead that [`overhead`] measures.
//! [`judge`] draws the conclusion, and [`files`] and [`table`] write and print it.

pub mod args;
pub mod arm;
mod baselines;
mod capacity;
pub mod compare;
mod doubts;
pub mod files;
pub mod judge;
pub mod measure;
pub mod overhead;
mod roles;
mod run;
pub mod scenario;
pub mod simulated;
mod single_queue;
pub mod table;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};

use crate::measure::load::Connections;
use crate::measure::result::{ArmResult, Comparison, SCHEMA, ScenarioRecord};

use arm::Arm;
use files::Folder;
use run::{Overheads, Run};
use scenario::{Arrivals, Scenario};

/// What was asked for. `None` means: as the scenario says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of scenarios. If there is none: [`scenario::DEFAULT`], or what of it can be
    /// simulated.
    pub scenarios: Vec<String>,
    /// Names of arms, separated by commas.
    pub arms: String,
    /// How often each arm runs.
    pub rounds: usize,
    /// How often a run is repeated that the hypervisor disturbed.
    pub repeats: usize,
    /// Seed of the first round. Each further round has the next number.
    pub seed: u64,
    /// Requests per second.
    pub rate: Option<f64>,
    /// How long a round lasts.
    pub duration: Option<Duration>,
    /// Worker processes of each arm.
    pub workers: Option<usize>,
    /// The delay of the client's path, both ways together.
    pub rtt: Option<Duration>,
    /// Keep-alive connections, in scenarios that have them.
    pub keep_alive: Option<usize>,
    /// Whether the handler burns CPU instead of sleeping.
    pub spin: bool,
    /// Whether arms may be left out because this process cannot steer.
    pub unsteered: bool,
    /// Whether more may be asked for than can be done.
    pub overload: bool,
    /// The folder for the result.
    pub out: PathBuf,
    /// The command line, as typed.
    pub command: String,
}

/// Runs each scenario that was asked for.
///
/// # Errors
/// If what was asked for makes no sense or cannot be run here, before anything starts. If
/// an arm fails, after what was measured has been written.
pub fn run(options: &Options) -> Result<ExitCode> {
    let scenarios = options.scenarios(&scenario::DEFAULT)?;
    let arms = arm::list(&options.arms)?;
    for scenario in &scenarios {
        capacity::check(scenario)?;
    }
    if !options.unsteered {
        arm::ensure_can_steer(&arms)?;
    }
    let interrupted = catch_interrupt()?;
    let mut overheads = Overheads::new();
    options.each(&scenarios, |scenario, folder| {
        Run::new(options, scenario, &arms, &interrupted, &mut overheads).complete(folder)
    })
}

impl Options {
    /// Makes a comparison of each scenario, in a folder of its own, and writes
    /// and prints the conclusion.
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
            if !comparison.is_usable() {
                code = ExitCode::from(2);
            }
        }
        Ok(code)
    }

    /// The scenarios that were asked for, or else those `by_default`, with the options
    /// applied.
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

    /// `scenario` with the options applied.
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
        if let Some(count) = self.keep_alive {
            ensure!(
                count > 0 && scenario.connections != Connections::PerRequest,
                "--kept {count}: scenario {} has a new connection for each request, or the count is 0",
                scenario.name
            );
            scenario.connections = Connections::Pool(count);
        }
        scenario.spins |= self.spin;
        Ok(scenario)
    }
}

/// From now on SIGINT and SIGTERM set the flag, at which the run ends as soon as it can.
fn catch_interrupt() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone()).context("catch signals")?;
    }
    Ok(interrupted)
}

/// A comparison in which nothing has been measured yet.
fn blank(
    options: &Options,
    scenario: &Scenario,
    arms: Vec<ArmResult>,
    environment: Vec<(String, String)>,
) -> Comparison {
    Comparison {
        schema: SCHEMA,
        incomplete: None,
        simulated: false,
        began: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        command: options.command.clone(),
        environment,
        scenario: ScenarioRecord {
            name: scenario.name.into(),
            about: scenario.about.into(),
            parameters: scenario.parameters(),
            workers: scenario.workers,
            key: scenario.key,
        },
        arms,
        bound: None,
        others: None,
        ratios: Vec::new(),
        verdict: Vec::new(),
        doubts: Vec::new(),
    }
}

fn blank_arm(arm: &Arm, about: String, scenario: &Scenario) -> ArmResult {
    ArmResult {
        name: arm.name.clone(),
        role: arm.role,
        about,
        left_out: None,
        rounds: Vec::new(),
        cdf: Vec::new(),
        accepts: vec![0; scenario.workers],
        live: None,
    }
}
