//! `bench slowloris`: what others feel of thousands of headers that trickle in. The p99 of
//! honest requests without it, beside one at another server on the same CPUs, and beside
//! one at this server. Reported, not judged.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde::Serialize;
use srv::measure::arrivals::{Service, poisson};
use srv::measure::load::Load;
use srv::measure::stats::{Spread, Summary};
use srv_tests::report::{Raw, print_table};
use srv_tests::server::Server;
use srv_tests::slowloris::Slowloris;

#[derive(Parser)]
struct Arguments {
    /// One round: to see that it works, not to quote.
    #[arg(long)]
    quick: bool,
    /// Headers that trickle in at once.
    #[arg(long, default_value_t = 5_000)]
    connections: usize,
    /// What `cargo bench` passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Where the slowloris is while the honest requests of one arm run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
enum Beside {
    Nothing,
    /// It takes its share of the CPUs there, too.
    AtAnother,
    AtThis,
}

/// One arm in one round.
#[derive(Debug, Serialize)]
struct Sample {
    beside: Beside,
    round: usize,
    p99_us: f64,
}

const ARMS: [Beside; 3] = [Beside::Nothing, Beside::AtAnother, Beside::AtThis];
const ROUND: Duration = Duration::from_secs(3);
const PER_SECOND: f64 = 500.0;
/// What does not come about in this time will not.
const AT_MOST: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let rounds = if arguments.quick { 1 } else { 9 };
    Slowloris::make_room(arguments.connections)?;
    let mut raw = Raw::create("slowloris")?;
    println!(
        "p99 of {PER_SECOND} honest requests a second, us, {rounds} rounds of {ROUND:?}, \
         {} trickling headers\n",
        arguments.connections
    );
    let (server, another) = (start()?, start()?);
    let mut samples = Vec::new();
    for round in 0..rounds {
        for nth in 0..ARMS.len() {
            // Each arm comes after each other one.
            let beside = ARMS[(nth + round) % ARMS.len()];
            let target = server.address();
            let p99_us = match beside {
                Beside::Nothing => honest_p99_us(target),
                Beside::AtAnother => p99_beside_us(target, &another, arguments.connections),
                Beside::AtThis => p99_beside_us(target, &server, arguments.connections),
            };
            let p99_us = p99_us.with_context(|| format!("measure {beside:?}"))?;
            let sample = Sample {
                beside,
                round,
                p99_us,
            };
            raw.write(&sample)?;
            samples.push(sample);
        }
    }
    report(&samples);
    raw.finish()
}

fn start() -> Result<Server> {
    let workers = ["--workers", "2", "--synthetic"];
    Server::start(workers.iter().chain(&["--header-timeout", "10min"]))
}

fn honest_p99_us(target: SocketAddr) -> Result<f64> {
    let load = Load {
        timeout: Duration::from_secs(20),
        ..Load::get(target, "/work?sleep_us={us}")
    };
    let run = load.run(&poisson(6, PER_SECOND, ROUND, Service::Fixed(100)))?;
    ensure!(
        run.lost() == 0,
        "send honest requests: {} lost: {:?}",
        run.lost(),
        run.first_error
    );
    let latencies = run.records.iter().map(|record| record.latency_ns());
    Ok(Summary::of(latencies).p99_ns as f64 / 1e3)
}

/// While `attacked` has its slowloris.
fn p99_beside_us(target: SocketAddr, attacked: &Server, connections: usize) -> Result<f64> {
    let mut slowloris = Slowloris::open(attacked.address(), connections)?;
    await_active(attacked, connections as u64)?;
    let over = AtomicBool::new(false);
    let p99_us = thread::scope(|scope| {
        scope.spawn(|| slowloris.trickle(&over));
        let p99_us = honest_p99_us(target);
        over.store(true, Ordering::Relaxed);
        p99_us
    })?;
    ensure!(
        slowloris.connections() == connections,
        "hold {connections} headers: {} were left at the end",
        slowloris.connections()
    );
    drop(slowloris);
    await_active(attacked, 0)?;
    Ok(p99_us)
}

/// Waits until the server has so many connections.
fn await_active(server: &Server, connections: u64) -> Result<()> {
    let deadline = Instant::now() + AT_MOST;
    loop {
        let active = server.status()?.groups[0].totals.active;
        if active == connections {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "wait for {connections} connections: the server has {active} after {AT_MOST:?}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

fn report(samples: &[Sample]) {
    let of = |beside| {
        let arm = samples.iter().filter(move |sample| sample.beside == beside);
        arm.map(|sample| sample.p99_us).collect::<Vec<_>>()
    };
    let row = |name: String, figures: &[f64], digits: usize| {
        let spread = Spread::of(figures);
        let cells = [spread.median, spread.min, spread.max];
        let cells = cells.map(|figure| format!("{figure:.digits$}"));
        [vec![name], cells.to_vec()].concat()
    };
    let ratio = |to| {
        let rounds = of(Beside::AtThis).into_iter().zip(of(to));
        rounds.map(|(with, other)| with / other).collect::<Vec<_>>()
    };
    let mut rows: Vec<_> = ARMS
        .iter()
        .map(|arm| row(format!("{arm:?}"), &of(*arm), 0))
        .collect();
    for to in [Beside::Nothing, Beside::AtAnother] {
        rows.push(row(format!("AtThis / {to:?}, by round"), &ratio(to), 2));
    }
    print_table(&["beside", "median", "lowest", "highest"], rows);
}
