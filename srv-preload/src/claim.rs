//! One claim: a listener of the application, its slot in the group, its siblings' listeners, and
//! where all of them are registered. Knows nothing of the connection to the coordinator.

use linux_raw_sys::general as nr;
use srv_common::acceptance::{Acceptance, Place};
use srv_common::policy::steal_grace_ns;
use srv_common::{Group, MAX_WORKERS};

use crate::files::{self, File};
use crate::sys::{self, Returned};
use crate::timer::Timer;
use crate::{channel, memory, requests};

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
    /// What wakes the owners of these; -1: there is none.
    bells: [i32; MAX_WORKERS],
    /// No sibling is in a slot from here on.
    pub(crate) slots: u32,
    pub(crate) order: Option<Acceptance>,
    registration: Option<Registration>,
    /// The process has as many requests in service as it may have: no listener is watched.
    is_paused: bool,
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
    /// If the requests in service are limited: what wakes the application to look again.
    timer: Option<Timer>,
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

/// If a listener is registered while none is watched, the application looks again after this.
const PAUSED_LOOK_NS: u64 = 10_000_000;

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
        bells: [-1; MAX_WORKERS],
        slots: 0,
        order: None,
        registration: None,
        is_paused: false,
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

    /// Whether the kernel's hash chooses for the group.
    pub(crate) fn is_unsteered(&self) -> bool {
        self.group
            .is_some_and(|group| group.config.policy.get() == 0)
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
            timer: None,
        };
        if !self.is_paused {
            let watched = watch(at, self.fd);
            if watched < 0 {
                return watched;
            }
        }
        at.timer = requests::limit().and_then(|_| Timer::register(epoll, events, data));
        if events & nr::EPOLLET != 0 {
            let counter = sys::event_counter() as i32;
            if counter >= 0 {
                at.counter = channel::keep(counter);
                sys::epoll_add(epoll, at.counter, nr::EPOLLIN | nr::EPOLLET, data);
            }
        }
        self.registration = Some(at);
        if self.is_paused {
            self.look_after(PAUSED_LOOK_NS);
        }
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
        if let Some(timer) = at.timer {
            timer.end(at.epoll);
        }
    }

    /// The epoll instance is gone, and its registrations with it.
    pub(crate) fn forget_registration(&mut self) {
        let Some(at) = self.registration.take() else {
            return;
        };
        if at.counter >= 0 {
            channel::drop_private(at.counter);
        }
        if let Some(timer) = at.timer {
            timer.drop_it();
        }
    }

    /// The application's events and data of the registration.
    pub(crate) fn registered(&self) -> Option<(u32, u64)> {
        self.registration.map(|at| (at.events, at.data))
    }

    fn watch(&self, slot: u32) {
        if let (Some(at), Some(fd)) = (self.registration, self.socket(slot))
            && !self.is_left(slot)
            && !self.is_paused
        {
            watch(at, fd);
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Watches no listener from now on, and has the application look again after `look_ns`.
    pub(crate) fn pause(&mut self, look_ns: u64) {
        (0..self.slots).for_each(|slot| self.forget(slot));
        self.is_paused = true;
        self.look_after(look_ns);
    }

    /// Watches the listeners again, its own first.
    pub(crate) fn resume(&mut self) {
        if !core::mem::take(&mut self.is_paused) {
            return;
        }
        self.look_after(0);
        for step in 0..self.slots {
            self.watch((self.slot + step) % self.slots);
        }
    }

    /// Has the application look at its listener after `ns`; 0: not at all.
    pub(crate) fn look_after(&self, ns: u64) {
        if let Some(timer) = self.registration.and_then(|at| at.timer) {
            timer.set(ns);
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
            self.set_bell(slot, -1);
        }
    }

    /// What wakes the owner of that listener from now on; -1: nothing.
    pub(crate) fn set_bell(&mut self, slot: u32, bell: i32) {
        let before = core::mem::replace(&mut self.bells[slot as usize], bell);
        if before >= 0 {
            channel::drop_private(before);
        }
    }

    /// Whether the owner of that listener can be woken.
    pub(crate) fn can_wake(&self, slot: u32) -> bool {
        self.bells[slot as usize] >= 0
    }

    /// Wakes the owner of that listener, which then looks at all listeners.
    pub(crate) fn wake(&self, slot: u32) {
        sys::write(self.bells[slot as usize], &1_u64.to_ne_bytes());
    }

    /// Another process has woken this one: watches again what was left to siblings.
    pub(crate) fn recall(&mut self) {
        while let Some(from) = self.order.as_mut().and_then(Acceptance::recall) {
            self.watch(from.listener);
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

    /// Registers all listeners anew, its own first, which reports those at which a connection waits.
    pub(crate) fn watch_anew(&self) {
        for step in 0..self.slots {
            let slot = (self.slot + step) % self.slots;
            if !self.is_left(slot) {
                self.forget(slot);
                self.watch(slot);
            }
        }
    }

    /// Leaves the listener of that slot to the owner of slot `to` for a while, until `due_ns`.
    pub(crate) fn leave_to(&mut self, to: u32, slot: u32, now_ns: u64, due_ns: u64) {
        self.forget(slot);
        let accepts = self.accepts_of(to);
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

    /// Ends the claim: leaves, closes and unmaps all that is this library's own. It publishes nothing
    /// any more.
    pub(crate) fn end(&mut self) {
        self.unregister();
        for slot in 0..self.slots {
            self.remove_sibling(slot);
        }
        self.forget_all();
    }

    /// In a process that was forked, whose parent goes on with the claim: unmaps the memory.
    pub(crate) fn forget_all(&mut self) {
        self.group.into_iter().for_each(memory::unmap);
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
