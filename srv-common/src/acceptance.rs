//! The order of acceptance: from which of the listeners that are ready a worker accepts next,
//! and which it leaves to their owners for a while. Pure bookkeeping over places and instants:
//! a ring of sockets and the simulator both call it, and each adds its own epoll.
//!
//! In the ring a worker watches every listener of the group. Which of those that are ready it
//! accepts from decides which connections wait:
//!
//! - From each group in turn, and in a group from the listener whose first connection has waited
//!   longest ([`crate::tickets`]), as a single queue would. If the worker took its own listener
//!   first, or the longest queue first, or the first that epoll reports (whose order never
//!   changes), the connections behind a blocked sibling would wait for as long as there is work
//!   elsewhere.
//! - If the kernel hashes, it is not known which connection came first. Then, after a sleep, from
//!   the listener that epoll reports first: the kernel woke this worker for it and, the watch
//!   being exclusive, no other. While the worker finds several ready without sleeping, from each
//!   in turn, which comes close.
//! - From a sibling's listener only after its steal grace period
//!   ([`crate::policy::steal_grace_ns`]).

use alloc::vec;
use alloc::vec::Vec;

/// A listener: its group and its number there, which is its owner's slot (or 0 if one listener
/// serves all).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The group.
    pub group: usize,
    /// The number of the listener.
    pub listener: u32,
}

/// A sibling's connection that is left to the sibling, which is about to accept it. Its listener
/// is not watched until `due_ns`.
#[derive(Clone, Copy, Debug)]
struct Deferral {
    from: Place,
    /// The sibling's accepts at the time.
    owner_accepts: u64,
    since_ns: u64,
    due_ns: u64,
    watched: bool,
}

/// If a worker wakes this much later than it asked for, it was kept from running, and so was the
/// sibling that it waited for.
const STALL_NS: u64 = 2_000_000;
/// For how long stalls excuse a sibling.
const EXCUSED_NS: u64 = 100_000_000;

impl Deferral {
    /// Whether this worker, which slept from `slept_from_ns` to `now_ns`, was late by no fault of
    /// its own: the owner then gets as long again.
    fn is_excused(&self, slept_from_ns: u64, now_ns: u64) -> bool {
        let meant_to_sleep = slept_from_ns < self.due_ns;
        meant_to_sleep && now_ns > self.due_ns + STALL_NS && now_ns < self.since_ns + EXCUSED_NS
    }
}

/// See the module. All instants are ns of one monotonic clock.
#[derive(Debug, Default)]
pub struct Acceptance {
    /// By group, then by number: `accepts` when the listener last had its turn.
    turns: Vec<Vec<u64>>,
    /// By group: `accepts` when it last had its turn.
    group_turns: Vec<u64>,
    /// Connections accepted so far.
    accepts: u64,
    /// `accepts` when turns began to count.
    turns_since: u64,
    /// The last wait brought more than one listener.
    several_ready: bool,
    /// At most one per listener.
    deferrals: Vec<Deferral>,
}

impl Acceptance {
    /// For groups with so many listeners each.
    pub fn new(listeners: impl IntoIterator<Item = usize>) -> Self {
        let turns: Vec<Vec<u64>> = listeners.into_iter().map(|count| vec![0; count]).collect();
        Self {
            group_turns: vec![0; turns.len()],
            turns,
            ..Self::default()
        }
    }

    /// A group has one more listener.
    pub fn add_listener(&mut self, group: usize) {
        self.turns[group].push(0);
    }

    /// Whether to look at what is ready without sleeping first: several listeners were ready at
    /// the last wait.
    pub fn looks_before_sleep(&self) -> bool {
        self.several_ready
    }

    /// The worker sleeps now: turns count anew.
    pub fn sleeps(&mut self) {
        self.turns_since = self.accepts;
    }

    /// So many listeners are ready after a wait.
    pub fn found_ready(&mut self, listeners: usize) {
        self.several_ready = listeners > 1;
    }

    /// The order of a listener that is ready: the lower, the sooner it has its turn.
    /// `age_of_first` is that of its first connection, if it is known.
    pub fn order(&self, place: Place, age_of_first: Option<u32>) -> (u64, u64) {
        let turn = self.turns[place.group][place.listener as usize];
        let within_group = match age_of_first {
            Some(age) => u64::from(u32::MAX - age),
            // The same for all after a sleep.
            None => turn.saturating_sub(self.turns_since),
        };
        (self.group_turns[place.group], within_group)
    }

    /// A connection is being accepted from there.
    pub fn take_turn(&mut self, place: Place) {
        self.deferrals.retain(|deferral| deferral.from != place);
        self.accepts += 1;
        self.group_turns[place.group] = self.accepts;
        self.turns[place.group][place.listener as usize] = self.accepts;
    }

    /// Whether the listener was left to its owner before, and the owner, whose accepts are
    /// `owner_accepts`, has accepted nothing since.
    pub fn had_its_chance(&self, place: Place, owner_accepts: u64) -> bool {
        let mut deferrals = self.deferrals.iter();
        deferrals.any(|deferral| deferral.from == place && deferral.owner_accepts == owner_accepts)
    }

    /// Leaves a listener to its owner, whose accepts are `owner_accepts`, until `due_ns`. It is
    /// not to be watched until then.
    pub fn leave_to_owner(&mut self, place: Place, owner_accepts: u64, now_ns: u64, due_ns: u64) {
        self.deferrals.retain(|deferral| deferral.from != place);
        self.deferrals.push(Deferral {
            from: place,
            owner_accepts,
            since_ns: now_ns,
            due_ns,
            watched: false,
        });
    }

    /// Whether the listener is not watched, since it is left to its owner.
    pub fn is_left_to_owner(&self, place: Place) -> bool {
        let mut deferrals = self.deferrals.iter();
        deferrals.any(|deferral| deferral.from == place && !deferral.watched)
    }

    /// When to stop sleeping because of a listener that is left to its owner.
    pub fn due_ns(&self) -> Option<u64> {
        let unwatched = self.deferrals.iter().filter(|deferral| !deferral.watched);
        unwatched.map(|deferral| deferral.due_ns).min()
    }

    /// After a sleep from `slept_from_ns` to `now_ns`: the next listener that was left to its
    /// owner for long enough and has to be watched again; [`Self::watched`] says that it is. The
    /// steal grace period that a sibling would have now, `grace_ns`, is given to it once more if
    /// it was kept from running.
    pub fn next_due(
        &mut self,
        slept_from_ns: u64,
        now_ns: u64,
        grace_ns: impl Fn(Place) -> u64,
    ) -> Option<Place> {
        self.deferrals.iter_mut().find_map(|deferral| {
            if deferral.watched || deferral.due_ns > now_ns {
                return None;
            }
            let again_ns = match deferral.is_excused(slept_from_ns, now_ns) {
                true => grace_ns(deferral.from),
                false => 0,
            };
            deferral.due_ns = now_ns + again_ns;
            (again_ns == 0).then_some(deferral.from)
        })
    }

    /// The listener is watched again.
    pub fn watched(&mut self, place: Place) {
        let mut deferrals = self.deferrals.iter_mut();
        if let Some(deferral) = deferrals.find(|deferral| deferral.from == place) {
            deferral.watched = true;
        }
    }

    /// A sibling has woken this worker for a connection: the next listener that was left to others
    /// and has to be watched again at once, as if it had not been left.
    pub fn recall(&mut self) -> Option<Place> {
        let mut deferrals = self.deferrals.iter();
        let unwatched = deferrals.position(|deferral| !deferral.watched)?;
        Some(self.deferrals.swap_remove(unwatched).from)
    }

    /// The worker leaves all listeners.
    pub fn leave(&mut self) {
        self.deferrals.clear();
        self.turns.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SIBLINGS: Place = Place {
        group: 0,
        listener: 1,
    };

    #[test]
    fn a_stall_excuses_the_owner_but_not_for_ever() {
        let deferral = Deferral {
            from: SIBLINGS,
            owner_accepts: 0,
            since_ns: 0,
            due_ns: 10 * MS,
            watched: false,
        };
        assert!(deferral.is_excused(MS, 13 * MS));
        // On time; at work itself when it was due; for too long.
        assert!(!deferral.is_excused(MS, 11 * MS));
        assert!(!deferral.is_excused(12 * MS, 15 * MS));
        assert!(!deferral.is_excused(MS, 100 * MS));
    }

    #[test]
    fn a_listener_is_left_to_its_owner_until_the_grace_period_ends() {
        let mut order = Acceptance::new([2]);
        order.leave_to_owner(SIBLINGS, 7, MS, 3 * MS);
        assert!(order.is_left_to_owner(SIBLINGS));
        assert_eq!(order.due_ns(), Some(3 * MS));
        assert_eq!(order.next_due(MS, 2 * MS, |_| 5), None);
        assert_eq!(order.next_due(MS, 3 * MS, |_| 5), Some(SIBLINGS));
        order.watched(SIBLINGS);
        assert_eq!(
            (order.next_due(MS, 4 * MS, |_| 5), order.due_ns()),
            (None, None)
        );
        assert!(order.had_its_chance(SIBLINGS, 7) && !order.had_its_chance(SIBLINGS, 8));
        order.take_turn(SIBLINGS);
        assert!(!order.had_its_chance(SIBLINGS, 7));
    }

    #[test]
    fn a_worker_that_is_woken_watches_what_it_has_left() {
        let mut order = Acceptance::new([2]);
        order.leave_to_owner(SIBLINGS, 7, MS, 3 * MS);
        assert_eq!(order.recall(), Some(SIBLINGS));
        assert!(!order.is_left_to_owner(SIBLINGS) && !order.had_its_chance(SIBLINGS, 7));
        assert_eq!((order.recall(), order.due_ns()), (None, None));
    }

    #[test]
    fn an_owner_that_was_kept_from_running_gets_its_grace_period_again() {
        let mut order = Acceptance::new([2]);
        order.leave_to_owner(SIBLINGS, 7, 0, 3 * MS);
        assert_eq!(order.next_due(MS, 9 * MS, |_| 4 * MS), None);
        assert_eq!(order.due_ns(), Some(13 * MS));
    }

    #[test]
    fn the_oldest_is_first_and_groups_take_turns() {
        let mut order = Acceptance::new([2, 1]);
        let [first, second] = [0, 1].map(|listener| Place { group: 0, listener });
        let other_group = Place {
            group: 1,
            listener: 0,
        };
        assert!(order.order(second, Some(9)) < order.order(first, Some(3)));
        order.take_turn(second);
        assert!(order.order(other_group, Some(0)) < order.order(second, Some(9)));
    }

    #[test]
    fn without_ages_each_listener_has_its_turn_until_the_worker_sleeps() {
        let mut order = Acceptance::new([2]);
        let [first, second] = [0, 1].map(|listener| Place { group: 0, listener });
        order.take_turn(first);
        assert!(order.order(second, None) < order.order(first, None));
        order.sleeps();
        assert_eq!(order.order(second, None), order.order(first, None));
    }
}
