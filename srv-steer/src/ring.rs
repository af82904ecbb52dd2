//! The listeners that one worker accepts from. The order of acceptance is
//! [`srv_common::acceptance`]; this adds sockets and epoll.

mod members;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use srv_common::acceptance::{Acceptance, Place};

use crate::accept_mode::AcceptMode;
use crate::error::{Error, ErrorKind, Result};
use crate::listeners::accept_queue;
use crate::load::Load;

/// A program's own event loop, as a [`Ring`] needs it: an epoll instance (`as_fd`), a wait, and
/// what the wait brought.
pub trait Poller: AsFd {
    /// Waits as `epoll_wait` does: until something happens, `timeout` passes (`None`: for ever),
    /// or a signal arrives, which is no error.
    ///
    /// # Errors
    /// What `epoll_wait` says.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// The data (the token) of the `nth` event that the last wait brought.
    fn token(&self, nth: usize) -> Option<u64>;
}

/// Set in the epoll data of a ring's listeners: a program's own tokens are below this.
pub const LISTENER_TOKEN: u64 = 1 << 61;

/// Whether an event with this token comes from a ring's listener.
pub fn is_listener(token: u64) -> bool {
    token & LISTENER_TOKEN != 0
}

fn token(place: Place) -> u64 {
    LISTENER_TOKEN | (place.group as u64) << 32 | u64::from(place.listener)
}

fn place_of(token: u64) -> Place {
    Place {
        group: (token & !LISTENER_TOKEN) as usize >> 32,
        listener: token as u32,
    }
}

/// The listeners that one worker watches and accepts from, for a program with its own epoll loop.
///
/// The worker registers its own listener ([`Self::watch_own`]) and, when its siblings have done
/// the same, theirs ([`Self::join`]). In its loop it calls [`Self::wait`] in place of
/// `epoll_wait`, then [`Self::watch_deferred`], and [`Self::accept`] once if a listener is among
/// the events. One connection a turn: what stays in the queue can wake an idle sibling.
pub struct Ring {
    mode: AcceptMode,
    slot: u32,
    /// The listeners by group, then by number. After the worker has left them, this is empty.
    listeners: Vec<Vec<OwnedFd>>,
    acceptance: Acceptance,
    /// The listeners that [`Self::accept`] compares, with the order that each had when it was read.
    /// The field keeps the allocation from one call to the next.
    ready: Vec<((u64, u64), Place)>,
}

/// The result of an attempt to accept a connection.
#[derive(Debug)]
pub enum Accepted {
    /// The connection that was accepted.
    Connection(Incoming),
    /// No connection was accepted: all are left to other workers, or another worker was faster.
    Nothing,
    /// `accept` failed: the system lacks what a connection needs, or the listener is broken. The
    /// listener stays ready, so leave it alone for a moment.
    Failed(io::Error),
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Incoming {
    /// Its socket, non-blocking and close-on-exec.
    pub socket: OwnedFd,
    /// The client's address, if it is an IP address.
    pub client: Option<SocketAddr>,
    /// For how long the connection waited since it could be accepted, ns; `None` if that is not
    /// known ([`Group::why_not_recording`](crate::Group::why_not_recording)).
    pub accept_delay_ns: Option<u64>,
    /// The group of its listener, that is, the address that the client has connected to.
    pub group: usize,
}

impl Ring {
    /// The ring of the worker in `slot`, which watches nothing yet. The sockets, by group and
    /// number, must be non-blocking (in mode [`AcceptMode::Blocking`]: blocking).
    pub fn new(mode: AcceptMode, slot: u32, listeners: Vec<Vec<OwnedFd>>) -> Self {
        Self {
            mode,
            slot,
            acceptance: Acceptance::new(listeners.iter().map(Vec::len)),
            listeners,
            ready: Vec::new(),
        }
    }

    /// Watches the worker's own listener of each group.
    ///
    /// # Errors
    /// If `epoll_ctl` refuses a listener.
    pub fn watch_own(&self, epoll: impl AsFd) -> Result<()> {
        self.watch_all(epoll.as_fd(), self.own())
    }

    /// Watches the siblings' listeners as well. Each worker begins with the one after
    /// its own, so that no sibling is the first substitute of all.
    ///
    /// # Errors
    /// If `epoll_ctl` refuses a listener.
    pub fn join(&self, epoll: impl AsFd) -> Result<()> {
        let (epoll, workers) = (epoll.as_fd(), self.slots());
        (1..workers).try_for_each(|step| self.watch_all(epoll, (self.slot + step) % workers))
    }

    /// Makes this worker the last in line at the listeners of `slot`, because their owner is new
    /// and must be first again.
    ///
    /// # Errors
    /// If `epoll_ctl` refuses a listener.
    pub fn rejoin(&self, epoll: impl AsFd, slot: u32) -> Result<()> {
        let groups = 0..self.listeners.len();
        groups
            .map(|group| Place {
                group,
                listener: slot,
            })
            .try_for_each(|place| self.watch_anew(epoll.as_fd(), place))
    }

    /// Leaves all listeners: the worker accepts no more connections.
    pub fn leave(&mut self, epoll: impl AsFd) {
        self.acceptance.leave();
        for listener in std::mem::take(&mut self.listeners).into_iter().flatten() {
            // Another process still has the socket open, so that closing this fd
            // would not end the registration. Not every one was registered.
            let _ = epoll::delete(&epoll, &listener);
        }
    }

    /// Whether the worker has left the ring.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Whether a connection waits at any of the listeners.
    pub fn has_waiting(&self) -> bool {
        let mut listeners = self.listeners.iter().flatten();
        listeners.any(|listener| accept_queue(listener).is_ok_and(|(queued, _)| queued > 0))
    }

    /// Waits as [`Poller::wait`] does.
    ///
    /// # Errors
    /// What [`Poller::wait`] says.
    pub fn wait(&mut self, poller: &mut impl Poller, timeout: Option<Duration>) -> io::Result<()> {
        let sleeps = timeout != Some(Duration::ZERO);
        let looks_first = self.acceptance.looks_before_sleep();
        if looks_first || !sleeps {
            poller.wait(Some(Duration::ZERO))?;
        }
        if sleeps && (!looks_first || poller.token(0).is_none()) {
            self.acceptance.sleeps();
            poller.wait(timeout)?;
        }
        // More than two do not matter.
        let ready = ready_listeners(poller).take(2).count();
        self.acceptance.found_ready(ready);
        Ok(())
    }

    /// When the wait must end because a listener that was left alone is to be watched again, ns of
    /// `CLOCK_MONOTONIC`; `None` if there is no such listener.
    pub fn due_ns(&self) -> Option<u64> {
        self.acceptance.due_ns()
    }

    /// Watches listeners again that were left alone for long enough, after a
    /// wait from `slept_from_ns` to `now_ns` of `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// If `epoll_ctl` refuses a listener.
    pub fn watch_deferred(
        &mut self,
        epoll: impl AsFd,
        load: &Load,
        slept_from_ns: u64,
        now_ns: u64,
    ) -> Result<()> {
        let grace_ns =
            |place: Place| load.steal_grace_period_ns(place.group, place.listener, now_ns);
        while let Some(place) = self.acceptance.next_due(slept_from_ns, now_ns, grace_ns) {
            self.watch(epoll.as_fd(), place)?;
            self.acceptance.watched(place);
        }
        Ok(())
    }

    /// Accepts one connection from a listener that the last wait brought. If all of them are better
    /// left to their owners, the worker does not watch them for a while.
    ///
    /// # Errors
    /// If `epoll_ctl` refuses a listener.
    pub fn accept(&mut self, poller: &impl Poller, load: &Load, now_ns: u64) -> Result<Accepted> {
        let mut ready = std::mem::take(&mut self.ready);
        ready.clear();
        let ordered = |place: Place| {
            let age = load.age_of_first(place.group, place.listener);
            (self.acceptance.order(place, age), place)
        };
        ready.extend(ready_listeners(poller).map(ordered));
        ready.sort_by_key(|&(order, _)| order);
        let chosen = ready
            .iter()
            .find(|&&(_, place)| self.grace_ns(load, place, now_ns) == 0);
        let mut accepted = Accepted::Nothing;
        if let Some(&(_, place)) = chosen {
            self.acceptance.take_turn(place);
            accepted = self.accept_from(load, place);
        } else {
            for &(_, place) in &ready {
                self.leave_alone(poller.as_fd(), load, place, now_ns)?;
            }
        }
        self.ready = ready;
        Ok(accepted)
    }

    /// Waits for a connection at the only listener and accepts it.
    pub fn accept_blocking(&self, load: &Load) -> Accepted {
        let only = Place {
            group: 0,
            listener: 0,
        };
        self.accept_from(load, only)
    }

    fn accept_from(&self, load: &Load, from: Place) -> Accepted {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match rustix::net::acceptfrom_with(self.socket(from), flags) {
            Ok((socket, client)) => {
                let client = client.and_then(|client| SocketAddr::try_from(client).ok());
                load.accepted(from.group, from.listener);
                Accepted::Connection(Incoming {
                    socket,
                    client,
                    accept_delay_ns: load.waited(from.group, from.listener, client),
                    group: from.group,
                })
            }
            // A sibling was faster, or the client has gone again.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Accepted::Nothing,
            Err(error) => Accepted::Failed(error.into()),
        }
    }

    /// Accepts one connection from each of these listeners, if there is one.
    fn accept_each(&self, load: &Load, places: impl Iterator<Item = Place>) -> Vec<Incoming> {
        let accepted = places.map(|place| self.accept_from(load, place));
        accepted
            .filter_map(|accepted| match accepted {
                Accepted::Connection(connection) => Some(connection),
                // Another worker will try.
                Accepted::Nothing | Accepted::Failed(_) => None,
            })
            .collect()
    }

    /// For how long to leave a connection there to the owner, ns.
    fn grace_ns(&self, load: &Load, from: Place, now_ns: u64) -> u64 {
        if from.listener == self.own() {
            return 0;
        }
        let accepts = load.accepts_of_owner(from.group, from.listener);
        if self.acceptance.had_its_chance(from, accepts) {
            return 0;
        }
        load.steal_grace_period_ns(from.group, from.listener, now_ns)
    }

    /// Does not watch a listener for a while. Otherwise epoll would report it again and again.
    fn leave_alone(
        &mut self,
        epoll: BorrowedFd<'_>,
        load: &Load,
        from: Place,
        now_ns: u64,
    ) -> Result<()> {
        let due_ns = now_ns + self.grace_ns(load, from, now_ns);
        let left = epoll::delete(epoll, self.socket(from));
        left.map_err(|error| refused("leave", from, error))?;
        let accepts = load.accepts_of_owner(from.group, from.listener);
        self.acceptance
            .leave_to_owner(from, accepts, now_ns, due_ns);
        Ok(())
    }

    /// The number of the listener that is this worker's own.
    fn own(&self) -> u32 {
        if self.mode.has_own_listeners() {
            self.slot
        } else {
            0
        }
    }

    fn watch_all(&self, epoll: BorrowedFd<'_>, listener: u32) -> Result<()> {
        (0..self.listeners.len()).try_for_each(|group| self.watch(epoll, Place { group, listener }))
    }

    /// Watches a listener, level-triggered. If the watch is exclusive, the kernel wakes
    /// one of its watchers: the first registered that sleeps in `epoll_wait`.
    fn watch(&self, epoll: BorrowedFd<'_>, place: Place) -> Result<()> {
        let exclusive = match self.mode {
            AcceptMode::SharedHerd => EventFlags::empty(),
            _ => EventFlags::EXCLUSIVE,
        };
        let data = EventData::new_u64(token(place));
        epoll::add(epoll, self.socket(place), data, EventFlags::IN | exclusive)
            .map_err(|error| refused("watch", place, error))
    }

    /// Registers a listener as the last in line, if it is registered at all: otherwise this
    /// worker has left it alone for a moment or is not in the ring yet, and will watch it later.
    fn watch_anew(&self, epoll: BorrowedFd<'_>, place: Place) -> Result<()> {
        match epoll::delete(epoll, self.socket(place)) {
            Ok(()) => self.watch(epoll, place),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(refused("leave", place, error)),
        }
    }

    fn socket(&self, place: Place) -> &OwnedFd {
        &self.listeners[place.group][place.listener as usize]
    }
}

fn refused(what: &str, place: Place, error: Errno) -> Error {
    let Place { group, listener } = place;
    let tried = format!("{what} listener {listener} of group {group}");
    Error::new(ErrorKind::Epoll, tried).because(error)
}

/// In epoll's order.
fn ready_listeners(poller: &impl Poller) -> impl Iterator<Item = Place> {
    let tokens = (0..).map_while(|nth| poller.token(nth));
    tokens.filter(|&token| is_listener(token)).map(place_of)
}
