//! What a claim publishes in the memory of its group, by plain stores: whether its owner waits,
//! and what it has accepted. Any thread may call these functions without a lock.

use core::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

use srv_common::Group;
use srv_common::claim::CLAIMS_MAX;

use crate::process;
use crate::sys::epoll_event;

/// Most descriptors of one epoll instance that are known. (mio has two: one to register, one to
/// wait.)
const NAMES_MAX: usize = 4;
/// Most events of listeners that are moved behind the others after one wait.
const MOVED_MAX: usize = 16;

/// One claim, as it is published.
pub(crate) struct Published {
    group: AtomicPtr<Group>,
    slot: AtomicU32,
    /// The descriptors of the epoll instance that its listener is registered in; -1: none.
    epolls: [AtomicI32; NAMES_MAX],
    /// The data with which its events arrive there.
    data: AtomicU64,
    /// When a listener is to be watched again that was left to its owner, ns; 0: there is none.
    due_ns: AtomicU64,
    /// Connections accepted since the application last waited.
    batch: AtomicU32,
    /// The application has removed its listener there, which is done before it waits.
    is_removed: AtomicBool,
    /// How often the application has waited through this library's functions.
    waits: AtomicU64,
}

static ALL: [Published; CLAIMS_MAX] = [const {
    Published {
        group: AtomicPtr::new(core::ptr::null_mut()),
        slot: AtomicU32::new(0),
        epolls: [const { AtomicI32::new(-1) }; NAMES_MAX],
        data: AtomicU64::new(0),
        due_ns: AtomicU64::new(0),
        batch: AtomicU32::new(0),
        is_removed: AtomicBool::new(false),
        waits: AtomicU64::new(0),
    }
}; CLAIMS_MAX];
/// Claims from here on were never used.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Other threads than the one that waits publish, too.
static ARE_THREADS: AtomicBool = AtomicBool::new(false);

/// From now on, threads publish at the same time. The constructor calls this.
pub(crate) fn expect_threads() {
    ARE_THREADS.store(true, Ordering::Relaxed);
}

/// That claim.
pub(crate) fn of(claim: usize) -> &'static Published {
    &ALL[claim]
}

/// The process has so many requests in service.
pub(crate) fn set_running(requests: u32) {
    for one in &ALL[..USED.load(Ordering::Relaxed)] {
        one.write(|group, slot| group.slots[slot].load.running.set(requests));
    }
}

/// The claims whose listeners are registered in that epoll instance.
fn at(epoll: i32) -> impl Iterator<Item = &'static Published> {
    let used = &ALL[..USED.load(Ordering::Relaxed)];
    used.iter().filter(move |one| one.is_at(epoll))
}

/// Whether a claimed listener is registered in that epoll instance.
pub(crate) fn has_claims(epoll: i32) -> bool {
    at(epoll).next().is_some()
}

/// Whether a listener that the application has removed is still registered in that epoll instance.
pub(crate) fn has_removed(epoll: i32) -> bool {
    at(epoll).any(Published::is_removed)
}

/// A thread is about to wait at that epoll instance. Returns when it has to stop waiting because a
/// listener is to be watched again, ns.
pub(crate) fn sleeps(epoll: i32) -> Option<u64> {
    let mut due = None;
    for one in at(epoll) {
        one.batch.store(0, Ordering::Relaxed);
        one.waits.fetch_add(1, Ordering::Relaxed);
        one.write(|group, slot| {
            group.idle.0[slot].set(1);
            group.slots[slot].load.busy_since_ns.set(0);
        });
        let due_ns = one.due_ns.load(Ordering::Relaxed);
        if due_ns != 0 {
            due = Some(due.map_or(due_ns, |due: u64| due.min(due_ns)));
        }
    }
    due
}

/// Puts what is reported of listeners at that epoll instance behind all else, and keeps the order
/// otherwise. An application that accepts first and then serves what it has accepted before, as
/// nginx does, would let a connection wait that a sibling could take.
pub(crate) fn put_listeners_last(epoll: i32, events: &mut [epoll_event]) {
    let is_of_listener = |event: epoll_event| {
        let data = event.data;
        at(epoll).any(|one| one.data.load(Ordering::Relaxed) == data)
    };
    let mut listeners = [epoll_event { events: 0, data: 0 }; MOVED_MAX];
    let mut count = 0;
    for from in 0..events.len() {
        let event = events[from];
        if count < listeners.len() && is_of_listener(event) {
            listeners[count] = event;
            count += 1;
        } else {
            events[from - count] = event;
        }
    }
    let others = events.len() - count;
    events[others..].copy_from_slice(&listeners[..count]);
}

/// The thread has stopped waiting there at `now_ns` of `CLOCK_MONOTONIC`.
pub(crate) fn wakes(epoll: i32, now_ns: u64) {
    for one in at(epoll) {
        one.write(|group, slot| {
            group.idle.0[slot].set(0);
            group.slots[slot].load.busy_since_ns.set(now_ns);
            group.slots[slot].load.woke_ns.set(now_ns);
        });
    }
}

impl Published {
    /// The claim has that slot of that group from now on.
    pub(crate) fn begin(&self, claim: usize, group: &'static Group, slot: u32) {
        self.slot.store(slot, Ordering::Relaxed);
        self.waits.store(0, Ordering::Relaxed);
        self.group
            .store(core::ptr::from_ref(group).cast_mut(), Ordering::Release);
        USED.fetch_max(claim + 1, Ordering::Relaxed);
        group.join_turns(slot);
        group.sum_up(slot);
    }

    /// The claim publishes nothing any more.
    pub(crate) fn end(&self) {
        self.group.store(core::ptr::null_mut(), Ordering::Release);
        self.leaves();
        self.set_due(None);
    }

    /// Its listener is registered in the epoll instance that has these descriptors, with that data.
    pub(crate) fn is_registered_at(&self, epolls: impl Iterator<Item = i32>, data: u64) {
        self.data.store(data, Ordering::Relaxed);
        let epolls = epolls.chain(core::iter::repeat(-1));
        for (name, epoll) in self.epolls.iter().zip(epolls) {
            name.store(epoll, Ordering::Relaxed);
        }
    }

    /// Its listener is registered nowhere.
    pub(crate) fn leaves(&self) {
        self.is_registered_at(core::iter::empty(), 0);
        self.set_removed(false);
    }

    /// Whether its listener is registered in that epoll instance.
    pub(crate) fn is_at(&self, epoll: i32) -> bool {
        let mut names = self.epolls.iter();
        names.any(|name| name.load(Ordering::Relaxed) == epoll)
    }

    pub(crate) fn set_removed(&self, is_removed: bool) {
        self.is_removed.store(is_removed, Ordering::Relaxed);
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_due(&self, due_ns: Option<u64>) {
        self.due_ns.store(due_ns.unwrap_or(0), Ordering::Relaxed);
    }

    /// Whether the application waits through this library's functions. If it makes the system call
    /// itself, no listener can be left alone for a while.
    pub(crate) fn waits_here(&self) -> bool {
        self.waits.load(Ordering::Relaxed) > 0
    }

    /// Connections accepted since the application last waited; with `and_reset`, counting begins
    /// anew.
    pub(crate) fn batch(&self, and_reset: bool) -> u32 {
        match and_reset {
            true => self.batch.swap(0, Ordering::Relaxed),
            false => self.batch.load(Ordering::Relaxed),
        }
    }

    /// A connection was accepted from the listener of slot `listener`.
    pub(crate) fn accepted(&self, listener: u32) {
        self.batch.fetch_add(1, Ordering::Relaxed);
        self.write(|group, slot| {
            group.summaries[listener as usize]
                .taken
                .atomic()
                .fetch_add(1, Ordering::Relaxed);
            let load = &group.slots[slot].load;
            let accepts = match listener as usize == slot {
                true => &load.own,
                false => &load.stolen,
            };
            accepts.atomic().fetch_add(1, Ordering::Relaxed);
            load.active.atomic().fetch_add(1, Ordering::Relaxed);
            group.take_turn(slot as u32);
        });
    }

    /// A request was answered.
    pub(crate) fn answered(&self) {
        self.write(|group, slot| {
            let served = group.slots[slot].load.served.atomic();
            served.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// The process left all listeners, because it has as many requests in service as it may have.
    pub(crate) fn became_full(&self) {
        self.write(|group, slot| group.slots[slot].figures.full.bump(1));
    }

    /// The process accepts all the same.
    pub(crate) fn became_overfull(&self) {
        self.write(|group, slot| group.slots[slot].figures.overfull.bump(1));
    }

    /// A connection was closed, and a request of it has been answered or not.
    pub(crate) fn closed(&self, is_answered: bool) {
        self.write(|group, slot| {
            let load = &group.slots[slot].load;
            let less = |active: u32| active.checked_sub(1);
            let active = load.active.atomic();
            let changed = active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            if changed.is_ok() && is_answered {
                load.served.atomic().fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    fn write(&self, write: impl FnOnce(&Group, usize)) {
        let group = self.group.load(Ordering::Acquire);
        if group.is_null() || !process::is_own() {
            return;
        }
        // SAFETY: the addresses of a group's memory stay valid ([`crate::memory::unmap`]).
        let group = unsafe { &*group };
        let slot = self.slot.load(Ordering::Relaxed);
        write(group, slot as usize);
        match ARE_THREADS.load(Ordering::Relaxed) {
            true => group.sum_up_among_threads(slot),
            false => group.sum_up(slot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reported_of_listeners_is_last() {
        const EPOLL: i32 = 5;
        of(0).is_registered_at(core::iter::once(EPOLL), 77);
        USED.fetch_max(1, Ordering::Relaxed);
        let ordered = |epoll, data: &[u64]| -> Vec<u64> {
            let event = |(events, data): (u32, &u64)| epoll_event {
                events,
                data: *data,
            };
            let mut events: Vec<epoll_event> = (0..).zip(data).map(event).collect();
            put_listeners_last(epoll, &mut events);
            events.iter().map(|event| event.data).collect()
        };
        assert_eq!(ordered(EPOLL, &[77, 1, 77, 2, 3]), [1, 2, 3, 77, 77]);
        assert_eq!(ordered(EPOLL, &[1, 2]), [1, 2]);
        assert_eq!(ordered(EPOLL, &[77; MOVED_MAX + 1]), [77; MOVED_MAX + 1]);
        // At another instance, the same data is that of something else.
        assert_eq!(ordered(EPOLL + 1, &[77, 1]), [77, 1]);
        let many: Vec<u64> = (0..=MOVED_MAX as u64).map(|_| 77).chain([1]).collect();
        assert_eq!(ordered(EPOLL, &many)[..2], [77, 1]);
    }
}
