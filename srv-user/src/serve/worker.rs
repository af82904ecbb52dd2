//! A worker process. It adopts the descriptors that it inherited, joins the ring, accepts and
//! serves connections, publishes its load, and drains.

mod accepting;
pub mod connection;
mod connections;
mod fastcgi;
pub mod http;
mod mode;
mod orders;
pub mod spool;
pub mod stream;
pub mod task;
pub mod tcp;
pub mod tls;
pub mod turn;
pub mod upstream;

use std::cell::Cell;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::control::SandboxStatus;
use crate::kernel::open_files;
use crate::kernel::packets;
use crate::kernel::reactor::Reactor;
use crate::logging;
use crate::serve::access_log::ring::Records;
use crate::serve::channel::{Channel, Inherited, Start, ToMaster, ToWorker};
use crate::serve::orders::Orders;
use crate::serve::router::Router;
use crate::serve::sandbox;
use crate::serve::worker::connection::Driver;
use crate::serve::worker::http::{Http, Log};
use crate::serve::worker::tls::{Acceptor, Keys};
use accepting::Rest;
use connections::{Connections, Room};
use mode::{Mode, SWEEP_NS};
use spool::Spool;
use srv_steer::monotonic_ns;
use srv_steer::{AcceptMode, Accepted, Load, Ring};
use task::Woken;
use upstream::{UPSTREAM_TOKEN, Upstreams};

/// Runs the worker process to its end.
///
/// # Errors
/// If it did not inherit what the master promised, or the kernel refuses something that a worker
/// needs. The worker also reports the error to the master.
pub fn run() -> anyhow::Result<()> {
    let channel = packets::inherited(Inherited::CHANNEL).context(
        "`srv worker` is what `srv serve` starts for each worker, with a channel to the master as \
         file descriptor 3, and there is none: run `srv serve`",
    )?;
    let channel = Rc::new(Channel::from_fd(channel));
    let result = Worker::start(channel.clone()).and_then(|mut worker| worker.serve());
    if let Err(error) = &result {
        // If the master is gone, no process reads this.
        let _ = channel.send(&ToMaster::Failed(format!("{error:#}")));
    }
    logging::catch_up();
    result
}

/// Tokens of the reactor. A connection's token is its slab key; [`Ring`] makes those of listeners,
/// [`Upstreams`] those of connections to applications.
const TERMINATE_TOKEN: u64 = 1 << 62;
const CHANNEL_TOKEN: u64 = 1 << 63;

/// If a worker has not handled events for longer than this, ns, it is late. It then extends its
/// clients' deadlines by the time beyond this.
const LATE_NS: u64 = 2 * SWEEP_NS;
/// File descriptors that a worker keeps free beside listeners, connections and the files that their
/// responses keep open. It needs them for files that it reads at once, and for clients that it
/// turns away.
const SPARE_FDS: u64 = 32;

struct Worker {
    start: Start,
    /// `None` once the master is gone.
    channel: Option<Rc<Channel>>,
    terminate: UnixStream,
    reactor: Reactor,
    sandbox: SandboxStatus,
    /// Empty after the worker has stopped to accept.
    ring: Ring,
    membership: Membership,
    /// The orders that the worker follows.
    orders: Orders,
    driver: Driver,
    connections: Connections,
    room: Room,
    rest: Rest,
    mode: Mode,
    /// When the worker last began to handle events, ns.
    looked_ns: u64,
    /// When the worker last checked deadlines, ns.
    swept_ns: u64,
}

/// The listeners that a worker waits on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Membership {
    /// Its own listeners.
    OwnListeners,
    /// In the ring: its own listeners and those of its siblings.
    Ring,
}

impl Worker {
    fn start(channel: Rc<Channel>) -> anyhow::Result<Self> {
        let start = receive_start(&channel)?;
        close_the_rest(&start);
        let terminate = catch_signals().context("catch signals")?;
        logging::start(start.log_json);
        let room = room(&start).context("raise RLIMIT_NOFILE")?;
        let Adopted {
            listeners,
            published,
            records,
        } = take_inherited(&start)?;
        let published = Rc::new(published);
        let log = Rc::new(Log::new(records, published.clone()));
        let reactor = Reactor::new().context("create an epoll instance")?;
        sandbox::become_user(start.user)?;
        let router = Router::new(&start.serving, named(&start))?;
        // The first reading looks up the vDSO by calls that the sandbox does not allow. Without
        // the vDSO, each reading would be a system call.
        monotonic_ns();
        let applications = start.serving.sites.applications();
        let spool = match applications.is_empty() {
            true => None,
            false => Some(Rc::new(Spool::open().context("open a file for bodies")?)),
        };
        let sandbox = sandbox::confine(&router.roots(), &applications)?;
        let kept = Kept {
            spool,
            published,
            log,
            files: Rc::default(),
            upstreams: Rc::new(Upstreams::new(reactor.registry().clone())),
            woken: Arc::default(),
            tickets: Keys::default(),
        };
        Ok(Self {
            channel: Some(channel),
            terminate,
            reactor,
            sandbox,
            ring: Ring::new(start.serving.accept, start.slot, listeners),
            membership: Membership::OwnListeners,
            orders: Orders::initial(start.serving.clone(), start.beside, start.listeners),
            driver: driver(router, &start, kept)?,
            connections: Connections::default(),
            room,
            rest: Rest::default(),
            mode: Mode::Serving,
            looked_ns: 0,
            swept_ns: 0,
            start,
        })
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        self.reactor
            .watch_readable(&self.terminate, TERMINATE_TOKEN)?;
        let channel = self.channel.as_ref().context("no channel")?;
        self.reactor
            .watch_readable(channel.as_ref(), CHANNEL_TOKEN)?;
        if self.start.serving.accept != AcceptMode::Blocking {
            self.ring.watch_own(&self.reactor)?;
        }
        channel.send(&ToMaster::Registered(self.sandbox.clone()))?;
        if self.start.serving.accept != AcceptMode::Ring {
            channel.send(&ToMaster::Ready)?;
        }
        while !self.is_done() {
            self.run_once()?;
        }
        Ok(())
    }

    /// One iteration of the loop. The worker waits. Then, in the order of events, it serves the
    /// connections that are ready and accepts at most one; those that stay in the queue can wake
    /// an idle sibling. Then it continues one of the connections in line, and publishes its load.
    fn run_once(&mut self) -> anyhow::Result<()> {
        let slept_from_ns = monotonic_ns();
        // If a connection is in line, the worker does not wait for events, and is not idle.
        if !self.has_more() {
            self.published().sleeps();
            self.published()
                .publish(|figures| figures.busy.returns(slept_from_ns));
        }
        let mut accepted = Accepted::Nothing;
        if self.accepts_blocking() {
            accepted = self.ring.accept_blocking(self.driver.published());
            self.reactor
                .wait(Some(Duration::ZERO))
                .context("poll for events")?;
        } else {
            let timeout = self.timeout();
            self.ring
                .wait(&mut self.reactor, timeout)
                .context("wait for events")?;
        }
        let now_ns = monotonic_ns();
        self.published().wakes(now_ns);
        self.published()
            .publish(|figures| figures.busy.leaves(now_ns));
        let published = self.driver.published();
        self.ring
            .watch_deferred(&self.reactor, published, slept_from_ns, now_ns)?;
        self.excuse_lateness(now_ns);
        self.take(accepted, now_ns);
        self.serve_ready(now_ns)?;
        self.serve_woken(now_ns);
        self.resume_next(now_ns);
        let interval_ns = self.mode.sweep_interval().as_nanos() as u64;
        if now_ns >= self.swept_ns + interval_ns {
            self.sweep(now_ns);
        }
        self.published().ends_loop();
        Ok(())
    }

    /// Goes through the events of the last wait.
    fn serve_ready(&mut self, now_ns: u64) -> anyhow::Result<()> {
        let mut may_accept = true;
        let mut others = self.has_more();
        let mut nth = 0;
        while let Some(ready) = self.reactor.ready(nth) {
            self.published()
                .pending((self.reactor.count() - nth) as u32);
            nth += 1;
            match ready.token {
                CHANNEL_TOKEN => self.read_channel(now_ns)?,
                TERMINATE_TOKEN => self.retire(now_ns)?,
                token if srv_steer::is_listener(token) => {
                    if std::mem::take(&mut may_accept) {
                        self.accept(now_ns)?;
                    }
                    continue;
                }
                token if token & UPSTREAM_TOKEN != 0 => {
                    self.driver.http().upstreams.ready(ready);
                    self.serve_woken(now_ns);
                }
                key => self.drive(key as usize, ready, now_ns),
            }
            others = true;
        }
        self.published().pending(0);
        if !others {
            self.rest.pause(now_ns);
        }
        Ok(())
    }

    fn published(&self) -> &Load {
        self.driver.published()
    }

    /// Whether a connection could continue at once.
    fn has_more(&self) -> bool {
        self.connections.has_line() || self.driver.woken().has_any()
    }

    /// How long to wait for events. Connections have deadlines; without connections a worker
    /// wakes for nothing else.
    fn timeout(&self) -> Option<Duration> {
        if self.has_more() {
            return Some(Duration::ZERO);
        }
        if let Some(due_ns) = self.ring.due_ns() {
            // Not the time at the start of this iteration: a request may have blocked since.
            return Some(Duration::from_nanos(due_ns.saturating_sub(monotonic_ns())));
        }
        let has_deadlines = self.mode.is_draining() || !self.connections.is_empty();
        let deadlines = has_deadlines.then(|| self.mode.sweep_interval());
        let load = self.published().sleeps_at_most_ns();
        let load = load.map(Duration::from_nanos);
        deadlines.into_iter().chain(load).min()
    }

    /// Whether the worker blocks in accept now. It does so in blocking mode, in which it has one
    /// connection at a time.
    fn accepts_blocking(&self) -> bool {
        self.start.serving.accept == AcceptMode::Blocking
            && self.connections.is_empty()
            && !self.ring.is_empty()
    }

    /// Handles SIGTERM: this worker leaves, and its siblings continue.
    fn retire(&mut self, now_ns: u64) -> anyhow::Result<()> {
        self.reactor.forget(&self.terminate)?;
        // If the master is gone, its channel reports that, perhaps in this same iteration.
        let _ = self.tell(&ToMaster::Retiring);
        self.resign(now_ns);
        Ok(())
    }

    /// Leaves, while its siblings continue and drain its queue.
    fn resign(&mut self, now_ns: u64) {
        let last = self.ring.resign(&self.reactor, self.driver.published());
        self.drain(now_ns);
        for connection in last {
            self.open(connection, now_ns);
        }
    }

    /// As [`Self::resign`], and publishes nothing any more: another worker may have its slot.
    fn yield_slot(&mut self, now_ns: u64) {
        self.resign(now_ns);
        self.published().fall_silent();
    }

    fn drain(&mut self, now_ns: u64) {
        if self.mode.drain(now_ns) {
            self.drain_connections(now_ns);
        }
    }

    /// Leaves the listeners if no connection can come any more. That is so if the kernel answers
    /// no SYN, the time for the last handshakes is over, and the accept queues are empty.
    fn leave_listeners_if_empty(&mut self, now_ns: u64) {
        if !self.mode.are_handshakes_over(now_ns) || self.ring.has_waiting() {
            return;
        }
        let last = self.ring.resign(&self.reactor, self.driver.published());
        for connection in last {
            self.open(connection, now_ns);
        }
    }

    fn is_done(&self) -> bool {
        let nothing_left = self.ring.is_empty() && self.connections.is_empty();
        self.mode.is_draining() && (nothing_left || self.mode.is_over(self.swept_ns))
    }
}

fn catch_signals() -> io::Result<UnixStream> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ};
    let (ours, handlers) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGTERM, handlers)?;
    for signal in [SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2] {
        // A terminal, systemd or an operator sends these to all processes. Only the master
        // acts on them.
        signal_hook::flag::register(signal, Arc::default())?;
    }
    // Beyond a limit of file sizes, a write to the file for bodies fails instead.
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
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
            Some((ToWorker::Start(start), _)) => return Ok(start),
            Some((other, _)) => {
                bail!("read the master's orders: expected Start, received {other:?}")
            }
            None => {}
        }
    }
}

/// What stays when the settings of a worker change.
struct Kept {
    published: Rc<Load>,
    log: Rc<Log>,
    files: Rc<Cell<usize>>,
    upstreams: Rc<Upstreams>,
    spool: Option<Rc<Spool>>,
    woken: Arc<Woken>,
    tickets: Keys,
}

impl Kept {
    fn of(driver: &Driver) -> Self {
        let http = driver.http();
        Self {
            published: http.published.clone(),
            log: http.log.clone(),
            files: http.files.clone(),
            upstreams: http.upstreams.clone(),
            spool: http.spool.clone(),
            woken: driver.woken().clone(),
            tickets: driver.tickets().clone(),
        }
    }
}

/// The driver of connections, with the settings of `start`.
///
/// # Errors
/// A certificate cannot be used.
fn driver(router: Router, start: &Start, kept: Kept) -> anyhow::Result<Driver> {
    if start.serving.synthetic {
        // A synthetic sleep must last as long as the request says, not 50 µs longer.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    }
    let http = Http {
        router,
        limits: start.serving.limits.clone(),
        http2: start.serving.http2,
        published: kept.published,
        log: kept.log,
        files: kept.files,
        upstreams: kept.upstreams,
        spool: kept.spool,
        application: fastcgi::application,
    };
    let tls = Acceptor::all(&start.serving, &kept.tickets)?;
    Ok(Driver::new(Rc::new(http), kept.woken).with_tls(tls, kept.tickets))
}

/// The slot that responses name, if the settings ask for that.
fn named(start: &Start) -> Option<u32> {
    start.serving.worker_header.then_some(start.slot)
}

/// Closes all other descriptors that were passed on: the process that started the master may have
/// left some open. Call this before this process opens any.
fn close_the_rest(start: &Start) {
    let first = inherited(start).end() as libc::c_uint;
    // Linux before 5.9 has no such call; there, these descriptors stay open.
    // SAFETY: nothing in this process has opened, or owns, a descriptor from there on.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
}

fn inherited(start: &Start) -> Inherited {
    Inherited {
        groups: start.groups,
        listeners: start.listeners,
    }
}

/// What a worker has inherited.
struct Adopted {
    listeners: Vec<Vec<OwnedFd>>,
    published: Load,
    /// `None`: it leaves no records for the access log.
    records: Option<Records>,
}

/// Adopts the inherited file descriptors.
fn take_inherited(start: &Start) -> anyhow::Result<Adopted> {
    let count = start.listeners;
    let inherited = inherited(start);
    // SAFETY: the master passed exactly these, and each is adopted once.
    let adopt = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
    let mut listeners = Vec::new();
    let mut memories = Vec::new();
    for group in 0..start.groups {
        memories.push(adopt(inherited.memory(group)));
        listeners.push(
            (0..count)
                .map(|nth| adopt(inherited.listener(group, nth)))
                .collect(),
        );
    }
    let (ring, bell) = (adopt(inherited.ring()), adopt(inherited.bell()));
    let records = Records::new(ring, bell);
    // Requests are served all the same, and their records are counted as dropped.
    let records = records.inspect_err(|error| tracing::error!("{error:#}"));
    Ok(Adopted {
        listeners,
        published: Load::attach(start.slot, memories)?,
        records: records.ok(),
    })
}

/// The room for connections: as many as the settings allow, within the limit of file descriptors.
fn room(start: &Start) -> io::Result<Room> {
    let limit = open_files::raise()?;
    let roots = start.serving.roots().len() as u64;
    let others = SPARE_FDS + roots + u64::from(start.groups) * (1 + u64::from(start.listeners));
    let possible = limit.map_or(u64::MAX, |limit| limit.saturating_sub(others).max(1));
    Ok(Room {
        connections: start.serving.limits.connections as usize,
        descriptors: usize::try_from(possible).unwrap_or(usize::MAX),
    })
}
