//! The policies for attached servers, which publish nothing: which listener gets the next
//! connection? They are pure functions over a [`View`] of the kernel's own state. Each part of that
//! state costs something to read, and a policy asks for it only if it needs it.
//!
//! A signal may be missing. Without the signal queues, all queues count as empty. Without the signal
//! sleep, no worker counts as busy. Without the signal live, all listeners count as having equally
//! many connections. The signals that are known decide.

use super::{Host, Policy, mix, remainder, scale, wrap};
use crate::attached::{AttachedGroup, MAX_LISTENERS, Reason, Sleep};
use crate::branchless::{is_negative, sign};

/// What a policy may ask about the listeners of the group. A *place* is a number below
/// [`View::members`]. The kernel decides which listener is at which place. One choice looks at the
/// places of one [`Window`].
pub trait Listeners {
    /// Whether the worker sleeps that waits for the listener at `place`. If it
    /// [may be idle](Look::may_be_idle), the answer also has the number of connections that wait:
    /// at a SYN those that are in the accept queue or half-open, at an ACK those in the accept
    /// queue. An ACK that brings a SYN cookie back may come during a flood. The half-open
    /// connections are then handshakes that never complete, which say nothing about the load of a
    /// worker. If each handshake begins with a SYN cookie, there are none.
    ///
    /// # Errors
    /// The listener is in no slot.
    fn look(&mut self, place: u32, window: Window) -> Result<Look, Reason>;
    /// How many connections wait at the listener at `place`, as [`Listeners::look`] counts them,
    /// with its last answer about the worker.
    ///
    /// # Errors
    /// The listener is in no slot.
    fn waiting(&mut self, place: u32, window: Window) -> Result<Look, Reason>;
    /// Connections that came through the listener of a slot and that the server has not closed.
    fn live(&mut self, slot: u32) -> u32;
    /// The `nth` slot that has a listener.
    fn nth_slot(&mut self, nth: u32) -> u32;
}

/// What a policy may ask about the group.
pub trait View: Host + Listeners + Sized {
    /// The number of listeners of the group.
    ///
    /// # Errors
    /// The group differs from the configuration.
    fn members(&mut self) -> Result<u32, Reason>;
    /// Whether a slot has a listener.
    fn is_member(&mut self, slot: u32) -> bool;
    /// Calls [`find_idle`]. In the program, [`find_idle`] and [`find_shortest`] are functions that
    /// the verifier checks separately: in one function, all loops together have more than a million
    /// instructions.
    ///
    /// # Errors
    /// As [`find_idle`].
    #[inline(always)]
    fn idle(&mut self, window: Window) -> Result<Option<Found>, Reason> {
        find_idle(window, self)
    }
    /// Calls [`find_shortest`].
    ///
    /// # Errors
    /// As [`find_shortest`].
    #[inline(always)]
    fn shortest(&mut self, window: Window) -> Result<Found, Reason> {
        find_shortest(window, self)
    }
}

/// What was seen of a listener, in one integer, since separately verified functions of the program
/// return it: the number of waiting connections (32 bits from bit 24), a [`Sleep`] (8 bits from bit
/// 16), the slot (16 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look(pub u64);

impl Look {
    const SLEEP_SHIFT: u32 = 16;
    const WAITING_SHIFT: u32 = 24;

    /// The slot of a listener, the [`Sleep`] of its worker at the last look, and how many
    /// connections wait, if that was read.
    #[inline(always)]
    pub fn new(slot: u32, sleep: u32, waiting: u32) -> Self {
        Self(
            u64::from(waiting) << Self::WAITING_SHIFT
                | u64::from(sleep & 0xff) << Self::SLEEP_SHIFT
                | u64::from(slot & 0xffff),
        )
    }

    /// Its slot.
    #[inline(always)]
    pub fn slot(self) -> u32 {
        self.0 as u32 & (MAX_LISTENERS as u32 - 1)
    }

    /// Whether its worker may accept a connection at once. Only then does the program read how many
    /// connections wait.
    #[inline(always)]
    pub fn may_be_idle(self) -> bool {
        let sleep = self.sleep();
        sleep == Sleep::Asleep as u64 || sleep == Sleep::Unknown as u64
    }

    /// Whether a connection would be accepted at once.
    #[inline(always)]
    fn is_idle(self) -> bool {
        self.may_be_idle() && self.waiting() == 0
    }

    #[inline(always)]
    fn sleep(self) -> u64 {
        self.0 >> Self::SLEEP_SHIFT & 0xff
    }

    #[inline(always)]
    fn waiting(self) -> u64 {
        self.0 >> Self::WAITING_SHIFT & 0xffff_ffff
    }

    /// The outstanding work; the lowest score wins. From the highest bit: no worker waits for the
    /// listener any more (bit 62), waiting connections and the busy worker (30 bits), live
    /// connections (32 bits).
    #[inline(always)]
    fn score(self, live: u32) -> u64 {
        let sleep = self.sleep();
        let waiting = self.waiting() & 0x1fff_ffff;
        // If a connection waits, a sleeping worker is about to be woken, and counts as busy. The
        // sum adds 1 if a connection waits or the worker is known to be busy, without a branch.
        let is_waiting = is_negative((waiting as i64).wrapping_neg());
        let is_busy = is_zero(sleep ^ Sleep::Busy as u64);
        let is_gone = is_zero(sleep ^ Sleep::Gone as u64);
        (waiting + (is_waiting | is_busy)) << 32 | is_gone << 62 | u64::from(live)
    }
}

/// 1 or 0, without a branch.
#[inline(always)]
fn is_zero(x: u64) -> u64 {
    is_negative((x as i64).wrapping_sub(1)) & is_negative(!(x as i64))
}

/// The most listeners that one choice looks at, since each costs two or three reads of kernel
/// memory. In a larger group, a choice looks at a part of the listeners, from a rotating start.
pub const LOOK_MAX: u32 = 16;

/// The places that one choice looks at: at most [`LOOK_MAX`], from `start` on, around the end of the
/// group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first place, below `members`.
    pub start: u32,
    /// The number of listeners of the group.
    pub members: u32,
}

impl Window {
    /// The number of places of the window.
    #[inline(always)]
    pub fn count(self) -> u32 {
        if self.members < LOOK_MAX {
            self.members
        } else {
            LOOK_MAX
        }
    }

    /// The first of [`LOOK_MAX`] consecutive places (or of all places of a small group) that include
    /// `place`. It is the same for all places of the window, except for those around the end.
    #[inline(always)]
    pub fn block(self, place: u32) -> u32 {
        // The loops of the program call this, so it has no branch.
        let beyond = i64::from(self.members - self.count()) - i64::from(self.start);
        let first = (i64::from(self.start) + (beyond & sign(beyond as u64) as i64)) as u32;
        let is_around_the_end = is_negative(i64::from(place) - i64::from(self.start));
        first * (1 - is_around_the_end as u32)
    }

    /// The place after this one.
    #[inline(always)]
    fn next(self, place: u32) -> u32 {
        let place = place + 1;
        place * is_negative(i64::from(place) - i64::from(self.members)) as u32
    }
}

/// A listener that was found in a [`Window`], in one integer like [`Look`]: the number of steps from
/// the start of the window (16 bits from bit 16), and its slot (16 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found(pub u64);

impl Found {
    #[inline(always)]
    fn new(slot: u32, steps: u32) -> Self {
        Self(u64::from(steps & 0xff) << 16 | u64::from(slot))
    }

    /// Its slot.
    #[inline(always)]
    pub fn slot(self) -> u32 {
        self.0 as u32 & (MAX_LISTENERS as u32 - 1)
    }

    /// The number of places before it that were passed over.
    #[inline(always)]
    pub fn steps(self) -> u32 {
        self.0 as u32 >> 16 & 0xff
    }
}

/// By what the listener was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The policy looks at no load.
    Unseen,
    /// The queue of the listener is empty, its worker is idle, and no listener has fewer live
    /// connections.
    Idle,
    /// The listener has the least outstanding work of those that the choice looked at.
    Shortest,
}

/// Chooses the slot for a new connection.
///
/// # Errors
/// The reason why the kernel chooses instead.
#[inline(always)]
pub fn choose(policy: u32, view: &mut impl View) -> Result<(u32, How), Reason> {
    if !Policy::is_for_attached(policy) {
        return Err(Reason::NoPolicy);
    }
    let members = view.members()?;
    if members == 0 || members > MAX_LISTENERS as u32 {
        return Err(Reason::NoMembers);
    }
    if policy == Policy::Least as u32 {
        return least(members, view);
    }
    if policy == Policy::P2c as u32 {
        return Ok((better_of_two(members, view)?, How::Shortest));
    }
    let slot = if policy == Policy::Source as u32 {
        source(members, view)
    } else if policy == Policy::Random as u32 {
        let nth = scale(view.random(), members);
        view.nth_slot(nth)
    } else if policy == Policy::RoundRobin as u32 {
        let nth = remainder(view.advance_cursor(), members);
        view.nth_slot(nth)
    } else if policy == Policy::Cpu as u32 {
        let nth = remainder(view.cpu(), members);
        view.nth_slot(nth)
    } else {
        // A policy without a branch must not choose by another one's.
        return Err(Reason::NoPolicy);
    };
    Ok((slot, How::Unseen))
}

/// The first listener from a rotating start whose worker sleeps, whose queue is empty, and that has
/// no more live connections than the others: its worker serves at once. If there is none, the
/// listener with the least outstanding work (join the shortest queue), then with the fewest live
/// connections, then by rotation. The next start is behind the listener that was chosen.
#[inline(always)]
fn least(members: u32, view: &mut impl View) -> Result<(u32, How), Reason> {
    let start = remainder(view.advance_cursor(), members);
    let window = Window { start, members };
    let (found, how) = match view.idle(window)? {
        Some(found) => (found, How::Idle),
        None => (view.shortest(window)?, How::Shortest),
    };
    if found.steps() > 0 {
        view.skip(found.steps());
    }
    Ok((found.slot(), how))
}

/// The first listener of the window whose queue is empty, whose worker sleeps, and that has no more
/// live connections than another.
///
/// # Errors
/// A listener is in no slot.
#[inline(always)]
pub fn find_idle(window: Window, listeners: &mut impl Listeners) -> Result<Option<Found>, Reason> {
    let floor = fewest_live(window, listeners);
    let count = window.count();
    let mut place = window.start;
    for step in 0..LOOK_MAX {
        if !is_below(step, count) {
            break;
        }
        // To read the state of a worker costs one read, and its queue another. In this order a busy
        // worker costs one read.
        let look = listeners.look(place, window)?;
        if look.is_idle() && listeners.live(look.slot()) <= floor {
            return Ok(Some(Found::new(look.slot(), step)));
        }
        place = window.next(place);
    }
    Ok(None)
}

/// The first listener of the window that has the least outstanding work. Called after [`find_idle`]
/// has looked at all of them.
///
/// # Errors
/// A listener is in no slot.
#[inline(always)]
pub fn find_shortest(window: Window, listeners: &mut impl Listeners) -> Result<Found, Reason> {
    let count = window.count();
    let mut best = u64::MAX;
    let mut chosen = 0;
    let mut place = window.start;
    for step in 0..LOOK_MAX {
        if !is_below(step, count) {
            break;
        }
        let look = listeners.waiting(place, window)?;
        let score = look.score(listeners.live(look.slot()));
        let lower = lower_mask(score, best);
        best ^= (best ^ score) & lower;
        chosen ^= (chosen ^ Found::new(look.slot(), step).0) & lower;
        place = window.next(place);
    }
    Ok(Found(chosen))
}

/// `a < b`, in a form from which the verifier derives no bounds: it would check all later code once
/// for each value that a bound can have.
#[inline(always)]
fn is_below(a: u32, b: u32) -> bool {
    is_negative(i64::from(a) - i64::from(b)) != 0
}

/// All ones if `a < b`, where `a` is below 2^63.
#[inline(always)]
fn lower_mask(a: u64, b: u64) -> u64 {
    let b = b & (u64::MAX >> 1);
    sign(a.wrapping_sub(b))
}

/// The fewest live connections of as many listeners as the choice looks at: of all listeners in a
/// small group, of a sample that moves with the window in a large group.
#[inline(always)]
fn fewest_live(window: Window, listeners: &mut impl Listeners) -> u32 {
    let count = window.count();
    let mut fewest = u32::MAX as u64;
    let mut nth = window.start;
    for step in 0..LOOK_MAX {
        if !is_below(step, count) {
            break;
        }
        let slot = listeners.nth_slot(nth);
        nth = window.next(nth);
        let live = u64::from(listeners.live(slot));
        fewest ^= (fewest ^ live) & lower_mask(live, fewest);
    }
    fewest as u32
}

#[inline(always)]
fn better_of_two(members: u32, view: &mut impl View) -> Result<u32, Reason> {
    let random = view.random();
    let first = scale(random, members);
    let mut second = first;
    if members > 1 {
        second = wrap(first + 1 + scale(mix(random), members - 1), members);
    }
    let (one, one_score) = scored(first, members, view)?;
    let (other, other_score) = scored(second, members, view)?;
    let lower = lower_mask(other_score, one_score) as u32;
    Ok(one ^ ((one ^ other) & lower))
}

#[inline(always)]
fn scored(place: u32, members: u32, view: &mut impl View) -> Result<(u32, u64), Reason> {
    let window = Window {
        start: place,
        members,
    };
    view.look(place, window)?;
    let look = view.waiting(place, window)?;
    Ok((look.slot(), look.score(view.live(look.slot()))))
}

/// The slot for the client address. If a listener closes, only its own clients move to other slots.
#[inline(always)]
fn source(members: u32, view: &mut impl View) -> u32 {
    let hash = view.source_hash();
    // The slots in use need not be the first ones. The last slot in the list bounds them.
    let last = view.nth_slot(members - 1);
    let home = scale(hash, last + 1);
    if view.is_member(home) {
        return home;
    }
    view.nth_slot(scale(mix(hash), members))
}

impl AttachedGroup {
    /// The slot of the listener with this `SO_COOKIE`.
    #[inline(always)]
    pub fn slot_of_cookie(&self, cookie: u64) -> Option<u32> {
        if cookie == 0 {
            return None;
        }
        let mut slot = 0;
        while slot < MAX_LISTENERS {
            if self.cookies[slot & (MAX_LISTENERS - 1)].get() == cookie {
                return Some(slot as u32);
            }
            slot += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests;
