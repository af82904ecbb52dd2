//! One worker's life: it takes over what it inherited, joins the ring, accepts
//! and serves connections, publishes its load, and drains.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use slab::Slab;
use srv_common::policy;

use crate::channel::{Channel, Inherited, Start, ToMaster, ToWorker};
use crate::config::AcceptMode;
use crate::connection::{Connection, Driver, Progress};
use crate::http::Http;
use crate::listen::accept_queue;
use crate::log;
use crate::reactor::{Reactor, Readiness};
use crate::site::Site;
use crate::status::{self, Published, monotonic_ns};

/// Runs the worker process to its end.
///
/// # Errors
/// If what it inherited is not what it was promised, or the kernel refuses
/// something that it can't do without. The master is told, too.
pub fn run() -> anyhow::Result<()> {
    // SAFETY: the master passed the channel at this number; nobody else in
    // this fresh process uses it.
    let channel = Channel::from_fd(unsafe { OwnedFd::from_raw_fd(Inherited::CHANNEL) });
    let telling = channel.try_clone().context("duplicate the channel")?;
    let result = Worker::start(channel).and_then(|mut worker| worker.serve());
    if let Err(error) = &result {
        // If the master is gone there is nobody to tell.
        let _ = telling.send(&ToMaster::Failed(format!("{error:#}")));
    }
    result
}

/// Tokens: connections have their slab key, listeners this bit.
const LISTENER_TOKEN: u64 = 1 << 61;
const TERMINATE_TOKEN: u64 = 1 << 62;
const CHANNEL_TOKEN: u64 = 1 << 63;

/// How often deadlines are looked at.
const SWEEP_NS: u64 = 250_000_000;
/// How often a draining worker looks whether it is done.
const DRAIN_CHECK: Duration = Duration::from_millis(20);
/// After SYNs have stopped, how long handshakes may take to complete.
const LAST_HANDSHAKES_NS: u64 = 100_000_000;
/// How long a worker may drain whose master died.
const ORPHAN_GRACE_NS: u64 = 10_000_000_000;
/// File descriptors kept free for files, beside listeners and connections.
const SPARE_FDS: u64 = 32;

struct Worker {
    start: Start,
    /// `None` once the master is gone.
    channel: Option<Channel>,
    terminate: UnixStream,
    reactor: Reactor,
    /// By group, then by slot (one for all in the one-socket modes); empty
    /// once it no longer accepts.
    listeners: Vec<Vec<OwnedFd>>,
    driver: Driver,
    connections: Slab<Connection>,
    connections_max: usize,
    /// At most one per listener.
    deferrals: Vec<Deferral>,
    /// When the last wait ended.
    now_ns: u64,
    swept_ns: u64,
    /// Since when it finishes, ns.
    draining_since_ns: Option<u64>,
    /// When it exits, done or not, ns.
    exit_by_ns: u64,
}

/// A listener with something to accept.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Waiting {
    group: usize,
    nth: u32,
}

/// A sibling's connection left to the sibling, who is about to accept it; its
/// listener is not watched until `due_ns`.
struct Deferral {
    from: Waiting,
    /// The sibling's accepts at the time.
    owner_turn: u32,
    due_ns: u64,
    watched: bool,
}

impl Worker {
    fn start(channel: Channel) -> anyhow::Result<Self> {
        let terminate = catch_signals().context("catch signals")?;
        let start = receive_start(&channel)?;
        log::start(start.log_json);
        let connections_max = connections_max(&start).context("raise RLIMIT_NOFILE")?;
        let serving = &start.serving;
        if serving.synthetic {
            // A synthetic sleep is to last what it says, not 50 µs more.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        }
        let (listeners, published) = take_inherited(&start)?;
        let named = serving.worker_header.then_some(start.slot);
        let site = Site::new(serving.root.as_deref(), serving.synthetic, named)?;
        Ok(Self {
            channel: Some(channel),
            terminate,
            reactor: Reactor::new().context("create an epoll instance")?,
            listeners,
            driver: Driver::new(Rc::new(Http {
                site,
                limits: serving.limits.clone(),
                published,
            })),
            connections: Slab::new(),
            connections_max,
            deferrals: Vec::new(),
            now_ns: 0,
            swept_ns: 0,
            draining_since_ns: None,
            exit_by_ns: u64::MAX,
            start,
        })
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        self.reactor
            .watch_listener(&self.terminate, TERMINATE_TOKEN, false)?;
        let channel = self.channel.as_ref().context("no channel")?;
        self.reactor.watch_listener(channel, CHANNEL_TOKEN, false)?;
        if self.start.serving.accept != AcceptMode::Blocking {
            self.watch_listeners(self.own_listener())?;
        }
        channel.send(&ToMaster::Registered)?;
        if self.start.serving.accept != AcceptMode::Ring {
            channel.send(&ToMaster::Ready)?;
        }
        while !self.is_done() {
            self.turn()?;
        }
        Ok(())
    }

    /// Once around: wait, serve what is ready, accept at most one connection
    /// (what stays in the queue can wake an idle sibling), publish.
    fn turn(&mut self) -> anyhow::Result<()> {
        self.published().sleeps();
        let mut accepted = None;
        if self.accepts_blocking() {
            accepted = self.accept(Waiting { group: 0, nth: 0 });
            self.reactor
                .wait(Some(Duration::ZERO))
                .context("poll for events")?;
        } else {
            self.reactor
                .wait(self.timeout(self.now_ns))
                .context("wait for events")?;
        }
        let now_ns = monotonic_ns();
        self.now_ns = now_ns;
        self.published().wakes(now_ns);
        self.watch_deferred(now_ns)?;
        let waiting = self.serve_ready(now_ns)?;
        accepted = accepted.or_else(|| waiting.and_then(|waiting| self.accept(waiting)));
        if let Some(connection) = accepted {
            self.open(connection, now_ns);
        }
        if self.draining_since_ns.is_some() || now_ns >= self.swept_ns + SWEEP_NS {
            self.sweep(now_ns);
        }
        Ok(())
    }

    /// Goes through the events of the last wait; returns a listener to accept from.
    fn serve_ready(&mut self, now_ns: u64) -> anyhow::Result<Option<Waiting>> {
        let mut waiting = None;
        let mut nth = 0;
        while let Some(ready) = self.reactor.ready(nth) {
            nth += 1;
            match ready.token {
                CHANNEL_TOKEN => self.obey(now_ns)?,
                TERMINATE_TOKEN => self.retire(now_ns)?,
                token if token & LISTENER_TOKEN != 0 => {
                    let group = (token & !LISTENER_TOKEN) as usize >> 32;
                    let candidate = Waiting {
                        group,
                        nth: token as u32,
                    };
                    // In epoll's order, which is that of arrival. Its own
                    // first would keep whoever waits behind a blocked sibling
                    // waiting for as long as there is work everywhere.
                    let is_own = candidate.nth == self.own_listener();
                    if waiting.is_none() && (is_own || self.may_steal(candidate, now_ns)?) {
                        waiting = Some(candidate);
                    }
                }
                key => self.drive(key as usize, ready, now_ns),
            }
        }
        Ok(waiting)
    }

    fn published(&self) -> &Published {
        self.driver.published()
    }

    /// Connections have deadlines; without any there is nothing to wake up for.
    fn timeout(&self, now_ns: u64) -> Option<Duration> {
        let unwatched = self.deferrals.iter().filter(|deferral| !deferral.watched);
        if let Some(due_ns) = unwatched.map(|deferral| deferral.due_ns).min() {
            return Some(Duration::from_nanos(due_ns.saturating_sub(now_ns)));
        }
        match (self.draining_since_ns, self.connections.is_empty()) {
            (Some(_), _) => Some(DRAIN_CHECK),
            (None, false) => Some(Duration::from_nanos(SWEEP_NS)),
            (None, true) => None,
        }
    }

    /// Whether to take a sibling's connection. If not yet, its listener is left
    /// alone for a while, or it would be reported over and over.
    fn may_steal(&mut self, from: Waiting, now_ns: u64) -> anyhow::Result<bool> {
        let (owner, this) = self.driver.published().owner_and_self(from.group, from.nth);
        let owner_turn = owner.load.turn.get();
        let before = self
            .deferrals
            .iter()
            .position(|deferral| deferral.from == from);
        let before = before.map(|nth| self.deferrals.swap_remove(nth));
        let had_its_chance = before.is_some_and(|before| before.owner_turn == owner_turn);
        let patience_ns = policy::steal_patience_ns(this, owner);
        let busy_since_ns = owner.load.busy_since_ns.get();
        let is_stuck = busy_since_ns != 0 && now_ns.saturating_sub(busy_since_ns) > patience_ns;
        if patience_ns == 0 || is_stuck || had_its_chance {
            return Ok(true);
        }
        self.reactor
            .forget(&self.listeners[from.group][from.nth as usize])?;
        let due_ns = now_ns + patience_ns;
        self.deferrals.push(Deferral {
            from,
            owner_turn,
            due_ns,
            watched: false,
        });
        Ok(false)
    }

    /// Looks again at listeners that were left alone for long enough.
    fn watch_deferred(&mut self, now_ns: u64) -> anyhow::Result<()> {
        for nth in 0..self.deferrals.len() {
            let Deferral {
                from,
                due_ns,
                watched,
                ..
            } = self.deferrals[nth];
            if !watched && due_ns <= now_ns {
                self.watch_listener(from.group, from.nth)?;
                self.deferrals[nth].watched = true;
            }
        }
        Ok(())
    }

    /// In blocking mode, one connection at a time.
    fn accepts_blocking(&self) -> bool {
        self.start.serving.accept == AcceptMode::Blocking
            && self.connections.is_empty()
            && !self.listeners.is_empty()
    }

    fn accept(&self, from: Waiting) -> Option<OwnedFd> {
        let listener = self.listeners.get(from.group)?.get(from.nth as usize)?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match rustix::net::accept_with(listener, flags) {
            Ok(connection) => {
                self.published().accepted(from.group, from.nth);
                Some(connection)
            }
            // A sibling was faster, or the client has gone again.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => None,
            Err(error) => {
                tracing::warn!(slot = self.start.slot, "accept a connection: {error}");
                // The listener stays ready: do not spin on it.
                std::thread::sleep(Duration::from_millis(1));
                None
            }
        }
    }

    fn open(&mut self, fd: OwnedFd, now_ns: u64) {
        if self.connections.len() >= self.connections_max && !self.close_longest_idle() {
            return self.driver.turn_away(fd);
        }
        let connection = Connection::accepted(fd, &self.driver, now_ns);
        let key = self.connections.insert(connection);
        self.published().active(self.connections.len() as u32);
        if self.draining_since_ns.is_some() {
            let progress = self.connections[key].drain(&self.driver, now_ns);
            self.settle(key, progress);
        } else {
            self.drive(key, Readiness::of_new(key as u64), now_ns);
        }
    }

    fn drive(&mut self, key: usize, ready: Readiness, now_ns: u64) {
        if let Some(connection) = self.connections.get_mut(key) {
            let progress = connection.drive(&self.driver, ready, now_ns);
            self.settle(key, progress);
        }
    }

    /// Has the reactor watch a connection that goes on, drops one that does not.
    fn settle(&mut self, key: usize, progress: Progress) {
        if progress == Progress::Open {
            let connection = &mut self.connections[key];
            if connection.watched {
                return;
            }
            connection.watched = true;
            match self.reactor.watch_stream(&connection.socket.fd, key as u64) {
                Ok(()) => return,
                Err(error) => tracing::warn!("watch a connection: {error}"),
            }
        }
        self.connections.remove(key);
        self.published().active(self.connections.len() as u32);
    }

    fn close_longest_idle(&mut self) -> bool {
        let idle = self.connections.iter().filter_map(|(key, connection)| {
            connection
                .idle_deadline_ns()
                .map(|deadline_ns| (deadline_ns, key))
        });
        match idle.min() {
            Some((_, key)) => {
                self.settle(key, Progress::Closed);
                true
            }
            None => false,
        }
    }

    fn sweep(&mut self, now_ns: u64) {
        self.swept_ns = now_ns;
        for key in self.keys() {
            let progress = self.connections[key].expire(&self.driver, now_ns);
            self.settle(key, progress);
        }
        if let Some(since_ns) = self.draining_since_ns {
            self.leave_listeners_if_empty(now_ns, since_ns);
        }
    }

    fn own_listener(&self) -> u32 {
        if self.start.serving.accept.has_own_listeners() {
            self.start.slot
        } else {
            0
        }
    }

    /// Waits on the `nth` listener of every group.
    fn watch_listeners(&self, nth: u32) -> anyhow::Result<()> {
        (0..self.listeners.len()).try_for_each(|group| self.watch_listener(group, nth))
    }

    fn watch_listener(&self, group: usize, nth: u32) -> anyhow::Result<()> {
        let exclusive = self.start.serving.accept != AcceptMode::SharedHerd;
        let token = LISTENER_TOKEN | (group as u64) << 32 | u64::from(nth);
        self.reactor
            .watch_listener(&self.listeners[group][nth as usize], token, exclusive)
            .with_context(|| format!("watch listener {nth} of group {group}"))
    }

    /// Waits on the siblings' listeners as well; each begins with the one
    /// after its own, so that no sibling is everybody's first substitute.
    fn join_ring(&self) -> anyhow::Result<()> {
        let workers = self.start.workers;
        (1..workers).try_for_each(|step| self.watch_listeners((self.start.slot + step) % workers))
    }

    fn obey(&mut self, now_ns: u64) -> anyhow::Result<()> {
        while let Some(channel) = &self.channel {
            match channel.receive() {
                Ok(None) => break,
                Ok(Some(ToWorker::JoinRing)) => {
                    self.join_ring()?;
                    channel.send(&ToMaster::Ready)?;
                }
                Ok(Some(ToWorker::Rejoin(slot))) => self.rejoin(slot)?,
                Ok(Some(ToWorker::Drain)) => self.drain(now_ns),
                Ok(Some(ToWorker::Start(_))) => bail!("the master sent a second start"),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    tracing::warn!(slot = self.start.slot, "the master is gone: draining");
                    self.channel = None;
                    self.exit_by_ns = now_ns + ORPHAN_GRACE_NS;
                    self.drain(now_ns);
                }
                Err(error) => return Err(anyhow!(error).context("read from the channel")),
            }
        }
        Ok(())
    }

    /// The owner of these listeners is new and must be first in line again.
    fn rejoin(&self, slot: u32) -> anyhow::Result<()> {
        for (group, listeners) in self.listeners.iter().enumerate() {
            match self.reactor.forget(&listeners[slot as usize]) {
                Ok(()) => self.watch_listener(group, slot)?,
                // Not in the ring yet, or left alone for a moment: it will be
                // watched later, and so behind its owner.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).context(format!("leave listener {slot}")),
            }
        }
        Ok(())
    }

    /// Asked by SIGTERM to go, while the others stay: they drain its queue.
    fn retire(&mut self, now_ns: u64) -> anyhow::Result<()> {
        self.reactor.forget(&self.terminate)?;
        if let Some(channel) = &self.channel {
            channel.send(&ToMaster::Retiring)?;
        }
        self.leave_listeners();
        self.drain(now_ns);
        Ok(())
    }

    fn drain(&mut self, now_ns: u64) {
        if self.draining_since_ns.is_some() {
            return;
        }
        self.draining_since_ns = Some(now_ns);
        for key in self.keys() {
            let progress = self.connections[key].drain(&self.driver, now_ns);
            self.settle(key, progress);
        }
    }

    /// Nothing more is to come: no SYN is answered any more, the handshakes
    /// have had their time and the accept queues are empty.
    fn leave_listeners_if_empty(&mut self, now_ns: u64, since_ns: u64) {
        let mut listeners = self.listeners.iter().flatten();
        let queued =
            |listener: &OwnedFd| accept_queue(listener).is_ok_and(|(queued, _)| queued > 0);
        if now_ns < since_ns + LAST_HANDSHAKES_NS || listeners.any(queued) {
            return;
        }
        self.leave_listeners();
    }

    fn leave_listeners(&mut self) {
        self.deferrals.clear();
        for listener in std::mem::take(&mut self.listeners).into_iter().flatten() {
            // The master still has the socket open, so that closing this fd
            // would not end the registration. Not every one was registered.
            let _ = self.reactor.forget(&listener);
        }
    }

    fn keys(&self) -> Vec<usize> {
        self.connections.iter().map(|(key, _)| key).collect()
    }

    fn is_done(&self) -> bool {
        let Some(since_ns) = self.draining_since_ns else {
            return false;
        };
        let nothing_left = self.listeners.is_empty() && self.connections.is_empty();
        nothing_left || self.swept_ns.max(since_ns) >= self.exit_by_ns
    }
}

fn catch_signals() -> io::Result<UnixStream> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    let (ours, handlers) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGTERM, handlers)?;
    for signal in [SIGINT, SIGQUIT, SIGHUP] {
        // A terminal sends these to all; what they mean is the master's business.
        signal_hook::flag::register(signal, Arc::default())?;
    }
    Ok(ours)
}

fn receive_start(channel: &Channel) -> anyhow::Result<Start> {
    let mut ready = [PollFd::new(channel, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut ready, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for the master's orders"),
        }
        match channel.receive().context("read the master's orders")? {
            Some(ToWorker::Start(start)) => return Ok(start),
            Some(other) => bail!("expected a start, the master said {other:?}"),
            None => {}
        }
    }
}

/// Adopts the inherited file descriptors.
fn take_inherited(start: &Start) -> anyhow::Result<(Vec<Vec<OwnedFd>>, Published)> {
    let own = start.serving.accept.has_own_listeners();
    let count = if own { start.workers } else { 1 };
    let inherited = Inherited {
        groups: start.groups,
        listeners: count,
    };
    // SAFETY: the master passed exactly these, and each is adopted once.
    let adopt = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
    let mut listeners = Vec::new();
    let mut memories = Vec::new();
    for group in 0..start.groups {
        let memory = adopt(inherited.memory(group));
        memories.push(status::map(&memory).context("map the shared status memory")?);
        listeners.push(
            (0..count)
                .map(|nth| adopt(inherited.listener(group, nth)))
                .collect(),
        );
    }
    Ok((listeners, Published::new(memories, start.slot)))
}

/// As many connections as are wanted and as there can be file descriptors for.
fn connections_max(start: &Start) -> io::Result<usize> {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: hard,
            maximum: hard,
        },
    )?;
    let others = SPARE_FDS + u64::from(start.groups) * (1 + u64::from(start.workers));
    let possible = hard.map_or(u64::MAX, |hard| hard.saturating_sub(others).max(1));
    Ok(possible.min(u64::from(start.serving.limits.connections)) as usize)
}
