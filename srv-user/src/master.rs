//! The master: opens the listener groups, keeps a worker process in every
//! slot, and sees them through start, death and stop. It never accepts a
//! connection and no worker ever waits for it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use srv_common::{Policy, State};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::MissedTickBehavior;

use crate::channel::{Start, ToMaster, ToWorker};
use crate::config::value::PolicyName;
use crate::config::{AcceptMode, Settings};
use crate::control::{self, Question, Reply, Request, SocketStatus, Status};
use crate::group::Group;
use crate::listen::ListenerInfo;
use crate::spawn::{self, Worker};

/// Something for the master to deal with.
pub enum Event {
    /// The process of that id said something.
    FromWorker(Pid, ToMaster),
    /// A slot's back-off is over.
    Respawn(u32),
    /// Somebody asks through the control socket.
    Asked(Question),
}

/// Runs a server until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting, and a stop that had to kill workers.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .context("start the master's event loop")?
        .block_on(async {
            let mut master = Master::open(settings)?;
            let result = master.serve().await;
            master.kill_workers();
            result
        })
}

/// How often the waiting counts are compared with the kernel's truth.
const HEAL_EVERY: Duration = Duration::from_secs(1);
/// However short `--hang-after` is: the master is to sleep.
const HANG_CHECK_EVERY_MIN: Duration = Duration::from_millis(10);
/// Respawns wait this long, doubled with each early death, up to the maximum.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// A worker that lives this long has not died early.
const SETTLED: Duration = Duration::from_secs(5);
/// So many failed starts, with no worker ever ready, and the server gives up.
const FAILED_STARTS_MAX: u32 = 3;

struct Master {
    settings: Settings,
    policy: Policy,
    groups: Vec<Group>,
    workers: HashMap<Pid, Worker>,
    /// By slot: how often in a row a worker died early.
    early_deaths: Vec<u32>,
    events: UnboundedSender<Event>,
    incoming: UnboundedReceiver<Event>,
    /// Its file goes when this goes.
    _control: control::Server,
    /// All slots have had a ready worker or a failed start: the ring is whole.
    started: bool,
    ever_ready: bool,
    stopping: Option<Stopping>,
    last_failure: Option<String>,
}

struct Stopping {
    deadline: Option<Instant>,
    killed: bool,
}

impl Master {
    fn open(settings: Settings) -> anyhow::Result<Self> {
        let addresses = settings.listen.iter();
        let open = |address: &_| Group::open(*address, &settings);
        let mut groups = addresses.map(open).collect::<anyhow::Result<Vec<_>>>()?;
        let policy = first_policy(&settings, &groups)?;
        for group in &mut groups {
            group.steer(policy)?;
        }
        let (events, incoming) = unbounded_channel();
        let port = groups[0].listeners.address.port();
        let control = control::Server::open(settings.control.as_deref(), port, events.clone())?;
        Ok(Self {
            early_deaths: vec![0; settings.workers as usize],
            policy,
            groups,
            workers: HashMap::new(),
            events,
            incoming,
            _control: control,
            started: false,
            ever_ready: false,
            stopping: None,
            last_failure: None,
            settings,
        })
    }

    async fn serve(&mut self) -> anyhow::Result<()> {
        let mut child = signal(SignalKind::child())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut quit = signal(SignalKind::quit())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut heal = tokio::time::interval(HEAL_EVERY);
        let mut spot_hangs = tokio::time::interval(self.hang_check_every());
        spot_hangs.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for slot in 0..self.settings.workers {
            self.spawn(slot)?;
        }
        loop {
            let deadline = self
                .stopping
                .as_ref()
                .and_then(|stopping| stopping.deadline);
            tokio::select! {
                _ = child.recv() => self.reap(),
                _ = terminate.recv() => self.stop(Some(self.settings.grace)),
                _ = interrupt.recv() => self.stop(Some(self.settings.grace)),
                _ = quit.recv() => self.stop(None),
                _ = hangup.recv() => tracing::warn!("SIGHUP is ignored: this version reloads nothing"),
                Some(event) = self.incoming.recv() => self.handle(event),
                _ = heal.tick() => self.groups.iter_mut().for_each(Group::heal),
                _ = spot_hangs.tick() => self.groups.iter().for_each(Group::spot_hangs),
                () = until(deadline) => self.run_out_of_grace(),
            }
            if self.is_finished()? {
                return Ok(());
            }
        }
    }

    /// Often enough that a hang is seen a quarter late at most.
    fn hang_check_every(&self) -> Duration {
        let often = self.settings.hang_after / 4;
        often.clamp(HANG_CHECK_EVERY_MIN, HEAL_EVERY)
    }

    fn is_finished(&self) -> anyhow::Result<bool> {
        if let Some(stopping) = &self.stopping {
            if stopping.killed {
                bail!("stopped, but requests were lost: workers had to be killed");
            }
            return Ok(self.workers.is_empty());
        }
        let failed: u32 = self.early_deaths.iter().sum();
        if !self.ever_ready && self.workers.is_empty() && failed >= FAILED_STARTS_MAX {
            let why = self
                .last_failure
                .as_deref()
                .unwrap_or("they died without a word");
            bail!("no worker could start: {why}");
        }
        Ok(false)
    }

    fn spawn(&mut self, slot: u32) -> anyhow::Result<()> {
        let start = Start {
            slot,
            workers: self.settings.workers,
            groups: self.groups.len() as u32,
            log_json: self.settings.log_json,
            serving: self.settings.serving.clone(),
        };
        let worker = spawn::spawn(start, &self.groups, &self.events)?;
        let pid = worker.pid;
        tracing::debug!(slot, pid = pid.as_raw_nonzero().get(), "worker started");
        for group in &self.groups {
            group.worker_starts(slot, pid.as_raw_nonzero().get() as u32);
        }
        self.workers.insert(pid, worker);
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::FromWorker(pid, ToMaster::Registered) => self.registered(pid),
            Event::FromWorker(pid, ToMaster::Ready) => self.ready(pid),
            Event::FromWorker(pid, ToMaster::Retiring) => self.set_state(pid, State::Draining),
            Event::FromWorker(_, ToMaster::Failed(why)) => {
                tracing::error!("a worker failed: {why}");
                self.last_failure = Some(why);
            }
            Event::Respawn(slot) if self.stopping.is_none() => {
                if let Err(error) = self.spawn(slot) {
                    tracing::error!("respawn worker {slot}: {error:#}");
                    self.respawn_later(slot);
                }
            }
            Event::Respawn(_) => {}
            Event::Asked(question) => {
                let reply = self.answer(&question.request);
                // Whoever asked may have gone again.
                let _ = question.reply.send(reply);
            }
        }
    }

    /// A worker waits on its own listeners. At the start the ring is joined
    /// when all do, so that each is first in line at its own; later the
    /// others step back behind the newcomer.
    fn registered(&mut self, pid: Pid) {
        let Some(worker) = self.workers.get_mut(&pid) else {
            return;
        };
        worker.registered = true;
        let slot = worker.slot;
        if self.settings.serving.accept != AcceptMode::Ring {
            return;
        }
        if !self.started {
            return self.join_ring_if_whole();
        }
        for (other, worker) in &self.workers {
            let message = if *other == pid {
                ToWorker::JoinRing
            } else {
                ToWorker::Rejoin(slot)
            };
            worker.tell(&message);
        }
    }

    fn join_ring_if_whole(&mut self) {
        if self.started || self.workers.values().any(|worker| !worker.registered) {
            return;
        }
        self.started = true;
        for worker in self.workers.values() {
            worker.tell(&ToWorker::JoinRing);
        }
    }

    fn ready(&mut self, pid: Pid) {
        let Some(worker) = self.workers.get_mut(&pid) else {
            return;
        };
        worker.ready = true;
        self.set_state(pid, State::Ready);
        if self.stopping.is_some() {
            return self.drain(pid);
        }
        let first_time = !self.ever_ready && self.workers.values().all(|worker| worker.ready);
        if first_time {
            self.ever_ready = true;
            self.announce();
        }
    }

    fn announce(&self) {
        for group in &self.groups {
            let workers = self.settings.workers;
            match group.why_unsteered() {
                None => tracing::info!(
                    workers,
                    policy = self.policy.name(),
                    "steering in the kernel"
                ),
                Some(why) => tracing::info!(workers, "not steering (the kernel hashes): {why}"),
            }
            tracing::info!("listening on {}", group.listeners.address);
        }
    }

    fn reap(&mut self) {
        // Any child: as PID 1 the master also inherits orphans.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(worker) = self.workers.remove(&pid) {
                self.bury(&worker, status);
            }
        }
    }

    fn bury(&mut self, worker: &Worker, status: WaitStatus) {
        let slot = worker.slot;
        for group in &self.groups {
            group.worker_died(slot);
        }
        if self.stopping.is_some() {
            return;
        }
        tracing::warn!(
            slot,
            pid = worker.pid.as_raw_nonzero().get(),
            "worker died: {}",
            fate(status)
        );
        if worker.started.elapsed() > SETTLED {
            self.early_deaths[slot as usize] = 0;
        }
        // The ring must not wait for one that cannot start.
        self.join_ring_if_whole();
        self.respawn_later(slot);
    }

    /// The first death costs no wait; each further early one twice as much.
    fn respawn_later(&mut self, slot: u32) {
        let deaths = &mut self.early_deaths[slot as usize];
        let wait = match *deaths {
            0 => Duration::ZERO,
            n => (BACK_OFF_MIN * 2u32.saturating_pow(n.min(16) - 1)).min(BACK_OFF_MAX),
        };
        *deaths += 1;
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // The receiver lives as long as the master.
            let _ = events.send(Event::Respawn(slot));
        });
    }

    /// Stops steering and lets the workers finish, for `grace` at most
    /// (`None`: as long as they need). Asked a second time, it hurries.
    fn stop(&mut self, grace: Option<Duration>) {
        if self.stopping.is_some() && grace.is_some() {
            return self.run_out_of_grace();
        }
        tracing::info!("stopping: draining {} workers", self.workers.len());
        self.stopping = Some(Stopping {
            deadline: grace.map(|grace| Instant::now() + grace),
            killed: false,
        });
        for group in &mut self.groups {
            if let Err(error) = group.close() {
                tracing::warn!("stop listening on {}: {error:#}", group.listeners.address);
            }
        }
        for pid in self.workers.keys().copied().collect::<Vec<_>>() {
            self.drain(pid);
        }
    }

    fn drain(&self, pid: Pid) {
        self.set_state(pid, State::Draining);
        if let Some(worker) = self.workers.get(&pid) {
            worker.tell(&ToWorker::Drain);
        }
    }

    fn set_state(&self, pid: Pid, state: State) {
        if let Some(worker) = self.workers.get(&pid) {
            self.groups
                .iter()
                .for_each(|group| group.set_state(worker.slot, state));
        }
    }

    fn run_out_of_grace(&mut self) {
        if self.workers.is_empty() {
            return;
        }
        tracing::warn!("killing {} workers that are not done", self.workers.len());
        self.kill_workers();
        self.stopping = Some(Stopping {
            deadline: None,
            killed: true,
        });
    }

    fn kill_workers(&mut self) {
        for (pid, _) in self.workers.drain() {
            // Not reaped yet, so the id is still the worker's.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
        }
    }

    fn answer(&mut self, request: &Request) -> Reply {
        match request {
            Request::Status => Reply::Status(self.status()),
            Request::Sockets => match self.sockets() {
                Ok(sockets) => Reply::Sockets(sockets),
                Err(error) => Reply::Refused(format!("{error:#}")),
            },
            Request::Policy(name) => match self.switch_policy(name) {
                Ok(before) => Reply::Done(format!("policy: {name} (was {})", before.name())),
                Err(error) => Reply::Refused(format!("{error:#}")),
            },
        }
    }

    fn switch_policy(&mut self, name: &str) -> anyhow::Result<Policy> {
        let policy = name.parse::<PolicyName>().map_err(anyhow::Error::msg)?.0;
        for group in &mut self.groups {
            group.steer(policy)?;
        }
        tracing::info!("policy: {name}");
        Ok(std::mem::replace(&mut self.policy, policy))
    }

    fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            policy: self.policy.name().to_string(),
            accept: self.settings.serving.accept.name().to_string(),
            groups: self.groups.iter().map(Group::status).collect(),
        }
    }

    fn sockets(&self) -> anyhow::Result<Vec<SocketStatus>> {
        let mut sockets = Vec::new();
        for (nth_group, group) in self.groups.iter().enumerate() {
            for (nth, socket) in group.listeners.sockets.iter().enumerate() {
                let info = ListenerInfo::of(socket)?;
                let own = self.settings.serving.accept.has_own_listeners();
                let owner = self
                    .workers
                    .values()
                    .find(|worker| own && worker.slot == nth as u32);
                let inherited = spawn::inherited(&self.groups);
                sockets.push(SocketStatus {
                    listen: group.listeners.address,
                    slot: own.then_some(nth as u32),
                    inode: info.inode,
                    cookie: info.cookie,
                    pid: owner.map_or(0, |worker| worker.pid.as_raw_nonzero().get() as u32),
                    fd: inherited.listener(nth_group as u32, nth as u32),
                    recv_q: info.queued,
                    backlog: info.backlog,
                });
            }
        }
        Ok(sockets)
    }
}

/// The policy asked for, or the hash where a default cannot be had.
fn first_policy(settings: &Settings, groups: &[Group]) -> anyhow::Result<Policy> {
    let why = groups.iter().find_map(Group::why_unsteered);
    match why {
        Some(why) if settings.policy_is_explicit && settings.policy != Policy::Hash => {
            bail!("steer by {}: {why}", settings.policy.name())
        }
        Some(_) => Ok(Policy::Hash),
        None => Ok(settings.policy),
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn fate(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => format!("status {status:?}"),
    }
}
