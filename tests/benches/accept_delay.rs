//! `bench accept_delay`: what it costs to know for how long each connection waits to be accepted, in
//! ns per connection. Connections over loopback are opened, accepted and closed by one thread.
//!
//! - **program**: the kernel's own account (`kernel.bpf_stats_enabled`) of the recording program, less
//!   an empty one at the same tracepoint, over all changes of state of both ends of a connection.
//! - **worker**: looking up the instant, reading the clock and counting, on a table that another
//!   loop has just filled.
//! - **both**: the CPU time of the thread for a whole connection with recording, less without it, in
//!   interleaved rounds. It contains the tracepoint's own cost and that `accept` returns the client's
//!   address, and the noise of the machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use clap::Parser as _;
use rustix::net::SocketFlags;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use socket2::{Domain, Socket, Type};
use srv::measure::stats::Spread;
use srv_common::Group;
use srv_common::established::Client;
use srv_steer::{GroupOptions, ListenerGroup, Load, Mapping, SelectProgram, monotonic_ns};
use srv_tests::arguments::Arguments;
use srv_tests::report::{Raw, print_table, verdict};
use srv_tests::runs;

/// What is aimed at for both sides together, ns per connection.
const LIMIT_NS: f64 = 150.0;
const CONNECTIONS_PER_ROUND: u32 = 2000;
/// The figures of a round; `without` is a whole connection that is not recorded.
const NAMES: [&str; 4] = ["program", "worker", "both", "without"];
/// The programs that the kernel is asked about.
const PROGRAMS: [&str; 2] = ["record_established", "empty_established"];

#[derive(Serialize)]
struct Sample {
    round: u32,
    figure: &'static str,
    ns: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let rounds = if arguments.quick { 3 } else { 40 };
    let mut raw = Raw::create("accept_delay")?;
    let mut target = Target::open()?;
    println!(
        "ns per connection, {rounds} rounds of {CONNECTIONS_PER_ROUND} connections; median (range)\n"
    );
    let mut figures: [Vec<f64>; 4] = Default::default();
    for round in 0..rounds {
        let (with, without) = target.with_and_without(round)?;
        let measured = [
            target.program_ns(round)?,
            target.worker_ns()?,
            with - without,
            without,
        ];
        for ((figure, values), ns) in NAMES.into_iter().zip(&mut figures).zip(measured) {
            raw.write(&Sample { round, figure, ns })?;
            values.push(ns);
        }
    }
    let spreads = figures.map(|values| Spread::of(&values));
    let [program, worker, ..] = &spreads;
    let sum = program.median + worker.median;
    let row = |(name, spread): (&str, &Spread)| vec![name.to_owned(), figure(spread)];
    print_table(&["part", "ns"], NAMES.into_iter().zip(&spreads).map(row));
    let limit = verdict(sum <= LIMIT_NS);
    println!("\nprogram and worker: {sum:.0} ns, limit {LIMIT_NS:.0} ns: {limit}");
    raw.finish()
}

fn figure(spread: &Spread) -> String {
    format!(
        "{:.0} ({:.0} to {:.0})",
        spread.median, spread.min, spread.max
    )
}

/// A group of one listener, whose worker is this thread.
struct Target {
    program: SelectProgram,
    group: Mapping<Group>,
    listeners: ListenerGroup,
    load: Load,
}

impl Target {
    fn open() -> Result<Self> {
        let program = SelectProgram::load()?;
        let options = GroupOptions::default();
        let listeners = ListenerGroup::bind((Ipv4Addr::LOCALHOST, 0).into(), &options)?;
        let memory = program.memory().as_fd().try_clone_to_owned()?;
        Ok(Self {
            group: program.memory().map()?,
            load: Load::attach(0, [memory])?,
            program,
            listeners,
        })
    }

    fn start(&mut self) {
        let socket = &self.listeners.sockets[0];
        let address = self.listeners.address;
        self.program
            .start_recording(&self.group.recorded, address, socket);
    }

    /// CPU time of a connection with recording and without it, in an order that changes.
    fn with_and_without(&mut self, round: u32) -> Result<(f64, f64)> {
        let mut times = [0.0; 2];
        let before = self.known();
        for nth in 0..2 {
            let records = (round + nth).is_multiple_of(2);
            if records {
                self.start();
                ensure!(
                    self.group.recorded.port.get() != 0,
                    "recording does not start"
                );
            }
            let began = cpu_ns();
            for _ in 0..CONNECTIONS_PER_ROUND {
                self.connection(round, records)?;
            }
            times[usize::from(records)] =
                (cpu_ns() - began) as f64 / f64::from(CONNECTIONS_PER_ROUND);
            self.program.stop_recording(&self.group.recorded);
        }
        let known = self.known() - before;
        let expected = u64::from(CONNECTIONS_PER_ROUND);
        ensure!(known == expected, "{known} of {expected} are known");
        Ok((times[1], times[0]))
    }

    fn known(&self) -> u64 {
        let delay = &self.group.slots[0].figures.accept_delay;
        delay.own.snapshot().count()
    }

    /// The kernel's account of the program, less an empty one.
    fn program_ns(&mut self, round: u32) -> Result<f64> {
        let _counting = enable_stats(Stats::RunTime).context("have the kernel count run times")?;
        self.start();
        let empty = self.program.recording_program("empty_established")?;
        let link = empty.attach()?;
        let counted = |program: &mut SelectProgram, name| -> Result<f64> {
            let program = program.recording_program(name)?;
            let fd: BorrowedFd<'_> = program.fd()?.as_fd();
            Ok(runs::counted(fd)?.ns as f64)
        };
        let before = [
            counted(&mut self.program, PROGRAMS[0])?,
            counted(&mut self.program, PROGRAMS[1])?,
        ];
        for _ in 0..CONNECTIONS_PER_ROUND {
            self.connection(round, false)?;
        }
        let after = [
            counted(&mut self.program, PROGRAMS[0])?,
            counted(&mut self.program, PROGRAMS[1])?,
        ];
        self.program
            .recording_program("empty_established")?
            .detach(link)?;
        self.program.stop_recording(&self.group.recorded);
        let [record, empty] = [0, 1].map(|nth| after[nth] - before[nth]);
        Ok((record - empty) / f64::from(CONNECTIONS_PER_ROUND))
    }

    /// What the worker does for each connection.
    fn worker_ns(&self) -> Result<f64> {
        let clients = (1..=CONNECTIONS_PER_ROUND as u16)
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let clients: Vec<_> = clients.collect();
        let now_ns = monotonic_ns();
        clients
            .iter()
            .for_each(|client| self.group.established.record(Client::of(*client), now_ns));
        // Anything but 0 has the worker look.
        self.group.recorded.port.set(1);
        let began = cpu_ns();
        for client in &clients {
            self.load.waited(0, 0, Some(*client));
        }
        let spent = cpu_ns() - began;
        self.group.recorded.port.set(0);
        Ok(spent as f64 / f64::from(CONNECTIONS_PER_ROUND))
    }

    /// One connection, from an address that only this round uses, since its ports stay in use for a
    /// while.
    fn connection(&self, round: u32, records: bool) -> Result<()> {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let source = Ipv4Addr::new(127, 1, (round / 250) as u8, (round % 250) as u8 + 1);
        client.bind(&SocketAddr::from((source, 0)).into())?;
        client.connect(&self.listeners.address.into())?;
        let listener = &self.listeners.sockets[0];
        let accepted = match records {
            true => {
                let (accepted, client) =
                    rustix::net::acceptfrom_with(listener, SocketFlags::CLOEXEC)?;
                let client = client.and_then(|client| SocketAddr::try_from(client).ok());
                self.load.accepted(0, 0);
                self.load.waited(0, 0, client);
                accepted
            }
            false => {
                let accepted = rustix::net::accept_with(listener, SocketFlags::CLOEXEC)?;
                self.load.accepted(0, 0);
                accepted
            }
        };
        drop(client);
        drop(accepted);
        Ok(())
    }
}

/// The CPU time of this thread.
fn cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
