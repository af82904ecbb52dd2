//! What a server has been through, and how it shares connections from then on: each
//! [`Past`] leaves its workers with unequal totals, or without one of them for a while,
//! after which [`cheap`] traffic is counted by worker.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use srv::control::status::GroupStatus;
use srv::control::{Reply, Request, ask};
use srv::measure::arrivals::{Draw, Service, poisson};
use srv::measure::load::{Closed, Load, Run};
use srv_steer::balance::{coefficient_of_variation, most_in_window};

use crate::server::Server;

/// What happened to a server with [`WORKERS`] workers before its shares are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// Nothing.
    None,
    /// 32 clients in a closed loop asked for as much as there was to be had.
    ClosedLoop,
    /// Rare long requests among short ones.
    Bimodal,
    /// Another policy gave all connections to one worker.
    AnotherPolicy,
    /// One worker was in one request while the others served.
    AtWork,
    /// One worker was stopped while the others served, then continued. Its listener
    /// has to be in a ring: else a connection waits there until it is continued.
    Stopped,
    /// One worker was killed and another came.
    Replaced,
}

/// Workers of a server with a past.
pub const WORKERS: usize = 8;
/// Connections in a window.
pub const WINDOW: usize = 400;
/// Most that one worker may get of a window: 1.25 times its share.
pub const WINDOW_MOST: u64 = (WINDOW / WORKERS * 5 / 4) as u64;
/// Coefficient of variation of all shares that is even enough.
pub const CV_MOST: f64 = 0.02;

/// The worker that something happens to.
const VICTIM: usize = 3;
/// What does not come about in this time will not.
const PATIENCE: Duration = Duration::from_secs(30);

impl Past {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::ClosedLoop,
        Self::Bimodal,
        Self::AnotherPolicy,
        Self::AtWork,
        Self::Stopped,
        Self::Replaced,
    ];

    /// Starts a server that accepts in this mode and has it go through `self`, with
    /// about so many connections.
    ///
    /// # Errors
    /// It does not start, loses a request, or is not what it was before in the end.
    pub fn server(self, accept: &str, connections: usize) -> Result<Server> {
        let workers = WORKERS.to_string();
        let server = Server::start([
            "--workers",
            &workers,
            "--accept",
            accept,
            "--worker-header",
            "--synthetic",
        ])?;
        self.happen(&server, connections)
            .with_context(|| format!("have a server go through {self:?}"))?;
        let all_sleep = |group: &GroupStatus| {
            let mut workers = group.workers.iter();
            workers.all(|worker| worker.state == "ready" && worker.busy_us == 0)
                && group.totals.active == 0
                && group.totals.waiting == 0
        };
        until(&server, all_sleep).context("wait until all workers are idle")?;
        Ok(server)
    }

    fn happen(self, server: &Server, connections: usize) -> Result<()> {
        let target = server.address();
        match self {
            Self::None => {}
            Self::ClosedLoop => {
                closed(target, 32, connections)?;
            }
            Self::Bimodal => {
                let service = Service::Two {
                    short_us: 1_000,
                    long_us: 100_000,
                    p_long: 0.005,
                };
                let mut draws = poisson(1, 2_400.0, Duration::from_secs(60), service);
                draws.truncate(connections);
                whole(load(target).run(&draws)?)?;
            }
            Self::AnotherPolicy => {
                switch(server, "source")?;
                closed(target, 1, connections)?;
                switch(server, "least")?;
            }
            Self::AtWork => at_work(server, connections)?,
            Self::Stopped => {
                closed(target, 1, connections)?;
                let victim = pid(&status(server)?, VICTIM)?;
                kill_process(victim, Signal::STOP)?;
                let served = closed(target, 1, connections);
                kill_process(victim, Signal::CONT)?;
                served?;
            }
            Self::Replaced => {
                closed(target, 1, connections)?;
                let victim = pid(&status(server)?, VICTIM)?;
                kill_process(victim, Signal::KILL)?;
                let is_back = |group: &GroupStatus| {
                    let worker = &group.workers[VICTIM];
                    worker.starts == 2 && worker.state == "ready"
                };
                until(server, is_back)?;
            }
        }
        Ok(())
    }
}

/// One worker sleeps in a request while the others serve.
fn at_work(server: &Server, connections: usize) -> Result<()> {
    std::thread::scope(|scope| {
        let long = Draw {
            at_ns: 0,
            service_us: 1_500_000,
        };
        let target = server.address();
        let sleeper = scope.spawn(move || load(target).run(&[long]));
        until(server, |group| group.totals.running == 1)?;
        closed(target, 1, connections)?;
        let slept = sleeper.join().ok().context("the long request panicked")?;
        whole(slept?)?;
        Ok(())
    })
}

/// Requests that take no time, at `per_second` in an open loop. Which worker answered
/// each, in the order in which they came.
///
/// # Errors
/// One was not answered.
pub fn cheap(target: SocketAddr, count: usize, per_second: f64) -> Result<Vec<u16>> {
    let lasts = Duration::from_secs_f64(2.0 * count as f64 / per_second);
    let mut draws = poisson(7, per_second, lasts, Service::Fixed(0));
    draws.truncate(count);
    let run = whole(load(target).run(&draws)?)?;
    let workers = run.records.iter().map(|record| record.worker);
    workers
        .collect::<Option<_>>()
        .context("X-Worker is missing")
}

impl fmt::Display for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::ClosedLoop => "closed loop",
            Self::Bimodal => "bimodal",
            Self::AnotherPolicy => "all to one",
            Self::AtWork => "one at work",
            Self::Stopped => "one stopped",
            Self::Replaced => "one replaced",
        })
    }
}

/// How even shares were.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// Connections of each worker.
    pub counts: Vec<u64>,
    /// Their coefficient of variation.
    pub cv: f64,
    /// The most that one worker got of any [`WINDOW`] consecutive ones.
    pub window_most: u64,
}

impl Shares {
    /// Of what [`cheap`] returns.
    pub fn of(served_by: &[u16]) -> Self {
        let mut counts = vec![0; WORKERS];
        for worker in served_by {
            counts[usize::from(*worker)] += 1;
        }
        Self {
            cv: coefficient_of_variation(&counts),
            window_most: most_in_window(served_by, WINDOW),
            counts,
        }
    }
}

fn load(target: SocketAddr) -> Load {
    Load {
        timeout: PATIENCE,
        ..Load::get(target, "/work?sleep_us={us}")
    }
}

fn closed(target: SocketAddr, clients: usize, requests: usize) -> Result<Run> {
    let closed = Closed {
        clients,
        service: Service::Fixed(0),
        seed: 1,
        duration: None,
        requests: Some(requests),
    };
    whole(load(target).run_closed(&closed)?)
}

fn whole(run: Run) -> Result<Run> {
    let said = run.first_error.as_deref().unwrap_or("nothing said");
    ensure!(run.lost() == 0, "{} requests lost: {said}", run.lost());
    Ok(run)
}

fn status(server: &Server) -> Result<GroupStatus> {
    match ask(Some(&server.control()), &Request::Status)? {
        Reply::Status(mut status) => Ok(status.groups.remove(0)),
        other => bail!("asked for status, got {other:?}"),
    }
}

fn switch(server: &Server, policy: &str) -> Result<()> {
    ask(Some(&server.control()), &Request::Policy(policy.into()))?;
    Ok(())
}

fn pid(group: &GroupStatus, slot: usize) -> Result<Pid> {
    Pid::from_raw(group.workers[slot].pid as i32).context("the worker has no process")
}

fn until(server: &Server, is_so: impl Fn(&GroupStatus) -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let group = status(server)?;
        if is_so(&group) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "waited {PATIENCE:?} in vain; last seen: {:?}",
                group.workers
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
