//! The coordinator: the process beside a server that `srv run` has started. It keeps the sockets
//! of each group open, answers claims, and steers. If it ends, the server goes on by hash and ring.
//!
//! It outlives `srv run`, which becomes the server, and ends after the server has.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use srv_steer::{Group, Overflow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::MissedTickBehavior;

use super::event::Event;
use super::group::Steering;
use super::groups::Groups;
use super::holders::Holders;
use super::invitation::{INVITED, Invitation, REPORT, Up};
use super::members::Members;
use super::separate;
use crate::control;
use crate::kernel::packets::{inherited, send_with_fds};
use crate::kernel::watched::watch;
use crate::kernel::{open_files, socket_options};
use crate::logging;
use crate::values::{LogFormat, PolicyName};

/// How often it looks which of the server's sockets the server has closed, if there are any that
/// no process owns.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For how long after the server's end a process of it may still connect.
const SURVIVED_FOR: Duration = Duration::from_secs(1);

/// The arguments of `srv coordinate`.
#[derive(Clone, Debug, Args)]
pub struct CoordinatorArgs {
    /// The server's first process
    #[arg(long)]
    pub server: i32,
    /// The policy to steer by
    #[arg(long)]
    pub policy: PolicyName,
    /// Load no program
    #[arg(long)]
    pub no_bpf: bool,
    /// The control socket
    #[arg(long)]
    pub control: Option<PathBuf>,
    /// The format of the log
    #[arg(long)]
    pub log: LogFormat,
}

/// The state of a coordinator.
pub(super) struct Coordinator {
    pub(super) server: Pid,
    pub(super) groups: Groups,
    pub(super) members: Members,
    /// What the kernel had dropped at listeners before.
    pub(super) overflow: Overflow,
    events: UnboundedSender<Event>,
    life: Life,
    /// When the last look at all processes began.
    looked: Instant,
}

/// What tells whether a coordinator is still needed.
#[derive(Default)]
struct Life {
    has_server_ended: bool,
    /// No process has the inherited socket any more.
    is_uninvited: bool,
    /// Since when the server has ended and no process is connected.
    alone_since: Option<Instant>,
}

/// Becomes a process of its own, and coordinates until the server has ended.
///
/// # Errors
/// If it cannot begin. `srv run` is told the reason, too.
pub fn run(args: &CoordinatorArgs) -> anyhow::Result<()> {
    let report = inherited(REPORT).context("take over the channel to `srv run`")?;
    let invited = inherited(INVITED).context("take over the server's socket")?;
    separate::from_parent()?;
    logging::start(args.log == LogFormat::Json);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .context("start the coordinator's event loop")?
        .block_on(async {
            let begun = Coordinator::begin(args, invited);
            let said = match &begun {
                Ok((_, _, invitation)) => Up::Ready(invitation.clone()),
                Err(error) => Up::Failed(format!("{error:#}")),
            };
            // If `srv run` has gone, the server has, too.
            let _ = send_with_fds(&report, &serde_json::to_vec(&said)?, &[]);
            drop(report);
            let (mut coordinator, events, _) = begun?;
            coordinator.coordinate(args.control.clone(), events).await
        })
}

impl Coordinator {
    /// Lets processes in. The server is `srv run` until now, which waits for this.
    pub(super) fn begin(
        args: &CoordinatorArgs,
        invited: OwnedFd,
    ) -> anyhow::Result<(Self, UnboundedReceiver<Event>, Invitation)> {
        let server = Pid::from_raw(args.server).context("find the server: it has no number")?;
        let (events, received) = unbounded_channel();
        watch_end(server, &events).with_context(|| format!("watch process {}", args.server))?;
        // Without that, a server of many workers may run out of them.
        if let Err(error) = open_files::raise() {
            tracing::debug!("raise RLIMIT_NOFILE: {error}");
        }
        let steering = Steering {
            policy: args.policy.0,
            uses_bpf: !args.no_bpf,
        };
        let invitation = Invitation::open(invited, &events)?;
        let any_socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let namespace = any_socket.ok().and_then(socket_options::namespace);
        let coordinator = Self {
            server,
            groups: Groups::new(steering, namespace),
            members: Members::new(events.clone()),
            overflow: Overflow::read().unwrap_or_default(),
            events,
            life: Life::default(),
            looked: Instant::now(),
        };
        Ok((coordinator, received, invitation))
    }

    /// Deals with what happens until it is not needed any more, or until SIGTERM.
    pub(super) async fn coordinate(
        &mut self,
        control: Option<PathBuf>,
        mut events: UnboundedReceiver<Event>,
    ) -> anyhow::Result<()> {
        let catch = |kind| signal(kind).context("install a signal handler");
        let mut terminate = catch(SignalKind::terminate())?;
        // These are for the server. Once tokio has a handler, the coordinator ignores them.
        for kind in [
            SignalKind::interrupt(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ] {
            drop(catch(kind)?);
        }
        let _control = control.and_then(|path| self.open_control(path));
        let mut tick = tokio::time::interval(Group::MAINTENANCE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                Some(event) = events.recv() => self.deal_with(event),
                _ = tick.tick() => {
                    self.maintain();
                    if self.life.is_over(&self.members) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Without a control socket, the server is steered all the same.
    fn open_control(&self, path: PathBuf) -> Option<control::Server> {
        let opened = control::Server::open(path, self.events.clone());
        opened
            .inspect_err(|error| tracing::warn!("`srv status` does not see this server: {error:#}"))
            .ok()
    }

    fn deal_with(&mut self, event: Event) {
        self.take(event);
        self.groups.drop_unneeded(&self.pids());
    }

    pub(super) fn server_pid(&self) -> u32 {
        self.server.as_raw_nonzero().get().unsigned_abs()
    }

    /// The processes of the server that are known.
    fn pids(&self) -> BTreeSet<u32> {
        let server = self.server_pid();
        let server = (!self.life.has_server_ended).then_some(server);
        self.members.pids().chain(server).collect()
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Hello(connection) => {
                if let Err(error) = self.members.admit(connection) {
                    tracing::debug!("admit a process: {error:#}");
                }
            }
            Event::Said(member, message, fds) => {
                self.groups.hear(member, &message, fds, &mut self.members);
            }
            Event::Left(member) => {
                self.groups.forget(member, &mut self.members);
                self.members.remove(member);
            }
            Event::ServerEnded => self.life.has_server_ended = true,
            Event::Uninvited => self.life.is_uninvited = true,
            Event::Held(holders) => {
                let pids = self.pids();
                self.groups.close_abandoned(&holders, &self.members, &pids);
            }
            Event::Asked(question) => {
                let reply = self.answer(&question.request);
                // The process that asked may have closed the connection.
                let _ = question.reply.send(reply);
            }
        }
    }

    fn maintain(&mut self) {
        self.groups.drop_unneeded(&self.pids());
        self.groups.maintain(&mut self.members);
        if self.members.flush() {
            self.groups.count_notice();
        }
        if self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            self.look_for_holders();
            logging::catch_up();
        }
    }

    /// There are thousands of files to look at, so a thread does it. In most cases the server's
    /// first process has the socket, and that is known at once. (If it accepts connections itself,
    /// it has copies that the ring gave it.)
    fn look_for_holders(&self) {
        let mut inodes = self.groups.unowned();
        let server = self.server_pid();
        if !self.life.has_server_ended && self.members.pids().all(|pid| pid != server) {
            inodes = Holders::not_open_in(server, inodes);
        }
        if !inodes.is_empty() {
            let events = self.events.clone();
            tokio::task::spawn_blocking(move || events.send(Event::Held(Holders::of(inodes))));
        }
    }
}

impl Life {
    /// Whether the server has ended, and with it each of its processes, as far as they are known.
    fn is_over(&mut self, members: &Members) -> bool {
        if !self.has_server_ended || !members.is_empty() {
            self.alone_since = None;
            return false;
        }
        let alone_since = self.alone_since.get_or_insert_with(Instant::now);
        self.is_uninvited || alone_since.elapsed() > SURVIVED_FOR
    }
}

/// Reports the end of the server's first process.
fn watch_end(server: Pid, events: &UnboundedSender<Event>) -> anyhow::Result<()> {
    let pidfd = pidfd_open(server, PidfdFlags::empty()).context("open a pidfd")?;
    let pidfd = watch(pidfd).context("watch a pidfd")?;
    let events = events.clone();
    tokio::spawn(async move {
        if pidfd.readable().await.is_ok() {
            let _ = events.send(Event::ServerEnded);
        }
    });
    Ok(())
}
