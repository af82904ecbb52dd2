//! What a worker publishes about itself in the memory that it shares with its group, its
//! siblings and the BPF program. The meaning of every field is srv-common's.

use std::cell::Cell;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use srv_common::established::Client;
use srv_common::layout::{Figures, Load as LoadFields};
use srv_common::policy::{Policy, hermes, steal_grace_ns};
use srv_common::{Group, Refusal, Slot};

use crate::clock::monotonic_ns;
use crate::error::Result;
use crate::memory::{Mapping, SharedMemory};

/// The load signal of one worker: plain stores to its slot in every group, and no system call.
///
/// A worker with its own event loop says when it [sleeps](Self::sleeps) and
/// [wakes](Self::wakes), and what it has to do. The guards ([`Self::busy`], [`Self::request`],
/// [`Self::connection`]) do the same and cannot be forgotten. The handle can move to another
/// thread, but only one thread at a time writes.
pub struct Load {
    published: Arc<Published>,
    /// Plain stores need a single writer, so the type is not `Sync`.
    one_writer: PhantomData<Cell<()>>,
}

struct Published {
    groups: Vec<Mapping<Group>>,
    slot: usize,
    running: AtomicU32,
    active: AtomicU32,
    /// Another process publishes in the slot now.
    is_silent: AtomicBool,
}

impl Load {
    /// For the worker in `slot`, which appears in each of `groups`.
    pub(crate) fn new(groups: Vec<Mapping<Group>>, slot: u32) -> Self {
        for group in &groups {
            group.join_turns(slot);
            group.sum_up(slot);
        }
        Self {
            published: Arc::new(Published {
                groups,
                slot: slot as usize,
                running: AtomicU32::new(0),
                active: AtomicU32::new(0),
                is_silent: AtomicBool::new(false),
            }),
            one_writer: PhantomData,
        }
    }

    /// For a worker in another process than the group's: the memory of each of its groups, as
    /// that process has handed it over ([`Group::memory`](crate::Group::memory)). Of it, only
    /// what the worker in `slot` writes can be written.
    ///
    /// # Errors
    /// If one is no memory of a group.
    pub fn attach(slot: u32, memories: impl IntoIterator<Item = OwnedFd>) -> Result<Self> {
        let map = |fd| SharedMemory::checked(fd)?.map_for_worker(slot);
        let mapped = memories.into_iter().map(map);
        Ok(Self::new(mapped.collect::<Result<_>>()?, slot))
    }

    /// The worker's slot.
    pub fn slot(&self) -> u32 {
        self.published.slot as u32
    }

    /// The worker is busy until the guard is dropped: it is away from its event loop, or from
    /// `accept`.
    pub fn busy(&self) -> Busy<'_> {
        self.wakes(monotonic_ns());
        Busy(self)
    }

    /// A request is in service until the guard is dropped.
    pub fn request(&self) -> Request {
        self.published.started();
        Request {
            published: self.published.clone(),
            one_writer: PhantomData,
        }
    }

    /// A connection is open until the guard is dropped.
    pub fn connection(&self) -> Connection {
        self.published.opened();
        Connection {
            published: self.published.clone(),
            one_writer: PhantomData,
        }
    }

    /// Publishes nothing from now on, because the slot belongs to the worker's successor.
    pub fn fall_silent(&self) {
        self.published.is_silent.store(true, Ordering::Relaxed);
    }

    /// Says that the worker is about to enter `epoll_wait`.
    pub fn sleeps(&self) {
        self.each_load(|load| load.busy_since_ns.set(0));
        self.each_idle(1);
    }

    /// Says that the worker has left `epoll_wait` at `now_ns` of `CLOCK_MONOTONIC`.
    pub fn wakes(&self, now_ns: u64) {
        self.each_idle(0);
        self.each_load(|load| {
            load.busy_since_ns.set(now_ns);
            load.woke_ns.set(now_ns);
        });
    }

    /// Says that this many events of the last `epoll_wait` are not finished.
    pub fn pending(&self, events: u32) {
        self.each(|slot| slot.load.pending.set(events));
    }

    /// Says that the worker's loop comes to its end. Under the policy `hermes`, its filter runs
    /// then.
    pub fn ends_loop(&self) {
        for group in self.groups().iter().filter(|group| steers_by_hermes(group)) {
            group.hermes.0.set(hermes::filter(group, monotonic_ns()));
        }
    }

    /// For how long, ns, the policy lets the worker sleep, if there is a bound.
    pub fn sleeps_at_most_ns(&self) -> Option<u64> {
        let is_hermes = self
            .published
            .groups
            .iter()
            .any(|group| steers_by_hermes(group));
        is_hermes.then_some(HERMES_TURN_NS)
    }

    /// Counts a connection that the worker accepted from the listener of slot `listener` in
    /// `group`.
    ///
    /// # Panics
    /// If there is no such group or listener.
    pub fn accepted(&self, group: usize, listener: u32) {
        let (group, slot) = (&self.published.groups[group], self.published.slot);
        let load = &group.slots[slot].load;
        // Siblings accept from this listener too: the one atomic addition.
        group.summaries[listener as usize]
            .taken
            .atomic()
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if listener as usize == slot {
            &load.own
        } else {
            &load.stolen
        }
        .bump(1);
        group.take_turn(slot as u32);
        group.sum_up(slot as u32);
    }

    /// Counts for how long a connection of `client` waited that the worker has just accepted from the
    /// listener of slot `listener` in `group`: from the moment at which it could be accepted. Call it
    /// once for each connection, after [`Self::accepted`]. Returns the time in ns, or `None` if it is
    /// not known.
    ///
    /// # Panics
    /// If there is no such group.
    pub fn waited(&self, group: usize, listener: u32, client: Option<SocketAddr>) -> Option<u64> {
        let (group, slot) = (&self.published.groups[group], self.published.slot);
        if group.recorded.port.get() == 0 {
            return None;
        }
        let delay = &group.slots[slot].figures.accept_delay;
        let established_ns = client.and_then(|client| group.established.take(Client::of(client)));
        let Some(established_ns) = established_ns else {
            delay.unknown.bump(1);
            return None;
        };
        let waited_ns = monotonic_ns().saturating_sub(established_ns);
        let histogram = match listener as usize == slot {
            true => &delay.own,
            false => &delay.stolen,
        };
        histogram.record(waited_ns);
        Some(waited_ns)
    }

    /// How often the owner of `listener` in `group` has accepted.
    pub(crate) fn accepts_of_owner(&self, group: usize, listener: u32) -> u64 {
        let load = &self.published.groups[group].slots[listener as usize].load;
        load.accepts()
    }

    /// See [`steal_grace_ns`].
    pub(crate) fn steal_grace_period_ns(&self, group: usize, listener: u32, now_ns: u64) -> u64 {
        let group = &self.published.groups[group];
        steal_grace_ns(group, self.slot(), listener, now_ns)
    }

    /// See [`Group::age_of_first`]; `None` while the kernel hashes.
    pub(crate) fn age_of_first(&self, group: usize, listener: u32) -> Option<u32> {
        let group = &self.published.groups[group];
        let is_steered = group.config.policy.get() != Policy::Hash as u32;
        is_steered.then(|| group.age_of_first(listener))
    }

    /// Says that this many connections are open. (Use this or [`Self::connection`], not both.)
    pub fn active(&self, connections: u32) {
        self.published.active.store(connections, Ordering::Relaxed);
        self.each_load(|load| load.active.set(connections));
    }

    /// Says that a request has been read and is being served. (Use this or [`Self::request`], not
    /// both.)
    pub fn started(&self) {
        self.published.started();
    }

    /// Says that a request has ended: it was answered or abandoned.
    pub fn finished(&self) {
        self.published.finished();
    }

    /// Requests in service.
    pub fn running(&self) -> u32 {
        self.published.running.load(Ordering::Relaxed)
    }

    /// Counts a request or connection that was refused.
    pub fn refused(&self, refusal: Refusal) {
        self.publish(|figures| figures.refused.0[refusal as usize].bump(1));
    }

    /// Counts something that status alone shows, or says how much of it there is.
    pub fn publish(&self, write: impl Fn(&Figures)) {
        self.each(|slot| write(&slot.figures));
    }

    /// The memory of the worker's first group.
    pub fn memory(&self) -> &Group {
        &self.published.groups[0]
    }

    fn each(&self, write: impl Fn(&Slot)) {
        for group in self.groups() {
            write(&group.slots[self.published.slot]);
        }
    }

    fn each_idle(&self, idle: u8) {
        for group in self.groups() {
            group.idle.0[self.published.slot].set(idle);
        }
    }

    fn each_load(&self, write: impl Fn(&LoadFields)) {
        self.published.each_load(write);
    }

    fn groups(&self) -> &[Mapping<Group>] {
        self.published.groups()
    }
}

impl Published {
    fn started(&self) {
        let running = self.running.load(Ordering::Relaxed).wrapping_add(1);
        self.running.store(running, Ordering::Relaxed);
        self.each_load(|load| load.running.set(running));
    }

    fn finished(&self) {
        let running = self.running.load(Ordering::Relaxed).saturating_sub(1);
        self.running.store(running, Ordering::Relaxed);
        self.each_load(|load| {
            load.running.set(running);
            load.served.bump(1);
        });
    }

    fn opened(&self) {
        let active = self.active.load(Ordering::Relaxed).wrapping_add(1);
        self.set_active(active);
    }

    fn closed(&self) {
        let active = self.active.load(Ordering::Relaxed).saturating_sub(1);
        self.set_active(active);
    }

    fn set_active(&self, active: u32) {
        self.active.store(active, Ordering::Relaxed);
        self.each_load(|load| load.active.set(active));
    }

    /// What scores are made of.
    fn each_load(&self, write: impl Fn(&LoadFields)) {
        for group in self.groups() {
            write(&group.slots[self.slot].load);
            group.sum_up(self.slot as u32);
        }
    }

    /// Where to publish.
    fn groups(&self) -> &[Mapping<Group>] {
        match self.is_silent.load(Ordering::Relaxed) {
            true => &[],
            false => &self.groups,
        }
    }
}

/// See [`Load::busy`].
#[must_use = "the worker is busy until this is dropped"]
pub struct Busy<'a>(&'a Load);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.sleeps();
    }
}

/// See [`Load::request`]. It stays in the thread that made it.
#[must_use = "the request is in service until this is dropped"]
pub struct Request {
    published: Arc<Published>,
    one_writer: PhantomData<*const ()>,
}

impl Drop for Request {
    fn drop(&mut self) {
        self.published.finished();
    }
}

/// See [`Load::connection`]. It stays in the thread that made it.
#[must_use = "the connection is open until this is dropped"]
pub struct Connection {
    published: Arc<Published>,
    one_writer: PhantomData<*const ()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.published.closed();
    }
}

/// Under the policy `hermes`: if all workers slept on, none would notice that the one which got
/// the last connection has stalled.
const HERMES_TURN_NS: u64 = 5_000_000;

fn steers_by_hermes(group: &Group) -> bool {
    group.config.policy.get() == Policy::Hermes as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        let memory = SharedMemory::new().and_then(|memory| memory.map());
        Load::new(vec![memory.unwrap()], 3)
    }

    #[test]
    fn whatever_is_published_is_summed_up() {
        let load = load();
        let group = load.memory();
        let steps: [fn(&Load); 7] = [
            |worker| worker.wakes(5),
            |worker| worker.accepted(0, 3),
            |worker| worker.active(2),
            Load::started,
            Load::finished,
            |worker| worker.active(0),
            Load::sleeps,
        ];
        let sum = &group.summaries[3].load;
        for (nth, step) in steps.iter().enumerate() {
            let before = sum.get();
            step(&load);
            let after = sum.get();
            assert_ne!(after, before, "step {nth} changes what scores are made of");
            group.sum_up(3);
            assert_eq!(after, sum.get(), "step {nth} has summed up");
        }
    }

    #[test]
    fn guards_take_back_what_they_published() {
        let load = load();
        let slot = &load.memory().slots[3].load;
        let figures = || {
            (
                slot.busy_since_ns.get() != 0,
                slot.running.get(),
                slot.active.get(),
            )
        };
        {
            let _connections = [load.connection(), load.connection()];
            let _busy = load.busy();
            let _request = load.request();
            assert_eq!(figures(), (true, 1, 2));
        }
        assert_eq!(figures(), (false, 0, 0));
        assert_eq!(slot.served.get(), 1);
    }
}
