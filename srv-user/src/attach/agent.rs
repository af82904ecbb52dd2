//! The agent of one group: a process in the foreground that follows the group,
//! answers through a control socket, and detaches when it ends in any way that
//! can be caught.
//!
//! It looks at the group ten times a second. The kernel can report each socket
//! that is destroyed (`SKNLGRP_INET_TCP_DESTROY`), but does so for every
//! connection, and tells nothing of sockets that begin to listen. What the
//! agent does not know yet, the program leaves to the hash.

use std::panic;
use std::time::Duration;

use anyhow::Context as _;
use srv_common::Policy;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::MissedTickBehavior;

use super::command::{AttachOptions, attach, record};
use super::detach::{self, Detached};
use super::follow::{Change, Following};
use super::group::Target;
use super::lock::{Lock, control_path};
use super::processes::Processes;
use super::programs::Snapshot;
use crate::control::attached::{AttachedProgram, AttachedStatus};
use crate::control::{self, Question, Reply, Request};
use crate::kernel::sock_diag::SockDiag;
use crate::logging;
use crate::values::PolicyName;

/// How often it looks at the group.
const RESCAN_EVERY: Duration = Duration::from_millis(100);
/// How often it says what the program did, if it did anything.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Attaches and leaves: the program goes on without a process. Returns the number of
/// sockets that it chooses between.
///
/// # Errors
/// The reason why it cannot attach.
pub fn attach_once(mut options: AttachOptions) -> anyhow::Result<usize> {
    options.control = None;
    let (following, _record_stays) = attach(&options)?;
    log_attached(&following, options.policy);
    Ok(following.cookies().len())
}

/// Attaches and follows the group until it is told to stop.
///
/// # Errors
/// The reason why it cannot attach.
pub fn run(mut options: AttachOptions) -> anyhow::Result<()> {
    let Target {
        address, namespace, ..
    } = options.target;
    if options.control.is_none() {
        options.control = Some(control_path(namespace, address)?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .context("start the agent's event loop")?
        .block_on(async {
            // Caught before there is anything to leave behind.
            let stop = stop()?;
            let mut agent = Agent::start(options)?;
            agent.follow(stop).await
        })
}

/// Completes with the name of the signal that ends the agent. Those that mean other things
/// to other servers, or come with the end of a terminal, do not: by their default they would
/// end it without detaching.
fn stop() -> anyhow::Result<impl Future<Output = &'static str>> {
    let catch = |kind| signal(kind).context("catch a signal");
    let mut terminate = catch(SignalKind::terminate())?;
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut quit = catch(SignalKind::quit())?;
    let mut hang_up = catch(SignalKind::hangup())?;
    let mut user1 = catch(SignalKind::user_defined1())?;
    let mut user2 = catch(SignalKind::user_defined2())?;
    Ok(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => return "SIGTERM",
                _ = interrupt.recv() => return "SIGINT",
                _ = quit.recv() => return "SIGQUIT",
                _ = hang_up.recv() => "SIGHUP",
                _ = user1.recv() => "SIGUSR1",
                _ = user2.recv() => "SIGUSR2",
            };
            tracing::info!("{name} has no effect on an agent: SIGTERM detaches and ends it");
        }
    })
}

struct Agent {
    options: AttachOptions,
    following: Following,
    /// Of the server.
    processes: Processes,
    /// Until it has detached.
    lock: Option<Lock>,
    /// What it last complained of.
    complaint: String,
    /// Connections assigned, when it last told.
    told: u64,
}

impl Agent {
    fn start(options: AttachOptions) -> anyhow::Result<Self> {
        let (mut following, lock) = attach(&options)?;
        detach_on_panic(&options.target)?;
        let processes = Processes::of(&following.owners()?);
        log_attached(&following, options.policy);
        Ok(Self {
            options,
            processes,
            following,
            lock: Some(lock),
            complaint: String::new(),
            told: 0,
        })
    }

    async fn follow(&mut self, stop: impl Future<Output = &'static str>) -> anyhow::Result<()> {
        let (events, mut questions) = unbounded_channel::<Question>();
        let path = self
            .options
            .control
            .clone()
            .context("know where to answer")?;
        let _control = control::Server::open(path, events)?;
        let mut rescan = tokio::time::interval(RESCAN_EVERY);
        rescan.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut report = tokio::time::interval(REPORT_EVERY);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                name = &mut stop => {
                    tracing::info!("{name}: detaching");
                    return self.detach();
                }
                Some(question) = questions.recv() => {
                    let reply = self.answer(&question.request);
                    // Whoever asked may have gone again.
                    let _ = question.reply.send(reply);
                }
                _ = rescan.tick() => {
                    self.rescan();
                    self.check_processes();
                }
                _ = report.tick() => {
                    self.report();
                    logging::catch_up();
                }
            }
        }
    }

    fn rescan(&mut self) {
        let rescanned = self.following.refresh();
        let complaint = match rescanned {
            Ok(change) if change == Change::default() => return,
            Ok(Change {
                joined: 0, left: 0, ..
            }) => "a socket joined that cannot be taken yet; the kernel's hash chooses".to_owned(),
            Ok(change) => {
                self.changed(change);
                String::new()
            }
            Err(error) => format!("{error:#}; the kernel's hash chooses"),
        };
        if complaint != self.complaint && !complaint.is_empty() {
            tracing::warn!("follow {}: {complaint}", self.options.target.address);
        }
        self.complaint = complaint;
    }

    /// A server that reloads may keep its sockets, and replace the processes that have them.
    fn check_processes(&mut self) {
        if !self.processes.has_ended() {
            return;
        }
        // If the kernel cannot be asked, the next look tries again.
        let Ok(owners) = self.following.owners() else {
            return;
        };
        let now = Processes::of(&owners);
        let new = now.new_since(&self.processes);
        if !new.is_empty() {
            tracing::info!(
                "{}: the server has new processes, {new:?}, and kept its sockets: steering goes on",
                self.options.target.address
            );
        }
        self.processes = now;
    }

    fn changed(&mut self, change: Change) {
        let address = self.options.target.address;
        if let Ok(owners) = self.following.owners() {
            self.processes = Processes::of(&owners);
        }
        let cookies = self.following.cookies();
        match cookies.len() {
            0 => tracing::warn!("nobody listens on {address} any more; waiting"),
            now => tracing::info!(
                "{address} changed: {} joined, {} left; steering {now} sockets",
                change.joined,
                change.left
            ),
        }
        self.record();
    }

    /// Records what is attached now, for the time when this agent is gone.
    fn record(&mut self) {
        let cookies = self.following.cookies();
        let Some(lock) = &mut self.lock else { return };
        let written = record(&self.options, cookies, self.following.program_id())
            .and_then(|record| lock.write(&record));
        if let Err(error) = written {
            tracing::warn!("{error:#}");
        }
    }

    fn report(&mut self) {
        let snapshot = self.following.snapshot();
        let fallbacks: u64 = snapshot.fallbacks.values().sum();
        let steered = snapshot.runs - fallbacks;
        if steered != self.told {
            tracing::info!("{steered} connections steered, {fallbacks} runs left to the hash");
        }
        self.told = steered;
    }

    fn answer(&mut self, request: &Request) -> Reply {
        let answer = match request {
            Request::Status => self.status().map(Reply::Attached),
            Request::Sockets => self.status().map(|status| Reply::Sockets(status.sockets())),
            Request::Reload | Request::Upgrade | Request::Join(_) => Err(anyhow::anyhow!(
                "that is for srv's own servers, not for agents"
            )),
            Request::Policy(name) => self
                .switch(name)
                .map(|before| Reply::Done(format!("policy: {name} (was {})", before.name()))),
        };
        answer.unwrap_or_else(|error| Reply::Refused(format!("{error:#}")))
    }

    fn switch(&mut self, name: &str) -> anyhow::Result<Policy> {
        let policy = name.parse::<PolicyName>().map_err(anyhow::Error::msg)?.0;
        self.following.steer_by(policy)?;
        tracing::info!("policy: {name}");
        let before = std::mem::replace(&mut self.options.policy, policy);
        self.record();
        Ok(before)
    }

    fn status(&mut self) -> anyhow::Result<AttachedStatus> {
        let snapshot = self.following.snapshot();
        let target = *self.following.target();
        let mut status = AttachedStatus::of_kernel(&target, self.following.diag())?;
        let signals = self.following.signals();
        let counts_live = signals.get("live").is_some_and(|signal| signal == "known");
        for listener in &mut status.listeners {
            listener.slot = self.following.slot(listener.cookie);
            let slot = listener
                .slot
                .and_then(|slot| snapshot.slots.get(slot as usize));
            if let Some(slot) = slot {
                listener.steered = Some(slot.steered);
                listener.sleep = Some(slot.sleep.to_owned());
                listener.live = counts_live.then_some(slot.live);
            }
        }
        status.signals = Some(signals);
        status.agent = Some(std::process::id());
        status.policy = Some(self.options.policy.name().to_owned());
        status.program = self.program(snapshot);
        Ok(status)
    }

    fn program(&self, snapshot: Snapshot) -> AttachedProgram {
        let attached = !self.following.cookies().is_empty();
        let why_not = "no process listens there at present; the agent waits";
        AttachedProgram {
            attached: Some(attached),
            why_not: (!attached).then(|| why_not.to_owned()),
            runs: Some(snapshot.runs),
            steered: Some(snapshot.runs - snapshot.fallbacks.values().sum::<u64>()),
            fallbacks: Some(snapshot.fallbacks),
        }
    }

    fn detach(&mut self) -> anyhow::Result<()> {
        let Some(lock) = self.lock.take() else {
            return Ok(());
        };
        // Nobody listens: with the group, the program has gone.
        if !self.following.cookies().is_empty() {
            self.following.detach()?;
        }
        lock.remove()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::error!(
                "leave {} as it was found: {error:#}",
                self.options.target.address
            );
        }
    }
}

fn log_attached(following: &Following, policy: Policy) {
    let (address, sockets) = (following.target().address, following.cookies().len());
    tracing::info!(
        "attached to {address}: {sockets} sockets, by {}",
        policy.name()
    );
    for (signal, why) in following.signals() {
        if why != "known" {
            tracing::warn!("{address}: goes without {signal}: {why}");
        }
    }
    if sockets == 1 {
        tracing::warn!("{address} has one worker: there is nothing to choose between yet");
    }
}

/// A release build aborts on a panic: nothing is dropped.
///
/// # Errors
/// The kernel cannot be asked about sockets.
pub fn detach_on_panic(target: &Target) -> anyhow::Result<()> {
    let target = *target;
    let diag = std::sync::Mutex::new(SockDiag::open(target.netns)?);
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |about| {
        before(about);
        // Who panics while it holds this has detached already, or cannot.
        if let Ok(mut diag) = diag.try_lock() {
            match detach::detach(&target, &mut diag) {
                Ok(Detached::Program) => eprintln!("srv: detached from {}", target.address),
                Ok(Detached::Nothing) => {}
                Err(error) => eprintln!("srv: detach from {}: {error:#}", target.address),
            }
        }
    }));
    Ok(())
}
