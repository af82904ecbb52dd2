//! One arm in one round: start it, warm it, send the plan, and sum up.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::arm::{Arm, Running};
use super::scenario::{Arrivals, Fault, Scenario};
use crate::measure::arrivals::{Draw, burst, poisson};
use crate::measure::baseline::usage::{MachineTime, Tree};
use crate::measure::delay_line::DelayLine;
use crate::measure::load::keep_alive::{KeepAlive, Opening};
use crate::measure::load::{Connections, Load, Record, Run};
use crate::measure::result::{Live, Round, Served};
use crate::measure::stats::{Summary, coefficient_of_variation, deviation, jain, max_over_mean};

/// No request waits for so long in a queue that is stable.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Connections before the first that is measured.
const WARM_UP: usize = 64;
/// When the fault is injected, after the start of the round.
const FAULT_AT: Duration = Duration::from_secs(1);
/// A request that the handler answers at once.
const IDLE: &str = "/work?sleep_us=0";

/// What every arm of a round gets.
pub struct Plan {
    /// Of the draws.
    pub seed: u64,
    /// In order of arrival; empty for a closed loop.
    pub draws: Vec<Draw>,
}

impl Plan {
    /// Draws it.
    pub fn of(scenario: &Scenario, seed: u64) -> Self {
        let Scenario {
            service, duration, ..
        } = *scenario;
        let draws = match scenario.arrivals {
            Arrivals::Poisson(rate) => poisson(seed, rate, duration, service),
            Arrivals::Burst(size, rate) => burst(seed, rate, size, duration, service),
            Arrivals::Closed(_) => Vec::new(),
        };
        Self { seed, draws }
    }
}

/// One arm's round, with its raw records.
pub struct Measured {
    /// The figures.
    pub round: Round,
    /// One record per request.
    pub run: Run,
}

/// What works for an arm.
struct Processes {
    server: Tree,
    /// That of `srv run`, which is no descendant of the server.
    coordinator: Option<Tree>,
}

impl Processes {
    fn of(running: &Running) -> Result<Self> {
        let coordinator = running.coordinator().map(Tree::of);
        Ok(Self {
            server: Tree::of(running.pid())?,
            coordinator: coordinator.transpose()?,
        })
    }

    fn cpu_ns(&self) -> Result<u64> {
        let coordinator = self.coordinator.as_ref().map(Tree::cpu_ns);
        Ok(self.server.cpu_ns()? + coordinator.transpose()?.unwrap_or(0))
    }
}

/// Runs `plan` against a fresh `arm`.
///
/// # Errors
/// It does not start, or ends meanwhile; this process cannot generate the load.
pub fn measure(
    arm: &Arm,
    scenario: &Scenario,
    plan: &Plan,
    path: Option<&DelayLine>,
) -> Result<Measured> {
    let homes = match scenario.connections {
        Connections::Pool(count) => Some(homes(arm, scenario, count)?),
        Connections::PerRequest => None,
    };
    let running = arm.start(scenario, path.map(DelayLine::server_address))?;
    warm_up(arm, &running, path)?;
    let processes = Processes::of(&running)?;
    let waited_before = running.accept_delay();
    let before_ns = processes.cpu_ns()?;
    let machine = MachineTime::now()?;
    let run = send(scenario, plan, &running, &processes.server, path)
        .with_context(|| format!("load arm {}", arm.name))?;
    let cpu_ns = processes
        .cpu_ns()
        .with_context(|| format!("arm {} did not outlive its round", arm.name))?
        - before_ns;
    ensure!(
        run.lost() < run.records.len(),
        "arm {} answered none of {} requests; first: {}",
        arm.name,
        run.records.len(),
        run.first_error.as_deref().unwrap_or("nothing said")
    );
    let mut measured = sum_up(scenario, plan.seed, run, cpu_ns, homes);
    measured.round.hypervisor_share = machine.hypervisor_share_since()?;
    if let (Some(before), Some(after)) = (waited_before, running.accept_delay()) {
        let waited = after.since(&before);
        measured.round.accept_delay_p50_ns = waited.quantile_ns(0.5);
        measured.round.accept_delay_p99_ns = waited.quantile_ns(0.99);
    }
    Ok(measured)
}

fn warm_up(arm: &Arm, running: &Running, path: Option<&DelayLine>) -> Result<()> {
    if !arm.keeps_connections() {
        // Its workers have started, and no connection to it stays open.
        return Ok(());
    }
    let opening = match path {
        // One by one each would take a round trip.
        Some(_) => Opening::Burst,
        None => Opening::OneByOne,
    };
    let target = running.address();
    let hold = || KeepAlive::open(target, IDLE, WARM_UP, opening).map(drop);
    let held = match path {
        Some(path) => path.client(hold),
        None => hold(),
    };
    held.with_context(|| format!("warm up arm {}", arm.name))
}

fn send(
    scenario: &Scenario,
    plan: &Plan,
    running: &Running,
    server: &Tree,
    path: Option<&DelayLine>,
) -> Result<Run> {
    let work = if scenario.spins {
        "spin_us"
    } else {
        "sleep_us"
    };
    let load = Load {
        connections: scenario.connections,
        timeout: TIMEOUT,
        ..Load::get(running.address(), format!("/work?{work}={{us}}"))
    };
    let run = || match scenario.closed(plan.seed) {
        Some(closed) => load.run_closed(&closed),
        None => load.run(&plan.draws),
    };
    let run = || match scenario.fault {
        Some(Fault::Stopped(period)) => while_stopped(server, period, run)?,
        None => run(),
    };
    match path {
        Some(path) => path.client(run),
        None => run(),
    }
}

/// Stops one worker of `server` for `period`, [`FAULT_AT`] after the start of `run`.
fn while_stopped<R>(server: &Tree, period: Duration, run: impl FnOnce() -> R) -> Result<R> {
    // The last one: uvicorn's master has another child, which it starts before its workers.
    let victim = server.pids().skip(1).last();
    let victim = victim.context("the server has no workers")?;
    let (over, is_over) = channel::<()>();
    Ok(thread::scope(|scope| {
        scope.spawn(move || {
            let wait = |period| is_over.recv_timeout(period) == Err(RecvTimeoutError::Timeout);
            if wait(FAULT_AT) {
                tell(victim, Signal::STOP);
                wait(period);
                tell(victim, Signal::CONT);
            }
        });
        let result = run();
        drop(over);
        result
    }))
}

fn tell(pid: Pid, signal: Signal) {
    if let Err(error) = kill_process(pid, signal) {
        eprintln!(
            "srv: send {signal:?} to worker {}: {error}",
            pid.as_raw_nonzero()
        );
    }
}

/// Live connections per worker when `count` are opened one by one, and how many more the
/// fullest worker has than the emptiest, or when they are opened in a burst, if that is more.
fn homes(arm: &Arm, scenario: &Scenario, count: usize) -> Result<(Vec<u64>, u64)> {
    let hold = |opening| -> Result<(Vec<u64>, u64)> {
        let running = arm.start(scenario, None)?;
        let held = KeepAlive::open(running.address(), IDLE, count, opening)
            .with_context(|| format!("open keep-alive connections to arm {}", arm.name))?;
        let shares = held.shares(scenario.workers);
        let most = shares.iter().max().copied().unwrap_or(0);
        let fewest = shares.iter().min().copied().unwrap_or(0);
        Ok((shares, most - fewest))
    };
    let (shares, one_by_one) = hold(Opening::OneByOne)?;
    let (_, in_a_burst) = hold(Opening::Burst)?;
    Ok((shares, one_by_one.max(in_a_burst)))
}

fn sum_up(
    scenario: &Scenario,
    seed: u64,
    run: Run,
    cpu_ns: u64,
    homes: Option<(Vec<u64>, u64)>,
) -> Measured {
    let is_short = |record: &&Record| scenario.service.is_short(record.service_us);
    let judged = judged(scenario, &run.records);
    let short = judged.iter().filter(is_short);
    let latencies = || judged.iter().map(Record::latency_ns);
    let requests = run.records.len();
    let answered = run.shares(scenario.workers);
    let (accepts, live_gap, served) = match homes {
        Some((shares, gap)) => (shares, Some(gap), Some(served(answered))),
        None => (answered, None, None),
    };
    let round = Round {
        seed,
        requests,
        lost: run.lost(),
        short: Summary::of(short.map(Record::latency_ns)),
        all: Summary::of(latencies()),
        deviation_ns: deviation(latencies().map(|ns| ns as f64)),
        accepts_cv: coefficient_of_variation(&accepts),
        accepts_max_over_mean: max_over_mean(&accepts),
        accepts_jain: jain(&accepts),
        accepts,
        live_gap,
        served,
        cpu_ns_per_request: cpu_ns as f64 / requests as f64,
        lateness: run.lateness,
        accept_delay_p50_ns: None,
        accept_delay_p99_ns: None,
        hypervisor_share: 0.0,
        repeats: 0,
    };
    Measured { round, run }
}

/// Which workers the requests over the keep-alive connections went to.
fn served(answered: Vec<u64>) -> Served {
    Served {
        cv: coefficient_of_variation(&answered),
        max_over_mean: max_over_mean(&answered),
        per_worker: answered,
    }
}

/// The records that are judged. In a closed loop all clients begin at once, so that the
/// first request of each meets a queue that is not yet full: those are left out.
pub fn judged<'a>(scenario: &Scenario, records: &'a [Record]) -> &'a [Record] {
    match scenario.arrivals {
        Arrivals::Closed(clients) => &records[clients.min(records.len())..],
        Arrivals::Poisson(_) | Arrivals::Burst(..) => records,
    }
}

/// Connections that were open over time, from the requests that had one each.
pub fn live(records: &[Record], workers: usize) -> Option<Live> {
    const SAMPLES: u64 = 200;
    let end_ns = records.iter().map(|record| record.finished_ns).max()?;
    let step_ns = end_ns.div_ceil(SAMPLES).max(1);
    let mut per_worker = vec![vec![0; SAMPLES as usize]; workers];
    for record in records {
        let (Some(worker), Some(sent_ns)) = (record.worker, record.sent_ns) else {
            continue;
        };
        let Some(counts) = per_worker.get_mut(usize::from(worker)) else {
            continue;
        };
        for sample in sent_ns.div_ceil(step_ns)..=record.finished_ns / step_ns {
            if let Some(count) = counts.get_mut(sample as usize) {
                *count += 1;
            }
        }
    }
    Some(Live {
        step_ns,
        per_worker,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::load::Outcome;

    #[test]
    fn live_connections_are_counted_between_send_and_finish() {
        let record = |worker, sent_ns, finished_ns| Record {
            scheduled_ns: sent_ns,
            sent_ns: Some(sent_ns),
            finished_ns,
            service_us: 1,
            worker: Some(worker),
            outcome: Outcome::Ok,
            status: Some(200),
            target: 0,
        };
        let live = live(
            &[record(0, 0, 100), record(1, 50, 2_000), record(1, 60, 70)],
            2,
        )
        .unwrap();
        assert_eq!(live.step_ns, 10);
        assert_eq!(
            live.per_worker[0][..12],
            [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]
        );
        assert_eq!(live.per_worker[1][4..9], [0, 1, 2, 2, 1]);
    }
}
