//! `bench foreign`: what one run of the select program for other people's servers
//! costs beyond a run of an empty one, both attached in turn to the same listener
//! group, which gets real SYNs over loopback. Each worker is a thread that sleeps
//! in epoll_wait, or one that does not. The kernel counts runs and time.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use clap::Parser as _;
use rustix::event::{EventfdFlags, epoll, eventfd};
use serde::Serialize;
use socket2::Socket;
use srv::attach::programs::Programs;
use srv::attach::select::Reads;
use srv::measure::stats::Spread;
use srv::serve::config::args::ServeArgs;
use srv::serve::config::{self};
use srv::values::Count;
use srv_common::Policy;
use srv_steer::ListenerGroup;
use srv_tests::arguments::Arguments;
use srv_tests::report::{Raw, print_table, verdict};
use srv_tests::runs::mean_run_ns;

#[derive(Serialize)]
struct Sample {
    workers: u32,
    asleep: u32,
    policy: &'static str,
    reads: &'static str,
    round: usize,
    select_ns: f64,
    empty_ns: f64,
}

const SYNS_PER_ROUND: u32 = 4000;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let rounds = if arguments.quick { 3 } else { 15 };
    let mut raw = Raw::create("foreign")?;
    let _counting = enable_stats(Stats::RunTime).context("have the kernel count run times")?;
    println!(
        "ns per run less an empty program's, {rounds} interleaved rounds of {SYNS_PER_ROUND} SYNs \
         for each; median (range)\n"
    );
    let mut rows = Vec::new();
    for (workers, reads) in [
        (8, Reads::Directly),
        (8, Reads::ByHelper),
        (64, Reads::Directly),
    ] {
        for asleep in [workers, workers / 2, 1, 0] {
            let posed = Posed {
                workers,
                asleep,
                policy: Policy::Least,
                reads,
            };
            rows.push(row_of(posed, rounds, &mut raw)?);
        }
    }
    let posed = Posed {
        workers: 8,
        asleep: 8,
        policy: Policy::RoundRobin,
        reads: Reads::Directly,
    };
    rows.push(row_of(posed, rounds, &mut raw)?);
    let header = [
        "policy", "reads", "workers", "asleep", "cost", "empty", "limit", "met",
    ];
    print_table(&header, rows);
    raw.finish()
}

/// What one row is about.
#[derive(Clone, Copy)]
struct Posed {
    workers: u32,
    asleep: u32,
    policy: Policy,
    /// How the program reads at best; what the kernel refuses it does not.
    reads: Reads,
}

fn row_of(posed: Posed, rounds: usize, raw: &mut Raw) -> Result<Vec<String>> {
    let Posed {
        workers,
        asleep,
        policy,
        ..
    } = posed;
    let mut target = Target::open(posed)?;
    let reads = target.programs.reads();
    if asleep == workers {
        let program = target.programs.program("steer_attached")?.info()?;
        println!(
            "{} {workers}, reads {}: verifier went through {} instructions, {} bytes compiled",
            policy.name(),
            reads.name(),
            program.verified_instruction_count().unwrap_or(0),
            program.size_jitted()
        );
    }
    let (mut differences, mut empties) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let empty_ns = target.mean_run_ns("empty")?;
        let select_ns = target.mean_run_ns("steer_attached")?;
        raw.write(&Sample {
            workers,
            asleep,
            policy: policy.name(),
            reads: reads.name(),
            round,
            select_ns,
            empty_ns,
        })?;
        differences.push(select_ns - empty_ns);
        empties.push(empty_ns);
    }
    target.was_steered(asleep, policy)?;
    let (cost, empty) = (Spread::of(&differences), Spread::of(&empties));
    let limit = limit_ns(workers, asleep, policy);
    Ok(vec![
        policy.name().to_owned(),
        reads.name().to_owned(),
        workers.to_string(),
        asleep.to_string(),
        figure(&cost),
        figure(&empty),
        limit.map_or("-".to_owned(), |limit| format!("≤ {limit:.0}")),
        limit.map_or("-".to_owned(), |limit| {
            verdict(cost.median <= limit).to_owned()
        }),
    ])
}

/// What is aimed at, ns.
fn limit_ns(workers: u32, asleep: u32, policy: Policy) -> Option<f64> {
    match (workers, asleep) {
        (8, 0) if policy == Policy::Least => Some(2500.0),
        (8, _) => Some(600.0),
        _ => None,
    }
}

fn figure(spread: &Spread) -> String {
    format!("{:.0} ({:.0}-{:.0})", spread.median, spread.min, spread.max)
}

/// A server whose workers accept nothing: their connections are reset before
/// they have sent anything.
struct Target {
    programs: Programs,
    listeners: ListenerGroup,
    /// Wakes the sleeping workers for good.
    stop: Arc<OwnedFd>,
    /// Those of the others, who do not wait.
    _epolls: Vec<OwnedFd>,
}

impl Target {
    fn open(posed: Posed) -> Result<Self> {
        let Posed {
            workers,
            asleep,
            policy,
            reads,
        } = posed;
        let arguments = ServeArgs {
            listen: Some(vec!["127.0.0.1:0".parse()?]),
            workers: Some(Count(workers)),
            ..ServeArgs::default()
        };
        let settings = config::settings(&arguments)?;
        let listeners = ListenerGroup::bind(settings.listen[0], &settings.group())?;
        let mut programs = Programs::load_reading(policy, reads)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let mut epolls = Vec::new();
        for (slot, socket) in listeners.sockets.iter().enumerate() {
            programs.insert(slot as u32, socket, socket.cookie()?)?;
            let epoll = watching(socket, &stop)?;
            if (slot as u32) < asleep {
                std::thread::spawn(move || wait_for_ever(&epoll));
            } else {
                epolls.push(epoll);
            }
        }
        programs.set_members(workers);
        Ok(Self {
            programs,
            listeners,
            stop,
            _epolls: epolls,
        })
    }

    fn mean_run_ns(&mut self, name: &str) -> Result<f64> {
        let program = self.programs.program(name)?;
        program
            .attach(&self.listeners.sockets[0])
            .context("attach")?;
        mean_run_ns(program, self.listeners.address, SYNS_PER_ROUND, || {})
    }

    /// What was measured is what was meant.
    fn was_steered(&self, asleep: u32, policy: Policy) -> Result<()> {
        let snapshot = self.programs.snapshot();
        let hashed: u64 = snapshot.fallbacks.values().sum();
        ensure!(hashed == 0, "left to the hash: {:?}", snapshot.fallbacks);
        if policy == Policy::Least && self.listeners.sockets.len() <= 16 {
            let idle = if asleep == 0 {
                snapshot.idle == 0
            } else {
                snapshot.shortest == 0
            };
            ensure!(
                idle,
                "{asleep} slept, but {} idle, {} shortest",
                snapshot.idle,
                snapshot.shortest
            );
        }
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
    }
}

fn watching(listener: &Socket, stop: &OwnedFd) -> Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let data = epoll::EventData::new_u64(0);
    epoll::add(&epoll, listener, data, epoll::EventFlags::IN)?;
    epoll::add(&epoll, stop, data, epoll::EventFlags::IN)?;
    Ok(epoll)
}

fn wait_for_ever(epoll: &OwnedFd) {
    let mut events = [epoll::Event {
        flags: epoll::EventFlags::empty(),
        data: epoll::EventData::new_u64(0),
    }];
    // Woken by the stop, which is never read, or by nothing.
    let _ = epoll::wait(epoll, &mut events, None);
}
