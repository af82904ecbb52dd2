//! Admission by requests in service (`srv run --capacity`). While a process has as many of them as
//! it may have, it watches no listener, neither its own nor a sibling's: the kernel then wakes
//! siblings alone. When it has fewer, it watches them again, and is told of what waits there.
//!
//! What counts is what [`crate::requests`] says. A process that is full looks again from time to
//! time, woken by a timer, so that no connection waits for ever:
//!
//! - A connection that was accepted and brings no request within [`FIRST_LOOK_NS`] does not count.
//! - If no process of the group has answered a request for [`STANDSTILL_NS`] while connections
//!   wait, what is in service does not count any more, and the limit is lifted until this process's
//!   next answer.
//! - A request counts for twice [`AGES_NS`] at most.

use srv_common::State as SlotState;

use crate::c_library::monotonic_ns;
use crate::state::State;
use crate::{published, requests};

const MS: u64 = 1_000_000;
/// A full process looks for the first time after this.
const FIRST_LOOK_NS: u64 = 10 * MS;
/// And then at least as often as this.
const LOOK_EVERY_NS: u64 = 250 * MS;
/// For how long connections wait if no process answers anything.
const STANDSTILL_NS: u64 = 1_000 * MS;
/// How often requests grow old.
const AGES_NS: u64 = 10_000 * MS;

impl State {
    /// Leaves the listeners, or watches them again, as the requests in service permit.
    pub(crate) fn apply_capacity(&mut self) {
        let is_full = requests::is_full();
        if is_full == self.full.is_on {
            return;
        }
        self.full.is_on = is_full;
        if is_full {
            self.full.still_since_ns = monotonic_ns();
            self.full.answers = self.answers();
        }
        for nth in 0..self.claims.len() {
            let claim = &mut self.claims[nth];
            if claim.epoll().is_none() || !claim.has_siblings() && is_full {
                continue;
            }
            match is_full {
                true => {
                    claim.pause(FIRST_LOOK_NS);
                    published::of(nth).became_full();
                }
                false => claim.resume(),
            }
        }
    }

    /// Looks again whether the process is full, if it was.
    pub(crate) fn look_again(&mut self) {
        if !self.full.is_on {
            return;
        }
        let now_ns = monotonic_ns();
        requests::settle_new(&mut self.polled);
        if now_ns - self.full.aged_ns >= AGES_NS {
            self.full.aged_ns = now_ns;
            requests::age();
        }
        let answers = self.answers();
        if answers != self.full.answers {
            self.full.answers = answers;
            self.full.still_since_ns = now_ns;
        }
        let is_standstill = now_ns - self.full.still_since_ns >= STANDSTILL_NS;
        if is_standstill && requests::is_full() && self.lift_where_some_wait() {
            requests::lift();
        }
        self.apply_capacity();
        if self.full.is_on {
            let paused = self.claims.iter().filter(|claim| claim.is_paused());
            paused.for_each(|claim| claim.look_after(LOOK_EVERY_NS));
        }
    }

    /// Whether a connection waits at the listeners of any claim, which is then counted.
    fn lift_where_some_wait(&mut self) -> bool {
        let mut some_wait = false;
        for nth in 0..self.claims.len() {
            if self.claims[nth].is_paused() && self.find_by_kernel(nth) > 0 {
                published::of(nth).became_overfull();
                some_wait = true;
            }
        }
        some_wait
    }

    /// What the processes of all groups have answered.
    fn answers(&self) -> u64 {
        let claims = self.claims.iter();
        let each = claims.filter_map(|claim| {
            let slots = &claim.group?.slots[..claim.slots as usize];
            let served = slots.iter().map(|slot| slot.load.served.get());
            Some(served.fold(0, u64::wrapping_add))
        });
        each.fold(0, u64::wrapping_add)
    }

    /// Whether what waits is to be left to siblings, since this process is full. The kernel may have
    /// woken this process for it, before it became full, and no other: a sibling that has room is
    /// woken.
    pub(crate) fn leaves_to_siblings(&mut self, nth: usize) -> bool {
        if !requests::is_full() || !self.claims[nth].has_siblings() {
            return false;
        }
        if self.find_by_kernel(nth) > 0 {
            self.wake_one_with_room(nth);
        }
        true
    }

    fn wake_one_with_room(&self, nth: usize) {
        let claim = &self.claims[nth];
        let (Some(group), Some(limit)) = (claim.group, requests::limit()) else {
            return;
        };
        let running = |slot: &u32| group.slots[*slot as usize].load.running.get();
        let is_ready =
            |slot: &u32| group.steering[*slot as usize].state.get() == SlotState::Ready as u32;
        let siblings = (0..claim.slots).filter(|slot| *slot != claim.slot);
        let with_room = siblings
            .filter(|slot| claim.can_wake(*slot) && is_ready(slot) && running(slot) < limit);
        if let Some(slot) = with_room.min_by_key(running) {
            claim.wake(slot);
        }
    }
}
