//! One simulated worker's view of the listeners that it watches: which its
//! epoll would report, whose turn it is, which it leaves alone for a while. The
//! bookkeeping of [`crate::steering::ring`] and of the kernel's level-triggered epoll,
//! where that one needs sockets.

use std::collections::VecDeque;

use crate::kernel::reactor::BATCH;

/// See the module. For one listener only, if there is just one to watch.
pub struct Watch {
    /// Epoll's ready list, which may hold listeners that are ready no more.
    linked: VecDeque<u32>,
    /// Whether a listener is in it.
    is_linked: Vec<bool>,
    /// [`Self::accepts`] when a listener last had its turn.
    turns: Vec<u32>,
    accepts: u32,
    turns_since: u32,
    several_ready: bool,
    deferrals: Vec<Deferral>,
}

/// A listener left to its owner, not watched until `due_ns`.
struct Deferral {
    listener: u32,
    /// The owner's accepts at the time.
    owner_accepts: u64,
    due_ns: u64,
    watched: bool,
}

impl Watch {
    /// Of `listeners`, all quiet.
    pub fn new(listeners: usize) -> Self {
        Self {
            linked: VecDeque::new(),
            is_linked: vec![false; listeners],
            turns: vec![0; listeners],
            accepts: 0,
            turns_since: 0,
            several_ready: false,
            deferrals: Vec::new(),
        }
    }

    /// A connection has come to `listener`. Whether it is being watched.
    pub fn notice(&mut self, listener: u32) -> bool {
        let mut deferrals = self.deferrals.iter();
        if deferrals.any(|deferral| deferral.listener == listener && !deferral.watched) {
            return false;
        }
        if !std::mem::replace(&mut self.is_linked[listener as usize], true) {
            self.linked.push_back(listener);
        }
        true
    }

    /// `epoll_wait`, as [`crate::steering::ring::Ring::wait`] calls it: the listeners
    /// that are reported, in the order in which it is their turn. None: it sleeps.
    ///
    /// `age_of_first` is that of the first connection at a listener, if it is known.
    pub fn wait(
        &mut self,
        batch: &mut Vec<u32>,
        is_ready: impl Fn(u32) -> bool,
        age_of_first: impl Fn(u32) -> Option<u32>,
    ) {
        self.poll(batch, is_ready);
        if !self.several_ready || batch.is_empty() {
            self.turns_since = self.accepts;
        }
        self.several_ready = batch.len() > 1;
        batch.sort_by_cached_key(|&listener| match age_of_first(listener) {
            Some(age) => u32::MAX - age,
            None => self.turns[listener as usize].saturating_sub(self.turns_since),
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
    pub fn take_turn(&mut self, listener: u32) {
        self.deferrals
            .retain(|deferral| deferral.listener != listener);
        self.accepts += 1;
        self.turns[listener as usize] = self.accepts;
    }

    /// Whether `listener` was left alone before and its owner, whose accepts
    /// are `owner_accepts`, has made nothing of it.
    pub fn was_patient(&self, listener: u32, owner_accepts: u64) -> bool {
        let mut deferrals = self.deferrals.iter();
        deferrals.any(|deferral| {
            deferral.listener == listener && deferral.owner_accepts == owner_accepts
        })
    }

    /// Does not watch `listener` until `due_ns`.
    pub fn leave_alone(&mut self, listener: u32, owner_accepts: u64, due_ns: u64) {
        self.deferrals
            .retain(|deferral| deferral.listener != listener);
        self.deferrals.push(Deferral {
            listener,
            owner_accepts,
            due_ns,
            watched: false,
        });
        self.linked.retain(|&linked| linked != listener);
        self.is_linked[listener as usize] = false;
    }

    /// When to stop sleeping because of a listener that is left alone, ns.
    pub fn due_ns(&self) -> Option<u64> {
        let unwatched = self.deferrals.iter().filter(|deferral| !deferral.watched);
        unwatched.map(|deferral| deferral.due_ns).min()
    }

    /// Watches again what was left alone for long enough; what is ready there
    /// is noticed at once.
    pub fn watch_deferred(&mut self, now_ns: u64, is_ready: impl Fn(u32) -> bool) {
        for nth in 0..self.deferrals.len() {
            let deferral = &mut self.deferrals[nth];
            if !deferral.watched && deferral.due_ns <= now_ns {
                deferral.watched = true;
                let listener = deferral.listener;
                if is_ready(listener) {
                    self.notice(listener);
                }
            }
        }
    }
}
