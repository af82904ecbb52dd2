//! One simulated worker's view of the listeners that it watches: what its level-triggered epoll
//! would report, if there were sockets. From which listener it accepts is
//! [`srv_common::acceptance`], as in a real ring.

use std::collections::VecDeque;

use srv_common::acceptance::{Acceptance, Place};

use crate::kernel::reactor::BATCH;

/// See the module. For one listener only, if there is just one to watch.
pub(super) struct Watch {
    /// Epoll's ready list, which may hold listeners that are ready no more.
    linked: VecDeque<u32>,
    /// Whether a listener is in it.
    is_linked: Vec<bool>,
    acceptance: Acceptance,
}

/// There is one group.
fn place(listener: u32) -> Place {
    Place { group: 0, listener }
}

impl Watch {
    /// Of `listeners`, all quiet.
    pub(super) fn new(listeners: usize) -> Self {
        Self {
            linked: VecDeque::new(),
            is_linked: vec![false; listeners],
            acceptance: Acceptance::new([listeners]),
        }
    }

    /// A connection has come to `listener`. Whether it is being watched.
    pub(super) fn notice(&mut self, listener: u32) -> bool {
        if self.acceptance.is_left_to_owner(place(listener)) {
            return false;
        }
        if !std::mem::replace(&mut self.is_linked[listener as usize], true) {
            self.linked.push_back(listener);
        }
        true
    }

    /// `epoll_wait`, as [`srv_steer::Ring::wait`] calls it: the listeners
    /// that are reported, in the order in which it is their turn. None: it sleeps.
    ///
    /// `age_of_first` is that of the first connection at a listener, if it is known.
    pub(super) fn wait(
        &mut self,
        batch: &mut Vec<u32>,
        is_ready: impl Fn(u32) -> bool,
        age_of_first: impl Fn(u32) -> Option<u32>,
    ) {
        self.poll(batch, is_ready);
        if !self.acceptance.looks_before_sleep() || batch.is_empty() {
            self.acceptance.sleeps();
        }
        self.acceptance.found_ready(batch.len());
        let acceptance = &self.acceptance;
        batch.sort_by_cached_key(|&listener| {
            acceptance.order(place(listener), age_of_first(listener))
        });
    }

    /// What is reported moves to the end of the ready list; what is not ready
    /// any more leaves it (`ep_send_events` in fs/eventpoll.c).
    fn poll(&mut self, batch: &mut Vec<u32>, is_ready: impl Fn(u32) -> bool) {
        batch.clear();
        for _ in 0..self.linked.len() {
            let Some(listener) = self.linked.pop_front() else {
                return;
            };
            if !is_ready(listener) {
                self.is_linked[listener as usize] = false;
                continue;
            }
            batch.push(listener);
            self.linked.push_back(listener);
            if batch.len() == BATCH {
                return;
            }
        }
    }

    /// A connection is being accepted from `listener`.
    pub(super) fn take_turn(&mut self, listener: u32) {
        self.acceptance.take_turn(place(listener));
    }

    /// Whether `listener` was left to its owner before and the owner, whose accepts
    /// are `owner_accepts`, has accepted nothing since.
    pub(super) fn had_its_chance(&self, listener: u32, owner_accepts: u64) -> bool {
        let place = place(listener);
        self.acceptance.had_its_chance(place, owner_accepts)
    }

    /// Does not watch `listener` until `due_ns`.
    pub(super) fn leave_to_owner(
        &mut self,
        listener: u32,
        owner_accepts: u64,
        now_ns: u64,
        due_ns: u64,
    ) {
        let place = place(listener);
        self.acceptance
            .leave_to_owner(place, owner_accepts, now_ns, due_ns);
        self.linked.retain(|&linked| linked != listener);
        self.is_linked[listener as usize] = false;
    }

    /// When to stop sleeping because of a listener that is left to its owner, ns.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.acceptance.due_ns()
    }

    /// Watches again what was left to its owner for long enough; what is ready there
    /// is noticed at once. A simulated worker is never late, so that no grace period is extended.
    pub(super) fn watch_deferred(&mut self, now_ns: u64, is_ready: impl Fn(u32) -> bool) {
        while let Some(Place { listener, .. }) = self.acceptance.next_due(now_ns, now_ns, |_| 0) {
            self.acceptance.watched(place(listener));
            if is_ready(listener) {
                self.notice(listener);
            }
        }
    }
}
