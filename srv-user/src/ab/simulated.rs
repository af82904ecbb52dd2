//! `srv ab --simulate`: the scenarios before simulated workers, for what this
//! machine is too small to run.

use anyhow::{Result, ensure};

use super::Asked;
use super::arm::{self, Arm};
use super::scenario::{self, Arrivals, Keeping, Scenario};
use crate::arrivals::endless;
use crate::simulate::{self, Model};

/// Simulates what was asked for and prints a table for each scenario.
///
/// # Errors
/// A scenario or an arm is beyond what the simulation knows.
pub fn run(asked: &Asked) -> Result<()> {
    let arms = match asked.arms.as_str() {
        arm::DEFAULT => vec![
            Arm::by_name("hash")?,
            Arm::by_name("least")?,
            Arm::by_name("least+ring")?,
        ],
        names => arm::list(names)?,
    };
    // No control: it would be the very same.
    let arms = arms
        .iter()
        .map(Arm::simulated)
        .collect::<Result<Vec<_>>>()?;
    for name in &asked.scenarios {
        let scenario = asked.applied_to(scenario::by_name(name)?)?;
        scenario.check(asked.overload)?;
        print(&scenario, &arms, asked.seed)?;
    }
    Ok(())
}

fn print(scenario: &Scenario, arms: &[simulate::Arm], seed: u64) -> Result<()> {
    let Arrivals::Poisson(rate) = scenario.arrivals else {
        anyhow::bail!(
            "scenario {}: only Poisson arrivals are simulated",
            scenario.name
        );
    };
    ensure!(
        scenario.connections == Keeping::PerRequest && scenario.mishap.is_none(),
        "scenario {}: kept connections and mishaps are not simulated",
        scenario.name
    );
    let model = Model {
        workers: scenario.workers,
        service: scenario.service,
        overhead_ns: 0,
        rtt_ns: scenario.rtt.map_or(0, |rtt| rtt.as_nanos() as u64),
        seed,
    };
    println!("scenario {}, simulated: {}", scenario.name, scenario.about);
    for (label, value) in scenario.parameters() {
        println!("  {label}: {value}");
    }
    let end_ns = scenario.duration.as_nanos() as u64;
    let draws =
        || endless(seed, rate, scenario.service).take_while(move |draw| draw.at_ns < end_ns);
    println!("{}", simulate::compare(&model, arms, draws)?);
    Ok(())
}
