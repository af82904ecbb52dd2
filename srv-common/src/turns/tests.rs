//! What workers get after each kind of unequal past, by the policy that the program runs. The tests
//! count in windows of consecutive connections, from the end of that past on.

use proptest::prelude::*;

use super::{AHEAD_MAX, MEMORY_ROUNDS};
use crate::layout::{ELIGIBLE, NOT_ELIGIBLE, eligibility};
use crate::policy::steal_grace_ns;
use crate::{Group, Host, Policy, State, choose};

/// In so many consecutive connections no worker gets more than 1.25 times its share.
const WINDOW: usize = 400;
/// Connections in a whole measurement.
const LASTS: usize = 3_000;

/// A group whose workers accept at once.
struct Traffic {
    group: Box<Group>,
    workers: u32,
    kernel: Kernel,
}

/// What the policy asks for beside the group.
#[derive(Default)]
struct Kernel {
    cursor: u32,
    seed: u32,
}

impl Host for Kernel {
    fn random(&mut self) -> u32 {
        self.seed = self.seed.wrapping_mul(747_796_405).wrapping_add(1);
        self.seed ^ self.seed >> 13
    }

    fn cpu(&mut self) -> u32 {
        0
    }

    fn source_hash(&mut self) -> u32 {
        0
    }

    fn flow_hash(&mut self) -> u32 {
        0
    }

    fn advance_cursor(&mut self) -> u32 {
        self.cursor = self.cursor.wrapping_add(1);
        self.cursor
    }

    fn skip(&mut self, places: u32) {
        self.cursor = self.cursor.wrapping_add(places);
    }
}

impl Traffic {
    fn of(workers: u32) -> Self {
        let group = Group::boxed();
        group.config.policy.set(Policy::Least as u32);
        group.config.workers.set(workers);
        let traffic = Self {
            group,
            workers,
            kernel: Kernel::default(),
        };
        (0..workers).for_each(|slot| traffic.set_ready(slot, true));
        traffic
    }

    /// Does what master and worker do when the worker starts or is away.
    fn set_ready(&self, slot: u32, is_ready: bool) {
        let steering = &self.group.steering[slot as usize];
        let (state, how) = match is_ready {
            true => (State::Ready, ELIGIBLE),
            false => (State::Hung, NOT_ELIGIBLE),
        };
        steering.state.set(state as u32);
        steering.eligible.set(eligibility(how, slot));
        self.group.idle.0[slot as usize].set(is_ready.into());
        let ready = (0..self.workers)
            .filter(|slot| self.group.steering[*slot as usize].state.get() == State::Ready as u32);
        self.group.config.ready_count.set(ready.count() as u32);
    }

    /// A connection comes. Returns the slot of the worker that it is for.
    fn connect(&mut self) -> u32 {
        let slot = choose(&self.group, &mut self.kernel).unwrap();
        let steered = &self.group.steering[slot as usize].steered;
        self.group.advance_virtual_time(slot);
        steered.bump(1);
        slot
    }

    fn accept(&self, worker: u32, listener: u32) {
        self.group.summaries[listener as usize].taken.bump(1);
        self.group.take_turn(worker);
        self.group.sum_up(worker);
    }

    /// The worker that accepted, for each of so many connections, one after another.
    fn serve(&mut self, connections: usize) -> Vec<u32> {
        (0..connections)
            .map(|_| {
                let slot = self.connect();
                self.accept(slot, slot);
                slot
            })
            .collect()
    }

    /// Asserts that cheap connections are shared evenly from now on, whatever happened before.
    #[track_caller]
    fn assert_even_from_now_on(&mut self) {
        let served_by = self.serve(LASTS);
        let share = WINDOW as f64 / f64::from(self.workers);
        let most = most_in_a_window(&served_by, self.workers);
        assert!(
            most as f64 <= 1.25 * share,
            "{most} of {WINDOW}, not {share}"
        );
        let cv = variation(&served_by, self.workers);
        assert!(cv <= 0.02, "{cv}");
    }
}

fn counts(served_by: &[u32], workers: u32) -> Vec<usize> {
    let of = |worker| served_by.iter().filter(|by| **by == worker).count();
    (0..workers).map(of).collect()
}

fn most_in_a_window(served_by: &[u32], workers: u32) -> usize {
    let windows = served_by.windows(WINDOW);
    windows
        .flat_map(|window| counts(window, workers))
        .max()
        .unwrap()
}

/// Coefficient of variation of the shares.
fn variation(served_by: &[u32], workers: u32) -> f64 {
    let counts = counts(served_by, workers);
    let mean = served_by.len() as f64 / f64::from(workers);
    let squares = counts.iter().map(|count| (*count as f64 - mean).powi(2));
    (squares.sum::<f64>() / f64::from(workers)).sqrt() / mean
}

#[test]
fn one_that_was_away_does_not_catch_up() {
    for missed in [100, 20_000] {
        let mut traffic = Traffic::of(8);
        traffic.serve(80);
        traffic.set_ready(3, false);
        traffic.serve(missed);
        traffic.set_ready(3, true);
        let in_a_row = traffic.serve(400);
        let others = in_a_row.iter().position(|by| *by != 3).unwrap();
        assert!(others <= MEMORY_ROUNDS as usize + 1, "{others} in a row");
        traffic.set_ready(3, false);
        traffic.serve(missed);
        traffic.set_ready(3, true);
        traffic.assert_even_from_now_on();
    }
}

#[test]
fn several_that_were_away_do_not_catch_up() {
    let mut traffic = Traffic::of(8);
    (1..8).for_each(|slot| traffic.set_ready(slot, false));
    traffic.serve(5_000);
    (1..8).for_each(|slot| traffic.set_ready(slot, true));
    traffic.assert_even_from_now_on();
}

#[test]
fn one_that_is_new_begins_with_the_others() {
    let mut traffic = Traffic::of(8);
    traffic.serve(10_000);
    traffic.group.join_turns(5);
    traffic.group.sum_up(5);
    let next = traffic.serve(8);
    assert_eq!(counts(&next, 8), [1; 8], "{next:?}");
    traffic.assert_even_from_now_on();
}

/// Loads differed, and siblings took what came to others.
#[test]
fn unequal_traffic_is_forgotten() {
    let mut traffic = Traffic::of(8);
    for _ in 0..20_000 {
        let listener = traffic.connect();
        let eager = traffic.kernel.random() % 8 * (traffic.kernel.random() % 8) / 8;
        traffic.accept(eager, listener);
    }
    traffic.assert_even_from_now_on();
}

/// If a sibling took a connection, that was its turn. For so few, shares have a memory.
#[test]
fn stolen_connections_leave_shares_even() {
    let mut traffic = Traffic::of(8);
    let served_by: Vec<u32> = (0..LASTS)
        .map(|_| {
            let listener = traffic.connect();
            let by = match traffic.kernel.random() % 20 {
                0 => traffic.kernel.random() % 8,
                _ => listener,
            };
            traffic.accept(by, listener);
            by
        })
        .collect();
    let cv = variation(&served_by, 8);
    assert!(cv < 0.005, "{cv}");
}

/// After a stall of the machine many connections are there at once, all workers are woken,
/// and the one that runs first finds what waits for the others.
#[test]
fn a_burst_is_not_for_the_one_that_runs_first() {
    const EACH: usize = 5;
    let mut traffic = Traffic::of(8);
    traffic.serve(800);
    (0..8 * EACH).for_each(|_| {
        traffic.connect();
    });
    let own = 3;
    while traffic.group.waiting(own as usize) > 0 {
        traffic.accept(own, own);
    }
    let grace_ns = |owner| steal_grace_ns(&traffic.group, own, owner, 0);
    for owner in (0..8).filter(|owner| *owner != own) {
        assert!(grace_ns(owner) > 0, "{owner} sleeps");
        // A worker that is busy may be busy for long.
        traffic.group.idle.0[owner as usize].set(0);
        assert_eq!(grace_ns(owner), 0, "{owner} is at work");
    }
    traffic.group.join_turns(own);
    traffic.group.idle.0[0].set(1);
    assert_eq!(
        steal_grace_ns(&traffic.group, own, 0, 0),
        0,
        "its share, and no more"
    );
}

/// While the kernel hashes, the virtual time stands still.
#[test]
fn where_the_kernel_hashes_nothing_is_left_to_sleepers() {
    let traffic = Traffic::of(2);
    for _ in 0..20 {
        traffic.group.take_turn(0);
        traffic.group.take_turn(1);
    }
    traffic.group.steering[1].steered.bump(5);
    assert_eq!(steal_grace_ns(&traffic.group, 0, 1, 0), 0);
}

/// A flood's connections are assigned and not accepted.
#[test]
fn a_flood_leaves_shares_even() {
    let mut traffic = Traffic::of(8);
    let served_by: Vec<u32> = (0..LASTS)
        .map(|_| {
            let from = traffic.kernel.random() % 8;
            for _ in 0..from {
                traffic.connect();
            }
            // This is how the master writes them off.
            for slot in 0..8 {
                let waiting = traffic.group.waiting(slot) as i64;
                traffic.group.write_off(slot, waiting);
            }
            traffic.serve(1)[0]
        })
        .collect();
    let cv = variation(&served_by, 8);
    assert!(cv < 0.005, "{cv}");
}

/// Beyond sixteen workers a few are compared for each connection, not all.
#[test]
fn of_many_one_that_was_away_does_not_catch_up() {
    for workers in [17, 64, 256] {
        let mut traffic = Traffic::of(workers);
        traffic.serve(10 * workers as usize);
        traffic.set_ready(7, false);
        traffic.serve(1_000 * workers as usize);
        traffic.set_ready(7, true);
        let counts = counts(&traffic.serve(20 * workers as usize), workers);
        let bound = 20 + MEMORY_ROUNDS as usize + 1;
        assert!(counts[7] <= bound, "{workers} workers: {counts:?}");
    }
}

/// This also holds if many in a row are away, such as the workers of a secondary server that has
/// left.
#[test]
fn of_many_the_others_share_evenly_around_those_that_are_away() {
    for workers in [17, 64, 256] {
        for away in [1, 5, workers / 2] {
            let mut traffic = Traffic::of(workers);
            (0..away).for_each(|nth| traffic.set_ready(3 + nth, false));
            let served_by = traffic.serve(100 * (workers - away) as usize);
            let mut counts = counts(&served_by, workers);
            counts.drain(3..3 + away as usize);
            assert!(
                counts.iter().all(|count| (95..=105).contains(count)),
                "{away} of {workers} are away: {counts:?}"
            );
        }
    }
}

proptest! {
    /// This holds wherever the virtual time stands, and however far a turn was left behind.
    #[test]
    fn the_oldest_turn_is_first_or_soon(start in any::<u64>(), away in any::<u64>()) {
        let mut traffic = Traffic::of(4);
        traffic.group.tickets.virtual_time.set(start & !0xff);
        (0..4).for_each(|slot| traffic.group.join_turns(slot));
        (0..4).for_each(|slot| traffic.group.sum_up(slot));
        traffic.serve(40);
        let later = start.wrapping_add(away) & !0xff;
        traffic.group.tickets.virtual_time.set(later);
        for slot in 0..3 {
            traffic.group.join_turns(slot);
            traffic.group.sum_up(slot);
        }
        prop_assert!(traffic.serve(4 * (2 * AHEAD_MAX as usize)).contains(&3));
    }

    #[test]
    fn no_turn_is_far_from_virtual_time(turn in any::<u32>(), now in any::<u64>()) {
        let group = Group::<8>::boxed();
        group.tickets.virtual_time.set(now & !7);
        group.slots[2].load.turn.set(turn);
        group.take_turn(2);
        let ahead = group.slots[2].load.turn.get().wrapping_sub((now >> 3) as u32);
        prop_assert!((ahead as i32).unsigned_abs() < AHEAD_MAX);
    }
}
