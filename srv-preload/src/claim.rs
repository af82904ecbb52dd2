//! One claim: a listener of the application, its slot in the group, its siblings' listeners, and
//! where all of them are registered. Knows nothing of the connection to the coordinator.

use linux_raw_sys::general as nr;
use srv_common::acceptance::{Acceptance, Place};
use srv_common::policy::steal_grace_ns;
use srv_common::{Group, MAX_WORKERS};

use crate::channel;
use crate::files::{self, File};
use crate::sys::{self, Returned};

/// See the module.
pub(crate) struct Claim {
    phase: Phase,
    /// The application's number for its listener.
    pub(crate) fd: i32,
    /// Whether the application's listener blocks, as far as the application knows. The socket
    /// itself never does, since siblings accept from it, too.
    pub(crate) blocks: bool,
    /// The slot.
    pub(crate) slot: u32,
    /// The memory of the group.
    pub(crate) group: Option<&'static Group>,
    /// The siblings' listeners, by slot; -1: there is none.
    siblings: [i32; MAX_WORKERS],
    /// No sibling is in a slot from here on.
    pub(crate) slots: u32,
    pub(crate) order: Option<Acceptance>,
    registration: Option<Registration>,
    /// The value of [`srv_common::layout::Config::notices`] that was seen last.
    pub(crate) notices: u32,
    /// Attempts to accept.
    pub(crate) attempts: u32,
    /// By how much the accepts that found nothing have lately exceeded the others.
    pub(crate) in_vain: u32,
    /// Attempts that do not ask the memory where connections wait, since it has misled others.
    pub(crate) misled_for: u32,
}

/// How far a claim has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Free,
    /// The coordinator has assigned a slot.
    Owned,
    /// The coordinator knows that this process waits at its listener.
    Ready,
}

/// Where the application has registered its listener.
#[derive(Clone, Copy)]
struct Registration {
    epoll: i32,
    /// The application's events.
    events: u32,
    /// The application's data, with which every event of this claim arrives.
    data: u64,
    /// With edge-triggered events: what wakes the application when something is left; else -1.
    counter: i32,
}

/// A listener at which a connection waits, with its place in the order.
#[derive(Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) order: (u64, u64),
    pub(crate) slot: u32,
}

impl Candidate {
    pub(crate) const NONE: Self = Self {
        order: (0, 0),
        slot: 0,
    };
}

/// The group of a claim's places.
const GROUP: usize = 0;

/// What the kernel permits beside EPOLLEXCLUSIVE (fs/eventpoll.c, `EPOLLEXCLUSIVE_OK_BITS`), less
/// EPOLLOUT, which a listener never reports.
const EXCLUSIVE_WITH: u32 = nr::EPOLLIN | nr::EPOLLET | nr::EPOLLWAKEUP;

pub(crate) fn place(slot: u32) -> Place {
    Place {
        group: GROUP,
        listener: slot,
    }
}

impl Claim {
    /// A claim that is not in use.
    pub(crate) const FREE: Self = Self {
        phase: Phase::Free,
        fd: -1,
        blocks: false,
        slot: 0,
        group: None,
        siblings: [-1; MAX_WORKERS],
        slots: 0,
        order: None,
        registration: None,
        notices: 0,
        attempts: 0,
        in_vain: 0,
        misled_for: 0,
    };

    pub(crate) fn is_free(&self) -> bool {
        self.phase == Phase::Free
    }

    /// The claim has that slot from now on.
    pub(crate) fn own(&mut self, fd: i32, blocks: bool, slot: u32, group: &'static Group) {
        *self = Self {
            phase: Phase::Owned,
            fd,
            blocks,
            slot,
            group: Some(group),
            slots: slot + 1,
            order: Some(Acceptance::new([slot as usize + 1])),
            ..Self::FREE
        };
    }

    /// Returns whether the claim has become ready by this.
    pub(crate) fn becomes_ready(&mut self) -> bool {
        let became = self.phase == Phase::Owned;
        if became {
            self.phase = Phase::Ready;
        }
        became
    }

    /// Whether there is a listener beside the claim's own.
    pub(crate) fn has_siblings(&self) -> bool {
        self.siblings[..self.slots as usize]
            .iter()
            .any(|fd| *fd >= 0)
    }

    /// The listener of that slot.
    pub(crate) fn socket(&self, slot: u32) -> Option<i32> {
        let fd = match slot == self.slot {
            true => self.fd,
            false => self.siblings[slot as usize],
        };
        (fd >= 0).then_some(fd)
    }

    /// The epoll instance that the listeners are registered in.
    pub(crate) fn epoll(&self) -> Option<i32> {
        self.registration.map(|at| at.epoll)
    }

    pub(crate) fn is_edge(&self) -> bool {
        self.registration
            .is_some_and(|at| at.events & nr::EPOLLET != 0)
    }

    /// Whether the listener of that slot is not watched for a while.
    pub(crate) fn is_left(&self, slot: u32) -> bool {
        self.order
            .as_ref()
            .is_some_and(|order| order.is_left_to_owner(place(slot)))
    }

    /// Registers the application's listener, and those of its siblings behind it.
    pub(crate) fn register(&mut self, epoll: i32, events: u32, data: u64) -> Returned {
        let mut at = Registration {
            epoll,
            events,
            data,
            counter: -1,
        };
        let watched = watch(at, self.fd);
        if watched < 0 {
            return watched;
        }
        if events & nr::EPOLLET != 0 {
            let counter = sys::event_counter() as i32;
            if counter >= 0 {
                at.counter = channel::keep(counter);
                sys::epoll_add(epoll, at.counter, nr::EPOLLIN | nr::EPOLLET, data);
            }
        }
        self.registration = Some(at);
        // Each begins with the one after its own, so that no sibling is the first substitute of
        // all.
        for step in 1..self.slots {
            self.watch((self.slot + step) % self.slots);
        }
        0
    }

    /// Ends the registration of all listeners.
    pub(crate) fn unregister(&mut self) {
        let Some(at) = self.registration.take() else {
            return;
        };
        for fd in (0..self.slots).filter_map(|slot| self.socket(slot)) {
            sys::epoll_delete(at.epoll, fd);
        }
        if at.counter >= 0 {
            sys::epoll_delete(at.epoll, at.counter);
            channel::drop_private(at.counter);
        }
    }

    /// The epoll instance is gone, and its registrations with it.
    pub(crate) fn forget_registration(&mut self) {
        if let Some(at) = self.registration.take().filter(|at| at.counter >= 0) {
            channel::drop_private(at.counter);
        }
    }

    /// The application's events and data of the registration.
    pub(crate) fn registered(&self) -> Option<(u32, u64)> {
        self.registration.map(|at| (at.events, at.data))
    }

    fn watch(&self, slot: u32) {
        if let (Some(at), Some(fd)) = (self.registration, self.socket(slot))
            && !self.is_left(slot)
        {
            watch(at, fd);
        }
    }

    fn forget(&self, slot: u32) {
        if let (Some(at), Some(fd)) = (self.registration, self.socket(slot)) {
            sys::epoll_delete(at.epoll, fd);
        }
    }

    /// A sibling has come, or has another socket now.
    pub(crate) fn add_sibling(&mut self, slot: u32, fd: i32) {
        self.remove_sibling(slot);
        self.siblings[slot as usize] = fd;
        let order = self.order.get_or_insert_with(|| Acceptance::new([0]));
        while self.slots <= slot {
            order.add_listener(GROUP);
            self.slots += 1;
        }
        self.watch(slot);
    }

    /// The listener of a sibling is to be left and closed.
    pub(crate) fn remove_sibling(&mut self, slot: u32) {
        let fd = self.siblings[slot as usize];
        if slot != self.slot && fd >= 0 {
            // Other processes have the socket open, so that closing it would not end this.
            self.forget(slot);
            channel::drop_private(fd);
            self.siblings[slot as usize] = -1;
        }
    }

    /// The descriptor of a sibling's listener is not open any more.
    pub(crate) fn lose_sibling(&mut self, slot: u32) {
        let fd = core::mem::replace(&mut self.siblings[slot as usize], -1);
        files::set(fd, File::Other);
    }

    /// The owner of that listener is new and must be first in line again.
    pub(crate) fn fall_behind(&self, slot: u32) {
        if slot != self.slot && !self.is_left(slot) {
            self.forget(slot);
            self.watch(slot);
        }
    }

    /// Registers the listeners of all siblings anew, which reports those at which a connection
    /// waits.
    pub(crate) fn rescan(&self) {
        (0..self.slots).for_each(|slot| self.fall_behind(slot));
    }

    /// Leaves the listener of that slot to its owner for a while, until `due_ns`.
    pub(crate) fn leave_to_owner(&mut self, slot: u32, now_ns: u64, due_ns: u64) {
        self.forget(slot);
        let accepts = self.accepts_of(slot);
        if let Some(order) = &mut self.order {
            order.leave_to_owner(place(slot), accepts, now_ns, due_ns);
        }
    }

    /// Watches again what was left for long enough, after a wait from `slept_from_ns` to `now_ns`.
    pub(crate) fn watch_again(&mut self, slept_from_ns: u64, now_ns: u64) -> Option<u64> {
        let (Some(mut order), Some(group)) = (self.order.take(), self.group) else {
            return None;
        };
        let thief = self.slot;
        let grace_ns = |from: Place| steal_grace_ns(group, thief, from.listener, now_ns);
        while let Some(from) = order.next_due(slept_from_ns, now_ns, grace_ns) {
            order.watched(from);
            self.watch(from.listener);
        }
        let due_ns = order.due_ns();
        self.order = Some(order);
        due_ns
    }

    /// How often the owner of that slot has accepted.
    pub(crate) fn accepts_of(&self, slot: u32) -> u64 {
        let load = self.group.map(|group| &group.slots[slot as usize].load);
        load.map_or(0, |load| load.accepts())
    }

    /// With edge-triggered events: has the application look at its listener once more.
    pub(crate) fn notify(&self) {
        if let Some(at) = self.registration.filter(|at| at.counter >= 0) {
            sys::write(at.counter, &1_u64.to_ne_bytes());
        }
    }

    /// Ends the claim: leaves and closes all that is this library's own.
    pub(crate) fn end(&mut self) {
        self.unregister();
        for slot in 0..self.slots {
            self.remove_sibling(slot);
        }
        *self = Self::FREE;
    }
}

/// Registers a listener, if the application wants to know of connections.
fn watch(at: Registration, fd: i32) -> Returned {
    if at.events & nr::EPOLLIN == 0 {
        return 0;
    }
    let events = at.events & EXCLUSIVE_WITH | nr::EPOLLEXCLUSIVE;
    sys::epoll_add(at.epoll, fd, events, at.data)
}
