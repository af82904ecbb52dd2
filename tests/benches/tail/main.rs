//! `bench tail`: how long short requests wait behind long ones, and how evenly
//! workers share, for every way of handing connections to workers that srv
//! has, for nginx's two, and for the single-queue bound: what
//! `srv ab` measures, held against targets. The handler *blocks*, so that the
//! queueing is real on any number of cores.

mod measure;
mod report;

use std::time::Duration;

use anyhow::Result;
use clap::Parser as _;
use srv::measure::ab::arm::{self, Arm};
use srv::measure::ab::measure::Plan;
use srv::measure::ab::overhead::Overhead;
use srv::measure::ab::scenario::{self, Arrivals, Scenario};
use srv_tests::arguments::ArmArguments;
use srv_tests::arm::in_round;
use srv_tests::report::Raw;

use measure::{Homes, Sample};

/// How often the blocking handler is called per second.
pub const BLOCKING_RATES: [f64; 2] = [3700.0, 2400.0];
/// In how many rounds keep-alive connections are opened.
const HOMES_ROUNDS: usize = 3;
/// Keep-alive connections whose homes are counted.
pub const KEEP_ALIVE: [usize; 2] = [256, 32];

/// In this order in the tables; the control is added.
const ARMS: &str = "hash,least,ring,shared,nginx,nginx-reuseport,least+ring";
/// The arm that is judged.
pub const SUBJECT: &str = "least+ring";
/// The same once more, as the control.
pub const CONTROL: &str = "least+ring (control)";
/// The arm that waits where the hash sent it.
pub const HASH: &str = "hash";
/// nginx as it comes.
pub const NGINX_SHARED: &str = "nginx";
/// nginx with a socket per worker.
pub const NGINX_REUSEPORT: &str = "nginx-reuseport";

/// How much is measured: of the blocking handler, and of the cheap one, whose means are
/// so much alike that it takes more rounds to tell them apart.
struct Extent {
    blocking_seeds: u64,
    blocking: Duration,
    cheap_seeds: u64,
    cheap: Duration,
}

fn main() -> Result<()> {
    let arguments = ArmArguments::parse();
    let extent = if arguments.common.quick {
        Extent::new([1, 1], [2, 1])
    } else {
        Extent::new([5, 9], [5, 2])
    };
    let mut raw = Raw::create("tail")?;
    let mut arms = arms()?;
    arms.retain(|arm| arm.name.contains(&arguments.arms));
    let blocking = Scenario {
        duration: extent.blocking,
        ..scenario::by_name("bimodal")?
    };
    let cheap = Scenario {
        duration: extent.cheap,
        ..scenario::by_name("cheap")?
    };
    report::print_setup(&blocking, [extent.blocking_seeds, extent.cheap_seeds]);

    let overheads = Overheads::measure(&blocking, &arms, &mut raw)?;
    for per_second in BLOCKING_RATES {
        let blocking = Scenario {
            arrivals: Arrivals::Poisson(per_second),
            ..blocking.clone()
        };
        let plans = plans(extent.blocking_seeds, &blocking);
        let samples = rounds(&arms, &blocking, &plans, &mut raw)?;
        report::print_tail(&blocking, &arms, &samples, &plans, &overheads);
    }
    let cheap_plans = plans(extent.cheap_seeds, &cheap);
    let samples = rounds(&arms, &cheap, &cheap_plans, &mut raw)?;
    report::print_cheap(&cheap, &arms, &samples);

    let mut homes = Vec::new();
    for round in 0..HOMES_ROUNDS.min(extent.blocking_seeds as usize) {
        for (_, arm) in in_round(&arms, round) {
            homes.extend(Homes::measure(arm, &cheap)?);
        }
    }
    homes.iter().try_for_each(|home| raw.write(home))?;
    report::print_homes(&arms, &homes);
    raw.finish()
}

impl Extent {
    fn new(seeds: [u64; 2], seconds: [u64; 2]) -> Self {
        Self {
            blocking_seeds: seeds[0],
            blocking: Duration::from_secs(seconds[0]),
            cheap_seeds: seeds[1],
            cheap: Duration::from_secs(seconds[1]),
        }
    }
}

/// The plan of each round; every arm of a round gets the same.
fn plans(seeds: u64, scenario: &Scenario) -> Vec<Plan> {
    (1..=seeds).map(|seed| Plan::of(scenario, seed)).collect()
}

fn arms() -> Result<Vec<Arm>> {
    let mut arms = arm::list(ARMS)?;
    let control = Arm::by_name(SUBJECT)?.as_control();
    // Not beside the arm that it repeats.
    arms.insert(arms.len() / 2, control);
    Ok(arms)
}

/// Runs every plan against every arm, interleaved, each time against fresh processes.
fn rounds(arms: &[Arm], scenario: &Scenario, plans: &[Plan], raw: &mut Raw) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for (round, plan) in plans.iter().enumerate() {
        for (_, arm) in in_round(arms, round) {
            samples.push(Sample::measure(arm, scenario, plan, raw)?);
        }
    }
    Ok(samples)
}

/// What a request costs beyond its service time; nothing for a server that does not run.
#[derive(Default)]
pub struct Overheads {
    srv: Overhead,
    nginx: Overhead,
}

impl Overheads {
    fn measure(scenario: &Scenario, arms: &[Arm], raw: &mut Raw) -> Result<Self> {
        let mut overheads = Self::default();
        for arm in arms {
            let overhead = match arm.label().as_str() {
                SUBJECT => &mut overheads.srv,
                NGINX_SHARED => &mut overheads.nginx,
                _ => continue,
            };
            *overhead = Overhead::measure(arm, scenario)?;
            let Overhead {
                occupies_ns,
                delays_ns,
            } = *overhead;
            raw.write(&(arm.label(), occupies_ns, delays_ns))?;
        }
        Ok(overheads)
    }
}
