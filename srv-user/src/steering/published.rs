//! What a worker publishes about itself in the memory that it shares with its master,
//! its siblings and the BPF program. The meaning of every field is srv-common's.

use std::cell::Cell;
use std::rc::Rc;

use srv_common::layout::{Figures, Load};
use srv_common::policy::{Policy, hermes, steal_patience_ns};
use srv_common::{Group, Refusal, Slot};

use crate::kernel::clock::monotonic_ns;

/// What a worker tells the world: plain stores to its slot in every group, no
/// system call.
#[derive(Clone)]
pub struct Published {
    groups: Vec<&'static Group>,
    slot: usize,
    running: Rc<Cell<u32>>,
    /// Another process publishes in the slot now.
    is_silent: Rc<Cell<bool>>,
}

impl Published {
    /// For the worker in `slot`, which appears in each of `groups`.
    pub fn new(groups: Vec<&'static Group>, slot: u32) -> Self {
        let published = Self {
            groups,
            slot: slot as usize,
            running: Rc::default(),
            is_silent: Rc::default(),
        };
        for group in &published.groups {
            group.join_turns(slot);
            group.sum_up(slot);
        }
        published
    }

    /// The slot is its successor's: from now on nothing is published.
    pub fn fall_silent(&self) {
        self.is_silent.set(true);
    }

    /// The worker is about to enter `epoll_wait`.
    pub fn sleeps(&self) {
        self.each_load(|load| load.busy_since_ns.set(0));
        self.each_idle(1);
    }

    /// The worker has left `epoll_wait` at `now_ns` of `CLOCK_MONOTONIC`.
    pub fn wakes(&self, now_ns: u64) {
        self.each_idle(0);
        self.each_load(|load| {
            load.busy_since_ns.set(now_ns);
            load.woke_ns.set(now_ns);
        });
    }

    /// Of the events of the last `epoll_wait`, this many are not done with.
    pub fn pending(&self, events: u32) {
        self.each(|slot| slot.load.pending.set(events));
    }

    /// The worker's loop ends: under the policy `hermes`, its filter runs.
    pub fn turns(&self) {
        for group in self.groups().iter().filter(|group| steers_by_hermes(group)) {
            group.hermes.0.set(hermes::filter(group, monotonic_ns()));
        }
    }

    /// For how long, ns, the policy lets the worker sleep, if there is a bound.
    pub fn turns_within_ns(&self) -> Option<u64> {
        let is_hermes = self.groups.iter().any(|group| steers_by_hermes(group));
        is_hermes.then_some(HERMES_TURN_NS)
    }

    /// A connection was accepted from the listener of `listener` in `group`.
    pub fn accepted(&self, group: usize, listener: u32) {
        let group = self.groups[group];
        let load = &group.slots[self.slot].load;
        // Siblings accept from this listener too: the one atomic addition.
        group.summaries[listener as usize]
            .taken
            .atomic()
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if listener as usize == self.slot {
            &load.own
        } else {
            &load.stolen
        }
        .bump(1);
        group.take_turn(self.slot as u32);
        group.sum_up(self.slot as u32);
    }

    /// How often the owner of `listener` in `group` has accepted.
    pub fn accepts_of_owner(&self, group: usize, listener: u32) -> u64 {
        let load = &self.groups[group].slots[listener as usize].load;
        load.accepts()
    }

    /// See [`steal_patience_ns`].
    pub fn patience_ns(&self, group: usize, listener: u32, now_ns: u64) -> u64 {
        steal_patience_ns(self.groups[group], self.slot as u32, listener, now_ns)
    }

    /// Requests in service.
    #[cfg(test)]
    pub fn running(&self) -> u32 {
        self.running.get()
    }

    /// What the worker has published in its first group.
    #[cfg(test)]
    pub fn in_first_group(&self) -> &Slot {
        &self.groups[0].slots[self.slot]
    }

    /// See [`Group::age_of_first`]; `None` while the kernel hashes.
    pub fn age_of_first(&self, group: usize, listener: u32) -> Option<u32> {
        let group = self.groups[group];
        let is_steered = group.config.policy.get() != Policy::Hash as u32;
        is_steered.then(|| group.age_of_first(listener))
    }

    /// This many connections are open.
    pub fn active(&self, connections: u32) {
        self.each_load(|load| load.active.set(connections));
    }

    /// A request has been read and is being served.
    pub fn started(&self) {
        self.running.set(self.running.get() + 1);
        self.each_load(|load| load.running.set(self.running.get()));
    }

    /// A request is done with, be it answered or abandoned.
    pub fn finished(&self) {
        self.running.set(self.running.get().saturating_sub(1));
        self.each_load(|load| {
            load.running.set(self.running.get());
            load.served.bump(1);
        });
    }

    /// A request or connection was refused.
    pub fn refused(&self, refusal: Refusal) {
        self.publish(|figures| figures.refused.0[refusal as usize].bump(1));
    }

    /// Counts something that status alone shows, or says how much of it there is.
    pub fn publish(&self, write: impl Fn(&Figures)) {
        self.each(|slot| write(&slot.figures));
    }

    fn each(&self, write: impl Fn(&Slot)) {
        for group in self.groups() {
            write(&group.slots[self.slot]);
        }
    }

    fn each_idle(&self, idle: u8) {
        for group in self.groups() {
            group.idle.0[self.slot].set(idle);
        }
    }

    /// What scores are made of.
    fn each_load(&self, write: impl Fn(&Load)) {
        for group in self.groups() {
            write(&group.slots[self.slot].load);
            group.sum_up(self.slot as u32);
        }
    }

    /// Where to publish.
    fn groups(&self) -> &[&'static Group] {
        match self.is_silent.get() {
            true => &[],
            false => &self.groups,
        }
    }
}

/// Under the policy `hermes`: if all slept on, nobody would notice that the one
/// who got the last connection hangs.
const HERMES_TURN_NS: u64 = 5_000_000;

fn steers_by_hermes(group: &Group) -> bool {
    group.config.policy.get() == Policy::Hermes as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_published_is_summed_up() {
        let group: &'static Group = Box::leak(Group::boxed());
        let published = Published::new(vec![group], 3);
        let steps: [fn(&Published); 7] = [
            |worker| worker.wakes(5),
            |worker| worker.accepted(0, 3),
            |worker| worker.active(2),
            Published::started,
            Published::finished,
            |worker| worker.active(0),
            Published::sleeps,
        ];
        let sum = &group.summaries[3].load;
        for (nth, step) in steps.iter().enumerate() {
            let before = sum.get();
            step(&published);
            let after = sum.get();
            assert_ne!(after, before, "step {nth} changes what scores are made of");
            group.sum_up(3);
            assert_eq!(after, sum.get(), "step {nth} has summed up");
        }
    }
}
