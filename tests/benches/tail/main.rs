//! `bench tail`: how long short requests wait behind long ones, and how evenly
//! workers share, for every way of handing connections to workers that srv
//! has, for nginx's two, and for the limit that none of them can beat. Eight
//! workers whose handler *blocks*, so that the queueing is real on any number
//! of cores.

mod measure;
mod overhead;
mod report;

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use srv::arrivals::{Draw, Service, poisson};
use srv_tests::arm::{self, Arm};
use srv_tests::nginx::{Content, Options};
use srv_tests::report::Raw;

use measure::{Homes, Sample};
use overhead::Overhead;

#[derive(Parser)]
struct Arguments {
    /// One seed and short runs: to see that it works, not to quote.
    #[arg(long)]
    quick: bool,
    /// Only arms whose name contains this.
    #[arg(long, default_value = "")]
    arms: String,
    /// What `cargo bench` passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Workers of every arm.
pub const WORKERS: usize = 8;
/// The handler that blocks.
pub const BLOCKING: Service = Service::Two {
    short_us: 1000,
    long_us: 100_000,
    p_long: 0.005,
};
/// How often it is called per second.
pub const BLOCKING_RATES: [f64; 2] = [3700.0, 2400.0];
/// The handler that does nothing.
pub const CHEAP: Service = Service::Fixed(0);
/// How often it is called per second.
pub const CHEAP_RATE: f64 = 3700.0;
/// For the overhead of a request: a known service time, the same in ns.
pub const ALONE: Service = Service::Fixed(1000);
/// [`ALONE`] in ns.
pub const ALONE_NS: f64 = 1e6;
/// A rate at which nobody waits.
pub const ALONE_RATE: f64 = 100.0;
/// Few enough workers that the cores are not what saturates.
pub const SATURATED_WORKERS: usize = 2;
/// More of [`ALONE`] per second than that many workers can do.
pub const SATURATING_RATE: f64 = 3000.0;
/// Kept connections whose homes are counted.
pub const HELD: [usize; 2] = [256, 32];

/// The arm that is judged.
pub const SUBJECT: &str = "least + ring";
/// The same once more, as the control.
pub const CONTROL: &str = "least + ring again";
/// The arm that waits where the hash sent it.
pub const HASH: &str = "hash + own";
/// nginx as it comes.
pub const NGINX_SHARED: &str = "nginx shared";
/// nginx with a socket per worker.
pub const NGINX_REUSEPORT: &str = "nginx reuseport";

/// How much is measured.
struct Extent {
    seeds: Vec<u64>,
    blocking: Duration,
    cheap: Duration,
    alone: Duration,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let extent = if arguments.quick {
        Extent::new(1, 2, 1, 1)
    } else {
        Extent::new(3, 5, 2, 3)
    };
    let mut raw = Raw::create("tail")?;
    let mut arms = arms();
    arms.retain(|arm| arm.name.contains(&arguments.arms));
    report::print_setup(&extent);

    let overheads = Overheads::measure(&extent, &arms, &mut raw)?;
    for per_second in BLOCKING_RATES {
        let plans = extent.plans(per_second, extent.blocking, BLOCKING);
        let samples = rounds(&arms, &plans, &mut raw)?;
        report::print_tail(per_second, &arms, &samples, &plans, &overheads);
    }
    let plans = extent.plans(CHEAP_RATE, extent.cheap, CHEAP);
    let samples = rounds(&arms, &plans, &mut raw)?;
    report::print_cheap(&arms, &samples);

    let mut homes = Vec::new();
    for round in 0..extent.seeds.len() {
        for (_, arm) in arm::in_round(&arms, round) {
            homes.extend(Homes::measure(arm)?);
        }
    }
    homes.iter().try_for_each(|home| raw.write(home))?;
    report::print_homes(&arms, &homes);
    raw.finish()
}

impl Extent {
    fn new(seeds: u64, blocking_s: u64, cheap_s: u64, alone_s: u64) -> Self {
        Self {
            seeds: (1..=seeds).collect(),
            blocking: Duration::from_secs(blocking_s),
            cheap: Duration::from_secs(cheap_s),
            alone: Duration::from_secs(alone_s),
        }
    }

    /// For [`ALONE`], one request at a time.
    fn alone_plans(&self) -> Vec<Plan> {
        self.plans(ALONE_RATE, self.alone, ALONE)
    }

    /// For [`ALONE`], more than [`SATURATED_WORKERS`] can do.
    fn saturating_plans(&self) -> Vec<Plan> {
        self.plans(SATURATING_RATE, Duration::from_secs(1), ALONE)
    }

    /// The plan of each round; every arm of a round gets the same.
    fn plans(&self, per_second: f64, duration: Duration, service: Service) -> Vec<Plan> {
        let plan = |&seed: &u64| Plan {
            seed,
            per_second,
            service,
            draws: poisson(seed, per_second, duration, service),
        };
        self.seeds.iter().map(plan).collect()
    }
}

/// The requests of one round.
pub struct Plan {
    seed: u64,
    per_second: f64,
    service: Service,
    draws: Vec<Draw>,
}

fn arms() -> Vec<Arm> {
    let subject = srv(SUBJECT, WORKERS, LEAST_RING);
    vec![
        srv(HASH, WORKERS, "--policy hash --accept own"),
        srv("least + own", WORKERS, "--policy least --accept own"),
        srv("hash + ring", WORKERS, "--policy hash --accept ring"),
        subject.again(CONTROL),
        srv("shared", WORKERS, "--policy hash --accept shared"),
        nginx(NGINX_SHARED, WORKERS, false),
        nginx(NGINX_REUSEPORT, WORKERS, true),
        subject,
    ]
}

const LEAST_RING: &str = "--policy least --accept ring";

fn srv(name: &'static str, workers: usize, how: &str) -> Arm {
    let arguments = format!("--workers {workers} --synthetic --worker-header {how}");
    Arm::srv(name, &arguments)
}

fn nginx(name: &'static str, workers: usize, reuseport: bool) -> Arm {
    let options = Options {
        workers,
        reuseport,
        deferred: true,
        tuning: "",
        content: Content::Work,
    };
    Arm::nginx(name, options)
}

/// Runs every plan against every arm, interleaved, each time against fresh processes.
fn rounds(arms: &[Arm], plans: &[Plan], raw: &mut Raw) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for (round, plan) in plans.iter().enumerate() {
        for (_, arm) in arm::in_round(arms, round) {
            samples.push(Sample::measure(arm, plan, raw)?);
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
    fn measure(extent: &Extent, arms: &[Arm], raw: &mut Raw) -> Result<Self> {
        let mut overheads = Self::default();
        for arm in arms {
            if arm.name == SUBJECT {
                let saturated = srv("srv saturated", SATURATED_WORKERS, LEAST_RING);
                overheads.srv = Overhead::measure(extent, arm, &saturated, raw)?;
            } else if arm.name == NGINX_SHARED {
                let saturated = nginx("nginx saturated", SATURATED_WORKERS, false);
                overheads.nginx = Overhead::measure(extent, arm, &saturated, raw)?;
            }
        }
        Ok(overheads)
    }
}
