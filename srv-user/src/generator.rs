//! The sending side of [`crate::load`]: one thread, one epoll, a timerfd on the
//! next arrival. System calls are what a generator costs, so there are as few
//! as possible: on loopback seven for a request on a new connection, its share
//! of the timer's and of epoll's included.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec,
};

use crate::arrivals::Draw;
use crate::closed::Clients;
use crate::exchange::{Exchange, Outcome, Progress};
use crate::load::{Connections, Load, Pace, Record, Run, Watch};
use crate::requests::Requests;
use crate::response::Head;
use crate::stats::Summary;

/// Events handled, and requests started, before looking at the others again.
const EVENTS_MAX: usize = 64;
/// The timer's epoll token; any other but those below is the number of a request.
const TIMER: u64 = u64::MAX;
/// The epoll token of a pooled connection that never carried a request.
const IDLE: u64 = u64::MAX - 1;
/// The epoll token of [`Watch::stop`].
const STOP: u64 = u64::MAX - 2;
/// Answered connections that are kept until the server has closed them, as it said
/// it would, or there are more: the side that closes first has the
/// TIME_WAIT, and on the client's side it would block a port for its next
/// connects, which search for a free one at a growing price. Servers that wait for the
/// client's end after their own (gunicorn, for up to 2 s) are not kept waiting.
const CLOSING_MAX: usize = 64;
/// From the end of the preparations to instant 0: the server has accepted the pool by then.
const LEAD: Duration = Duration::from_millis(10);

/// A run in progress.
pub(crate) struct Generator<'a> {
    load: &'a Load,
    watch: &'a Watch,
    source: Source<'a>,
    requests: Requests,
    epoll: OwnedFd,
    timer: OwnedFd,
    /// `CLOCK_MONOTONIC` at instant 0.
    start_ns: u64,
    /// What the timer is set to, ns from the start.
    armed_ns: u64,
    /// Requests that became due, in order; their places are their numbers.
    draws: Vec<Draw>,
    flights: Vec<Option<Box<Flight>>>,
    records: Vec<Option<Record>>,
    /// Every request below this number has its record.
    oldest: usize,
    /// Due requests without a record.
    open: usize,
    late_ns: Vec<u64>,
    /// When the last request became due and was picked up.
    picked_up_ns: u64,
    /// Due, and waiting for a connection.
    waiting: VecDeque<usize>,
    /// The pool's free places, those with an open connection and those without.
    idle: VecDeque<Option<OwnedFd>>,
    /// Numbers of requests that were answered on a connection that the server closes.
    closing: VecDeque<(usize, OwnedFd)>,
    /// There are no more files until a connection ends.
    out_of_files: bool,
    was_out_of_files: bool,
    scratch: Box<[u8]>,
    first_error: Option<String>,
}

struct Flight {
    sent_ns: u64,
    exchange: Exchange,
}

/// Where requests come from.
enum Source<'a> {
    /// What is left of a plan.
    Plan(std::slice::Iter<'a, Draw>),
    Clients(Clients),
}

impl Source<'_> {
    /// The next request, if it is due.
    fn next(&mut self, now_ns: u64) -> Option<Draw> {
        match self {
            Self::Plan(draws) => {
                let draw = *draws.as_slice().first()?;
                (draw.at_ns <= now_ns).then(|| {
                    draws.next();
                    draw
                })
            }
            Self::Clients(clients) => clients.next(now_ns),
        }
    }

    /// When the next request is due that no outcome has to precede.
    fn wake_ns(&self) -> Option<u64> {
        match self {
            Self::Plan(draws) => draws.as_slice().first().map(|draw| draw.at_ns),
            Self::Clients(clients) => clients.wake_ns(),
        }
    }

    fn is_over(&self, now_ns: u64) -> bool {
        match self {
            Self::Plan(draws) => draws.as_slice().is_empty(),
            Self::Clients(clients) => clients.is_over(now_ns),
        }
    }
}

impl<'a> Generator<'a> {
    /// Prepares a run: the pool's connections, and memory for the records.
    pub(crate) fn new(load: &'a Load, pace: Pace<'a>, watch: &'a Watch) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("create epoll")?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)
            .context("create timerfd")?;
        // Edge-triggered: setting it again is enough, it need not be read.
        let edges = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), edges).context("watch timerfd")?;
        let stop = EventData::new_u64(STOP);
        epoll::add(&epoll, watch.stopper(), stop, EventFlags::IN).context("watch eventfd")?;
        let idle = open_pool(load, &epoll)?;
        let (source, count) = match pace {
            Pace::Open(draws) => (Source::Plan(draws.iter()), draws.len()),
            Pace::Closed(closed) => {
                closed.check(load)?;
                (Source::Clients(Clients::new(closed)), 1 << 16)
            }
        };
        Ok(Self {
            load,
            watch,
            source,
            requests: Requests::of(load),
            epoll,
            timer,
            start_ns: 0,
            armed_ns: 0,
            draws: Vec::with_capacity(count),
            flights: Vec::with_capacity(count),
            records: Vec::with_capacity(count),
            oldest: 0,
            open: 0,
            late_ns: Vec::with_capacity(count),
            picked_up_ns: 0,
            waiting: VecDeque::new(),
            idle,
            closing: VecDeque::with_capacity(CLOSING_MAX + 1),
            out_of_files: false,
            was_out_of_files: false,
            scratch: vec![0; 64 << 10].into(),
            first_error: None,
        })
    }

    /// Sends every request and waits for its outcome, or until it is stopped.
    pub(crate) fn run(mut self) -> Result<Run> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        std::thread::sleep(LEAD);
        let busy_from_ns = clock_ns(ClockId::ThreadCPUTime);
        self.start_ns = clock_ns(ClockId::Monotonic);
        let mut is_stopped = false;
        while !is_stopped {
            self.expire();
            self.start_due()?;
            if self.open == 0 && self.source.is_over(self.now_ns()) {
                break;
            }
            self.arm()?;
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context("wait for events"),
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    TIMER => {}
                    STOP => is_stopped = true,
                    token => self.advance(token as usize)?,
                }
                self.start_due()?;
            }
        }
        let busy_ns = clock_ns(ClockId::ThreadCPUTime) - busy_from_ns;
        let span_ns = self.now_ns();
        Ok(Run {
            records: self.records.into_iter().flatten().collect(),
            lateness: Summary::of(self.late_ns),
            first_error: self.first_error,
            is_complete: !is_stopped,
            unanswered: self.open,
            span_ns,
            picked_up_ns: self.picked_up_ns,
            busy: busy_ns as f64 / span_ns.max(1) as f64,
            was_out_of_files: self.was_out_of_files,
        })
    }

    /// Picks up what is due, and starts what has a connection.
    fn start_due(&mut self) -> Result<()> {
        for _ in 0..EVENTS_MAX {
            let now_ns = self.now_ns();
            let Some(draw) = self.source.next(now_ns) else {
                break;
            };
            self.late_ns.push(now_ns - draw.at_ns);
            self.picked_up_ns = now_ns;
            self.waiting.push_back(self.draws.len());
            self.draws.push(draw);
            self.flights.push(None);
            self.records.push(None);
            self.open += 1;
            self.serve_waiting()?;
        }
        self.serve_waiting()
    }

    /// Sends a request, on `socket` if that is still open, else on a new connection.
    fn launch(&mut self, number: usize, socket: Option<OwnedFd>) -> Result<()> {
        let request = self.requests.get(self.draws[number].service_us);
        let sent_ns = self.now_ns();
        if let Source::Clients(_) = self.source {
            // There is no schedule but the sending itself.
            self.draws[number].at_ns = sent_ns;
        }
        let socket = socket.filter(is_open);
        let is_watched = socket.is_some();
        let (exchange, progress) = match socket {
            Some(socket) => Exchange::reuse(socket, request),
            None => match Exchange::connect(self.load.target, request) {
                Err(Errno::MFILE | Errno::NFILE) if self.open > self.waiting.len() + 1 => {
                    self.put_off(number);
                    return Ok(());
                }
                connected => connected.context(
                    "open a socket for the next request (too many open files? raise `ulimit -n`)",
                )?,
            },
        };
        let flight = self.flights[number].insert(Box::new(Flight { sent_ns, exchange }));
        if !is_watched && let Some(interest) = interest(&progress) {
            let token = EventData::new_u64(number as u64);
            epoll::add(&self.epoll, flight.exchange.socket(), token, interest)
                .context("watch a connection")?;
            return Ok(());
        }
        self.settle(number, progress)
    }

    /// This process has as many files open as it may: the request waits until
    /// another one's connection ends.
    fn put_off(&mut self, number: usize) {
        self.out_of_files = true;
        self.was_out_of_files = true;
        self.closing.clear();
        self.waiting.push_front(number);
    }

    fn advance(&mut self, number: usize) -> Result<()> {
        let Some(Some(flight)) = self.flights.get_mut(number) else {
            // The server has closed, or this event was on its way when the request
            // ended, or it is an idle connection's.
            self.closing.retain(|(answered, _)| *answered != number);
            return Ok(());
        };
        let progress = flight.exchange.advance(&mut self.scratch);
        self.settle(number, progress)
    }

    /// Waits on, or records the outcome and lets the connection go.
    fn settle(&mut self, number: usize, progress: Progress) -> Result<()> {
        if let Some(interest) = interest(&progress) {
            let socket = self.flights[number]
                .as_ref()
                .expect("in flight")
                .exchange
                .socket();
            let token = EventData::new_u64(number as u64);
            return epoll::modify(&self.epoll, socket, token, interest)
                .context("watch a connection");
        }
        let (outcome, head) = match progress {
            Progress::Answered(head) if head.status == 200 => (Outcome::Ok, Some(head)),
            Progress::Answered(head) => {
                self.note(|| format!("status {}", head.status));
                (Outcome::Status, Some(head))
            }
            Progress::Failed(outcome, error) => {
                self.note(|| error);
                (outcome, None)
            }
            Progress::Writing | Progress::Reading => unreachable!("waits on"),
        };
        self.finish(number, outcome, head);
        Ok(())
    }

    fn finish(&mut self, number: usize, outcome: Outcome, head: Option<Head>) {
        let draw = self.draws[number];
        let flight = self.flights[number].take();
        let finished_ns = self.now_ns();
        self.records[number] = Some(Record {
            scheduled_ns: draw.at_ns,
            sent_ns: flight.as_ref().map(|flight| flight.sent_ns),
            finished_ns,
            service_us: draw.service_us,
            worker: head.and_then(|head| head.worker),
            outcome,
        });
        self.open -= 1;
        self.watch.add_finished();
        if let Source::Clients(clients) = &mut self.source {
            clients.finish(finished_ns, outcome);
        }
        let socket = flight.map(|flight| flight.exchange.into_socket());
        self.let_go(number, socket, head.map(|head| head.keep_alive));
    }

    /// What becomes of a request's connection; `keep_alive` as answered.
    fn let_go(&mut self, number: usize, socket: Option<OwnedFd>, keep_alive: Option<bool>) {
        self.out_of_files = false;
        match (self.load.connections, keep_alive) {
            (Connections::PerRequest, Some(_)) => {
                // What has ended by now brings no other event.
                let socket = socket.filter(is_open);
                self.closing.extend(socket.map(|socket| (number, socket)));
                if self.closing.len() > CLOSING_MAX {
                    self.closing.pop_front();
                }
            }
            (Connections::PerRequest, None) => {}
            (Connections::Pool(_), keep_alive) => {
                // A request that timed out while it waited had no place to give back.
                if let Some(socket) = socket {
                    self.idle
                        .push_back((keep_alive == Some(true)).then_some(socket));
                }
            }
        }
    }

    fn serve_waiting(&mut self) -> Result<()> {
        while let Some(&number) = self.waiting.front() {
            if self.records[number].is_some() {
                self.waiting.pop_front();
                continue;
            }
            let place = match self.load.connections {
                _ if self.out_of_files => None,
                Connections::PerRequest => Some(None),
                Connections::Pool(_) => self.idle.pop_front(),
            };
            let Some(place) = place else { break };
            self.waiting.pop_front();
            self.launch(number, place)?;
        }
        Ok(())
    }

    /// Gives up on requests that had their time. In order of arrival, thus of deadline.
    fn expire(&mut self) {
        let now_ns = self.now_ns();
        while self.oldest < self.draws.len() {
            if self.records[self.oldest].is_none() {
                if now_ns < self.deadline_ns(self.oldest) {
                    break;
                }
                self.note(|| "no response in time".to_owned());
                self.finish(self.oldest, Outcome::Timeout, None);
            }
            self.oldest += 1;
        }
    }

    /// Sets the timer to the next arrival or deadline.
    fn arm(&mut self) -> Result<()> {
        let deadline_ns = (self.oldest < self.draws.len()).then(|| self.deadline_ns(self.oldest));
        let wake_ns = self.source.wake_ns().into_iter().chain(deadline_ns).min();
        let wake_ns = wake_ns.expect("a request is due some time or has a deadline");
        // Sooner than necessary does no harm: it will be set again then.
        if self.armed_ns > self.now_ns() && self.armed_ns <= wake_ns {
            return Ok(());
        }
        self.armed_ns = wake_ns;
        let at_ns = self.start_ns + wake_ns;
        let setting = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: (at_ns / 1_000_000_000) as i64,
                tv_nsec: (at_ns % 1_000_000_000) as _,
            },
        };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &setting)
            .context("set timerfd")?;
        Ok(())
    }

    fn deadline_ns(&self, number: usize) -> u64 {
        self.draws[number].at_ns + self.load.timeout.as_nanos() as u64
    }

    /// ns from the start of the run.
    fn now_ns(&self) -> u64 {
        clock_ns(ClockId::Monotonic) - self.start_ns
    }

    fn note(&mut self, error: impl FnOnce() -> String) {
        self.first_error.get_or_insert_with(error);
    }
}

/// What to wait for. One event at a time: an idle pooled connection must not wake anyone.
fn interest(progress: &Progress) -> Option<EventFlags> {
    match progress {
        Progress::Writing => Some(EventFlags::OUT | EventFlags::ONESHOT),
        // Once for what comes, and once more for the end.
        Progress::Reading => Some(EventFlags::IN | EventFlags::ET),
        Progress::Answered(_) | Progress::Failed(..) => None,
    }
}

/// Opens the pool's connections; each is watched, for nothing yet.
fn open_pool(load: &Load, epoll: &OwnedFd) -> Result<VecDeque<Option<OwnedFd>>> {
    let Connections::Pool(count) = load.connections else {
        return Ok(VecDeque::new());
    };
    ensure!(
        count > 0,
        "open a pool of 0 connections: it needs at least one"
    );
    let open = |_| -> Result<Option<OwnedFd>> {
        let stream = TcpStream::connect(load.target)
            .with_context(|| format!("open {count} connections to {}", load.target))?;
        stream
            .set_nonblocking(true)
            .context("set a connection to non-blocking")?;
        epoll::add(
            epoll,
            &stream,
            EventData::new_u64(IDLE),
            EventFlags::ONESHOT,
        )
        .context("watch a connection")?;
        Ok(Some(stream.into()))
    };
    (0..count).map(open).collect()
}

/// Whether an idle connection can carry a request: open, and nothing left over on it.
fn is_open(socket: &OwnedFd) -> bool {
    let mut byte = [0];
    let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(
        rustix::net::recv(socket, &mut byte, peek),
        Err(Errno::AGAIN)
    )
}

fn clock_ns(clock: ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
