//! `bench sites`: what a request costs srv and nginx in CPU time, and how many they answer per
//! second, by TLS (kept alive, with full and with resumed handshakes), HTTP/2 and FastCGI; and what
//! an idle connection with TLS costs them in memory.

mod idle;
mod loads;
mod servers;

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use loads::Load;
use serde::Serialize;
use servers::{Kind, Material};
use srv::measure::stats::{Ratio, Spread};
use srv_tests::arguments::ArmArguments;
use srv_tests::arm;
use srv_tests::report::{self, Raw, print_table, verdict};
use srv_tests::usage::Tree;

/// One arm in one round, under one load.
#[derive(Debug, Serialize)]
struct Sample {
    arm: &'static str,
    load: &'static str,
    round: usize,
    cpu_us_per_request: f64,
    requests_per_second: f64,
}

/// What idle connections cost one arm in one round.
#[derive(Debug, Serialize)]
struct Idle {
    arm: &'static str,
    round: usize,
    bytes_per_idle_connection: f64,
}

/// A server under its name.
struct Arm {
    name: &'static str,
    kind: Kind,
}

const ARMS: [Arm; 4] = [
    Arm {
        name: "srv",
        kind: Kind::Srv,
    },
    Arm {
        name: "nginx (control)",
        kind: Kind::Nginx,
    },
    Arm {
        name: "nginx tuned",
        kind: Kind::NginxTuned,
    },
    Arm {
        name: "nginx",
        kind: Kind::Nginx,
    },
];
/// Of CPU time per request, srv's to nginx's.
const CPU_TARGET: f64 = 0.9;
/// Memory hardly varies.
const IDLE_ROUNDS: usize = 3;

fn main() -> Result<()> {
    let arguments = ArmArguments::parse();
    let (rounds, seconds) = if arguments.common.quick {
        (2, 1)
    } else {
        (9, 1)
    };
    let mut raw = Raw::create("sites")?;
    let material = Material::make()?;
    let arms: Vec<_> = ARMS
        .into_iter()
        .filter(|arm| arm.name.contains(&arguments.arms))
        .collect();
    println!(
        "1 KiB file, ECDSA P-256 certificate, 2 workers each, {rounds} interleaved rounds of \
         {seconds} s, fresh processes each; PHP's FPM with 4 processes, the same for all\n\
         nginx: Debian's defaults, access log off; nginx tuned: also open_file_cache, deferred \
         accept, unlimited requests per connection\n"
    );
    let (mut samples, mut idle) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for (_, arm) in arm::in_round(&arms, round) {
            for sample in measure(&material, arm, round, Duration::from_secs(seconds))? {
                raw.write(&sample)?;
                samples.push(sample);
            }
        }
    }
    for round in 0..rounds.min(IDLE_ROUNDS) {
        for (_, arm) in arm::in_round(&arms, round) {
            let sample = measure_idle(&material, arm, round)?;
            raw.write(&sample)?;
            idle.push(sample);
        }
    }
    for load in Load::ALL {
        print_report(load, &arms, &samples);
    }
    print_idle(&arms, &idle);
    raw.finish()
}

fn measure(
    material: &Material,
    arm: &Arm,
    round: usize,
    duration: Duration,
) -> Result<Vec<Sample>> {
    let start = || format!("start arm `{}`", arm.name);
    let running = material.start(arm.kind).with_context(start)?;
    let mut samples = Vec::new();
    for load in Load::ALL {
        let tree = Tree::of(running.pid())?;
        let before_ns = tree.cpu_ns()?;
        let requests = load
            .run(&running, duration)
            .with_context(|| format!("measure arm `{}`, {}", arm.name, load.name()))?;
        let cpu_ns = tree.cpu_ns()? - before_ns;
        samples.push(Sample {
            arm: arm.name,
            load: load.name(),
            round,
            cpu_us_per_request: cpu_ns as f64 / 1e3 / requests as f64,
            requests_per_second: requests as f64 / duration.as_secs_f64(),
        });
    }
    Ok(samples)
}

fn measure_idle(material: &Material, arm: &Arm, round: usize) -> Result<Idle> {
    let running = material.start(arm.kind);
    let running = running.with_context(|| format!("start arm `{}`", arm.name))?;
    let bytes = idle::bytes_per_connection(&running, &material.certificate);
    Ok(Idle {
        arm: arm.name,
        round,
        bytes_per_idle_connection: bytes
            .with_context(|| format!("hold idle connections to arm `{}`", arm.name))?,
    })
}

fn print_idle(arms: &[Arm], idle: &[Idle]) {
    println!("idle connections with TLS, {} at a time", idle::CONNECTIONS);
    let bytes = |arm: &str| -> Vec<f64> {
        let of_arm = idle.iter().filter(|sample| sample.arm == arm);
        of_arm
            .map(|sample| sample.bytes_per_idle_connection)
            .collect()
    };
    let row = |arm: &Arm| {
        let spread = Spread::of(&bytes(arm.name));
        vec![
            arm.name.to_owned(),
            format!("{:.0}", spread.median),
            format!("{:.0} to {:.0}", spread.min, spread.max),
        ]
    };
    print_table(&["arm", "bytes/connection", "range"], arms.iter().map(row));
    if let Some(ratio) = report::ratio(&bytes("srv"), &bytes("nginx")) {
        let met = verdict(ratio.rounds.median <= 1.0);
        println!("  srv / nginx: {ratio}  ≤ 1: {met}");
    }
}

fn print_report(load: Load, arms: &[Arm], samples: &[Sample]) {
    println!("{}", load.name());
    let samples: Vec<&Sample> = samples.iter().filter(|s| s.load == load.name()).collect();
    let row = |arm: &Arm| {
        let cpu = Spread::of(&series(&samples, arm.name, cpu));
        let rate = Spread::of(&series(&samples, arm.name, rate));
        vec![
            arm.name.to_owned(),
            format!("{:.1}", cpu.median),
            format!("{:.1} to {:.1}", cpu.min, cpu.max),
            format!("{:.0}", rate.median),
            format!("{:.0} to {:.0}", rate.min, rate.max),
        ]
    };
    let header = ["arm", "CPU µs/request", "range", "requests/s", "range"];
    print_table(&header, arms.iter().map(row));
    for base in ["nginx", "nginx tuned"] {
        if let Some(ratio) = ratio(&samples, cpu, "srv", base) {
            let met = verdict(ratio.rounds.median <= CPU_TARGET);
            println!("  CPU, srv / {base}: {ratio}  ≤ {CPU_TARGET}: {met}");
        }
        if let Some(ratio) = ratio(&samples, rate, "srv", base) {
            println!("  requests/s, srv / {base}: {ratio}");
        }
    }
    if let Some(ratio) = ratio(&samples, cpu, "nginx (control)", "nginx") {
        println!(
            "  A/A, CPU, nginx (control) / nginx: {ratio}: {}",
            ratio.as_control()
        );
    }
    println!();
}

fn cpu(sample: &Sample) -> f64 {
    sample.cpu_us_per_request
}

fn rate(sample: &Sample) -> f64 {
    sample.requests_per_second
}

/// One figure of one arm, round by round.
fn series(samples: &[&Sample], arm: &str, figure: fn(&Sample) -> f64) -> Vec<f64> {
    let of_arm = samples.iter().filter(|sample| sample.arm == arm);
    of_arm.map(|sample| figure(sample)).collect()
}

/// `None` if either arm did not run.
fn ratio(samples: &[&Sample], figure: fn(&Sample) -> f64, arm: &str, base: &str) -> Option<Ratio> {
    let (arm, base) = (series(samples, arm, figure), series(samples, base, figure));
    report::ratio(&arm, &base)
}
