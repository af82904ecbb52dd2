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

use crate::measure::result::{ArmResult, Comparison, SCHEMA, ScenarioRecord};

use arm::Arm;
use files::Folder;
use run::{Overheads, Run};
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
    let mut overheads = Overheads::new();
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
            if !comparison.is_usable() {
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
    arms: Vec<ArmResult>,
    environment: Vec<(String, String)>,
) -> Comparison {
    Comparison {
        schema: SCHEMA,
        incomplete: None,
        simulated: false,
        began: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        command: asked.command.clone(),
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
