//! The sending side of [`crate::measure::load`]: one thread, one epoll, a timerfd on the
//! next arrival. System calls are what a generator costs, so there are as few
//! as possible: on loopback seven for a request on a new connection, its share
//! of the timer's and of epoll's included.

mod connections;
mod lane;
mod source;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
};
use srv_steer::monotonic_ns;

use self::connections::{interest, no_socket};
use self::lane::{Lane, open_lanes};
use self::source::Source;
use crate::measure::arrivals::Draw;
use crate::measure::load::closed::Clients;
use crate::measure::load::exchange::{Exchange, Progress, Wire};
use crate::measure::load::record::{Outcome, Record, Run};
use crate::measure::load::requests::Requests;
use crate::measure::load::response::Head;
use crate::measure::load::spec::{Connections, Load, Pace};
use crate::measure::load::watch::Watch;
use crate::measure::stats::Summary;

/// How many events are handled, or requests started, before the others are looked at.
const EVENTS_MAX: usize = 64;
/// The timer's epoll token; any other but those below is the number of a request.
const TIMER: u64 = u64::MAX;
/// The epoll token of a pooled connection that never carried a request.
const IDLE: u64 = u64::MAX - 1;
/// The epoll token of [`Watch::stop`].
const STOP: u64 = u64::MAX - 2;
/// Answered connections that stay open until the server closes them, as it said it would,
/// or until there are more. The side that closes first has the TIME_WAIT. On the client's side
/// it would block a port, and later connects would search longer and longer for a free one.
/// Some servers wait until the client closes, too (gunicorn, for up to 2 s): the client closes
/// at once when they have.
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
    /// Those of them that have a connection.
    in_flight: usize,
    late_ns: Vec<u64>,
    /// When the last request became due and was picked up.
    picked_up_ns: u64,
    lanes: Vec<Lane>,
    /// The lane of each target.
    lane_of: Vec<usize>,
    /// Numbers of requests that were answered on a connection that the server closes.
    closing: VecDeque<(usize, Wire)>,
    /// There are no more files until a connection ends.
    out_of_files: bool,
    put_off: usize,
    resumed: usize,
    scratch: Box<[u8]>,
    first_error: Option<String>,
    /// The same of what was not sent.
    first_unsent: Option<String>,
}

struct Flight {
    sent_ns: u64,
    exchange: Exchange,
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
        ensure!(
            !load.targets.is_empty(),
            "send requests: there is no target"
        );
        let (lanes, lane_of) = open_lanes(load, &epoll)?;
        let (source, count) = match pace {
            Pace::Open(draws) => (Source::Plan(draws.iter()), draws.len()),
            Pace::Closed(closed) => {
                load.check(closed)?;
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
            in_flight: 0,
            late_ns: Vec::with_capacity(count),
            picked_up_ns: 0,
            lanes,
            lane_of,
            closing: VecDeque::with_capacity(CLOSING_MAX + 1),
            out_of_files: false,
            put_off: 0,
            resumed: 0,
            scratch: vec![0; 64 << 10].into(),
            first_error: None,
            first_unsent: None,
        })
    }

    /// Sends every request and waits for its outcome, or until it is stopped.
    pub(crate) fn run(mut self) -> Result<Run> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        std::thread::sleep(LEAD);
        let busy_from_ns = thread_cpu_ns();
        self.start_ns = monotonic_ns();
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
        let busy_ns = thread_cpu_ns() - busy_from_ns;
        let span_ns = self.now_ns();
        Ok(Run {
            records: self.records.into_iter().flatten().collect(),
            lateness: Summary::of(self.late_ns),
            first_error: self.first_error.or(self.first_unsent),
            is_complete: !is_stopped,
            unanswered: self.open,
            span_ns,
            picked_up_ns: self.picked_up_ns,
            busy: busy_ns as f64 / span_ns.max(1) as f64,
            put_off: self.put_off,
            resumed: self.resumed,
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
            let number = self.draws.len();
            let lane = self.lane_of[self.target(number)];
            self.lanes[lane].waiting.push_back(number);
            self.draws.push(draw);
            self.flights.push(None);
            self.records.push(None);
            self.open += 1;
            if now_ns >= self.deadline_ns(number) {
                let error = || "picked up only when its time was over".to_owned();
                self.first_unsent.get_or_insert_with(error);
                self.finish(number, Outcome::Late, None);
            }
            self.serve_waiting(lane)?;
        }
        (0..self.lanes.len()).try_for_each(|lane| self.serve_waiting(lane))
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
            let flight = self.flights[number].as_ref().expect("in flight");
            let socket = flight.exchange.wire().socket();
            let token = EventData::new_u64(number as u64);
            return epoll::modify(&self.epoll, socket, token, interest)
                .context("watch a connection");
        }
        let (outcome, head) = match progress {
            Progress::Answered(head) if self.load.success.contains(head.status) => {
                (Outcome::Ok, Some(head))
            }
            Progress::Answered(head) => {
                self.note(|| format!("status {}", head.status));
                (Outcome::Status, Some(head))
            }
            Progress::Failed(outcome, error) => {
                let first = match outcome.is_unsent() {
                    true => &mut self.first_unsent,
                    false => &mut self.first_error,
                };
                first.get_or_insert(error);
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
            status: head.map(|head| head.status),
            target: self.target(number) as u32,
        });
        self.open -= 1;
        self.watch.add_finished();
        if let Source::Clients(clients) = &mut self.source {
            clients.finish(finished_ns, outcome);
        }
        // A request that never had a connection has none to let go.
        if let Some(flight) = flight {
            self.in_flight -= 1;
            let wire = flight.exchange.into_wire();
            self.resumed += usize::from(head.is_some() && wire.is_resumed());
            self.let_go(number, wire, head.map(|head| head.keep_alive));
        }
    }

    /// The target of a request.
    fn target(&self, number: usize) -> usize {
        number % self.load.targets.len()
    }

    /// Gives up on requests that had their time. In order of arrival, thus of deadline.
    fn expire(&mut self) {
        let now_ns = self.now_ns();
        while self.oldest < self.draws.len() {
            if self.records[self.oldest].is_none() {
                if now_ns < self.deadline_ns(self.oldest) {
                    break;
                }
                self.give_up(self.oldest);
            }
            self.oldest += 1;
        }
    }

    /// A request had its time. If it waited for a file until now, that is not the server's loss.
    fn give_up(&mut self, number: usize) {
        let is_unsent = self.flights[number].is_none();
        if is_unsent && (self.out_of_files || self.load.connections == Connections::PerRequest) {
            let error = || no_socket(Errno::MFILE);
            self.first_unsent.get_or_insert_with(error);
            self.finish(number, Outcome::NoSocket, None);
        } else {
            self.note(|| "no response in time".to_owned());
            self.finish(number, Outcome::Timeout, None);
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
        monotonic_ns() - self.start_ns
    }

    fn note(&mut self, error: impl FnOnce() -> String) {
        self.first_error.get_or_insert_with(error);
    }
}

/// For how long this thread has used a CPU so far, ns.
fn thread_cpu_ns() -> u64 {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    used.tv_sec as u64 * 1_000_000_000 + used.tv_nsec as u64
}
