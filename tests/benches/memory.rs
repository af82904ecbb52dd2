//! `bench memory`: what an idle keep-alive connection costs srv and nginx in
//! resident memory. What the kernel keeps for the sockets is the same for both
//! and not counted.

use anyhow::{Context as _, Result};
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use srv::measure::load::keep_alive::{KeepAlive, Opening};
use srv::measure::stats::{Ratio, Spread};
use srv_tests::arguments::ArmArguments;
use srv_tests::arm::{self, Arm, Running};
use srv_tests::nginx::{Content, Options};
use srv_tests::report::{self, Raw, print_table, verdict};
use srv_tests::usage::{Memory, Tree};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    of_arms: ArmArguments,
    /// Connections to open and leave idle.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
}

/// One arm in one round.
#[derive(Debug, Serialize)]
struct Sample {
    arm: &'static str,
    round: usize,
    connections: usize,
    /// After a few requests, with no connection open.
    before: Memory,
    /// With all connections open and idle.
    after: Memory,
}

const FILE: &str = "/1k.bin";
/// Requests before the first look, so that what is needed once is there.
const WARM_UP: usize = 64;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let rounds = if arguments.of_arms.common.quick { 1 } else { 3 };
    raise_open_files(arguments.connections as u64 + 100)?;
    let mut raw = Raw::create("memory")?;
    let root = tempfile::tempdir().context("create a folder to serve")?;
    std::fs::write(root.path().join(&FILE[1..]), [b'x'; 1024]).context("write the file")?;
    let mut arms = arms(root.path());
    arms.retain(|arm| arm.name.contains(&arguments.of_arms.arms));
    println!(
        "{} idle connections, each after one request for a file of 1 KiB; 2 workers each; \
         all processes of a server together; {rounds} interleaved rounds, fresh processes each\n",
        arguments.connections
    );
    let mut samples = Vec::new();
    for round in 0..rounds {
        for (_, arm) in arm::in_round(&arms, round) {
            let sample = measure(arm, round, arguments.connections)
                .with_context(|| format!("measure arm `{}`", arm.name))?;
            raw.write(&sample)?;
            samples.push(sample);
        }
    }
    print_report(&arms, &samples);
    raw.finish()
}

fn arms(root: &std::path::Path) -> Vec<Arm> {
    let nginx = Options {
        workers: 2,
        reuseport: false,
        deferred: false,
        tuning: String::new(),
        content: Content::Files(root.to_owned()),
    };
    let nginx = Arm::nginx("nginx", nginx);
    vec![
        Arm::srv("srv", &format!("--workers 2 --root {}", root.display())),
        nginx.as_control("nginx (control)"),
        nginx,
    ]
}

/// Both ends of a connection are files; servers inherit the limit.
fn raise_open_files(needed: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    anyhow::ensure!(
        maximum >= needed,
        "{needed} open files are needed and {maximum} allowed: raise the hard limit \
         (`ulimit -Hn {needed}` as root) or hold fewer with --connections"
    );
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).context("raise the limit of open files")
}

fn measure(arm: &Arm, round: usize, connections: usize) -> Result<Sample> {
    let running = arm.start()?;
    drop(hold(&running, WARM_UP)?);
    let tree = Tree::of(running.pid())?;
    let before = tree.memory()?;
    let held = hold(&running, connections)?;
    let after = tree.memory()?;
    drop(held);
    Ok(Sample {
        arm: arm.name,
        round,
        connections,
        before,
        after,
    })
}

fn hold(running: &Running, connections: usize) -> Result<KeepAlive> {
    KeepAlive::open(running.address(), FILE, connections, Opening::OneByOne)
}

fn print_report(arms: &[Arm], samples: &[Sample]) {
    let columns: [fn(&Sample) -> f64; 4] = [added_pss, added_anonymous, total_pss, before_pss];
    let row = |arm: &Arm| {
        let cell = |figure: &fn(&Sample) -> f64| {
            let spread = Spread::of(&series(samples, arm.name, *figure));
            format!(
                "{:.0} ({:.0} to {:.0})",
                spread.median, spread.min, spread.max
            )
        };
        let cells = columns.iter().map(cell);
        std::iter::once(arm.name.to_owned()).chain(cells).collect()
    };
    let header = [
        "arm",
        "added, bytes/connection",
        "of it anonymous",
        "all memory/connection",
        "before, KiB",
    ];
    print_table(&header, arms.iter().map(row));
    println!(
        "  nginx sets its connection table aside at the start: that is in `before` and in \
         `all memory`, not in `added`"
    );
    for (name, figure) in [("added", columns[0]), ("all memory", columns[2])] {
        if let Some(ratio) = ratio(samples, figure, "srv") {
            let met = verdict(ratio.rounds.median <= 1.0);
            println!("  {name}, srv / nginx: {ratio}  ≤ 1: {met}");
        }
    }
    if let Some(ratio) = ratio(samples, columns[0], "nginx (control)") {
        println!(
            "  A/A, nginx (control) / nginx: {ratio}: {}",
            ratio.as_control()
        );
    }
}

fn added_pss(sample: &Sample) -> f64 {
    per_connection(sample, sample.after.pss_bytes, sample.before.pss_bytes)
}

fn added_anonymous(sample: &Sample) -> f64 {
    let (after, before) = (sample.after, sample.before);
    per_connection(sample, after.anonymous_bytes, before.anonymous_bytes)
}

fn total_pss(sample: &Sample) -> f64 {
    per_connection(sample, sample.after.pss_bytes, 0)
}

fn before_pss(sample: &Sample) -> f64 {
    sample.before.pss_bytes as f64 / 1024.0
}

fn per_connection(sample: &Sample, after_bytes: u64, before_bytes: u64) -> f64 {
    (after_bytes as f64 - before_bytes as f64) / sample.connections as f64
}

/// One figure of one arm, round by round.
fn series(samples: &[Sample], arm: &str, figure: fn(&Sample) -> f64) -> Vec<f64> {
    let of_arm = samples.iter().filter(|sample| sample.arm == arm);
    of_arm.map(figure).collect()
}

/// An arm's figure to nginx's; `None` if either did not run.
fn ratio(samples: &[Sample], figure: fn(&Sample) -> f64, arm: &str) -> Option<Ratio> {
    let (arm, base) = (
        series(samples, arm, figure),
        series(samples, "nginx", figure),
    );
    report::ratio(&arm, &base)
}
