//! The listeners that one worker accepts from, and in which order.
//!
//! In the ring a worker watches every listener of the group. Which of those
//! that are ready it accepts from decides who waits:
//!
//! - From each address in turn, and there from the listener whose first has
//!   waited longest ([`srv_common::tickets`]): as one queue would. Its own
//!   first, the longest queue first, or epoll's order (which never changes)
//!   each leave those who wait behind a blocked sibling waiting for as long as
//!   there is work elsewhere.
//! - Where the kernel hashes, nobody knows who came first. Then, after a sleep,
//!   from the one that epoll reports first: the kernel woke this worker for it
//!   and, the watch being exclusive, nobody else. While it finds several ready
//!   without sleeping, from each in turn, which comes close.
//! - From a sibling's only with patience ([`srv_common::policy::steal_patience_ns`]).

mod members;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Context as _;
use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::kernel::reactor::Reactor;
use crate::steering::accept_mode::AcceptMode;
use crate::steering::listeners::accept_queue;
use crate::steering::published::Published;

/// A listener: its group and its number there, which is its owner's slot (or 0
/// where one listener serves all).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    group: usize,
    nth: u32,
}

/// Set in the reactor's tokens of listeners.
const LISTENER_TOKEN: u64 = 1 << 61;

impl Place {
    fn token(self) -> u64 {
        LISTENER_TOKEN | (self.group as u64) << 32 | u64::from(self.nth)
    }

    fn of_token(token: u64) -> Self {
        Self {
            group: (token & !LISTENER_TOKEN) as usize >> 32,
            nth: token as u32,
        }
    }
}

/// Whether the reactor's token is a listener's.
pub fn is_listener(token: u64) -> bool {
    token & LISTENER_TOKEN != 0
}

/// See the module.
pub struct Ring {
    mode: AcceptMode,
    slot: u32,
    /// By group, then by number; empty once it has left them.
    listeners: Vec<Vec<Listener>>,
    /// By group: [`Self::accepts`] when it last had its turn.
    group_turns: Vec<u64>,
    /// Connections accepted so far.
    accepts: u64,
    /// [`Self::accepts`] when turns began to count.
    turns_since: u64,
    /// The last wait brought more than one listener.
    several_ready: bool,
    /// At most one per listener.
    deferrals: Vec<Deferral>,
    /// What [`Self::accept`] looks through, with the order that each had when it
    /// was looked at; kept for its memory.
    ready: Vec<((u64, u64), Place)>,
}

/// What came of trying to accept a connection.
#[derive(Debug)]
pub enum Accepted {
    /// This one.
    Connection(OwnedFd),
    /// None: all are left to others, or another was faster.
    Nothing,
    /// The system lacks what a connection needs, or the listener is broken: it stays
    /// ready, and should be left alone for a moment.
    Failed(Errno),
}

struct Listener {
    socket: OwnedFd,
    /// [`Ring::accepts`] when it last had its turn.
    turn: u64,
}

/// A sibling's connection left to the sibling, who is about to accept it; its
/// listener is not watched until `due_ns`.
struct Deferral {
    from: Place,
    /// The sibling's accepts at the time.
    owner_accepts: u64,
    since_ns: u64,
    due_ns: u64,
    watched: bool,
}

/// A worker that wakes this much later than it asked for was kept from running,
/// and so was the sibling that it waited for.
const STALL_NS: u64 = 2_000_000;
/// For how long stalls excuse a sibling.
const EXCUSED_NS: u64 = 100_000_000;

impl Deferral {
    /// Whether this worker, which slept from `slept_from_ns` to `now_ns`, was
    /// late by no fault of its own: the owner is to be given as long again.
    fn is_excused(&self, slept_from_ns: u64, now_ns: u64) -> bool {
        let meant_to_sleep = slept_from_ns < self.due_ns;
        meant_to_sleep && now_ns > self.due_ns + STALL_NS && now_ns < self.since_ns + EXCUSED_NS
    }
}

impl Ring {
    /// The ring of the worker in `slot`, who watches nothing yet.
    pub fn new(mode: AcceptMode, slot: u32, sockets: Vec<Vec<OwnedFd>>) -> Self {
        let listener = |socket| Listener { socket, turn: 0 };
        let group = |sockets: Vec<OwnedFd>| sockets.into_iter().map(listener).collect();
        Self {
            mode,
            slot,
            group_turns: vec![0; sockets.len()],
            listeners: sockets.into_iter().map(group).collect(),
            accepts: 0,
            turns_since: 0,
            several_ready: false,
            deferrals: Vec::new(),
            ready: Vec::new(),
        }
    }

    /// Watches the worker's own listener of each group.
    ///
    /// # Errors
    /// What epoll says.
    pub fn watch_own(&self, reactor: &Reactor) -> anyhow::Result<()> {
        self.watch_all(reactor, self.own())
    }

    /// Watches the siblings' listeners as well; each begins with the one after
    /// its own, so that no sibling is everybody's first substitute.
    ///
    /// # Errors
    /// What epoll says.
    pub fn join(&self, reactor: &Reactor) -> anyhow::Result<()> {
        let workers = self.listeners.first().map_or(0, Vec::len) as u32;
        (1..workers).try_for_each(|step| self.watch_all(reactor, (self.slot + step) % workers))
    }

    /// The owner of these listeners is new and must be first in line again.
    ///
    /// # Errors
    /// What epoll says.
    pub fn rejoin(&self, reactor: &Reactor, slot: u32) -> anyhow::Result<()> {
        for group in 0..self.listeners.len() {
            let place = Place { group, nth: slot };
            match reactor.forget(self.socket(place)) {
                Ok(()) => self.watch(reactor, place)?,
                // Not in the ring yet, or left alone for a moment: it will be
                // watched later, and so behind its owner.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).context(format!("leave listener {slot}")),
            }
        }
        Ok(())
    }

    /// Accepts no more, from any.
    pub fn leave(&mut self, reactor: &Reactor) {
        self.deferrals.clear();
        for listener in std::mem::take(&mut self.listeners).into_iter().flatten() {
            // The master still has the socket open, so that closing this fd
            // would not end the registration. Not every one was registered.
            let _ = reactor.forget(&listener.socket);
        }
    }

    /// Whether it has left.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Whether a connection waits at any of the listeners.
    pub fn has_waiting(&self) -> bool {
        let mut listeners = self.listeners.iter().flatten();
        listeners.any(|listener| accept_queue(&listener.socket).is_ok_and(|(queued, _)| queued > 0))
    }

    /// Waits as [`Reactor::wait`] does.
    ///
    /// # Errors
    /// What [`Reactor::wait`] says.
    pub fn wait(&mut self, reactor: &mut Reactor, timeout: Option<Duration>) -> io::Result<()> {
        let sleeps = timeout != Some(Duration::ZERO);
        if self.several_ready || !sleeps {
            reactor.wait(Some(Duration::ZERO))?;
        }
        if sleeps && (!self.several_ready || reactor.ready(0).is_none()) {
            self.turns_since = self.accepts;
            reactor.wait(timeout)?;
        }
        self.several_ready = ready_listeners(reactor).nth(1).is_some();
        Ok(())
    }

    /// When to stop waiting because of a listener that is left alone, ns.
    pub fn due_ns(&self) -> Option<u64> {
        let unwatched = self.deferrals.iter().filter(|deferral| !deferral.watched);
        unwatched.map(|deferral| deferral.due_ns).min()
    }

    /// Looks again at listeners that were left alone for long enough, after a
    /// wait from `slept_from_ns` to `now_ns`.
    ///
    /// # Errors
    /// What epoll says.
    pub fn watch_deferred(
        &mut self,
        reactor: &Reactor,
        published: &Published,
        slept_from_ns: u64,
        now_ns: u64,
    ) -> anyhow::Result<()> {
        for nth in 0..self.deferrals.len() {
            let deferral = &self.deferrals[nth];
            if deferral.watched || deferral.due_ns > now_ns {
                continue;
            }
            let Place { group, nth: owner } = deferral.from;
            let patience_ns = published.patience_ns(group, owner, now_ns);
            if patience_ns > 0 && deferral.is_excused(slept_from_ns, now_ns) {
                self.deferrals[nth].due_ns = now_ns + patience_ns;
            } else {
                self.watch(reactor, deferral.from)?;
                self.deferrals[nth].watched = true;
            }
        }
        Ok(())
    }

    /// Accepts one connection from a listener that the last wait brought. If
    /// all are better left to their owners, they are for a while.
    ///
    /// # Errors
    /// What epoll says.
    pub fn accept(
        &mut self,
        reactor: &Reactor,
        published: &Published,
        now_ns: u64,
    ) -> anyhow::Result<Accepted> {
        let mut ready = std::mem::take(&mut self.ready);
        ready.clear();
        let ordered = |place| (self.order(published, place), place);
        ready.extend(ready_listeners(reactor).map(ordered));
        ready.sort_by_key(|&(order, _)| order);
        let chosen = ready
            .iter()
            .find(|&&(_, place)| self.patience_ns(published, place, now_ns) == 0);
        let mut accepted = Accepted::Nothing;
        if let Some(&(_, place)) = chosen {
            self.deferrals.retain(|deferral| deferral.from != place);
            self.accepts += 1;
            self.group_turns[place.group] = self.accepts;
            self.listeners[place.group][place.nth as usize].turn = self.accepts;
            accepted = self.accept_from(published, place);
        } else {
            for &(_, place) in &ready {
                self.leave_alone(reactor, published, place, now_ns)?;
            }
        }
        self.ready = ready;
        Ok(accepted)
    }

    /// Waits for a connection at the only listener and accepts it.
    pub fn accept_blocking(&self, published: &Published) -> Accepted {
        self.accept_from(published, Place { group: 0, nth: 0 })
    }

    fn accept_from(&self, published: &Published, from: Place) -> Accepted {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match rustix::net::accept_with(self.socket(from), flags) {
            Ok(connection) => {
                published.accepted(from.group, from.nth);
                Accepted::Connection(connection)
            }
            // A sibling was faster, or the client has gone again.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Accepted::Nothing,
            Err(error) => Accepted::Failed(error),
        }
    }

    /// One from each of these, as far as there is any.
    fn accept_each(
        &self,
        published: &Published,
        places: impl Iterator<Item = Place>,
    ) -> Vec<OwnedFd> {
        let accepted = places.map(|place| self.accept_from(published, place));
        accepted
            .filter_map(|accepted| match accepted {
                Accepted::Connection(connection) => Some(connection),
                // Another worker will try.
                Accepted::Nothing | Accepted::Failed(_) => None,
            })
            .collect()
    }

    /// The lower, the sooner it is its turn.
    fn order(&self, published: &Published, place: Place) -> (u64, u64) {
        let turn = self.listeners[place.group][place.nth as usize].turn;
        let within_group = match published.age_of_first(place.group, place.nth) {
            Some(age) => u64::from(u32::MAX - age),
            // The same for all after a sleep.
            None => turn.saturating_sub(self.turns_since),
        };
        (self.group_turns[place.group], within_group)
    }

    /// For how long to leave a connection there to the owner, ns.
    fn patience_ns(&self, published: &Published, from: Place, now_ns: u64) -> u64 {
        if from.nth == self.own() {
            return 0;
        }
        let accepts = published.accepts_of_owner(from.group, from.nth);
        let had_its_chance = self
            .deferrals
            .iter()
            .any(|deferral| deferral.from == from && deferral.owner_accepts == accepts);
        if had_its_chance {
            return 0;
        }
        published.patience_ns(from.group, from.nth, now_ns)
    }

    /// Does not watch a listener for a while: it would be reported over and over.
    fn leave_alone(
        &mut self,
        reactor: &Reactor,
        published: &Published,
        from: Place,
        now_ns: u64,
    ) -> anyhow::Result<()> {
        reactor.forget(self.socket(from))?;
        self.deferrals.retain(|deferral| deferral.from != from);
        self.deferrals.push(Deferral {
            from,
            owner_accepts: published.accepts_of_owner(from.group, from.nth),
            since_ns: now_ns,
            due_ns: now_ns + self.patience_ns(published, from, now_ns),
            watched: false,
        });
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

    fn watch_all(&self, reactor: &Reactor, nth: u32) -> anyhow::Result<()> {
        (0..self.listeners.len()).try_for_each(|group| self.watch(reactor, Place { group, nth }))
    }

    fn watch(&self, reactor: &Reactor, place: Place) -> anyhow::Result<()> {
        let exclusive = self.mode != AcceptMode::SharedHerd;
        reactor
            .watch_listener(self.socket(place), place.token(), exclusive)
            .with_context(|| format!("watch listener {} of group {}", place.nth, place.group))
    }

    fn socket(&self, place: Place) -> &OwnedFd {
        &self.listeners[place.group][place.nth as usize].socket
    }
}

/// In epoll's order.
fn ready_listeners(reactor: &Reactor) -> impl Iterator<Item = Place> {
    let tokens = (0..).map_while(|nth| reactor.ready(nth).map(|ready| ready.token));
    tokens
        .filter(|&token| is_listener(token))
        .map(Place::of_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_excuses_the_owner_but_not_for_ever() {
        const MS: u64 = 1_000_000;
        let deferral = Deferral {
            from: Place { group: 0, nth: 1 },
            owner_accepts: 0,
            since_ns: 0,
            due_ns: 10 * MS,
            watched: false,
        };
        assert!(deferral.is_excused(MS, 13 * MS));
        // On time; at work itself when it was due; for too long.
        assert!(!deferral.is_excused(MS, 11 * MS));
        assert!(!deferral.is_excused(12 * MS, 15 * MS));
        assert!(!deferral.is_excused(MS, 100 * MS));
    }
}
