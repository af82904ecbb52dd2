//! Where no program steers, the kernel's hash wakes workers without regard to what they have. Then
//! a worker that is woken for a connection hands it over to a sibling with fewer. Workers call this;
//! the BPF program does not.

use crate::layout::{Group, State};

/// For how long a worker leaves a connection to the sibling that it has woken for it, ns.
pub const HAND_OVER_NS: u64 = 10_000_000;

/// A worker with fewer open connections than this keeps what it was woken for. Where connections are
/// short, each worker has few, and a hand-over costs more than it evens out: a wake-up, and the
/// worker's place in line at its own listener, which it leaves for a while.
const FEW: u32 = 8;

/// The slot of the worker that is to have the next connection instead of the one in `slot`: of
/// those that sleep and that `can_wake` permits, the one with the fewest open connections, if it has
/// fewer. Long-lived connections are then as even as if the program chose.
pub fn lighter_sleeper<const N: usize>(
    group: &Group<N>,
    slot: u32,
    can_wake: impl Fn(u32) -> bool,
) -> Option<u32> {
    let open = |slot: u32| group.slots[slot as usize].load.active.get();
    let own = open(slot);
    if own < FEW {
        return None;
    }
    let sleeps = |other: &u32| {
        let nth = *other as usize;
        group.idle.0[nth].get() == 1 && group.steering[nth].state.get() == State::Ready as u32
    };
    // Among equals, the next one after this slot: if it were the first of all, it would get what all
    // others hand over.
    let workers = group.config.workers.get().min(N as u32);
    let slots = (1..workers).map(|step| (slot + step) % workers);
    let lighter = slots.filter(|other| open(*other) < own && sleeps(other) && can_wake(*other));
    lighter.min_by_key(|other| open(*other))
}

#[cfg(test)]
mod tests {
    use alloc::boxed::Box;

    use super::*;

    fn group(open: [u32; 4]) -> Box<Group<4>> {
        let group = Group::<4>::boxed();
        group.config.workers.set(4);
        for (slot, open) in open.into_iter().enumerate() {
            group.slots[slot].load.active.set(open);
            group.steering[slot].state.set(State::Ready as u32);
            group.idle.0[slot].set(1);
        }
        group
    }

    #[test]
    fn the_sleeper_with_the_fewest_connections_is_next() {
        let group = group([12, 11, 10, 11]);
        assert_eq!(lighter_sleeper(&group, 0, |_| true), Some(2));
        assert_eq!(lighter_sleeper(&group, 0, |slot| slot != 2), Some(1));
        assert_eq!(lighter_sleeper(&group, 2, |_| true), None);
        group.idle.0[2].set(0);
        assert_eq!(lighter_sleeper(&group, 0, |_| true), Some(1));
        group.steering[1].state.set(State::Hung as u32);
        assert_eq!(lighter_sleeper(&group, 0, |_| true), Some(3));
    }

    #[test]
    fn among_equals_and_with_few_connections_each_keeps_what_it_was_woken_for() {
        assert_eq!(lighter_sleeper(&group([9, 9, 9, 9]), 1, |_| true), None);
        assert_eq!(lighter_sleeper(&group([0, 7, 0, 0]), 1, |_| true), None);
    }

    #[test]
    fn each_hands_over_to_another_one_of_equals() {
        let next = |slot: u32| {
            let mut open = [0; 4];
            open[slot as usize] = FEW;
            lighter_sleeper(&group(open), slot, |_| true)
        };
        assert_eq!([0, 1, 2, 3].map(next), [1, 2, 3, 0].map(Some));
    }

    /// However the kernel chooses, connections that are kept differ by one at most.
    #[test]
    fn kept_connections_become_even() {
        let group = group([9, 0, 3, 1]);
        for woken in (0..47_u32).map(|nth| nth.wrapping_mul(2_654_435_761) >> 7 & 3) {
            let mut slot = woken;
            while let Some(lighter) = lighter_sleeper(&group, slot, |_| true) {
                slot = lighter;
            }
            group.slots[slot as usize].load.active.bump(1);
        }
        let open = [0, 1, 2, 3].map(|slot: usize| group.slots[slot].load.active.get());
        assert_eq!(open, [15; 4]);
    }
}
