//! The policies on the host: what holds for any state of a group, and how choices spread over
//! workers with equal load. Worker counts go up to the maximum, so that the tests reach both the
//! full scan and the sampled one.

use proptest::prelude::*;

use super::idle::{NO_SLOT, next_idle};
use super::*;
use crate::layout::{ELIGIBLE, LAST_RESORT, MAX_WORKERS, State, eligibility};

mod hermes;
mod shares;

/// A host whose answers the test sets.
#[derive(Clone, Debug, Default)]
struct Bench {
    seed: u64,
    cpu: u32,
    source: u32,
    flow: u32,
    cursor: u32,
    brings_cookie: bool,
}

impl Host for Bench {
    /// SplitMix64 (Steele, Lea and Flood 2014).
    fn random(&mut self) -> u32 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 32) as u32
    }

    fn cpu(&mut self) -> u32 {
        self.cpu
    }

    fn source_hash(&mut self) -> u32 {
        self.source
    }

    fn flow_hash(&mut self) -> u32 {
        self.flow
    }

    fn advance_cursor(&mut self) -> u32 {
        let before = self.cursor;
        self.cursor = before.wrapping_add(1);
        before
    }

    fn skip(&mut self, places: u32) {
        self.cursor = self.cursor.wrapping_add(places);
    }

    fn waiting_mask(&mut self) -> u64 {
        if self.brings_cookie { 0 } else { u64::MAX }
    }
}

/// What a slot may look like, sensible or not.
#[derive(Clone, Debug)]
struct Posed {
    state: u32,
    is_stalled: bool,
    idle: u8,
    steered: u64,
    taken: u64,
    busy_since_ns: u64,
    running: u32,
    active: u32,
    turn: u32,
}

prop_compose! {
    fn posed()(
        state in 0..5u32,
        is_stalled in any::<bool>(),
        idle in 0..2u8,
        steered in prop_oneof![0..8u64, any::<u64>()],
        taken in prop_oneof![0..8u64, any::<u64>()],
        busy_since_ns in prop_oneof![Just(0), 1..u64::MAX / 2],
        running in prop_oneof![0..4u32, any::<u32>()],
        active in prop_oneof![0..4u32, any::<u32>()],
        turn in prop_oneof![0..8u32, any::<u32>()],
    ) -> Posed {
        Posed { state, is_stalled, idle, steered, taken, busy_since_ns, running, active, turn }
    }
}

fn slots() -> impl Strategy<Value = Vec<Posed>> {
    // For both kinds of scan, and with few ready workers among many as often as with many.
    prop_oneof![1..=16usize, 1..=MAX_WORKERS]
        .prop_flat_map(|workers| (prop::collection::vec(posed(), workers), 0..=4u32))
        .prop_map(|(mut slots, rare)| {
            for (nth, slot) in slots.iter_mut().enumerate() {
                if rare > 0
                    && !(nth as u32).is_multiple_of(rare * 16)
                    && slot.state == State::Ready as u32
                {
                    slot.state = State::Draining as u32;
                }
            }
            slots
        })
}

fn bench() -> impl Strategy<Value = Bench> {
    any::<(u64, u32, u32, u32, u32)>().prop_map(|(seed, cpu, source, flow, cursor)| Bench {
        seed,
        cpu,
        source,
        flow,
        cursor,
        brings_cookie: false,
    })
}

fn group(policy: Policy, slots: &[Posed]) -> Box<Group> {
    let group = Group::boxed();
    group.config.policy.set(policy as u32);
    group.config.workers.set(slots.len() as u32);
    for (nth, posed) in slots.iter().enumerate() {
        let slot = &group.slots[nth];
        group.idle.0[nth].set(posed.idle);
        group.steering[nth].steered.set(posed.steered);
        group.summaries[nth].taken.set(posed.taken);
        slot.load.busy_since_ns.set(posed.busy_since_ns);
        slot.load.running.set(posed.running);
        slot.load.active.set(posed.active);
        slot.load.turn.set(posed.turn);
        set_state(&group, nth as u32, posed.state);
        if posed.is_stalled && posed.state == State::Ready as u32 {
            let eligible = &group.steering[nth].eligible;
            eligible.set(eligibility(LAST_RESORT, nth as u32));
        }
        group.sum_up(nth as u32);
    }
    list_ready(&group);
    group
}

/// As the master does.
fn set_state(group: &Group, slot: u32, state: u32) {
    let steering = &group.steering[slot as usize];
    steering.state.set(state);
    let is_ready = state == State::Ready as u32;
    let how = if is_ready { ELIGIBLE } else { NOT_ELIGIBLE };
    steering.eligible.set(eligibility(how, slot));
}

/// As the master does after each change of a state.
fn list_ready(group: &Group) {
    let ready = (0..MAX_WORKERS).filter(|slot| is_ready(group, *slot as u32));
    let mut count = 0;
    for slot in ready {
        group.ready[count].set(slot as u16);
        count += 1;
    }
    group.config.ready_count.set(count as u32);
}

fn is_ready(group: &Group, slot: u32) -> bool {
    group.steering[slot as usize].state.get() == State::Ready as u32
}

fn is_last_resort(group: &Group, slot: u32) -> bool {
    group.steering[slot as usize].eligible.get() == eligibility(LAST_RESORT, slot)
}

/// Ready workers without work.
fn equals(policy: Policy, workers: u32) -> Box<Group> {
    let group = group(policy, &[]);
    group.config.workers.set(workers);
    for slot in 0..workers {
        set_state(&group, slot, State::Ready as u32);
        group.idle.0[slot as usize].set(1);
    }
    list_ready(&group);
    group
}

/// `hermes` may find no worker although one is ready: it has tests of its own.
fn steering() -> impl Strategy<Value = Policy> {
    let is_tested = |policy: &Policy| !matches!(policy, Policy::Hash | Policy::Hermes);
    let policies = Policy::TABLE.iter().map(|about| about.policy);
    prop::sample::select(policies.filter(is_tested).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn a_ready_worker_is_found_whenever_there_is_one(
        policy in steering(), slots in slots(), mut host in bench(),
    ) {
        let group = group(policy, &slots);
        match choose(&group, &mut host) {
            Ok(slot) => prop_assert!(is_ready(&group, slot), "slot {slot} is not ready"),
            Err(reason) => {
                prop_assert_eq!(reason, Reason::NoneReady);
                prop_assert_eq!(group.config.ready_count.get(), 0);
            }
        }
    }

    /// The master changes a slot's state and the ready list one after the other.
    #[test]
    fn a_stale_ready_list_never_leads_to_one_that_is_not_ready(
        policy in steering(), slots in slots(), mut host in bench(),
        stale in prop::collection::vec(0..MAX_WORKERS as u16, MAX_WORKERS), count in 0..=MAX_WORKERS as u32,
    ) {
        let group = group(policy, &slots);
        for (entry, stale) in group.ready.iter().zip(stale) {
            entry.set(stale);
        }
        group.config.ready_count.set(count);
        match choose(&group, &mut host) {
            Ok(slot) => prop_assert!(is_ready(&group, slot), "slot {slot} is not ready"),
            Err(reason) => prop_assert_eq!(reason, Reason::NoneReady),
        }
    }

    #[test]
    fn a_worker_that_is_not_ready_is_not_chosen_whatever_workers_write(
        policy in steering(), slots in slots(), written in any::<[u64; 4]>(), mut host in bench(),
    ) {
        let group = group(policy, &slots);
        for nth in 0..MAX_WORKERS {
            group.summaries[nth].load.set(written[nth % 4]);
            group.summaries[nth].taken.set(written[nth % 3]);
        }
        if let Ok(slot) = choose(&group, &mut host) {
            prop_assert!(is_ready(&group, slot), "slot {slot} is not ready");
        }
    }

    #[test]
    fn up_to_sixteen_workers_least_is_the_least_of_all(
        mut slots in prop::collection::vec(posed(), 1..=SCAN_ALL_MAX as usize), mut host in bench(),
    ) {
        for slot in &mut slots {
            // Within the bits that a score has for them.
            slot.active %= 1 << 16;
            slot.running %= 1 << 14;
            slot.steered %= 1 << 13;
            slot.taken %= 1 << 13;
            slot.turn %= 1 << 17;
        }
        let group = group(Policy::Least, &slots);
        group.tickets.virtual_time.set((1 << 17) * MAX_WORKERS as u64);
        let key = |slot: &u32| {
            let load = &group.slots[*slot as usize].load;
            let busy = u64::from(load.busy_since_ns.get() != 0);
            let waiting = group.waiting(*slot as usize);
            let outstanding = waiting + u64::from(load.running.get()) + busy;
            (is_last_resort(&group, *slot), outstanding, load.active.get(), load.turn.get(), *slot)
        };
        let ready = (0..slots.len() as u32).filter(|slot| is_ready(&group, *slot));
        let least = ready.min_by_key(key).ok_or(Reason::NoneReady);
        prop_assert_eq!(choose(&group, &mut host), least);
    }

    #[test]
    fn a_stalled_worker_comes_after_all_others(
        slots in prop::collection::vec(posed(), 1..=SCAN_ALL_MAX as usize), mut host in bench(),
    ) {
        let group = group(Policy::Least, &slots);
        if let Ok(slot) = choose(&group, &mut host) && is_last_resort(&group, slot) {
            let mut ready = (0..slots.len() as u32).filter(|slot| is_ready(&group, *slot));
            prop_assert!(ready.all(|slot| is_last_resort(&group, slot)));
        }
    }

    /// Turns are compared by how long ago they were due, wherever virtual time stands.
    #[test]
    fn turns_may_wrap(clock in any::<u32>(), a in 0..1u32 << 17, b in 0..1u32 << 17) {
        let group = equals(Policy::Least, 2);
        group.tickets.virtual_time.set(u64::from(clock) * MAX_WORKERS as u64);
        let from = clock.wrapping_sub(1 << 17);
        group.slots[0].load.turn.set(from.wrapping_add(a));
        group.slots[1].load.turn.set(from.wrapping_add(b));
        group.sum_up(0);
        group.sum_up(1);
        let least = u32::from(b < a);
        prop_assert_eq!(choose(&group, &mut Bench::default()), Ok(least));
    }

    #[test]
    fn next_idle_is_the_next_idle_one(
        idle in prop_oneof![
            prop::collection::vec(0..2u8, MAX_WORKERS),
            // Few or none, far apart.
            prop::collection::hash_set(0..MAX_WORKERS, 0..3).prop_map(|set| {
                (0..MAX_WORKERS).map(|slot| u8::from(set.contains(&slot))).collect()
            }),
        ],
        from in 0..=MAX_WORKERS as u32,
    ) {
        let group: Box<Group> = Group::boxed();
        group.config.workers.set(MAX_WORKERS as u32);
        for (byte, idle) in group.idle.0.iter().zip(&idle) {
            byte.set(*idle);
        }
        let around = (0..MAX_WORKERS as u32).map(|step| (from + step) % MAX_WORKERS as u32);
        let expected = around.into_iter().find(|slot| idle[*slot as usize] == 1);
        prop_assert_eq!(next_idle(&group, from), expected.unwrap_or(NO_SLOT));
    }

    #[test]
    fn a_client_stays_while_its_worker_is_ready(
        workers in 2..=MAX_WORKERS as u32, source in any::<u32>(), dead in any::<u32>(),
    ) {
        let group = equals(Policy::Source, workers);
        let mut host = Bench { source, ..Bench::default() };
        let home = choose(&group, &mut host).unwrap();
        let dead = dead % workers;
        set_state(&group, dead, State::Dead as u32);
        list_ready(&group);
        let meanwhile = choose(&group, &mut host).unwrap();
        prop_assert_eq!(meanwhile == home, dead != home);
        set_state(&group, dead, State::Ready as u32);
        list_ready(&group);
        prop_assert_eq!(choose(&group, &mut host), Ok(home));
    }

    #[test]
    fn the_steal_grace_period_is_bounded_and_zero_for_a_thief_with_fewer_connections(
        mine in any::<u32>(), at_mine in any::<u32>(), owners in any::<u32>(), at_owners in any::<u32>(),
    ) {
        let group = equals(Policy::Least, 2);
        let [thief, owner, ..] = &group.slots[..] else { unreachable!() };
        thief.load.active.set(mine);
        group.steering[0].steered.set(at_mine.into());
        owner.load.active.set(owners);
        group.steering[1].steered.set(at_owners.into());
        let grace_ns = steal_grace_ns(&group, 0, 1, 0);
        prop_assert!(grace_ns <= 20_000_000);
        let (mine, owners) = (u64::from(mine) + u64::from(at_mine), u64::from(owners) + u64::from(at_owners));
        prop_assert_eq!(grace_ns > 0, mine >= owners);
        owner.load.busy_since_ns.set(1);
        prop_assert_eq!(steal_grace_ns(&group, 0, 1, 2_000_001), grace_ns);
        prop_assert_eq!(steal_grace_ns(&group, 0, 1, 2_000_002), 0);
        owner.load.busy_since_ns.set(0);
        group.steering[1].state.set(State::Dead as u32);
        prop_assert_eq!(steal_grace_ns(&group, 0, 1, 0), 0);
    }
}

#[test]
fn zeroed_memory_leaves_the_choice_to_the_kernel() {
    let group: Box<Group> = Group::boxed();
    assert_eq!(choose(&group, &mut Bench::default()), Err(Reason::NoPolicy));
    let group = equals(Policy::Hash, 8);
    assert_eq!(choose(&group, &mut Bench::default()), Err(Reason::NoPolicy));
}

#[test]
fn configuration_that_makes_no_sense_leaves_the_choice_to_the_kernel() {
    let group = equals(Policy::Least, 8);
    for policy in [Policy::COUNT, u32::MAX] {
        group.config.policy.set(policy);
        assert_eq!(choose(&group, &mut Bench::default()), Err(Reason::NoPolicy));
    }
    group.config.policy.set(Policy::Least as u32);
    for workers in [0, MAX_WORKERS as u32 + 1, u32::MAX] {
        group.config.workers.set(workers);
        assert_eq!(
            choose(&group, &mut Bench::default()),
            Err(Reason::NoneReady)
        );
    }
}

#[test]
fn names_and_numbers_agree() {
    for (number, about) in Policy::TABLE.iter().enumerate() {
        let policy = about.policy;
        assert_eq!(policy as usize, number);
        assert_eq!(Policy::from_number(number as u32), Some(policy));
        assert_eq!(Policy::NAMED[number], (policy.name(), policy));
    }
    assert_eq!(Policy::from_number(Policy::COUNT), None);
}
