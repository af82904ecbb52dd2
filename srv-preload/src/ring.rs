//! Accepts one connection for a claim: from its own listener or from a sibling's, in the order of
//! [`srv_common::acceptance`]. While the group is steered, the shared memory tells where
//! connections wait; otherwise the kernel is asked.

use linux_raw_sys::general as nr;
use srv_common::policy::hand_over::{HAND_OVER_NS, lighter_sleeper};
use srv_common::policy::steal_grace_ns;

use crate::c_library::monotonic_ns;
use crate::claim::{Candidate, place};
use crate::files::{self, File};
use crate::state::State;
use crate::sys::{self, Returned, errno, passed};
use crate::{published, requests};

/// What the application passes to `accept4`.
#[derive(Clone, Copy)]
pub(crate) struct Arguments {
    pub(crate) address: usize,
    pub(crate) length: usize,
    pub(crate) flags: u32,
}

impl Arguments {
    /// Makes the system call.
    pub(crate) fn accept(self, socket: i32) -> Returned {
        // As the C library does it; see `sys::dup2`.
        if self.flags == 0 {
            return passed!(__NR_accept, socket, self.address, self.length);
        }
        passed!(__NR_accept4, socket, self.address, self.length, self.flags)
    }
}

const NOTHING: Returned = sys::failure(errno::EAGAIN);

/// Connections that an application gets in a row before it is told that there are none: a sibling
/// that waits can then take the next.
const IN_A_ROW: u32 = 1;

/// While the group is steered, the kernel is asked at every so many attempts: a connection that
/// the hash has assigned is not in the memory.
const ASKED_EVERY: u32 = 64;

/// If by so many accepts more were in vain than were not, the attempts that follow ask the kernel
/// alone. The memory counts a connection from its SYN on, so that with clients at a distance most
/// of those that it counts cannot be accepted yet.
const IN_VAIN_MAX: u32 = 8;
/// How many attempts that are.
const MISLED_FOR: u32 = 64;

impl State {
    /// Accepts a connection for a claim.
    pub(crate) fn accept(&mut self, nth: usize, arguments: Arguments) -> Returned {
        self.follow_if_told(nth);
        if self.is_enough(nth) {
            return NOTHING;
        }
        self.look_again();
        let accepted = match self.leaves_to_siblings(nth) {
            true => NOTHING,
            false => self.accept_next(nth, arguments),
        };
        self.apply_capacity();
        if accepted == NOTHING {
            // The wake-up may have been one of the coordinator.
            self.follow_all();
            published::of(nth).batch(true);
        }
        accepted
    }

    /// Whether the application has had its share of this turn.
    fn is_enough(&mut self, nth: usize) -> bool {
        let claim = &self.claims[nth];
        let published = published::of(nth);
        if claim.blocks || !claim.has_siblings() || published.batch(false) < IN_A_ROW {
            return false;
        }
        published.batch(true);
        if claim.is_edge() && !claim.is_paused() && self.find_by_kernel(nth) > 0 {
            // An edge is reported once. What is left needs another one.
            self.claims[nth].notify();
        }
        true
    }

    fn accept_next(&mut self, nth: usize, arguments: Arguments) -> Returned {
        let claim = &mut self.claims[nth];
        let Some(group) = claim.group else {
            return NOTHING;
        };
        if !claim.has_siblings() {
            let accepted = arguments.accept(claim.fd);
            if accepted >= 0 {
                let slot = self.claims[nth].slot;
                self.accepted(nth, slot, accepted as i32);
            }
            return accepted;
        }
        claim.attempts = claim.attempts.wrapping_add(1);
        claim.misled_for = claim.misled_for.saturating_sub(1);
        let is_steered = group.config.policy.get() != 0;
        let asks_memory = claim.misled_for == 0 && !claim.attempts.is_multiple_of(ASKED_EVERY);
        let by_memory = match is_steered && asks_memory {
            true => self.find_by_memory(nth),
            false => 0,
        };
        let accepted = self.accept_from(nth, by_memory, arguments);
        if by_memory > 0 && accepted != NOTHING {
            return accepted;
        }
        let claim = &mut self.claims[nth];
        if claim.in_vain >= IN_VAIN_MAX {
            claim.in_vain = 0;
            claim.misled_for = MISLED_FOR;
        }
        let by_kernel = self.find_by_kernel(nth);
        self.accept_from(nth, by_kernel, arguments)
    }

    /// Finds where connections wait, as the memory has it. Returns how many candidates there are.
    fn find_by_memory(&mut self, nth: usize) -> usize {
        let claim = &self.claims[nth];
        let (Some(group), Some(order)) = (claim.group, &claim.order) else {
            return 0;
        };
        let mut count = 0;
        for slot in 0..claim.slots {
            let waits = claim.socket(slot).is_some()
                && group.waiting(slot as usize) > 0
                && !claim.is_left(slot);
            if waits {
                let age = Some(group.age_of_first(slot));
                self.candidates[count] = Candidate {
                    order: order.order(place(slot), age),
                    slot,
                };
                count += 1;
            }
        }
        count
    }

    /// Finds where connections wait by one call of the kernel. Returns how many candidates there
    /// are.
    pub(crate) fn find_by_kernel(&mut self, nth: usize) -> usize {
        let claim = &self.claims[nth];
        let (Some(group), Some(order)) = (claim.group, &claim.order) else {
            return 0;
        };
        let slots = claim.slots as usize;
        for (slot, entry) in (0_u32..).zip(&mut self.polled[..slots]) {
            let fd = claim.socket(slot).filter(|_| !claim.is_left(slot));
            entry.fd = fd.unwrap_or(-1);
            entry.events = nr::POLLIN as i16;
            entry.revents = 0;
        }
        if sys::poll(&mut self.polled[..slots], Some(0)) <= 0 {
            return 0;
        }
        let is_steered = group.config.policy.get() != 0;
        let mut count = 0;
        for (slot, entry) in (0_u32..).zip(&self.polled[..slots]) {
            if entry.revents != 0 {
                let age = is_steered.then(|| group.age_of_first(slot));
                self.candidates[count] = Candidate {
                    order: order.order(place(slot), age),
                    slot,
                };
                count += 1;
            }
        }
        count
    }

    /// Accepts from the first of the candidates that is not better left to its owner. If all are,
    /// they are not watched for a while.
    fn accept_from(&mut self, nth: usize, count: usize, arguments: Arguments) -> Returned {
        if count == 0 {
            return NOTHING;
        }
        let now_ns = monotonic_ns();
        if self.hands_over(nth, count, now_ns) {
            return NOTHING;
        }
        self.candidates[..count].sort_unstable_by_key(|candidate| candidate.order);
        let mut are_all_left = true;
        for at in 0..count {
            let slot = self.candidates[at].slot;
            let Some(socket) = self.claims[nth].socket(slot) else {
                continue;
            };
            if self.grace_ns(nth, slot, now_ns) > 0 {
                continue;
            }
            are_all_left = false;
            let accepted = arguments.accept(socket);
            let in_vain = &mut self.claims[nth].in_vain;
            if accepted >= 0 {
                *in_vain = in_vain.saturating_sub(1);
                self.accepted(nth, slot, accepted as i32);
                return accepted;
            }
            *in_vain = in_vain.saturating_add(1);
            // The application has closed all descriptors by a system call that this library has
            // not seen.
            if accepted == sys::failure(errno::EBADF) && slot != self.claims[nth].slot {
                self.claims[nth].lose_sibling(slot);
                continue;
            }
            // A sibling was faster, or the client has gone.
            let is_gone = [errno::EAGAIN, errno::EINTR, errno::ECONNABORTED];
            if !is_gone.map(sys::failure).contains(&accepted) {
                return accepted;
            }
        }
        if are_all_left {
            self.leave(nth, count, now_ns);
        }
        NOTHING
    }

    /// If the kernel's hash chooses and a sibling that sleeps has fewer connections, wakes it and
    /// leaves what waits to it for a while.
    fn hands_over(&mut self, nth: usize, count: usize, now_ns: u64) -> bool {
        let claim = &self.claims[nth];
        let (Some(group), Some(order)) = (claim.group, &claim.order) else {
            return false;
        };
        let is_possible =
            claim.is_unsteered() && requests::limit().is_none() && published::of(nth).waits_here();
        let can_wake = |slot| claim.can_wake(slot);
        let lighter = is_possible.then(|| lighter_sleeper(group, claim.slot, can_wake));
        let Some(lighter) = lighter.flatten() else {
            return false;
        };
        // If that sibling was woken before and has taken nothing, this process goes on.
        let accepts = claim.accepts_of(lighter);
        let had_its_chance = |at: &Candidate| order.had_its_chance(place(at.slot), accepts);
        if self.candidates[..count].iter().any(had_its_chance) {
            return false;
        }
        claim.wake(lighter);
        for at in 0..count {
            let slot = self.candidates[at].slot;
            self.claims[nth].leave_to(lighter, slot, now_ns, now_ns + HAND_OVER_NS);
        }
        self.publish_due(nth);
        true
    }

    /// For how long to leave a connection there to the owner of the listener, ns.
    fn grace_ns(&self, nth: usize, slot: u32, now_ns: u64) -> u64 {
        let claim = &self.claims[nth];
        let (Some(group), Some(order)) = (claim.group, &claim.order) else {
            return 0;
        };
        let had_its_chance = || order.had_its_chance(place(slot), claim.accepts_of(slot));
        // Where requests are limited, or a connection is handed over to the sibling with the fewest,
        // the owner is not always the first in line: if it sleeps, the kernel has not woken it.
        let is_asleep = group.idle.0[slot as usize].get() == 1;
        let is_missed = requests::limit().is_some() || claim.is_unsteered() && is_asleep;
        let waits_here = published::of(nth).waits_here();
        if slot == claim.slot || is_missed || !waits_here || had_its_chance() {
            return 0;
        }
        steal_grace_ns(group, claim.slot, slot, now_ns)
    }

    fn leave(&mut self, nth: usize, count: usize, now_ns: u64) {
        for at in 0..count {
            let slot = self.candidates[at].slot;
            let due_ns = now_ns + self.grace_ns(nth, slot, now_ns);
            self.claims[nth].leave_to(slot, slot, now_ns, due_ns);
        }
        self.publish_due(nth);
    }

    /// When the wait must end because of listeners that are left to others.
    fn publish_due(&self, nth: usize) {
        let due_ns = self.claims[nth]
            .order
            .as_ref()
            .and_then(|order| order.due_ns());
        published::of(nth).set_due(due_ns);
    }

    fn accepted(&mut self, nth: usize, slot: u32, connection: i32) {
        if let Some(order) = &mut self.claims[nth].order {
            order.take_turn(place(slot));
        }
        if let File::Connection(before) = files::get(connection) {
            // It was closed by a system call that this library has not seen.
            published::of(before).closed(requests::closed(connection).is_answered);
        }
        published::of(nth).accepted(slot);
        files::set(connection, File::Connection(nth));
        if requests::limit().is_some() {
            requests::accepted(connection);
        }
    }

    /// Watches again what was left to its owner for long enough, in that epoll instance.
    pub(crate) fn watch_again(&mut self, epoll: i32, slept_from_ns: u64, now_ns: u64) {
        for nth in 0..self.claims.len() {
            if published::of(nth).is_at(epoll) {
                let due_ns = self.claims[nth].watch_again(slept_from_ns, now_ns);
                published::of(nth).set_due(due_ns);
            }
        }
    }
}
