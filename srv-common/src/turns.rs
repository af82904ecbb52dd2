//! Which of several equally loaded workers gets the next connection: the one whose
//! turn comes first.
//!
//! A turn is a point in virtual time, as in start-time fair queueing (Goyal, Vin and
//! Cheng, SIGCOMM 1996). It counts the connections that a worker accepts, from whichever
//! listener: a connection that a sibling takes is the sibling's turn. The virtual time of
//! the group is the latest turn at which a worker got a connection; the program keeps it.
//!
//! A worker that accepts first brings its turn to within [`MEMORY_ROUNDS`] of the virtual
//! time. If it was away, or got more or less than its share while loads differed, it
//! therefore neither catches up nor waits. Only what went astray in the last few rounds is
//! made up for, such as which worker accepts first in a burst.

use crate::layout::Group;

/// Bits of the turn and, in a score, the slot.
pub(crate) const TURN_FIELD_BITS: u32 = 28;
/// Where the turn and, in a score, the slot are.
pub(crate) const TURN_FIELD: u64 = (1 << TURN_FIELD_BITS) - 1;

/// How far a worker's turn may be from the virtual time when the worker accepts, in
/// rounds; in a round each worker gets one connection.
///
/// What a worker gets in a row after an absence is one more than this. Fewer rounds
/// would forget what a preempted worker has missed within a few ms: shares would wander.
pub const MEMORY_ROUNDS: u32 = 4;

/// No turn is this far ahead of the virtual time: the memory, the connection itself, and
/// one for two CPUs of which the later takes back what the earlier wrote.
pub(crate) const AHEAD_MAX: u32 = MEMORY_ROUNDS + 2;

impl<const N: usize> Group<N> {
    /// Bits of a turn that scores hold, and so the virtual time.
    const TURN_BITS: u32 = TURN_FIELD_BITS - N.trailing_zeros();

    /// A connection is assigned to `slot`: virtual time moves on to its worker's turn,
    /// if that is later. For the program.
    #[inline(always)]
    pub fn advance_virtual_time(&self, slot: u32) {
        const HALF: u64 = 1 << (TURN_FIELD_BITS - 1);
        let now = self.tickets.virtual_time.get();
        let turn = self.summaries[slot as usize & (N - 1)].load.get();
        let ahead = turn.wrapping_sub(now) & TURN_FIELD & !(N as u64 - 1);
        if ahead < HALF {
            self.tickets.virtual_time.set(now.wrapping_add(ahead));
        }
    }

    /// The worker in `slot` has accepted a connection: moves its turn on. For that worker.
    pub fn take_turn(&self, slot: u32) {
        const MEMORY: i32 = MEMORY_ROUNDS as i32;
        let now = self.virtual_time();
        let turn = &self.slots[slot as usize].load.turn;
        let ahead = Self::rounds_from(now, turn.get());
        let start = now.wrapping_add_signed(ahead.clamp(-MEMORY, MEMORY));
        turn.set(start.wrapping_add(1));
    }

    /// Whether the worker in `slot` has lately accepted more than its share and more than
    /// the one in `other`: its turn is two rounds after the virtual time, and after the
    /// other's turn. Never so where the kernel hashes, as virtual time stands still there.
    pub(crate) fn is_ahead(&self, slot: u32, other: u32) -> bool {
        const ROUNDS: i32 = 2;
        let turn = |slot: u32| self.slots[slot as usize].load.turn.get();
        let turn_of_other = turn(other);
        [self.virtual_time(), turn_of_other]
            .iter()
            .all(|from| Self::rounds_from(*from, turn(slot)) >= ROUNDS)
    }

    /// How many rounds `turn` is after `from`.
    fn rounds_from(from: u32, turn: u32) -> i32 {
        // Only so many bits of either are known. Shifted there and back: sign-extended.
        let unknown = u32::BITS - Self::TURN_BITS;
        (turn.wrapping_sub(from) << unknown) as i32 >> unknown
    }

    /// A worker starts in `slot`: it takes turns with its siblings from the next round
    /// on. For that worker.
    pub fn join_turns(&self, slot: u32) {
        let next = self.virtual_time().wrapping_add(1);
        self.slots[slot as usize].load.turn.set(next);
    }

    /// The virtual time, as [`crate::layout::Load::turn`] counts it.
    fn virtual_time(&self) -> u32 {
        (self.tickets.virtual_time.get() >> N.trailing_zeros()) as u32
    }
}

#[cfg(test)]
mod tests;
