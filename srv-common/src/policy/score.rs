//! How much work a slot has outstanding, as one integer that is compared without a branch
//! ([`Score`]). Knows no policy.

use super::Host;
use crate::branchless::bounded;
use crate::layout::{ELIGIBLE, Group, Reason};
use crate::turns::{self, TURN_FIELD, TURN_FIELD_BITS};

/// How much work a slot has outstanding, as one integer. The slot with the lowest score wins.
///
/// Below what [`crate::layout::Steering::eligible`] subtracts, the fields are, from the top:
/// waiting + running + busy (16 bits), open connections (16), a guard, the worker's turn relative
/// to the virtual time of [`crate::turns`] (28 less the slot's bits), slot. A count that needs
/// more bits than its field wraps, which costs one imperfect choice.
///
/// A score is computed without a branch, since the verifier follows every path through a scan,
/// and without a call, since a call costs more than a score (about 20 ns with return thunks). A
/// worker puts its part together itself ([`Group::sum_up`]).
pub type Score = u64;

/// Each eligible slot has a lower score than this, in the order of
/// [`crate::branchless::lower`].
pub(super) const NOT_READY: Score = 0;
const OUTSTANDING_MAX: u64 = (1 << 15) - 1;
const OUTSTANDING_SHIFT: u32 = 45;
const ACTIVE_SHIFT: u32 = 29;
const ACTIVE_MAX: u64 = (1 << (OUTSTANDING_SHIFT - ACTIVE_SHIFT)) - 1;
/// A bit above the turn. If a larger turn is subtracted from a smaller one, it takes the borrow.
const TURN_GUARD: u64 = 1 << TURN_FIELD_BITS;
/// The fields of running requests and of open connections.
const LOAD_FIELD: u64 = OUTSTANDING_MAX << OUTSTANDING_SHIFT | ACTIVE_MAX << ACTIVE_SHIFT;

impl<const N: usize> Group<N> {
    /// Puts together the worker's part of its score. A process that has written to the slot's
    /// `busy_since_ns`, `running`, `active` or `turn` calls this afterwards.
    pub fn sum_up(&self, slot: u32) {
        self.summaries[slot as usize].load.set(self.sum_of(slot));
    }

    /// Does the same where several threads write: the last one to put the parts together has seen
    /// what all others wrote.
    #[cfg(not(target_arch = "bpf"))]
    pub fn sum_up_among_threads(&self, slot: u32) {
        let summary = &self.summaries[slot as usize].load;
        loop {
            let sum = self.sum_of(slot);
            summary.set(sum);
            // Another thread may have written between the reads and the write.
            core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
            if self.sum_of(slot) == sum {
                return;
            }
        }
    }

    fn sum_of(&self, slot: u32) -> u64 {
        let load = &self.slots[slot as usize].load;
        let is_busy = u64::from(load.busy_since_ns.get() != 0);
        let outstanding = (u64::from(load.running.get()) + is_busy).min(OUTSTANDING_MAX);
        let active = u64::from(load.active.get()).min(ACTIVE_MAX);
        let turn = u64::from(load.turn.get()) << N.trailing_zeros() & TURN_FIELD;
        outstanding << OUTSTANDING_SHIFT | active << ACTIVE_SHIFT | turn
    }
}

/// What is the same for all scores that are compared.
#[derive(Clone, Copy)]
pub(super) struct Scoring {
    /// A point in virtual time that no turn is ahead of, less the guard: subtracting it sets the
    /// guard. Scores compare how far each turn is behind that point. A worker that was away for
    /// longer than the field can count still comes first, except once in 100,000 times, when it
    /// comes after a few rounds.
    turns_from: u64,
    /// [`Host::waiting_mask`].
    waiting_mask: u64,
}

impl Scoring {
    #[inline(always)]
    pub(super) fn new<const N: usize>(group: &Group<N>, host: &mut impl Host) -> Self {
        let ahead_max = u64::from(turns::AHEAD_MAX) << N.trailing_zeros();
        let ahead_of_all = group.tickets.virtual_time.get().wrapping_add(ahead_max);
        Self {
            turns_from: (ahead_of_all & TURN_FIELD).wrapping_sub(TURN_GUARD),
            waiting_mask: host.waiting_mask() & OUTSTANDING_MAX,
        }
    }

    #[inline(always)]
    pub(super) fn score<const N: usize>(self, group: &Group<N>, slot: usize) -> Score {
        // Workers with equal load take turns. The mask admits only the bits that are the
        // worker's, since a worker may have written anything.
        let sum = group.summaries[slot]
            .load
            .get()
            .wrapping_sub(self.turns_from);
        let load = sum & (LOAD_FIELD | TURN_FIELD & !(N as u64 - 1));
        let waiting = (group.waiting(slot) & self.waiting_mask) << OUTSTANDING_SHIFT;
        (load + waiting).wrapping_sub(group.steering[slot].eligible.get())
    }

    #[inline(always)]
    pub(super) fn score_at<const N: usize>(self, group: &Group<N>, slot: u32) -> Score {
        self.score(group, bounded(slot, N))
    }
}

/// Whether the score is of a slot that may be chosen.
#[inline(always)]
pub(super) fn is_eligible(score: Score) -> bool {
    (score as i64) < NOT_READY as i64
}

/// Whether the score is of an eligible slot, not a last resort, without outstanding work.
#[inline(always)]
pub(super) fn is_idle(score: Score) -> bool {
    score.wrapping_add(ELIGIBLE) < 1 << OUTSTANDING_SHIFT
}

#[inline(always)]
pub(super) fn found<const N: usize>(best: Score) -> Result<u32, Reason> {
    if is_eligible(best) {
        Ok(best as u32 & (N as u32 - 1))
    } else {
        Err(Reason::NoneReady)
    }
}
