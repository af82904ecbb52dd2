//! `bench select`: what one run of the select program costs beyond a run of an
//! empty one. Both are attached in turn to the same listener group, which gets
//! real SYNs over loopback; the kernel itself counts runs and time
//! (`kernel.bpf_stats_enabled`). Every worker is made idle, or every one busy,
//! by writing its slot.
//!
//! What is read is warm unless a second thread writes to the slots all the
//! while, as workers on other CPUs would: the column `contended`.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};
use clap::Parser as _;
use serde::Serialize;
use srv::measure::stats::Spread;
use srv::serve::config::args::ServeArgs;
use srv::serve::config::{self};
use srv::values::Count;
use srv_common::layout::{ELIGIBLE, eligibility};
use srv_common::policy::{SCAN_ALL_MAX, hermes};
use srv_common::{Group, Policy};
use srv_steer::ListenerGroup;
use srv_steer::SelectProgram;
use srv_steer::monotonic_ns;
use srv_tests::arguments::Arguments;
use srv_tests::report::{Raw, print_table, verdict};
use srv_tests::runs;

/// The program's cost with all workers in one state.
#[derive(Clone, Copy, Debug, Serialize)]
struct Case {
    workers: u32,
    policy: &'static str,
    busy: bool,
    contended: bool,
}

#[derive(Serialize)]
struct Sample {
    #[serde(flatten)]
    case: Case,
    round: usize,
    select_ns: f64,
    empty_ns: f64,
}

const SYNS_PER_ROUND: u32 = 4000;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let rounds = if arguments.quick { 3 } else { 15 };
    let mut raw = Raw::create("select")?;
    let _counting = enable_stats(Stats::RunTime).context("have the kernel count run times")?;
    println!(
        "ns per run of the select program less an empty program's, {rounds} interleaved rounds \
         of {SYNS_PER_ROUND} SYNs for each; median (range)\n"
    );
    let mut rows = Vec::new();
    for workers in [8, 64, 256] {
        rows.extend(rows_of(workers, "least", Policy::Least, rounds, &mut raw)?);
    }
    for policy in [
        Policy::Random,
        Policy::RoundRobin,
        Policy::Source,
        Policy::P2c,
        Policy::Hermes,
    ] {
        rows.extend(rows_of(8, policy.name(), policy, rounds, &mut raw)?);
    }
    let header = [
        "policy",
        "workers",
        "state",
        "warm",
        "contended",
        "empty",
        "limit",
        "warm",
    ];
    print_table(&header, rows);
    raw.finish()
}

fn rows_of(
    workers: u32,
    name: &'static str,
    policy: Policy,
    rounds: usize,
    raw: &mut Raw,
) -> Result<Vec<Vec<String>>> {
    let mut target = Target::open(workers, policy)?;
    if policy == Policy::Least {
        let select = target.steering.program("select")?.info()?;
        println!(
            "{workers} workers: verifier went through {} instructions, {} bytes compiled",
            select.verified_instruction_count().unwrap_or(0),
            select.size_jitted()
        );
        let helper = target.helper(rounds)?;
        println!(
            "  of each figure below, the select helper alone: {}",
            figure(&helper)
        );
    }
    let mut rows = Vec::new();
    for busy in [false, true] {
        let mut measure = |contended| {
            let case = Case {
                workers,
                policy: name,
                busy,
                contended,
            };
            target.measure(case, rounds, raw)
        };
        let (warm, empty) = measure(false)?;
        let (contended, _) = measure(true)?;
        let limit = limit_ns(workers, policy);
        rows.push(vec![
            name.to_owned(),
            workers.to_string(),
            if busy { "all busy" } else { "all idle" }.to_owned(),
            figure(&warm),
            figure(&contended),
            figure(&empty),
            limit.map_or("-".to_owned(), |limit| format!("≤ {limit:.0}")),
            limit.map_or("-".to_owned(), |limit| {
                verdict(warm.median <= limit).to_owned()
            }),
        ]);
    }
    Ok(rows)
}

/// What is aimed at, ns; between the two sizes that have a limit, the larger's.
fn limit_ns(workers: u32, policy: Policy) -> Option<f64> {
    match (policy, workers) {
        (Policy::Least, ..=8) => Some(60.0),
        (Policy::Least, _) => Some(120.0),
        _ => None,
    }
}

fn figure(spread: &Spread) -> String {
    format!("{:.0} ({:.0}-{:.0})", spread.median, spread.min, spread.max)
}

/// A listener group without workers: this process plays all of them.
struct Target {
    steering: SelectProgram,
    group: &'static Group,
    listeners: ListenerGroup,
    workers: usize,
}

impl Target {
    fn open(workers: u32, policy: Policy) -> Result<Self> {
        let mut steering = SelectProgram::load()?;
        let group = steering.memory().map().context("map the group")?.leak();
        // With TCP_DEFER_ACCEPT, as srv has it, a reset takes away all of a
        // connection that has sent nothing: no queue ever fills up.
        let arguments = ServeArgs {
            listen: Some(vec!["127.0.0.1:0".parse()?]),
            workers: Some(Count(workers)),
            ..ServeArgs::default()
        };
        let settings = config::settings(&arguments)?;
        let listeners = ListenerGroup::bind(settings.listen[0], &settings.group())?;
        for (slot, socket) in listeners.sockets.iter().enumerate() {
            steering.set_listener(slot as u32, socket)?;
            let eligible = eligibility(ELIGIBLE, slot as u32);
            group.steering[slot].eligible.set(eligible);
            group.ready[slot].set(slot as u16);
        }
        group.config.workers.set(workers);
        group.config.ready_count.set(workers);
        group.config.policy.set(policy as u32);
        group.hermes.0.set(hermes::filter(group, 0));
        steering.attach(&listeners.sockets[0])?;
        let workers = workers as usize;
        Ok(Self {
            steering,
            group,
            listeners,
            workers,
        })
    }

    /// The difference and what the empty program alone reads.
    fn measure(&mut self, case: Case, rounds: usize, raw: &mut Raw) -> Result<(Spread, Spread)> {
        self.set_load(case.busy);
        let stop = AtomicBool::new(!case.contended);
        let (group, workers) = (self.group, self.workers);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| write_slots(group, workers, &stop));
            let result = self.rounds(case, rounds, raw);
            stop.store(true, Ordering::Relaxed);
            writer.join().ok().context("the writing thread panicked")?;
            result
        })
    }

    fn rounds(&mut self, case: Case, rounds: usize, raw: &mut Raw) -> Result<(Spread, Spread)> {
        let (mut differences, mut empties) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let empty_ns = self.mean_run_ns("empty")?;
            let select_ns = self.mean_run_ns("select")?;
            raw.write(&Sample {
                case,
                round,
                select_ns,
                empty_ns,
            })?;
            differences.push(select_ns - empty_ns);
            empties.push(empty_ns);
        }
        Ok((Spread::of(&differences), Spread::of(&empties)))
    }

    /// What a program costs that does nothing but select slot 0.
    fn helper(&mut self, rounds: usize) -> Result<Spread> {
        let mut differences = Vec::new();
        for _ in 0..rounds {
            let empty_ns = self.mean_run_ns("empty")?;
            differences.push(self.mean_run_ns("first")? - empty_ns);
        }
        Ok(Spread::of(&differences))
    }

    fn set_load(&self, busy: bool) {
        for slot in 0..self.workers {
            let load = &self.group.slots[slot].load;
            load.busy_since_ns
                .set(if busy { monotonic_ns() } else { 0 });
            load.running.set(busy.into());
            load.active.set(busy.into());
            self.group.sum_up(slot as u32);
            self.group.idle.0[slot].set((!busy).into());
        }
    }

    fn mean_run_ns(&mut self, name: &str) -> Result<f64> {
        let (group, workers) = (self.group, self.workers);
        let program = self.steering.program(name)?;
        program
            .attach(&self.listeners.sockets[0])
            .context("attach")?;
        runs::mean_run_ns(program, self.listeners.address, SYNS_PER_ROUND, || {
            play_workers(group, workers);
        })
    }
}

/// Each connection was accepted at once. Looks only where the program can have chosen:
/// to read all of 256 slots after every SYN is to leave nothing of them in the
/// first-level cache, which no worker does.
fn play_workers(group: &Group, workers: usize) {
    let looked_at = SCAN_ALL_MAX as usize;
    let first = match workers > looked_at {
        // Around where it started to look.
        true => group.program.cursor.get().wrapping_sub(1) as usize % workers / 8 * 8,
        false => 0,
    };
    for nth in (first..first + looked_at.min(workers)).map(|nth| nth % workers) {
        let steered = group.steering[nth].steered.get();
        if group.summaries[nth].taken.get() != steered {
            group.summaries[nth].taken.set(steered);
            group.take_turn(nth as u32);
            group.sum_up(nth as u32);
        }
    }
}

/// Writes what workers write, over and over.
fn write_slots(group: &Group, workers: usize, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        for (nth, slot) in group.slots[..workers].iter().enumerate() {
            slot.load.served.bump(1);
            group.sum_up(nth as u32);
        }
    }
}
