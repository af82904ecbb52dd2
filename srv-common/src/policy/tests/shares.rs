//! How each policy shares connections among workers with equal load.

use super::*;

/// How often each worker was chosen. A chosen worker takes its turn, or changes nothing.
fn spread(group: &Group, draws: u32, takes_turns: bool) -> Vec<u32> {
    let mut host = Bench::default();
    let workers = group.config.workers.get();
    (0..workers).for_each(|slot| group.sum_up(slot));
    let mut counts = vec![0; workers as usize];
    for _ in 0..draws {
        let slot = choose(group, &mut host).unwrap();
        counts[slot as usize] += 1;
        if takes_turns {
            group.advance_virtual_time(slot);
            group.take_turn(slot);
            group.sum_up(slot);
        }
    }
    counts
}

/// Six standard deviations around the mean of independent even draws.
fn assert_even(counts: &[u32], what: &str) {
    let draws: u32 = counts.iter().sum();
    let mean = f64::from(draws) / counts.len() as f64;
    for (slot, count) in counts.iter().enumerate() {
        let off = (f64::from(*count) - mean).abs();
        assert!(
            off <= 6.0 * mean.sqrt(),
            "{what}: slot {slot} got {count} of {draws}: {counts:?}"
        );
    }
}

/// The connections that a flood left at the listeners do not matter.
#[test]
fn cookies_that_come_back_are_shared_evenly() {
    let group = equals(Policy::Least, 4);
    let mut host = Bench {
        brings_cookie: true,
        ..Bench::default()
    };
    let mut counts = [0; 4];
    for nth in 0..400u64 {
        group.steering[(nth * 7 % 4) as usize].steered.bump(nth);
        let slot = choose(&group, &mut host).unwrap() as usize;
        counts[slot] += 1;
        group.advance_virtual_time(slot as u32);
        group.take_turn(slot as u32);
        group.sum_up(slot as u32);
    }
    assert_eq!(counts, [100; 4]);
}

#[test]
fn random_favours_no_worker() {
    for workers in [1, 2, 3, 7, 16, 17, 100, 256] {
        let group = equals(Policy::Random, workers);
        assert_even(&spread(&group, workers * 1_000, false), "random");
    }
}

#[test]
fn round_robin_is_exact() {
    for workers in [1, 2, 3, 7, 16, 17, 100, 256] {
        let group = equals(Policy::RoundRobin, workers);
        let counts = spread(&group, workers * 5, false);
        assert!(
            counts.iter().all(|count| *count == 5),
            "{workers}: {counts:?}"
        );
    }
}

#[test]
fn each_cpu_has_its_worker() {
    let group = equals(Policy::Cpu, 4);
    for cpu in 0..16 {
        let mut host = Bench {
            cpu,
            ..Bench::default()
        };
        assert_eq!(choose(&group, &mut host), Ok(cpu % 4));
    }
}

#[test]
fn clients_spread_evenly_also_when_a_worker_is_missing() {
    let group = equals(Policy::Source, 8);
    let spread = |group: &Group| {
        let mut hashes = Bench::default();
        let mut counts = vec![0; 8];
        for _ in 0..70_000 {
            let mut host = Bench {
                source: hashes.random(),
                ..Bench::default()
            };
            counts[choose(group, &mut host).unwrap() as usize] += 1;
        }
        counts
    };
    assert_even(&spread(&group), "source");
    set_state(&group, 3, State::Dead as u32);
    list_ready(&group);
    let mut counts = spread(&group);
    assert_eq!(counts.remove(3), 0);
    assert_even(&counts, "source, one dead");
}

#[test]
fn least_deals_out_in_turn_when_nothing_else_changes() {
    for workers in 1..=SCAN_ALL_MAX {
        let group = equals(Policy::Least, workers);
        // Close to the end of the range.
        group.tickets.virtual_time.set(((1 << 20) - 2) << 8);
        for slot in 0..workers {
            group.join_turns(slot);
        }
        let counts = spread(&group, workers * 7, true);
        assert!(
            counts.iter().all(|count| *count == 7),
            "{workers}: {counts:?}"
        );
    }
}

#[test]
fn least_of_many_favours_no_worker_idle_or_busy() {
    for workers in [17, 20, 23, 64, 100, 255, 256] {
        for idle in [1, 0] {
            let group = equals(Policy::Least, workers);
            for slot in 0..workers as usize {
                group.idle.0[slot].set(idle);
                group.slots[slot].load.running.set(1 - u32::from(idle));
            }
            let counts = spread(&group, workers * 100, true);
            let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(max - min <= 2, "{workers} workers, idle {idle}: {counts:?}");
        }
    }
}

#[test]
fn least_of_many_prefers_an_idle_worker_wherever_it_is() {
    for workers in [17, 100, 256] {
        for idle in 0..workers {
            let group = equals(Policy::Least, workers);
            for slot in (0..workers).filter(|slot| *slot != idle) {
                group.idle.0[slot as usize].set(0);
                group.slots[slot as usize].load.busy_since_ns.set(1);
                group.sum_up(slot);
            }
            let mut host = Bench {
                cursor: idle * 31,
                ..Bench::default()
            };
            assert_eq!(choose(&group, &mut host), Ok(idle));
        }
    }
}

#[test]
fn two_choices_favour_no_worker_and_avoid_the_busy() {
    for workers in [1, 2, 3, 16, 17, 256] {
        let group = equals(Policy::P2c, workers);
        assert_even(&spread(&group, workers * 1_000, true), "p2c");
    }
    let group = equals(Policy::P2c, 2);
    group.slots[0].load.running.set(1);
    assert_eq!(
        spread(&group, 1_000, false),
        [0, 1_000],
        "two distinct ones are compared"
    );
}
