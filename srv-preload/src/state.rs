//! What the library knows of its process: the connection to the coordinator and the claims. One
//! lock guards it, which no thread holds while it waits for connections.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use linux_raw_sys::general as nr;
use srv_common::MAX_WORKERS;
use srv_common::claim::CLAIMS_MAX;

use crate::channel::{self, Channel};
use crate::claim::{Candidate, Claim};
use crate::files::{self, File};
use crate::sys::{self, pollfd};
use crate::{process, published, requests, sys::Timespec};

/// Everything behind the lock.
pub(crate) struct State {
    pub(crate) channel: Channel,
    pub(crate) claims: [Claim; CLAIMS_MAX],
    /// The private epoll instance, for `poll`, `select` and a blocking `accept`; -1 until one is
    /// needed.
    pub(crate) waiting: i32,
    /// Whether the process has as many requests in service as it may have.
    pub(crate) full: Full,
    /// What [`crate::ring`] compares, here so that it need not fit on a thread's stack.
    pub(crate) candidates: [Candidate; MAX_WORKERS],
    /// What [`crate::ring`] polls.
    pub(crate) polled: [pollfd; MAX_WORKERS],
}

/// Since when the process has been full, and what it has seen since ([`crate::capacity`]).
pub(crate) struct Full {
    /// Whether it watches no listener.
    pub(crate) is_on: bool,
    /// Since when no process has answered anything, ns.
    pub(crate) still_since_ns: u64,
    /// The group's answers at the last look.
    pub(crate) answers: u64,
    /// When requests grew old, ns.
    pub(crate) aged_ns: u64,
}

impl Full {
    /// The process is not full.
    pub(crate) const NOT: Self = Self {
        is_on: false,
        still_since_ns: 0,
        answers: 0,
        aged_ns: 0,
    };
}

struct Locked {
    /// The thread that has the state; 0: none.
    owner: AtomicUsize,
    state: UnsafeCell<State>,
}

// SAFETY: `with` hands the state to one thread at a time.
unsafe impl Sync for Locked {}

static STATE: Locked = Locked {
    owner: AtomicUsize::new(0),
    state: UnsafeCell::new(State {
        channel: Channel::NONE,
        claims: [const { Claim::FREE }; CLAIMS_MAX],
        waiting: -1,
        full: Full::NOT,
        candidates: [Candidate::NONE; MAX_WORKERS],
        polled: [pollfd {
            fd: -1,
            events: 0,
            revents: 0,
        }; MAX_WORKERS],
    }),
};

/// Runs `act` with the state. `None` if the library is not in use in this process, or if another
/// thread, or this one in a signal handler that interrupted it, has the state for seconds.
pub(crate) fn with<T>(act: impl FnOnce(&mut State) -> T) -> Option<T> {
    process::told()?;
    if !process::is_own() {
        begin_anew();
    }
    lock()?;
    // SAFETY: the lock is held.
    let result = act(unsafe { &mut *STATE.state.get() });
    STATE.owner.store(0, Ordering::Release);
    Some(result)
}

fn lock() -> Option<()> {
    const SPINS: u32 = 1_000;
    const NAPS: u32 = 30_000;
    const NAP_NS: u64 = 100_000;
    let this = sys::thread();
    for attempt in 0..SPINS + NAPS {
        let taken = STATE
            .owner
            .compare_exchange(0, this, Ordering::Acquire, Ordering::Relaxed);
        match taken {
            Ok(_) => return Some(()),
            // A signal handler that has interrupted this very thread.
            Err(owner) if owner == this => return None,
            Err(_) => {}
        }
        if attempt < SPINS {
            core::hint::spin_loop();
        } else {
            let nap = Timespec::from_ns(NAP_NS);
            sys::passed!(__NR_nanosleep, &raw const nap, 0);
        }
    }
    None
}

/// In a process that was forked: forgets what belongs to its parent. The parent's registrations
/// and its connection to the coordinator go on. The listeners are the child's as well.
fn begin_anew() {
    // A thread of the parent may have had the lock. The child has one thread.
    // SAFETY: as in `with`; no other thread exists.
    let state = unsafe { &mut *STATE.state.get() };
    state.channel = Channel::NONE;
    state.waiting = -1;
    state.full = Full::NOT;
    requests::forget();
    for fd in 0..=files::last() {
        match files::get(fd) {
            File::Claimed(nth) => {
                let blocks = state.claims[nth].blocks;
                files::set(fd, File::Listener { blocks });
            }
            File::Connection(_) => files::set(fd, File::Other),
            File::Private if Some(fd) != process::told().map(|told| told.inherited) => {
                channel::drop_private(fd);
            }
            _ => {}
        }
    }
    for (nth, claim) in state.claims.iter_mut().enumerate() {
        published::of(nth).end();
        claim.forget_all();
    }
    process::mark();
    STATE.owner.store(0, Ordering::Release);
}

impl State {
    /// The private epoll instance.
    pub(crate) fn waiting(&mut self) -> Option<i32> {
        if self.waiting < 0 {
            let fd = i32::try_from(sys::epoll_create())
                .ok()
                .filter(|fd| *fd >= 0)?;
            self.waiting = channel::keep(fd);
        }
        Some(self.waiting)
    }

    /// The number of a claim that is free.
    pub(crate) fn free_claim(&self) -> Option<usize> {
        self.claims.iter().position(Claim::is_free)
    }

    pub(crate) fn has_no_claim(&self) -> bool {
        self.claims.iter().all(Claim::is_free)
    }

    /// The claims whose listeners are registered in that epoll instance.
    pub(crate) fn registered_at(&self, epoll: i32) -> impl Iterator<Item = usize> {
        let claims = self.claims.iter().enumerate();
        let here = move |(_, claim): &(usize, &Claim)| claim.epoll() == Some(epoll);
        claims.filter(here).map(|(nth, _)| nth)
    }

    /// The bell is watched in that epoll instance, so that a process which waits there learns of a
    /// new sibling. For the application an event of it is one of its listener, at which it then
    /// finds no connection.
    pub(crate) fn watch_bell(&mut self, epoll: i32, is_edge: bool, data: u64) {
        if let Some(bell) = self.channel.bell() {
            let edge = if is_edge { nr::EPOLLET } else { 0 };
            // Another claim may have it registered there already.
            sys::epoll_add(epoll, bell, nr::EPOLLIN | edge, data);
        }
    }

    /// The bell is not watched there any more, if no claim needs it.
    pub(crate) fn forget_bell(&mut self, epoll: i32) {
        let is_needed = self.registered_at(epoll).next().is_some();
        if let Some(bell) = self.channel.bell().filter(|_| !is_needed) {
            sys::epoll_delete(epoll, bell);
        }
    }
}
