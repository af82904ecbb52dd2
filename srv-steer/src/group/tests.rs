//! How a group handles what other processes write to its memory.

use proptest::prelude::*;
use srv_common::Shared;
use srv_common::layout::NOT_ELIGIBLE;

use super::*;
use crate::load::Load;

fn unsteered_group() -> Group {
    let options = GroupOptions {
        workers: 4,
        backlog: 16,
        steer: false,
        nonblocking: true,
        ..GroupOptions::default()
    };
    let address = "127.0.0.1:0".parse().unwrap();
    let listeners = ListenerGroup::bind(address, &options).unwrap();
    Group::open(listeners, &options).unwrap()
}

/// As many cases as `PROPTEST_CASES` asks for, the same in each run unless
/// `PROPTEST_RNG_SEED` asks for others.
fn cases() -> ProptestConfig {
    use proptest::test_runner::RngSeed;
    let asked = ProptestConfig::default();
    ProptestConfig {
        rng_seed: match asked.rng_seed {
            RngSeed::Random => RngSeed::Fixed(0),
            fixed => fixed,
        },
        failure_persistence: None,
        ..asked
    }
}

/// Any number, mostly one next to a bound.
fn word() -> impl Strategy<Value = u64> {
    let bounds = vec![
        0,
        1,
        2,
        5,
        u64::MAX,
        1 << 63,
        (1 << 63) - 1,
        u32::MAX.into(),
    ];
    prop_oneof![prop::sample::select(bounds), any::<u64>()]
}

#[test]
fn the_owner_survives_whatever_the_shared_memory_says() {
    let group = std::cell::RefCell::new(unsteered_group());
    let words = prop::collection::vec(word(), 24..200);
    proptest!(cases(), |(words in words)| {
        let group = &mut *group.borrow_mut();
        let start = std::ptr::from_ref::<srv_common::Group>(&group.memory).cast::<Shared<u64>>();
        let length = size_of::<srv_common::Group>() / size_of::<u64>();
        // SAFETY: the mapping is that long, aligned, and made of integers that others
        // may change.
        let memory = unsafe { std::slice::from_raw_parts(start, length) };
        memory.iter().zip(words.iter().cycle()).for_each(|(place, word)| place.set(*word));
        group.detect_stalls();
        group.reconcile();
        group.detect_stalls();
        let counts = group.counts();
        prop_assert!(counts.runs >= counts.steered);
        prop_assert_eq!(group.slots().count(), 4);
        let load = Load::new(vec![group.memory.clone()], 3);
        for listener in 0..4 {
            load.accepts_of_owner(0, listener);
            load.steal_grace_period_ns(0, listener, words[0]);
            load.age_of_first(0, listener);
        }
        load.ends_loop();
        load.started();
        load.finished();
    });
}

/// A thread that ends and one that takes its place may overlap, and the group may look late.
#[test]
fn the_end_of_a_worker_does_not_end_its_successor() {
    let mut group = unsteered_group();
    let eligible = |group: &Group| group.memory.steering[1].eligible.get() != NOT_ELIGIBLE;

    drop(group.worker(1).unwrap());
    let second = group.worker(1).unwrap();
    group.maintain();
    assert!(group.is_ready(1) && eligible(&group), "the end was before");

    let third = group.worker(1).unwrap();
    drop(second);
    group.maintain();
    assert!(group.is_ready(1) && eligible(&group), "the end was after");

    drop(third);
    assert!(!eligible(&group), "at once");
    group.maintain();
    assert!(!group.is_ready(1));
}

#[test]
fn listeners_that_cannot_be_steered_are_served_by_hash() {
    // Without SO_REUSEPORT.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let group = Group::from_listeners(vec![listener]).unwrap();
    assert!(matches!(
        group.state(),
        GroupState::Hashing(HashingReason::Refused(_))
    ));
    assert_eq!(group.address(), address);
}

#[test]
fn listeners_of_two_addresses_form_no_group() {
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = Group::from_listeners(vec![listen(), listen()]).map(drop);
    let refused = refused.expect_err("two addresses").to_string();
    assert!(
        refused.contains("make a group of each address"),
        "{refused}"
    );
    assert!(Group::from_listeners(Vec::new()).is_err());
}
