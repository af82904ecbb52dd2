//! The policy `hermes`: its filter beside a naive one, and what the program chooses by the
//! bitmap.

use super::*;
use crate::policy::hermes::{WORKERS_MAX, filter};

fn few_slots() -> impl Strategy<Value = Vec<Posed>> {
    prop::collection::vec(posed(), 1..=WORKERS_MAX as usize)
}

/// With pending events, too; any numbers suffice.
fn hermes_group(slots: &[Posed], hang_after_ns: u64) -> Box<Group> {
    let group = group(Policy::Hermes, slots);
    group.config.hang_after_ns.set(hang_after_ns);
    for (slot, posed) in group.slots.iter().zip(slots) {
        slot.load.pending.set(posed.running);
    }
    group
}

/// The filter in floating point, as one would write it down.
fn naive(group: &Group, now_ns: u64) -> Vec<u32> {
    let hang_after_ns = group.config.hang_after_ns.get();
    let load = |slot: u32| &group.slots[slot as usize].load;
    let mut passed: Vec<u32> = (0..group.config.workers.get())
        .filter(|slot| is_ready(group, *slot))
        .filter(|slot| {
            let since_ns = load(*slot).busy_since_ns.get();
            since_ns == 0 || hang_after_ns == 0 || now_ns.saturating_sub(since_ns) <= hang_after_ns
        })
        .collect();
    let pending = |slot: u32| f64::from(load(slot).pending.get());
    let active = |slot: u32| f64::from(load(slot).active.get());
    for count in [&pending as &dyn Fn(u32) -> f64, &active] {
        let sum: f64 = passed.iter().map(|slot| count(*slot)).sum();
        // Both sides exact, unlike an average.
        let members = passed.len() as f64;
        passed.retain(|slot| count(*slot) == 0.0 || 2.0 * count(*slot) * members < 3.0 * sum);
    }
    passed
}

fn set_bits(bitmap: u64) -> Vec<u32> {
    (0..64).filter(|bit| bitmap >> bit & 1 == 1).collect()
}

proptest! {
    #[test]
    fn the_filter_is_the_published_one(
        slots in few_slots(), hang_after_ns in prop_oneof![Just(0), any::<u64>()], now_ns in any::<u64>(),
    ) {
        let group = hermes_group(&slots, hang_after_ns);
        prop_assert_eq!(set_bits(filter(&group, now_ns)), naive(&group, now_ns));
    }

    #[test]
    fn a_worker_passes_if_one_is_ready(slots in few_slots(), now_ns in any::<u64>()) {
        let group = hermes_group(&slots, 0);
        let is_one_ready = group.config.ready_count.get() > 0;
        prop_assert_eq!(filter(&group, now_ns) != 0, is_one_ready);
    }

    #[test]
    fn the_choice_is_a_set_bit_or_the_kernels(
        slots in few_slots(), bitmap in any::<u64>(), mut host in bench(),
    ) {
        let group = hermes_group(&slots, 0);
        group.hermes.0.set(bitmap);
        match choose(&group, &mut host) {
            Ok(slot) => prop_assert!(is_ready(&group, slot) && bitmap >> slot & 1 == 1),
            Err(reason) => prop_assert_eq!(reason, Reason::NoneReady),
        }
    }

    #[test]
    fn each_set_bit_gets_its_part_of_the_hashes(bitmap in any::<u64>(), nth in 0..64usize, within in any::<u32>()) {
        let group = equals(Policy::Hermes, WORKERS_MAX);
        group.hermes.0.set(bitmap);
        let bits = set_bits(bitmap);
        prop_assume!(!bits.is_empty());
        let nth = nth % bits.len();
        let part = (1u64 << 32) / bits.len() as u64;
        let flow = (part * nth as u64 + nth as u64 + u64::from(within) % (part - 64)) as u32;
        let mut host = Bench { flow, ..Bench::default() };
        prop_assert_eq!(choose(&group, &mut host), Ok(bits[nth]));
    }
}

#[test]
fn zeroed_memory_and_more_workers_than_bits_do_no_harm() {
    let group: Box<Group> = Group::boxed();
    assert_eq!(filter(&group, 1), 0);
    group.config.policy.set(Policy::Hermes as u32);
    assert_eq!(
        choose(&group, &mut Bench::default()),
        Err(Reason::NoneReady)
    );
    let group = equals(Policy::Hermes, MAX_WORKERS as u32);
    assert_eq!(
        choose(&group, &mut Bench::default()),
        Err(Reason::NoneReady)
    );
    assert_eq!(filter(&group, 1), u64::MAX);
}

#[test]
fn the_filter_removes_the_stalled_then_by_events_then_by_connections() {
    let group = equals(Policy::Hermes, 4);
    group.config.hang_after_ns.set(1_000);
    let load = |slot: usize| &group.slots[slot].load;
    load(0).busy_since_ns.set(1);
    load(0).pending.set(100);
    assert_eq!(
        filter(&group, 1_001),
        0b1110,
        "a lot more events than average"
    );
    assert_eq!(filter(&group, 1_002), 0b1110, "stalled");
    // If the events of the stalled worker counted, the average would hide this one.
    load(1).pending.set(1);
    assert_eq!(filter(&group, 1_002), 0b1100);
    // 3 is 1.5 times the average of 1 and 3; 2 is less than that of 1 and 2.
    load(2).active.set(1);
    load(3).active.set(3);
    assert_eq!(filter(&group, 1_002), 0b0100);
    load(3).active.set(2);
    assert_eq!(filter(&group, 1_002), 0b1100);
}
