//! The loops of the policy over the listeners of the group. Each is a global function, so that the
//! verifier checks it once.

use srv_common::attached::{AttachedGroup, MAX_LISTENERS, Reason, Sleep};
use srv_common::branchless::bounded;
use srv_common::policy::attached::{Listeners, Look, Window, find_idle, find_shortest};

use crate::ATTACHED;
use crate::kernel::offset;
use crate::listener::{FAILED, look_at_queue, look_at_worker};

/// The result if no listener is idle, which is no failure.
pub(crate) const NONE: u64 = 1 << 62;

/// The result of [`find_idle`] as a number: a [`Found`], [`NONE`] or [`FAILED`].
///
/// [`Found`]: srv_common::policy::attached::Found
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn search_idle(
    start: u32,
    members: u32,
    turn: u32,
    half_open_mask: u32,
) -> u64 {
    let Some(group) = ATTACHED.get(0) else {
        return FAILED;
    };
    let mut listeners = Group::new(group, turn, half_open_mask);
    match find_idle(Window { start, members }, &mut listeners) {
        Ok(Some(found)) => found.0,
        Ok(None) => NONE,
        Err(_) => FAILED,
    }
}

/// The result of [`find_shortest`] as a number: a `Found` or [`FAILED`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn search_shortest(start: u32, members: u32, half_open_mask: u32) -> u64 {
    let Some(group) = ATTACHED.get(0) else {
        return FAILED;
    };
    let mut listeners = Group::new(group, 0, half_open_mask);
    find_shortest(Window { start, members }, &mut listeners).map_or(FAILED, |found| found.0)
}

/// The listeners of the group.
pub(crate) struct Group<'a> {
    group: &'a AttachedGroup,
    /// Pseudo-random bits from the cursor.
    pub turn: u32,
    /// All ones at a SYN, 0 at an ACK: which bits of the number of half-open connections count.
    pub half_open_mask: u32,
    /// All ones if live connections are counted.
    live_mask: u64,
}

impl<'a> Group<'a> {
    #[inline(always)]
    pub(crate) fn new(group: &'a AttachedGroup, turn: u32, half_open_mask: u32) -> Self {
        Self {
            group,
            turn,
            half_open_mask,
            live_mask: u64::from(group.counts_live()).wrapping_neg(),
        }
    }
}

impl Listeners for Group<'_> {
    #[inline(always)]
    fn look(&mut self, place: u32, window: Window) -> Result<Look, Reason> {
        if offset!(reads_queues) == 0 {
            return Ok(Look::new(self.nth_slot(place), Sleep::Unknown as u32, 0));
        }
        found(look_at_worker(
            place,
            window.block(place),
            self.turn,
            self.half_open_mask,
        ))
    }

    #[inline(always)]
    fn waiting(&mut self, place: u32, window: Window) -> Result<Look, Reason> {
        if offset!(reads_queues) == 0 {
            return Ok(Look::new(self.nth_slot(place), Sleep::Unknown as u32, 0));
        }
        found(look_at_queue(
            place,
            window.block(place),
            self.half_open_mask,
        ))
    }

    #[inline(always)]
    fn live(&mut self, slot: u32) -> u32 {
        let slot = bounded(slot, MAX_LISTENERS);
        let live = self.group.live.0[slot].get();
        // The count can be below zero for a moment; then it counts as 0.
        (live & !((live as i64 >> 63) as u64) & self.live_mask) as u32
    }

    #[inline(always)]
    fn nth_slot(&mut self, nth: u32) -> u32 {
        let nth = bounded(nth, MAX_LISTENERS);
        self.group.list[nth].get() as u32
    }
}

#[inline(always)]
fn found(look: u64) -> Result<Look, Reason> {
    if look & FAILED != 0 {
        return Err(Reason::UnknownMember);
    }
    Ok(Look(look))
}
