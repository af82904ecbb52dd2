//! Among workers with equal load, the one whose turn comes first gets the next connection.
//!
//! A turn is a point in virtual time, as in start-time fair queueing (Goyal, Vin and
//! Cheng, SIGCOMM 1996). It counts the connections that a worker accepts, from any listener: if a
//! sibling takes a connection, that is the sibling's turn. The virtual time of the group is the
//! latest turn at which a worker got a connection; the program keeps it.
//!
//! When a worker accepts a connection, it first brings its turn to within [`MEMORY_ROUNDS`] of the
//! virtual time. Therefore, if it was away, or got more or less than its share while loads
//! differed, it neither catches up nor waits. Only the differences of the last few rounds are
//! compensated, such as which worker accepts first in a burst.

use crate::layout::Group;

/// Bits of the turn and, in a score, the slot.
pub(crate) const TURN_FIELD_BITS: u32 = 28;
/// Where the turn and, in a score, the slot are.
pub(crate) const TURN_FIELD: u64 = (1 << TURN_FIELD_BITS) - 1;

/// How far a worker's turn may be from the virtual time when the worker accepts, in
/// rounds; in a round each worker gets one connection.
///
/// After an absence, a worker gets one connection more than this in a row. With fewer rounds, what
/// a preempted worker has missed within a few ms would be forgotten, and shares would drift.
pub const MEMORY_ROUNDS: u32 = 4;

/// No turn is this many rounds ahead of the virtual time. The number is the sum of the memory, the
/// connection itself, and one round for the case that two CPUs write the virtual time and the later
/// overwrites what the earlier wrote.
pub(crate) const AHEAD_MAX: u32 = MEMORY_ROUNDS + 2;

impl<const N: usize> Group<N> {
    /// Bits of a turn that a score holds, and therefore also the virtual time.
    const TURN_BITS: u32 = TURN_FIELD_BITS - N.trailing_zeros();

    /// Moves the virtual time on to the turn of the worker in `slot`, if that is later. The program
    /// calls this when it has assigned a connection to the slot.
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

    /// Moves the turn of the worker in `slot` on. That worker calls this when it has accepted a
    /// connection.
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
    /// other's turn. While the kernel hashes, this is never so, because the virtual time stands
    /// still.
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
        // Only the lower `TURN_BITS` bits of either are known. Both shifts together extend the
        // sign.
        let unknown = u32::BITS - Self::TURN_BITS;
        (turn.wrapping_sub(from) << unknown) as i32 >> unknown
    }

    /// Has the worker that starts in `slot` take turns with its siblings from the next round on.
    /// That worker calls this.
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
