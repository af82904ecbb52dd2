//! The coordinator: the process beside a server that `srv run` has started. It keeps the sockets
//! of each group open, answers claims, and steers. If it is killed, another one goes on where it
//! stopped ([`super::keeper`]).
//!
//! It outlives `srv run`, which becomes the server, and ends after the server has.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use rustix::process::Pid;
use srv_common::Policy;
use srv_steer::{Group, Overflow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::MissedTickBehavior;

use super::admin::Opening;
use super::event::Event;
use super::group::Steering;
use super::groups::Groups;
use super::holders::Holders;
use super::invitation::{Entrance, Up};
use super::kept::{Keeper, Kept};
use super::members::Members;
use crate::control;
use crate::kernel::packets::send_with_fds;
use crate::kernel::socket_options;
use crate::kernel::watched::watch;
use crate::logging;
use crate::values::{AdminAddr, LogFormat, PolicyName};

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
    /// Where to answer HTTP
    #[arg(long)]
    pub admin: Option<AdminAddr>,
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
    keeper: Keeper,
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

/// With what a coordinator begins.
pub(super) struct Beginning {
    /// The server's first process: a pidfd.
    pub(super) server: OwnedFd,
    pub(super) entrance: Entrance,
    /// What the coordinator before it has left.
    pub(super) kept: Kept,
    pub(super) keeper: Keeper,
}

/// Coordinates until the server has ended. The first coordinator says to `srv run`, by `report`,
/// that it has begun; each other one says in the log how the one before it has ended.
///
/// # Errors
/// If it cannot begin. `srv run` is told the reason, too.
pub(super) fn run(
    args: &CoordinatorArgs,
    beginning: Beginning,
    report: Option<OwnedFd>,
    ended: Option<ExitStatus>,
) -> anyhow::Result<()> {
    logging::start(args.log == LogFormat::Json);
    let invitation = beginning.entrance.invitation.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .context("start the coordinator's event loop")?
        .block_on(async {
            if let Some(ended) = ended {
                tracing::warn!("the coordinator has ended ({ended}): this one takes its place");
            }
            let begun = Coordinator::begin(args, beginning);
            if let Some(to) = report {
                tell(
                    &to,
                    &match &begun {
                        Ok(_) => Up::Ready(invitation),
                        Err(error) => Up::Failed(format!("{error:#}")),
                    },
                );
            }
            let (mut coordinator, events) = begun?;
            coordinator.coordinate(args, events).await
        })
}

/// Tells `srv run`. If that has gone, the server has, too.
pub(super) fn tell(report: &OwnedFd, up: &Up) {
    if let Ok(packet) = serde_json::to_vec(up) {
        let _ = send_with_fds(report, &packet, &[]);
    }
}

impl Coordinator {
    /// Lets processes in. The server is `srv run` until now, which waits for this. If there was a
    /// coordinator before, this one goes on where that stopped.
    pub(super) fn begin(
        args: &CoordinatorArgs,
        beginning: Beginning,
    ) -> anyhow::Result<(Self, UnboundedReceiver<Event>)> {
        let Beginning {
            server,
            entrance,
            kept,
            keeper,
        } = beginning;
        let pid = Pid::from_raw(args.server).context("find the server: it has no number")?;
        let (events, received) = unbounded_channel();
        watch_end(server, &events).with_context(|| format!("watch process {}", args.server))?;
        let any_socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let namespace = any_socket.ok().and_then(socket_options::namespace);
        let mut members = Members::new(events.clone(), keeper.clone());
        let steering = Steering {
            policy: args.policy.0,
            uses_bpf: !args.no_bpf,
        };
        let mut groups = Groups::new(steering, namespace, keeper.clone());
        match kept.is_empty() {
            true => groups.prepare(),
            false => groups.restore(kept, &mut members),
        }
        entrance.open(&events)?;
        let coordinator = Self {
            server: pid,
            groups,
            members,
            overflow: Overflow::read().unwrap_or_default(),
            keeper,
            events,
            life: Life::default(),
            looked: Instant::now(),
        };
        Ok((coordinator, received))
    }

    /// Deals with what happens until it is not needed any more. SIGTERM ends steering alone.
    pub(super) async fn coordinate(
        &mut self,
        args: &CoordinatorArgs,
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
        let control = args.control.clone();
        let _control = control.and_then(|path| self.open_control(path));
        let mut admin = Opening::new(args.control.clone(), args.admin.clone(), args.log);
        let mut tick = tokio::time::interval(Group::MAINTENANCE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = terminate.recv() => self.stop_steering(),
                Some(event) = events.recv() => self.deal_with(event),
                _ = tick.tick() => {
                    self.maintain();
                    admin.attempt(&self.events);
                    if self.life.is_over(&self.members) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// On SIGTERM. What the server's processes have is theirs, so all else goes on.
    fn stop_steering(&mut self) {
        match self.groups.steer(Policy::Hash) {
            Ok(_) => tracing::info!(
                "SIGTERM: the kernel's hash chooses from now on, and the ring corrects it; the \
                 coordinator ends after the server"
            ),
            Err(error) => tracing::error!("stop steering: {error:#}"),
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
                self.members.has_heard(member);
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
            let (events, keeper) = (self.events.clone(), self.keeper.pid());
            tokio::task::spawn_blocking(move || {
                events.send(Event::Held(Holders::of(inodes, keeper)))
            });
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
fn watch_end(server: OwnedFd, events: &UnboundedSender<Event>) -> anyhow::Result<()> {
    let pidfd = watch(server).context("watch a pidfd")?;
    let events = events.clone();
    tokio::spawn(async move {
        if pidfd.readable().await.is_ok() {
            let _ = events.send(Event::ServerEnded);
        }
    });
    Ok(())
}
