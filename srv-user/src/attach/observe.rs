//! `srv observe`: shows how the workers of a server share its connections, so that the operator
//! sees whether steering would help. It attaches nothing. The server may be steered or not, and its
//! workers may share one socket.

use std::collections::{BTreeSet, HashSet};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use procfs::process::Process;
use rustix::process::Pid;
use rustix::thread::Timespec;
use serde::{Deserialize, Serialize};

use super::closes::Closes;
use super::group::Target;
use super::hint::{Facts, Hint, Under};
use super::rates::{Sample, WorkerRate, rates};
use super::refusal::{Refusal, how_to_own_sockets};
use super::report::open_connections;
use super::started::Started;
use super::table;
use super::under::under;
use super::verdict::{Finding, Seen, Verdict, judge};
use crate::control::attached::{AttachedStatus, Attachment};
use crate::kernel::owners::Owners;
use crate::kernel::sock_diag::SockDiag;
use crate::output;
use crate::output::json;

/// What to observe, and how often.
#[derive(Clone, Debug)]
pub struct ObserveOptions {
    /// The server.
    pub target: Target,
    /// The interval of each report.
    pub interval: Duration,
    /// Whether to end after one report.
    pub once: bool,
    /// Whether to print JSON, one line for each report.
    pub json: bool,
}

/// One report: the fields of `srv observe --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Observation {
    /// The length of the interval, in seconds.
    pub interval_s: f64,
    /// The group at the end of the interval.
    #[serde(flatten)]
    pub status: AttachedStatus,
    /// The workers, with the connections that they accepted in the interval.
    pub workers: Vec<WorkerRate>,
    /// Why accepts are unknown; `None` if they are known.
    pub accepts_unknown: Option<String>,
    /// How often `srv observe` sampled the accept queues in the interval.
    pub looks: u32,
    /// In how many samples the queue of one socket held connections for 20 ms while the queue of
    /// another was empty.
    pub looks_waiting: u32,
    /// The verdict.
    pub verdict: Verdict,
    /// Whether the server would gain by `srv run`.
    pub hint: Hint,
}

/// The time between two samples of the accept queues.
const SAMPLE_QUEUES_EVERY: Timespec = milliseconds(80);
/// How often one sample reads the queues, with a pause in between. Every connection is in a queue
/// for a moment. If a queue holds connections at each read, they wait for longer.
const READS: usize = 3;
const PAUSE: Timespec = milliseconds(10);

const fn milliseconds(count: i64) -> Timespec {
    Timespec {
        tv_sec: 0,
        tv_nsec: count * 1_000_000,
    }
}

/// Prints one report, or one after each interval until a signal ends the command. The exit code is
/// that of the last verdict ([`Finding::exit_code`](super::verdict::Finding::exit_code)).
///
/// # Errors
/// No process listens on the address, this process does not see the owner, or the kernel's error.
pub fn run(options: &ObserveOptions) -> anyhow::Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in signal_hook::consts::TERM_SIGNALS {
        signal_hook::flag::register(*signal, stop.clone()).context("install a signal handler")?;
    }
    let mut observer = Observer::start(options.target)?;
    // If no report was made, there is no verdict.
    let mut code = ExitCode::from(Finding::Few.exit_code());
    loop {
        let Some(report) = observer.observe(options.interval, &stop)? else {
            return Ok(code);
        };
        code = report.verdict.finding.exit_code().into();
        match options.json {
            true => json::print_line(&report)?,
            false => print(&report),
        }
        if options.once || output::failure().is_some() {
            return Ok(code);
        }
    }
}

struct Observer {
    target: Target,
    diag: SockDiag,
    /// The counts of closed connections, or why they cannot be had.
    closes: Result<Closes, String>,
}

impl Observer {
    fn start(target: Target) -> anyhow::Result<Self> {
        let mut diag = SockDiag::open(target.netns)?;
        let listeners = target.listeners(&mut diag)?;
        let owners = Owners::of(&listeners.iter().map(|each| each.inode).collect());
        if owners.owners.is_empty() {
            return Err(Refusal::OwnersHidden(target.address).into());
        }
        let closes = Closes::of_port(target.address.port());
        Ok(Self {
            target,
            diag,
            closes: closes.map_err(|error| {
                srv_steer::program::on_one_line(error.chain().map(ToString::to_string))
            }),
        })
    }

    /// Makes one report; `None` if a signal came.
    fn observe(
        &mut self,
        interval: Duration,
        stop: &AtomicBool,
    ) -> anyhow::Result<Option<Observation>> {
        let begin = Instant::now();
        let (_, before) = self.sample()?;
        let (mut looks, mut looks_waiting) = (0, 0);
        while begin.elapsed() < interval {
            // A signal ends this sleep. The sleep of std would go on.
            let _ = rustix::thread::nanosleep(&SAMPLE_QUEUES_EVERY);
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            looks += 1;
            looks_waiting += u32::from(self.waits_beside_an_empty_queue()?);
        }
        let (owners, after) = self.sample()?;
        let interval_s = begin.elapsed().as_secs_f64();
        let masters = masters(&owners);
        let workers = rates(
            &owners,
            |pid| masters.contains(&pid),
            &before,
            &after,
            interval_s,
        );
        let status = AttachedStatus::of(&self.target, &mut self.diag)?;
        let under = under(&status, &owners);
        let accepts_unknown = self.closes.as_ref().err().cloned();
        let verdict = judge(&Seen {
            workers: &workers,
            unknown: accepts_unknown.as_deref(),
            seconds: interval_s,
            looks,
            waiting: looks_waiting,
            fix: fix(&status, self.target, under.as_ref()).as_deref(),
        });
        let pids: BTreeSet<i32> = workers.iter().map(|row| row.pid as i32).collect();
        let facts = Facts {
            under,
            sockets: status.listeners.len(),
            workers: pids.len(),
            finding: verdict.finding,
            started: &Started::of(&pids, &owners),
            attach: attach(&status, self.target),
        };
        let hint = facts.hint();
        Ok(Some(Observation {
            interval_s,
            status,
            workers,
            accepts_unknown,
            looks,
            looks_waiting,
            verdict,
            hint,
        }))
    }

    /// Whether, at each read, the queue of one socket holds connections and that of another is
    /// empty.
    fn waits_beside_an_empty_queue(&mut self) -> anyhow::Result<bool> {
        let (mut filled, mut empty) = (None, None);
        for nth in 0..READS {
            if nth > 0 {
                let _ = rustix::thread::nanosleep(&PAUSE);
            }
            let queues = self.diag.listeners_on(self.target.address)?;
            let cookies = |is_filled: bool| -> HashSet<u64> {
                let such = queues.iter().filter(|each| (each.queued > 0) == is_filled);
                such.map(|each| each.cookie).collect()
            };
            retain(&mut filled, cookies(true));
            retain(&mut empty, cookies(false));
        }
        let is_one = |found: Option<HashSet<u64>>| found.is_some_and(|found| !found.is_empty());
        Ok(is_one(filled) && is_one(empty))
    }

    fn sample(&mut self) -> anyhow::Result<(Owners, Sample)> {
        let listeners = self.target.listeners(&mut self.diag)?;
        let owners = Owners::of(&listeners.iter().map(|each| each.inode).collect());
        let closes = self.closes.as_ref().ok();
        let sample = Sample {
            closed: closes.map(Closes::counts).transpose()?,
            open: open_connections(self.target.address, &mut self.diag, &owners)?,
        };
        Ok((owners, sample))
    }
}

/// Keeps of `found` what was found `again`.
fn retain(found: &mut Option<HashSet<u64>>, again: HashSet<u64>) {
    *found = Some(match found.take() {
        None => again,
        Some(before) => before.intersection(&again).copied().collect(),
    });
}

/// The processes that are the parent of another process that has the sockets.
fn masters(owners: &Owners) -> HashSet<Pid> {
    let parent = |pid: Pid| {
        let process = Process::new(pid.as_raw_nonzero().get()).ok()?;
        Pid::from_raw(process.stat().ok()?.ppid)
    };
    owners
        .owners
        .iter()
        .filter_map(|owner| parent(owner.pid))
        .collect()
}

/// The command that steers the server; `None` if it is steered already.
fn attach(status: &AttachedStatus, target: Target) -> Option<String> {
    let netns = match target.netns {
        Some(pid) => format!(" --netns {}", pid.as_raw_nonzero()),
        None => String::new(),
    };
    let is_attached = status.program.attachment == Attachment::Attached;
    (!is_attached).then(|| format!("srv attach --listen {}{netns}", target.address))
}

/// How to steer the server; `None` if it is steered already, or srv's own.
fn fix(status: &AttachedStatus, target: Target, under: Option<&Under>) -> Option<String> {
    if under.is_some() {
        return None;
    }
    let attach = attach(status, target).map(|command| format!("`{command}`"))?;
    Some(match status.listeners.len() {
        0 | 1 => format!(
            "{}, then {attach}",
            how_to_own_sockets(&status.server, target.address)
        ),
        _ => attach,
    })
}

fn print(report: &Observation) {
    let time = humantime::format_rfc3339_seconds(SystemTime::now());
    crate::println!(
        "{time}, interval {:.1} s\n{}{}verdict: {}\nhint: {}\n",
        report.interval_s,
        table::group(&report.status),
        table::workers(&report.workers),
        report.verdict.text,
        report.hint
    );
}
