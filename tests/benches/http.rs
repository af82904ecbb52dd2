//! `bench http`: what a request costs srv and nginx in CPU time, and how many
//! they answer per second, when wrk keeps them busy with a file of 1 KiB; on
//! keep-alive connections and with a connection for each request. Beside them
//! runs the floor: the same system calls with the same answer, and nothing else.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use serde::Serialize;
use srv::measure::load::keep_alive::{KeepAlive, Opening};
use srv::measure::stats::{Ratio, Spread};
use srv_tests::arguments::ArmArguments;
use srv_tests::arm::{self, Arm, Running};
use srv_tests::floor;
use srv_tests::nginx::{Content, Options};
use srv_tests::report::{self, Raw, print_table, verdict};
use srv_tests::usage::Tree;
use srv_tests::wrk::{Seen, Wrk};

/// One arm in one round and mode.
#[derive(Debug, Serialize)]
struct Sample {
    arm: &'static str,
    mode: &'static str,
    round: usize,
    cpu_us_per_request: f64,
    requests_per_second: f64,
    wrk: Seen,
}

const FILE: &str = "/1k.bin";
const CONNECTIONS: u32 = 64;
const MODES: [(&str, bool); 2] = [("keep-alive", false), ("connection per request", true)];
/// Of CPU time per request, srv's to nginx's.
const CPU_TARGET: f64 = 0.9;
/// Of CPU time per request, srv's to the floor's.
const FLOOR_TARGET: f64 = 1.15;
/// Of CPU time per request, with the access log to without it; the log writer's time is included.
const LOG_TARGET: f64 = 1.1;
const LOGGED: &str = "srv, access log";
/// Of requests per second, srv's to nginx's.
const RATE_TARGET: f64 = 1.0;

fn main() -> Result<()> {
    let arguments = ArmArguments::parse();
    // Many short rounds: a ratio of neighbours in time is less noisy than one of long runs.
    let (rounds, seconds) = if arguments.common.quick {
        (2, 1)
    } else {
        (9, 1)
    };
    let mut raw = Raw::create("http")?;
    let root = tempfile::tempdir().context("create a folder to serve")?;
    std::fs::write(root.path().join(&FILE[1..]), [b'x'; 1024]).context("write the file")?;
    let logs = tempfile::tempdir().context("create a folder for the access log")?;
    let mut arms = arms(root.path(), &logs.path().join("access.log"))?;
    arms.retain(|arm| arm.name.contains(&arguments.arms));
    println!(
        "1 KiB file, 2 workers each, wrk with 1 thread and {CONNECTIONS} connections, \
         {rounds} interleaved rounds of {seconds} s, fresh processes each\n\
         nginx: Debian's defaults, access log off; nginx tuned: also open_file_cache, \
         deferred accept, unlimited requests per connection\n\
         floor: srv's system calls with srv's answer, canned\n"
    );
    let mut samples = Vec::new();
    for round in 0..rounds {
        for (_, arm) in arm::in_round(&arms, round) {
            for sample in measure(arm, round, Duration::from_secs(seconds))? {
                raw.write(&sample)?;
                samples.push(sample);
            }
        }
    }
    for (mode, _) in MODES {
        print_report(mode, &arms, &samples);
    }
    raw.finish()
}

fn arms(root: &Path, log: &Path) -> Result<Vec<Arm>> {
    let nginx = Options {
        workers: 2,
        reuseport: false,
        deferred: false,
        tuning: String::new(),
        content: Content::Files(root.to_owned()),
    };
    let tuned = Options {
        deferred: true,
        tuning: "open_file_cache max=1000 inactive=60s; open_file_cache_valid 1s; \
                 keepalive_requests 1000000000;"
            .to_owned(),
        ..nginx.clone()
    };
    let nginx = Arm::nginx("nginx", nginx);
    let flags = format!("--workers 2 --root {}", root.display());
    let srv = Arm::srv("srv", &flags);
    let logged = Arm::srv(LOGGED, &format!("{flags} --access-log {}", log.display()));
    let model = srv.start()?;
    let floor = env!("CARGO_BIN_EXE_canned-answers");
    let floor = floor::Options::like(model.address(), FILE, 2, floor)?;
    Ok(vec![
        srv,
        logged,
        Arm::floor("floor", floor),
        nginx.as_control("nginx (control)"),
        Arm::nginx("nginx tuned", tuned),
        nginx,
    ])
}

fn measure(arm: &Arm, round: usize, duration: Duration) -> Result<Vec<Sample>> {
    let running = arm.start()?;
    // First requests of a process are not those to be measured.
    KeepAlive::open(
        running.address(),
        FILE,
        CONNECTIONS as usize,
        Opening::OneByOne,
    )
    .with_context(|| format!("warm up arm `{}`", arm.name))?;
    MODES
        .iter()
        .map(|&(mode, close)| {
            let wrk = Wrk {
                connections: CONNECTIONS,
                duration,
                close,
            };
            let (cpu_ns, seen) = load(&running, wrk)
                .with_context(|| format!("measure arm `{}`, {mode}", arm.name))?;
            Ok(Sample {
                arm: arm.name,
                mode,
                round,
                cpu_us_per_request: cpu_ns as f64 / 1e3 / seen.requests as f64,
                requests_per_second: seen.per_second(),
                wrk: seen,
            })
        })
        .collect()
}

/// The CPU time of the server's processes while wrk ran, ns, and what wrk saw.
fn load(running: &Running, wrk: Wrk) -> Result<(u64, Seen)> {
    let tree = Tree::of(running.pid())?;
    let before_ns = tree.cpu_ns()?;
    let seen = wrk.run(running.address(), FILE)?;
    Ok((tree.cpu_ns()? - before_ns, seen))
}

fn print_report(mode: &str, arms: &[Arm], samples: &[Sample]) {
    println!("{mode}");
    let samples: Vec<&Sample> = samples.iter().filter(|s| s.mode == mode).collect();
    let row = |arm: &Arm| {
        let cpu = Spread::of(&series(&samples, arm.name, cpu));
        let rate = Spread::of(&series(&samples, arm.name, rate));
        let errors = series(&samples, arm.name, |sample| sample.wrk.errors() as f64);
        vec![
            arm.name.to_owned(),
            format!("{:.2}", cpu.median),
            format!("{:.2} to {:.2}", cpu.min, cpu.max),
            format!("{:.0}", rate.median),
            format!("{:.0} to {:.0}", rate.min, rate.max),
            format!("{:.0}", errors.iter().sum::<f64>()),
        ]
    };
    let header = [
        "arm",
        "CPU µs/request",
        "range",
        "requests/s",
        "range",
        "errors",
    ];
    print_table(&header, arms.iter().map(row));
    for arm in ["srv", "nginx tuned"] {
        if let Some(ratio) = ratio(&samples, cpu, arm, "floor") {
            let met = match arm {
                "srv" => {
                    let met = verdict(ratio.rounds.median <= FLOOR_TARGET);
                    format!("  ≤ {FLOOR_TARGET}: {met}")
                }
                _ => String::new(),
            };
            println!("  CPU, {arm} / floor: {ratio}{met}");
        }
    }
    if let Some(ratio) = ratio(&samples, cpu, LOGGED, "srv") {
        let met = verdict(ratio.rounds.median <= LOG_TARGET);
        println!("  CPU, {LOGGED} / srv: {ratio}  ≤ {LOG_TARGET}: {met}");
    }
    for base in ["nginx", "nginx tuned"] {
        if let Some(ratio) = ratio(&samples, cpu, "srv", base) {
            let met = verdict(ratio.rounds.median <= CPU_TARGET);
            println!("  CPU, srv / {base}: {ratio}  ≤ {CPU_TARGET}: {met}");
        }
        if let Some(ratio) = ratio(&samples, rate, "srv", base) {
            let met = verdict(ratio.rounds.median >= RATE_TARGET);
            println!("  requests/s, srv / {base}: {ratio}  ≥ {RATE_TARGET}: {met}");
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
