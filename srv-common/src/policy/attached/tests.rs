//! Tests of the policies for attached groups: what holds for any state of a group, and how choices
//! spread over equally loaded listeners.

use proptest::prelude::*;

use super::*;

/// A group in which the test sets every value, and which counts the looks.
#[derive(Clone, Debug, Default)]
struct Bench {
    listeners: Vec<Posed>,
    cursor: u32,
    seed: u32,
    cpu: u32,
    source: u32,
    looks: u32,
}

#[derive(Clone, Copy, Debug)]
struct Posed {
    waiting: u32,
    sleep: Sleep,
    live: u32,
}

const IDLE: Posed = Posed {
    waiting: 0,
    sleep: Sleep::Asleep,
    live: 0,
};
const BUSY: Posed = Posed {
    sleep: Sleep::Busy,
    ..IDLE
};

impl Bench {
    fn of(listeners: &[Posed]) -> Self {
        Self {
            listeners: listeners.to_vec(),
            ..Self::default()
        }
    }

    fn least(&mut self) -> (u32, How) {
        choose(Policy::Least as u32, self).unwrap()
    }
}

impl Host for Bench {
    fn random(&mut self) -> u32 {
        self.seed = self
            .seed
            .wrapping_mul(747_796_405)
            .wrapping_add(2_891_336_453);
        mix(self.seed)
    }

    fn cpu(&mut self) -> u32 {
        self.cpu
    }

    fn source_hash(&mut self) -> u32 {
        self.source
    }

    fn flow_hash(&mut self) -> u32 {
        0
    }

    fn advance_cursor(&mut self) -> u32 {
        self.cursor = self.cursor.wrapping_add(1);
        self.cursor.wrapping_sub(1)
    }

    fn skip(&mut self, places: u32) {
        self.cursor = self.cursor.wrapping_add(places);
    }
}

/// In this group the place of a listener is its slot.
impl Listeners for Bench {
    fn look(&mut self, place: u32, window: Window) -> Result<Look, Reason> {
        assert_looked_at(window, place);
        self.looks += 1;
        let posed = self.listeners[place as usize];
        let look = Look::new(place, posed.sleep as u32, 0);
        if !look.may_be_idle() {
            return Ok(look);
        }
        Ok(Look::new(place, posed.sleep as u32, posed.waiting))
    }

    fn waiting(&mut self, place: u32, window: Window) -> Result<Look, Reason> {
        assert_looked_at(window, place);
        let posed = self.listeners[place as usize];
        Ok(Look::new(place, posed.sleep as u32, posed.waiting))
    }

    fn live(&mut self, slot: u32) -> u32 {
        self.listeners[slot as usize].live
    }

    fn nth_slot(&mut self, nth: u32) -> u32 {
        nth
    }
}

impl View for Bench {
    fn members(&mut self) -> Result<u32, Reason> {
        Ok(self.listeners.len() as u32)
    }

    fn is_member(&mut self, slot: u32) -> bool {
        (slot as usize) < self.listeners.len()
    }
}

/// Checks that the place is in the window, and in the block that the program reads for it.
fn assert_looked_at(window: Window, place: u32) {
    assert!(place < window.members);
    let steps = (place + window.members - window.start) % window.members;
    assert!(steps < window.count(), "{window:?}, {place}");
    let first = window.block(place);
    assert!((first..first + LOOK_MAX).contains(&place), "{window:?}");
    assert!(first + window.count() <= window.members, "{window:?}");
}

fn posed() -> impl Strategy<Value = Posed> {
    let sleep = prop_oneof![
        Just(Sleep::Unknown),
        Just(Sleep::Asleep),
        Just(Sleep::Busy),
        Just(Sleep::Gone)
    ];
    (0..4u32, sleep, 0..4u32).prop_map(|(waiting, sleep, live)| Posed {
        waiting,
        sleep,
        live,
    })
}

fn outstanding(posed: &Posed) -> (bool, u32, u32) {
    let busy = u32::from(posed.waiting > 0 || posed.sleep == Sleep::Busy);
    (posed.sleep == Sleep::Gone, posed.waiting + busy, posed.live)
}

proptest! {
    #[test]
    fn least_is_an_idle_one_or_the_least_outstanding(
        listeners in prop::collection::vec(posed(), 1..=LOOK_MAX as usize),
        cursor in any::<u32>(),
    ) {
        let mut bench = Bench { cursor, ..Bench::of(&listeners) };
        let (slot, how) = bench.least();
        let chosen = outstanding(&listeners[slot as usize]);
        let best = listeners.iter().map(outstanding).min().unwrap();
        if how == How::Idle {
            prop_assert_eq!((chosen.0, chosen.1), (false, 0));
            prop_assert_eq!(chosen.2, listeners.iter().map(|posed| posed.live).min().unwrap());
        } else {
            prop_assert_eq!(chosen, best);
        }
    }

    #[test]
    fn every_policy_of_attached_servers_chooses_a_member_and_each_other_is_refused(
        listeners in prop::collection::vec(posed(), 1..=MAX_LISTENERS),
        (cursor, seed, cpu, source) in any::<(u32, u32, u32, u32)>(),
        about in prop::sample::select(Policy::TABLE),
    ) {
        let mut bench = Bench { cursor, seed, cpu, source, ..Bench::of(&listeners) };
        let chosen = choose(about.policy as u32, &mut bench);
        if about.attached.is_err() {
            prop_assert_eq!(chosen, Err(Reason::NoPolicy));
        } else {
            let (slot, _) = chosen.unwrap();
            prop_assert!((slot as usize) < listeners.len());
            prop_assert!(bench.looks <= LOOK_MAX);
        }
    }

    #[test]
    fn a_window_goes_around_the_end_of_the_group(
        members in 1..=MAX_LISTENERS as u32,
        start in any::<u32>(),
    ) {
        let window = Window { start: start % members, members };
        prop_assert_eq!(window.count(), members.min(LOOK_MAX));
        let mut place = window.start;
        for step in 0..window.count() {
            assert_looked_at(window, place);
            prop_assert_eq!(place, (window.start + step) % members);
            place = window.next(place);
        }
    }

    /// Wherever the listeners are whose workers are busy, or at which a connection waits: the other
    /// listeners share evenly, and none gets the share of its neighbour, too.
    #[test]
    fn listeners_with_idle_workers_share_evenly_wherever_the_others_are(
        away in prop_oneof![
            prop::collection::vec(any::<bool>(), 2..=LOOK_MAX as usize),
            // In a large group a choice looks at a part. If all workers of that part are busy, one of
            // them gets the connection.
            prop::collection::vec(prop::bool::weighted(0.1), 17..=MAX_LISTENERS),
        ],
        waiting in 0..2u32,
    ) {
        let full = Posed { waiting: 1, ..IDLE };
        let is_away = |away: bool| match (away, waiting) {
            (false, _) => IDLE,
            (true, 0) => BUSY,
            (true, _) => full,
        };
        let listeners: Vec<Posed> = away.iter().map(|away| is_away(*away)).collect();
        let here = away.iter().filter(|away| !**away).count();
        prop_assume!(here > 0);
        let mut bench = Bench::of(&listeners);
        let mut counts = vec![0u32; listeners.len()];
        for _ in 0..30 * here {
            counts[bench.least().0 as usize] += 1;
        }
        for (count, away) in counts.iter().zip(&away) {
            let expected = if *away { 0..=0 } else { 29..=31 };
            prop_assert!(expected.contains(count), "{:?} of {:?}", counts, away);
        }
    }
}

#[test]
fn an_idle_group_is_chosen_from_in_turn_with_one_look_each() {
    for members in [3, 8, 64] {
        let mut bench = Bench::of(&vec![IDLE; members]);
        let mut counts = vec![0; members];
        for _ in 0..10 * members {
            counts[bench.least().0 as usize] += 1;
        }
        assert_eq!(counts, vec![10; members]);
        assert_eq!(bench.looks, 10 * members as u32);
    }
}

#[test]
fn live_connections_stay_even_whichever_workers_are_busy() {
    let mut bench = Bench::of(&[IDLE; 8]);
    for nth in 0..256 {
        // Three workers are busy each time, and other three the next time.
        for (slot, listener) in bench.listeners.iter_mut().enumerate() {
            listener.sleep = if (slot + nth) % 8 < 3 {
                Sleep::Busy
            } else {
                Sleep::Asleep
            };
        }
        let (slot, _) = bench.least();
        bench.listeners[slot as usize].live += 1;
    }
    let live = || bench.listeners.iter().map(|listener| listener.live);
    assert!(
        live().max().unwrap() - live().min().unwrap() <= 2,
        "{bench:?}"
    );
}

#[test]
fn a_sleeping_worker_with_many_connections_is_better_than_a_busy_one_with_none() {
    let many = Posed { live: 30, ..IDLE };
    let mut bench = Bench::of(&[BUSY, many, BUSY]);
    for _ in 0..6 {
        assert_eq!(bench.least(), (1, How::Shortest));
    }
}

#[test]
fn without_the_sleep_signal_queues_decide_and_then_connections() {
    let unknown = |waiting, live| Posed {
        waiting,
        live,
        sleep: Sleep::Unknown,
    };
    let mut bench = Bench::of(&[unknown(1, 0), unknown(0, 4), unknown(0, 2)]);
    for _ in 0..6 {
        assert_eq!(bench.least().0, 2);
    }
}

#[test]
fn a_listener_that_no_process_waits_for_comes_last() {
    let gone = Posed {
        sleep: Sleep::Gone,
        ..IDLE
    };
    let full = Posed {
        waiting: 1000,
        ..BUSY
    };
    let mut bench = Bench::of(&[gone, full, gone]);
    for _ in 0..6 {
        assert_eq!(bench.least(), (1, How::Shortest));
    }
}

#[test]
fn what_needs_the_servers_help_is_left_to_the_kernel() {
    let is_refused = |about: &&crate::policy::About| about.attached.is_err();
    let refused = Policy::TABLE.iter().filter(is_refused);
    let refused: Vec<u32> = refused.map(|about| about.policy as u32).collect();
    assert!(refused.contains(&(Policy::Hash as u32)), "{refused:?}");
    // Numbers of no policy: the next one, a bit beyond those of the table, the largest.
    for policy in refused.into_iter().chain([Policy::COUNT, 32, u32::MAX]) {
        let mut bench = Bench::of(&[IDLE; 2]);
        assert_eq!(choose(policy, &mut bench), Err(Reason::NoPolicy));
    }
}

#[test]
fn a_torn_place_is_not_believed() {
    let place = crate::attached::Place::default();
    assert_eq!(place.slot_of(0, 0), None, "zeroed memory");
    let (one, other) = (0xffff_8881_0000_1000, 0xffff_8881_0000_1a80);
    place.socket.set(one);
    place.key.set(crate::attached::Place::key(one, 3, 7));
    assert_eq!(place.slot_of(one, 7), Some(3));
    assert_eq!(place.slot_of(other, 7), None, "another socket");
    assert_eq!(place.slot_of(one, 8), None, "another generation");
    place.socket.set(other);
    assert_eq!(place.slot_of(other, 7), None, "the other's key");
}
