//! The order in which connections came, over all listeners of a group. The program gives the next
//! number to each connection that it steers. If a worker finds several listeners ready, it can
//! therefore begin with the one whose first connection has waited longest. An accept queue by
//! itself does not tell how old its first connection is.

use crate::layout::{Group, REMEMBERED};

impl<const N: usize> Group<N> {
    /// Gives the next ticket to the connection that is the `nth` steered to
    /// `slot`, from 0. The program calls this.
    #[inline(always)]
    pub fn deal_ticket(&self, slot: u32, nth: u64) {
        let ticket = self.tickets.last.get().wrapping_add(1);
        self.tickets.last.set(ticket);
        let of = &self.tickets.of[slot as usize & (N - 1)];
        of[nth as usize & (REMEMBERED - 1)].set(ticket);
    }

    /// How many connections have come to the group since the one that waits
    /// first at the listener of `slot`. While the kernel hashes, the number means nothing.
    pub fn age_of_first(&self, slot: u32) -> u32 {
        let waiting = self.waiting(slot as usize);
        let steered = self.steering[slot as usize].steered.get();
        let first = steered.wrapping_sub(waiting.clamp(1, REMEMBERED as u64));
        let ticket = self.tickets.of[slot as usize][first as usize % REMEMBERED].get();
        self.tickets.last.get().wrapping_sub(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MAX_WORKERS;

    fn steer(group: &Group, slot: u32) {
        let steered = &group.steering[slot as usize].steered;
        group.deal_ticket(slot, steered.get());
        steered.bump(1);
    }

    fn take(group: &Group, slot: u32) {
        group.summaries[slot as usize].taken.bump(1);
    }

    #[test]
    fn the_first_in_a_queue_grows_older_until_it_is_taken() {
        let group = Group::<MAX_WORKERS>::boxed();
        for slot in [3, 5, 3, 5, 5] {
            steer(&group, slot);
        }
        assert_eq!((group.age_of_first(3), group.age_of_first(5)), (4, 3));
        take(&group, 3);
        assert_eq!((group.age_of_first(3), group.age_of_first(5)), (2, 3));
        take(&group, 5);
        take(&group, 5);
        assert_eq!(group.age_of_first(5), 0);
    }

    #[test]
    fn a_handshake_that_never_completed_is_not_the_first() {
        let group = Group::<MAX_WORKERS>::boxed();
        for slot in [0, 1, 0, 1] {
            steer(&group, slot);
        }
        // The master found one fewer at slot 0 than were steered there.
        group.write_off(0, 1);
        assert_eq!((group.age_of_first(0), group.age_of_first(1)), (1, 2));
    }

    #[test]
    fn a_queue_longer_than_the_memory_is_as_old_as_the_memory() {
        let group = Group::<MAX_WORKERS>::boxed();
        for _ in 0..3 * REMEMBERED {
            steer(&group, 7);
        }
        assert_eq!(group.age_of_first(7), REMEMBERED as u32 - 1);
    }
}
