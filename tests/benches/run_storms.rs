//! `bench run_storms`: what an unmodified nginx loses under load while it is reloaded, upgraded, and
//! its workers are killed: by itself and under `srv run`, in turn, so that both see the same
//! machine. Under `srv run` its coordinator is killed, too.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use srv::measure::arrivals::{Service, poisson};
use srv::measure::baseline::launch::{CONTROL, NO_BPF};
use srv::measure::load::{Load, Outcome};
use srv_tests::arguments::Arguments;
use srv_tests::nginx::{Content, LEAVE, Nginx, Options};
use srv_tests::report::{Raw, print_table};
use srv_tests::server::binary;

const WORKERS: usize = 4;
const PER_SECOND: f64 = 500.0;
/// Between two faults.
const PAUSE: Duration = Duration::from_millis(100);
/// What does not come about in this time will not.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the server is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Arm {
    Plain,
    Steered,
    Hashed,
}

/// What is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Storm {
    Reloads,
    Upgrades,
    WorkerKills,
    CoordinatorKills,
}

#[derive(Debug, Default, Serialize)]
struct Sample {
    reuseport: bool,
    storm: String,
    arm: String,
    faults: usize,
    requests: usize,
    lost: usize,
    reset: usize,
    first_error: Option<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut raw = Raw::create("run_storms")?;
    println!(
        "nginx, {WORKERS} workers, {PER_SECOND} new connections a second while faults come one \
         after another; a fresh server for each line\n"
    );
    let mut rows = Vec::new();
    for reuseport in [false, true] {
        for (storm, count) in [
            (Storm::Reloads, 50),
            (Storm::Upgrades, 20),
            (Storm::WorkerKills, 60),
            (Storm::CoordinatorKills, 20),
        ] {
            let count = if arguments.quick { count / 5 } else { count };
            for arm in [Arm::Plain, Arm::Steered, Arm::Hashed] {
                if storm != Storm::CoordinatorKills || arm != Arm::Plain {
                    let sample = Trial::start(reuseport, arm, storm)?.run(storm, count)?;
                    raw.write(&sample)?;
                    rows.push(row(&sample));
                }
            }
        }
    }
    print_table(
        &[
            "server", "storm", "arm", "faults", "requests", "lost", "reset",
        ],
        rows,
    );
    raw.finish()
}

fn row(sample: &Sample) -> Vec<String> {
    let server = match sample.reuseport {
        true => "reuseport",
        false => "shared",
    };
    let counts = [sample.faults, sample.requests, sample.lost, sample.reset];
    [server, &sample.storm, &sample.arm]
        .map(ToOwned::to_owned)
        .into_iter()
        .chain(counts.map(|count| count.to_string()))
        .collect()
}

/// One server.
struct Trial {
    nginx: Nginx,
    options: Options,
    arm: Arm,
    workers: Vec<Pid>,
    _control: tempfile::TempDir,
    control: PathBuf,
}

impl Trial {
    fn start(reuseport: bool, arm: Arm, storm: Storm) -> Result<Self> {
        let folder = tempfile::tempdir().context("create a temporary folder")?;
        let control = folder.path().join(CONTROL);
        let options = Options {
            workers: WORKERS,
            reuseport,
            deferred: false,
            tuning: String::new(),
            content: Content::Work,
        };
        // A server that replaces its binary needs the whole path.
        let path = executable("nginx")?;
        let srv = binary()?;
        let command = || {
            let mut command = match storm {
                Storm::Upgrades => {
                    let mut command = Command::new("sh");
                    command.args(["-c", LEAVE, "sh"]);
                    command
                }
                _ => Command::new("env"),
            };
            let flags: &[&str] = match arm {
                Arm::Hashed => &[NO_BPF],
                _ => &[],
            };
            if arm != Arm::Plain {
                command.arg(&srv).arg("run").arg("--control").arg(&control);
                command.args(flags).arg("--");
            }
            command.arg(&path);
            command
        };
        let nginx = Nginx::start_as(command, [127, 0, 0, 1].into(), &options)?;
        let workers = nginx.workers().to_vec();
        Ok(Self {
            nginx,
            options,
            arm,
            workers,
            _control: folder,
            control,
        })
    }

    /// The load lasts as long as the faults.
    fn run(mut self, storm: Storm, count: usize) -> Result<Sample> {
        let load = Load::get(self.nginx.address(), "/work?sleep_us=0");
        let is_over = AtomicBool::new(false);
        let (runs, faults) = std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                let mut runs = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let seed = runs.len() as u64;
                    let second = Duration::from_secs(1);
                    let draws = poisson(seed, PER_SECOND, second, Service::Fixed(0));
                    runs.push(load.run(&draws)?);
                }
                anyhow::Ok(runs)
            });
            let faults = self.faults(storm, count);
            is_over.store(true, Ordering::Relaxed);
            let runs = running
                .join()
                .unwrap_or_else(|_| bail!("the load panicked"));
            (runs, faults)
        });
        let (runs, faults) = (runs?, faults?);
        self.end()?;
        let outcomes = || runs.iter().flat_map(|run| &run.records);
        Ok(Sample {
            reuseport: self.options.reuseport,
            storm: format!("{storm:?}"),
            arm: format!("{:?}", self.arm),
            faults,
            requests: outcomes().count(),
            lost: runs.iter().map(|run| run.lost()).sum(),
            reset: outcomes()
                .filter(|record| record.outcome == Outcome::Reset)
                .count(),
            first_error: runs.into_iter().find_map(|run| run.first_error),
        })
    }

    /// How many there were.
    fn faults(&mut self, storm: Storm, count: usize) -> Result<usize> {
        for nth in 0..count {
            // Between two faults there is to be load.
            std::thread::sleep(PAUSE);
            match storm {
                Storm::Reloads => self.nginx.reload(&self.options)?,
                Storm::Upgrades => self.upgrade()?,
                Storm::WorkerKills => self.kill_worker(nth)?,
                Storm::CoordinatorKills => {
                    let Some(coordinator) = coordinator(&self.control) else {
                        // It is not started again.
                        return Ok(nth);
                    };
                    kill_process(coordinator, Signal::KILL).context("kill the coordinator")?;
                    self.load_without_coordinator();
                }
            }
        }
        Ok(count)
    }

    fn kill_worker(&mut self, nth: usize) -> Result<()> {
        let victim = &mut self.workers[nth % WORKERS];
        kill_process(*victim, Signal::KILL).context("kill a worker")?;
        let line = self.nginx.child().await_line("start worker process ")?;
        let pid = line.rsplit(' ').next().and_then(|pid| pid.parse().ok());
        *victim = pid.and_then(Pid::from_raw).context("read a process id")?;
        Ok(())
    }

    /// As nginx's manual says it: a new binary beside the old one, which then ends.
    fn upgrade(&mut self) -> Result<()> {
        let file = self.nginx.folder().join("pid");
        let old = read_pid(&file)?;
        kill_process(old, Signal::USR2).context("ask for an upgrade")?;
        for _ in 0..WORKERS {
            self.nginx.child().await_line("start worker process ")?;
        }
        kill_process(old, Signal::QUIT).context("end the old binary")?;
        let mark = self.nginx.folder().join("pid.oldbin");
        await_that("the old binary has ended", || !mark.exists())
    }

    /// Waits until another coordinator answers, for a moment.
    fn load_without_coordinator(&self) {
        let deadline = Instant::now() + Duration::from_secs(3);
        while coordinator(&self.control).is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the binary that runs now, which may be no child of this process.
    fn end(&self) -> Result<()> {
        let file = self.nginx.folder().join("pid");
        kill_process(read_pid(&file)?, Signal::QUIT).context("end nginx")?;
        await_that("nginx has ended", || !file.exists())
    }
}

fn await_that(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() > deadline {
            bail!("waited {PATIENCE:?} in vain until {what}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn read_pid(file: &Path) -> Result<Pid> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    pid.with_context(|| format!("read a process id in {}", file.display()))
}

/// The process that answers at the control socket.
fn coordinator(control: &Path) -> Option<Pid> {
    let stream = UnixStream::connect(control).ok()?;
    Some(socket_peercred(&stream).ok()?.pid)
}

/// The file of a command in PATH.
fn executable(name: &str) -> Result<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&folders).map(|folder| folder.join(name));
    let found = found.find(|path| path.is_file());
    found.with_context(|| format!("{name} is not in PATH: `cargo xtask bench` installs it"))
}
