//! All connections of a worker to applications: what the kernel has said about each, who waits for
//! it, and until when. It makes no system call beyond the registration.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::task::Waker;

use bytes::BytesMut;
use slab::Slab;
use srv_steer::monotonic_ns;

use crate::kernel::reactor::{Readiness, Registry};

/// The bit that tokens of applications' connections have. The others are in
/// [`crate::serve::worker`].
pub const UPSTREAM_TOKEN: u64 = 1 << 60;
/// Where a token has its generation, and how many bits of it there are.
const GENERATION_SHIFT: u32 = 32;
const GENERATIONS: u32 = 1 << 28;

/// A worker's connections to applications.
pub struct Upstreams {
    registry: Registry,
    known: RefCell<Slab<Known>>,
    generation: Cell<u32>,
    /// Where all of them read. What was read shares the room until it is dropped.
    pub(super) room: RefCell<BytesMut>,
}

/// What is known of one connection.
#[derive(Default)]
pub(super) struct Known {
    /// Another one than that of the last connection with the same key: an event of the same wait
    /// may still be about that.
    generation: u32,
    watched: Watched,
    pub(super) is_readable: bool,
    pub(super) is_writable: bool,
    pub(super) has_hung_up: bool,
    pub(super) wants_read: bool,
    pub(super) wants_write: bool,
    /// Whether the user tries again at the next sweep.
    pub(super) tries_again: bool,
    /// For how long the user waits, ns.
    pub(super) timeout_ns: Option<u64>,
    /// When the wait that has begun is over, ns.
    deadline_ns: Option<u64>,
    pub(super) has_timed_out: bool,
    waker: Option<Waker>,
}

/// What the kernel reports of a connection.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Watched {
    #[default]
    Nothing,
    Reads,
    All,
}

impl Known {
    /// `waker` waits from now on, if it did not before.
    pub(super) fn waits(&mut self, waker: &Waker) {
        if self.deadline_ns.is_none() {
            let until_ns = |timeout_ns| monotonic_ns().saturating_add(timeout_ns);
            self.deadline_ns = self.timeout_ns.map(until_ns);
        }
        let before = self.waker.as_ref();
        if !before.is_some_and(|before| before.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    /// The next wait is another one.
    pub(super) fn has_progressed(&mut self) {
        self.deadline_ns = None;
        self.has_timed_out = false;
    }

    fn has_changed(&mut self) {
        (self.wants_read, self.wants_write) = (false, false);
        self.tries_again = false;
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl Upstreams {
    /// None yet. `registry` is that of the worker's reactor.
    pub fn new(registry: Registry) -> Self {
        Self {
            registry,
            known: RefCell::default(),
            generation: Cell::new(0),
            room: RefCell::default(),
        }
    }

    /// How many there are: each is a file descriptor.
    pub fn count(&self) -> usize {
        self.known.borrow().len()
    }

    /// Wakes who waits for what has happened.
    pub fn ready(&self, ready: Readiness) {
        let key = (ready.token as u32) as usize;
        let mut known = self.known.borrow_mut();
        let Some(known) = known.get_mut(key) else {
            return;
        };
        if token(key, known.generation) != ready.token {
            return;
        }
        known.is_readable |= ready.readable;
        known.is_writable |= ready.writable;
        known.has_hung_up |= ready.hung_up;
        let is_awaited = known.wants_read && ready.readable || known.wants_write && ready.writable;
        if is_awaited {
            known.has_progressed();
            known.has_changed();
        }
    }

    /// Wakes those whose deadline has passed at `now_ns`, and those that try again.
    pub fn sweep(&self, now_ns: u64) {
        for (_, known) in &mut *self.known.borrow_mut() {
            let is_due = known.deadline_ns.is_some_and(|due_ns| now_ns >= due_ns);
            known.has_timed_out |= is_due;
            if is_due || known.tries_again {
                known.has_changed();
            }
        }
    }

    /// Extends all deadlines by `late_ns`, in which the worker handled no events.
    pub fn excuse(&self, late_ns: u64) {
        for (_, known) in &mut *self.known.borrow_mut() {
            if let Some(deadline_ns) = &mut known.deadline_ns {
                *deadline_ns = deadline_ns.saturating_add(late_ns);
            }
        }
    }

    pub(super) fn insert(&self) -> usize {
        let generation = (self.generation.get() + 1) % GENERATIONS;
        self.generation.set(generation);
        self.known.borrow_mut().insert(Known {
            generation,
            ..Known::default()
        })
    }

    pub(super) fn remove(&self, key: usize) {
        self.known.borrow_mut().remove(key);
    }

    /// Has the kernel report what happens to a connection: what can be read, and room to write if
    /// that is awaited. It is asked for no more than it has to report, and only when its user waits.
    pub(super) fn watch(&self, key: usize, fd: impl AsFd) -> io::Result<()> {
        let known = &mut self.known.borrow_mut()[key];
        let token = token(key, known.generation);
        let wanted = match known.wants_write {
            true => Watched::All,
            false => Watched::Reads,
        };
        if wanted <= known.watched {
            return Ok(());
        }
        match (known.watched, wanted) {
            (Watched::Nothing, Watched::All) => self.registry.watch_stream(fd, token)?,
            (Watched::Nothing, _) => self.registry.watch_reads(fd, token)?,
            _ => self.registry.watch_writes_too(fd, token)?,
        }
        known.watched = wanted;
        Ok(())
    }

    pub(super) fn with<T>(&self, key: usize, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.known.borrow_mut()[key])
    }
}

fn token(key: usize, generation: u32) -> u64 {
    UPSTREAM_TOKEN | u64::from(generation) << GENERATION_SHIFT | u64::from(key as u32)
}
