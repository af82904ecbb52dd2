//! The agent of one group: a process in the foreground that follows the group and answers on a
//! control socket. When the agent ends, in any way that a process can catch, it detaches the
//! program.
//!
//! The agent scans the group ten times a second. The kernel can report each socket that is
//! destroyed (`SKNLGRP_INET_TCP_DESTROY`), but it reports every connection, and no socket that
//! begins to listen. Until the agent has seen a change, the program leaves the choice to the
//! kernel's hash.

use std::net::SocketAddr;
use std::panic;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use srv_common::Policy;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::MissedTickBehavior;

use super::command::{AttachOptions, attach, record};
use super::detach::{self, Detached};
use super::follow::{Change, Following};
use super::group::Target;
use super::lock::{Lock, control_path};
use super::processes::Processes;
use super::programs::Snapshot;
use crate::control::admin::{Admin, AdminSockets, Launch};
use crate::control::attached::{Activity, AttachedProgram, AttachedStatus, Attachment, Signal};
use crate::control::{self, Question, Reply, Request};
use crate::kernel::sock_diag::SockDiag;
use crate::logging;
use crate::values::PolicyName;

/// How often the agent scans the group.
const RESCAN_EVERY: Duration = Duration::from_millis(100);
/// How often the agent logs what the program has done, if it has done anything.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Attaches the program and returns. The program goes on without a process. Returns the number of
/// sockets that it chooses between.
///
/// # Errors
/// The reason why srv cannot attach.
pub(crate) fn attach_once(mut options: AttachOptions) -> anyhow::Result<usize> {
    options.control = None;
    let (following, _record_stays) = attach(&options)?;
    log_attached(&following, options.policy);
    Ok(following.cookies().len())
}

/// Attaches the program and follows the group until a signal ends the agent.
///
/// # Errors
/// The reason why srv cannot attach.
pub(crate) fn run(mut options: AttachOptions) -> anyhow::Result<()> {
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
            // The agent catches signals before it attaches, so that no signal ends it without a
            // detach.
            let stop = stop()?;
            let mut agent = Agent::start(options)?;
            agent.follow(stop).await
        })
}

/// Completes with the name of the signal that ends the agent. Three more signals are caught and
/// have no effect: their default would end the agent without a detach. A terminal that closes
/// sends SIGHUP, and for other servers all three have a meaning.
fn stop() -> anyhow::Result<impl Future<Output = &'static str>> {
    let catch = |kind| signal(kind).context("install a signal handler");
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
            tracing::info!("{name} has no effect on an agent; SIGTERM makes it detach and end");
        }
    })
}

struct Agent {
    options: AttachOptions,
    following: Following,
    /// The processes of the server.
    processes: Processes,
    hold: Hold,
    /// What the last scan found.
    scan: Scan,
    /// The number of connections that the program had assigned at the last report.
    reported: u64,
}

/// Whether the agent still has to detach.
enum Hold {
    /// The program is attached, and this agent has the lock of the group.
    Attached(Lock),
    /// The agent has detached the program, or has tried to.
    Detached,
}

/// What a scan of the group found.
#[derive(PartialEq, Eq)]
enum Scan {
    /// The program knows every socket.
    Complete,
    /// A socket joined that srv cannot take yet.
    Incomplete,
    /// The kernel could not be asked; the reason.
    Failed(String),
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
            hold: Hold::Attached(lock),
            scan: Scan::Complete,
            reported: 0,
        })
    }

    async fn follow(&mut self, stop: impl Future<Output = &'static str>) -> anyhow::Result<()> {
        let (events, mut questions) = unbounded_channel::<Question>();
        let path = self
            .options
            .control
            .clone()
            .context("open the control socket: it has no path")?;
        let _control = control::Server::open(path.clone(), events.clone())?;
        let _admin = self.open_admin(&path, events)?;
        let mut rescan = tokio::time::interval(RESCAN_EVERY);
        rescan.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut report = tokio::time::interval(REPORT_EVERY);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                name = &mut stop => {
                    tracing::info!("{name}: the agent detaches and ends");
                    return self.detach();
                }
                Some(question) = questions.recv() => {
                    let reply = self.answer(&question.request);
                    // The process that asked may have closed the connection.
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

    fn open_admin(
        &self,
        control: &Path,
        events: UnboundedSender<Question>,
    ) -> anyhow::Result<Admin> {
        let sockets = AdminSockets::open(self.options.admin.as_ref(), control, Vec::new())?;
        for address in sockets.to_announce() {
            tracing::info!("admin: answering at {address}");
        }
        let launch = Launch {
            user: None,
            log: self.options.log,
        };
        Ok(Admin::watch(sockets, launch, events))
    }

    fn rescan(&mut self) {
        let scan = match self.following.refresh() {
            Ok(change) if change == Change::default() => Scan::Complete,
            Ok(Change {
                joined: 0, left: 0, ..
            }) => Scan::Incomplete,
            Ok(change) => {
                self.changed(change);
                Scan::Complete
            }
            Err(error) => Scan::Failed(format!("{error:#}")),
        };
        // A state that lasts is logged once.
        if scan != self.scan {
            scan.log(self.options.target.address);
        }
        self.scan = scan;
    }

    /// Logs if processes of the server were replaced: a reload can keep the sockets and replace
    /// the processes that have them.
    fn check_processes(&mut self) {
        if !self.processes.has_ended() {
            return;
        }
        // If the kernel cannot be asked, the next call tries again.
        let Ok(owners) = self.following.owners() else {
            return;
        };
        let now = Processes::of(&owners);
        let new = now.new_since(&self.processes);
        if !new.is_empty() {
            tracing::info!(
                "{}: the server has new processes, {new:?}, and kept its sockets; steering goes on",
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
            0 => {
                tracing::warn!("no process listens on {address} any more; the agent waits for one");
            }
            now => tracing::info!(
                "{address} changed: {} sockets joined, {} left; the program steers {now} sockets",
                change.joined,
                change.left
            ),
        }
        self.record();
    }

    /// Writes what is attached now to the lock file, which others read after this agent has ended.
    fn record(&mut self) {
        let cookies = self.following.cookies();
        let Hold::Attached(lock) = &mut self.hold else {
            return;
        };
        let written = record(&self.options, cookies, self.following.program_id())
            .and_then(|record| lock.write(&record));
        if let Err(error) = written {
            tracing::warn!("{error:#}");
        }
    }

    fn report(&mut self) {
        let snapshot = self.following.snapshot();
        let fallbacks: u64 = snapshot.fallbacks.values().sum();
        let steered = snapshot.steered;
        if steered != self.reported {
            tracing::info!(
                "the program has steered {steered} connections and left {fallbacks} to the hash"
            );
        }
        self.reported = steered;
    }

    fn answer(&mut self, request: &Request) -> Reply {
        let answer = match request {
            Request::Status => self.status().map(Reply::Attached),
            Request::Sockets => self.status().map(|status| Reply::Sockets(status.sockets())),
            Request::Reload | Request::Reopen | Request::Upgrade | Request::Join(_) => {
                Err(anyhow::anyhow!(
                    "the process that answers is an agent of `srv attach`, which has no such command; \
                 name a server of `srv serve` (--listen or --control)"
                ))
            }
            Request::Policy(name) => self
                .switch(name.name())
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
        let counts_live = signals.get("live") == Some(&Signal::Known);
        for listener in &mut status.listeners {
            listener.slot = self.following.slot(listener.cookie);
            let slot = listener
                .slot
                .and_then(|slot| snapshot.slots.get(slot as usize));
            if let Some(slot) = slot {
                listener.steered = Some(slot.steered);
                listener.acks = Some(slot.acks);
                listener.sleep = Some(Activity::from(slot.sleep));
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
        let attachment = match self.following.cookies()[..] {
            [] => Attachment::NotAttached(
                "no process listens on that address; the agent waits for one".to_owned(),
            ),
            _ => Attachment::Attached,
        };
        AttachedProgram {
            attachment,
            runs: Some(snapshot.runs),
            steered: Some(snapshot.steered),
            acks: Some(snapshot.acks),
            fallbacks: Some(snapshot.fallbacks),
        }
    }

    fn detach(&mut self) -> anyhow::Result<()> {
        let Hold::Attached(lock) = std::mem::replace(&mut self.hold, Hold::Detached) else {
            return Ok(());
        };
        // Without a socket the group is gone, and its program with it.
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
                "detach from {address}: {error:#}; `srv detach --listen {address}` detaches",
                address = self.options.target.address
            );
        }
    }
}

impl Scan {
    fn log(&self, address: SocketAddr) {
        match self {
            Self::Complete => {}
            Self::Incomplete => tracing::warn!(
                "follow {address}: a socket joined that srv cannot take yet; the kernel's hash \
                 chooses until srv has it"
            ),
            Self::Failed(why) => tracing::warn!(
                "follow {address}: {why}; if the group changes, the kernel's hash chooses"
            ),
        }
    }
}

fn log_attached(following: &Following, policy: Policy) {
    let (address, sockets) = (following.target().address, following.cookies().len());
    tracing::info!(
        "attached to {address}: {sockets} sockets, policy {}",
        policy.name()
    );
    for (signal, is_known) in following.signals() {
        if let Signal::Missing(why) = is_known {
            tracing::warn!("{address}: the program goes without the signal {signal}: {why}");
        }
    }
    if sockets == 1 {
        tracing::warn!(
            "{address} has one socket, so there is nothing to choose between yet; start more workers, \
             each with a socket of its own"
        );
    }
}

/// Makes a panic of this process detach the program. A release build aborts on a panic and drops
/// nothing, so a destructor would not run.
///
/// # Errors
/// The kernel cannot be asked about sockets.
pub fn detach_on_panic(target: &Target) -> anyhow::Result<()> {
    let target = *target;
    let diag = std::sync::Mutex::new(SockDiag::open(target.netns)?);
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |about| {
        before(about);
        // If this very detach panics, the lock is held and there is nothing more to try.
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
