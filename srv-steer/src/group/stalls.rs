//! Which workers have stalled or are full, so that new connections are steered around them.

use std::time::Duration;

use srv_common::State;

use super::Group;
use crate::clock::monotonic_ns;
use crate::listeners::accept_queue;
use crate::stall::Stalled;

/// A worker that has stalled, or may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Its slot.
    pub slot: u32,
    /// For how long nothing of it has moved so far.
    pub lasted: Duration,
    /// What is known of it.
    pub stage: Stage,
}

/// What is known of a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The worker sleeps and may have missed a connection. A worker that has not stalled wakes up
    /// when it is sent anything.
    Suspected,
    /// The stall was detected at this call.
    Detected,
    /// The stall was detected before.
    Continues,
}

/// For how long a worker that has stalled is probed again.
const PROBED_FOR: Duration = Duration::from_secs(10);

impl Stall {
    /// Whether to send the worker something at which it wakes, if it can. `looked_every` is the
    /// interval of the looks. This is so when it comes under suspicion and then about once a second
    /// for ten seconds: a message may have been lost, and a worker that sleeps, and to which nothing
    /// is steered because of that, would sleep for ever.
    pub fn is_to_be_probed(&self, looked_every: Duration) -> bool {
        match self.stage {
            Stage::Suspected => true,
            Stage::Detected => false,
            Stage::Continues => {
                let since_second = Duration::from_nanos(self.lasted.subsec_nanos().into());
                self.lasted < PROBED_FOR && since_second < looked_every
            }
        }
    }
}

impl Group {
    /// Steers around workers that have stalled or whose accept queue is full, and steers to them
    /// again when that is over. (The program does not check that itself: reading a clock costs it
    /// 36 ns a run.) Returns the workers that have stalled, and those that are newly suspected to.
    pub fn detect_stalls(&mut self) -> Vec<Stall> {
        if self.is_anothers() {
            return Vec::new();
        }
        let now_ns = monotonic_ns();
        self.sample_surplus(now_ns);
        let mut stalls = Vec::new();
        for slot in self.slots.used() {
            let was = self.slots[slot].state.get();
            if !matches!(was, State::Ready | State::Hung | State::Full) {
                continue;
            }
            let found = self.stall_of(slot, was, now_ns);
            let has_stalled = found.is_some_and(|stall| stall.stage != Stage::Suspected);
            stalls.extend(found);
            let now = match (has_stalled, self.is_full(slot)) {
                (true, _) => State::Hung,
                (false, true) => State::Full,
                (false, false) => State::Ready,
            };
            if now != was {
                self.set_state(slot, now);
            }
        }
        stalls
    }

    /// The stall of the worker in `slot`, whose state `was` this, if it has stalled or may have.
    fn stall_of(&mut self, slot: u32, was: State, now_ns: u64) -> Option<Stall> {
        let stalled = self.look_at(slot, now_ns);
        let stall_after_ns = self.ordered.stall_after_ns;
        let stage = if stall_after_ns != 0 && stalled.away_ns > stall_after_ns {
            match was {
                State::Hung => Stage::Continues,
                _ => Stage::Detected,
            }
        } else if self.slots[slot].stall.is_new_suspect(now_ns) {
            Stage::Suspected
        } else {
            return None;
        };
        let lasted_ns = match stage {
            Stage::Suspected => 0,
            _ => stalled.still_ns,
        };
        Some(Stall {
            slot,
            lasted: Duration::from_nanos(lasted_ns),
            stage,
        })
    }

    /// Asks the kernel only if the counts say that the queue may be full.
    fn is_full(&self, slot: u32) -> bool {
        let waiting = self.memory.waiting(slot as usize);
        let may_be = |limit| waiting >= u64::from(limit);
        let full = |socket| accept_queue(socket).is_ok_and(|(queued, limit)| queued >= limit);
        let socket = self.listeners.sockets.get(slot as usize);
        self.listeners.sockets.len() > 1 && may_be(self.backlog) && socket.is_some_and(full)
    }

    fn look_at(&mut self, slot: u32, now_ns: u64) -> Stalled {
        let is_steered = self.is_steered();
        let load = &self.memory.slots[slot as usize].load;
        let watch = &mut self.slots[slot].stall;
        // If all workers share one listener, it has no owner that the kernel would wake first.
        if self.listeners.sockets.len() < 2 {
            return watch.look(load, 0, now_ns, false, || false);
        }
        let socket = self.listeners.sockets.get(slot as usize);
        let has_queue = |socket| accept_queue(socket).is_ok_and(|(queued, _)| queued > 0);
        let queued = || socket.is_some_and(has_queue);
        let accepted = self.memory.accepted(slot as usize);
        let may_wait = !is_steered || self.memory.waiting(slot as usize) > 0;
        watch.look(load, accepted, now_ns, may_wait, queued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stays_away_is_probed_once_a_second_for_a_while() {
        const EVERY_MS: u64 = 25;
        let looks = (100..60_000).step_by(EVERY_MS as usize);
        let probes = looks.filter(|ms| {
            let stall = Stall {
                slot: 0,
                lasted: Duration::from_millis(*ms),
                stage: Stage::Continues,
            };
            stall.is_to_be_probed(Duration::from_millis(EVERY_MS))
        });
        assert_eq!(probes.count(), 9);
    }
}
