//! The simulated clock, and what program, kernel, workers and master do on it.
//! Every field of the [`Group`] is written when the real writer writes it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use srv_common::{Group, Policy, choose, policy};

use super::host::{Kernel, ready_group};
use super::ring::Watch;
use super::tally::Tally;
use super::{Dispatch, Model, Outcome};
use crate::measure::arrivals::{Draw, Uniform};
use srv_steer::AcceptMode;

/// See the module.
pub(super) struct Engine<const N: usize> {
    model: Model,
    /// One of ring, own and shared.
    mode: AcceptMode,
    group: Box<Group<N>>,
    random: Uniform,
    /// In order of arrival, as the round trip is the same for all.
    half_open: VecDeque<(u32, Request)>,
    /// By listener.
    accept_queues: Vec<VecDeque<Request>>,
    workers: Vec<Worker>,
    /// The soonest on top.
    timers: BinaryHeap<Reverse<Timer>>,
    /// Who sleeps before the single queue, the first in order on top: a scan
    /// over thousands takes longer than all else.
    sleepers: BinaryHeap<Reverse<u32>>,
    /// What a worker's wait brought; kept for its memory.
    batch: Vec<u32>,
    tally: Tally,
}

struct Worker {
    request: Option<Request>,
    watch: Watch,
}

#[derive(Clone, Copy)]
struct Request {
    syn_ns: u64,
    /// When it is in the accept queue.
    arrives_ns: u64,
    service_ns: u64,
    is_short: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Timer {
    at_ns: u64,
    worker: u32,
    what: Due,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// Its request is finished.
    Finish,
    /// It has left a sibling's listener alone for long enough.
    Patience,
}

impl<const N: usize> Engine<N> {
    /// With every worker ready and asleep.
    pub(super) fn new(model: Model, arm: Dispatch) -> Self {
        let mode = match arm.accept {
            AcceptMode::SharedHerd | AcceptMode::Blocking => AcceptMode::Shared,
            mode => mode,
        };
        let listeners = if mode == AcceptMode::Shared {
            1
        } else {
            model.workers
        };
        // Only in the ring does a worker watch more than one.
        let watched = if mode == AcceptMode::Ring {
            listeners
        } else {
            0
        };
        let worker = || Worker {
            request: None,
            watch: Watch::new(watched),
        };
        Self {
            model,
            mode,
            group: ready_group(model.workers, arm.policy),
            random: Uniform::stream(model.seed, 0),
            half_open: VecDeque::new(),
            accept_queues: (0..listeners).map(|_| VecDeque::new()).collect(),
            workers: (0..model.workers).map(|_| worker()).collect(),
            timers: BinaryHeap::new(),
            sleepers: (0..model.workers as u32).map(Reverse).collect(),
            batch: Vec::new(),
            tally: Tally::new(),
        }
    }

    /// Serves `draws` to the last.
    pub(super) fn run(mut self, draws: impl IntoIterator<Item = Draw>) -> Outcome {
        for draw in draws {
            self.advance(draw.at_ns);
            self.syn(draw);
        }
        self.advance(u64::MAX);
        self.outcome()
    }

    /// Lets everything happen that is due by `until_ns`.
    fn advance(&mut self, until_ns: u64) {
        loop {
            let arrival_ns = self.half_open.front().map(|(_, next)| next.arrives_ns);
            let timer = self.timers.peek().map(|&Reverse(timer)| timer);
            match (arrival_ns, timer) {
                (arrival_ns, Some(timer))
                    if timer.at_ns <= until_ns.min(arrival_ns.unwrap_or(u64::MAX)) =>
                {
                    self.timers.pop();
                    self.fire(timer);
                }
                (Some(arrival_ns), _) if arrival_ns <= until_ns => self.arrive(),
                _ => return,
            }
        }
    }

    /// The program chooses, or the kernel hashes over addresses and ports.
    fn syn(&mut self, draw: Draw) {
        self.tally.first_ns.get_or_insert(draw.at_ns);
        let request = Request {
            syn_ns: draw.at_ns,
            arrives_ns: draw.at_ns + self.model.rtt_ns,
            service_ns: u64::from(draw.service_us) * 1000 + self.model.overhead_ns,
            is_short: self.model.service.is_short(draw.service_us),
        };
        let listener = self.listener_for_syn();
        self.half_open.push_back((listener, request));
    }

    fn listener_for_syn(&mut self) -> u32 {
        if self.mode == AcceptMode::Shared {
            return 0;
        }
        let mut kernel = Kernel {
            random: &mut self.random,
            cursor: &self.group.program.cursor,
        };
        match choose(&self.group, &mut kernel) {
            Ok(slot) => {
                let steered = &self.group.steering[slot as usize].steered;
                self.group.deal_ticket(slot, steered.get());
                self.group.advance_virtual_time(slot);
                steered.bump(1);
                slot
            }
            Err(reason) => {
                self.group.program.fallbacks[reason as usize].bump(1);
                self.random.below(self.model.workers) as u32
            }
        }
    }

    /// The handshake is complete and the request is there.
    fn arrive(&mut self) {
        let Some((listener, request)) = self.half_open.pop_front() else {
            return;
        };
        self.accept_queues[listener as usize].push_back(request);
        if let Some(worker) = self.wake_for(listener) {
            self.turn(worker, request.arrives_ns);
        }
    }

    /// Whom the kernel wakes: the first in the listener's wait queue who sleeps.
    fn wake_for(&mut self, listener: u32) -> Option<u32> {
        let workers = self.model.workers as u32;
        match self.mode {
            AcceptMode::Own => self.sleeps(listener).then_some(listener),
            AcceptMode::Ring => {
                // The owner, then whoever has this listener soonest after its own:
                // all join at the same time, each in the order of the slots.
                let order = (0..=listener).rev().chain((listener + 1..workers).rev());
                for worker in order {
                    let watch = &mut self.workers[worker as usize].watch;
                    if watch.notice(listener) && self.sleeps(worker) {
                        return Some(worker);
                    }
                }
                None
            }
            _ => self.sleepers.pop().map(|Reverse(worker)| worker),
        }
    }

    fn sleeps(&self, worker: u32) -> bool {
        self.group.idle.0[worker as usize].get() == 1
    }

    fn fire(&mut self, timer: Timer) {
        match timer.what {
            Due::Finish => {
                self.finish(timer.worker, timer.at_ns);
                self.turn(timer.worker, timer.at_ns);
            }
            // One who is busy looks when it is not.
            Due::Patience => {
                if self.sleeps(timer.worker) {
                    self.turn(timer.worker, timer.at_ns);
                }
            }
        }
    }

    fn finish(&mut self, worker: u32, now_ns: u64) {
        let load = &self.group.slots[worker as usize].load;
        load.running.set(0);
        load.served.bump(1);
        load.active.set(0);
        self.group.sum_up(worker);
        let Some(request) = self.workers[worker as usize].request.take() else {
            return;
        };
        // Half a round trip before the program saw the SYN, half after the end.
        let latency_ns = now_ns - request.syn_ns + self.model.rtt_ns;
        self.tally.all.record(latency_ns);
        if request.is_short {
            self.tally.short.record(latency_ns);
        }
        self.tally.last_ns = now_ns;
    }

    /// Looks for the next connection until it serves one or sleeps.
    fn turn(&mut self, worker: u32, now_ns: u64) {
        if self.mode != AcceptMode::Ring {
            let listener = if self.mode == AcceptMode::Own {
                worker
            } else {
                0
            };
            return self.serve_next(worker, listener, now_ns);
        }
        loop {
            let queues = &self.accept_queues;
            let is_ready = |listener: u32| !queues[listener as usize].is_empty();
            let watch = &mut self.workers[worker as usize].watch;
            let group = &self.group;
            let is_steered = group.config.policy.get() != Policy::Hash as u32;
            watch.wait(&mut self.batch, is_ready, |listener| {
                is_steered.then(|| group.age_of_first(listener))
            });
            let due_ns = watch.due_ns();
            if due_ns.is_some_and(|due_ns| due_ns <= now_ns) {
                watch.watch_deferred(now_ns, is_ready);
            } else if self.batch.is_empty() {
                return self.sleep(worker, due_ns);
            }
            let mut batch = self.batch.iter().copied();
            if let Some(listener) =
                batch.find(|&listener| self.patience_ns(worker, listener, now_ns) == 0)
            {
                self.workers[worker as usize].watch.take_turn(listener);
                return self.serve_next(worker, listener, now_ns);
            }
            self.leave_alone(worker, now_ns);
        }
    }

    /// For how long to leave what waits at `listener` to its owner, ns.
    fn patience_ns(&self, worker: u32, listener: u32, now_ns: u64) -> u64 {
        let owner = &self.group.slots[listener as usize];
        let watch = &self.workers[worker as usize].watch;
        if listener == worker || watch.had_its_chance(listener, owner.load.accepts()) {
            return 0;
        }
        policy::steal_grace_ns(&self.group, worker, listener, now_ns)
    }

    fn leave_alone(&mut self, worker: u32, now_ns: u64) {
        for nth in 0..self.batch.len() {
            let listener = self.batch[nth];
            let due_ns = now_ns + self.patience_ns(worker, listener, now_ns);
            let owner_accepts = self.group.slots[listener as usize].load.accepts();
            let watch = &mut self.workers[worker as usize].watch;
            watch.leave_to_owner(listener, owner_accepts, now_ns, due_ns);
        }
    }

    /// Accepts from `listener` and serves, or sleeps if nothing is there.
    fn serve_next(&mut self, worker: u32, listener: u32, now_ns: u64) {
        let Some(request) = self.accept_queues[listener as usize].pop_front() else {
            return self.sleep(worker, None);
        };
        self.group.summaries[listener as usize].taken.bump(1);
        self.group.idle.0[worker as usize].set(0);
        let load = &self.group.slots[worker as usize].load;
        // Zero would mean that it sleeps.
        load.busy_since_ns.set(now_ns.max(1));
        load.active.set(1);
        load.running.set(1);
        self.group.take_turn(worker);
        self.group.sum_up(worker);
        let is_own = listener == worker || self.mode == AcceptMode::Shared;
        if is_own { &load.own } else { &load.stolen }.bump(1);
        self.workers[worker as usize].request = Some(request);
        self.tally.accepted_by(worker);
        self.tally.wait.record(now_ns - request.arrives_ns);
        self.tally.busy_ns += request.service_ns as f64;
        self.set_timer(now_ns + request.service_ns, worker, Due::Finish);
    }

    fn sleep(&mut self, worker: u32, due_ns: Option<u64>) {
        let load = &self.group.slots[worker as usize].load;
        load.busy_since_ns.set(0);
        self.group.sum_up(worker);
        self.group.idle.0[worker as usize].set(1);
        if self.mode == AcceptMode::Shared {
            self.sleepers.push(Reverse(worker));
        }
        if let Some(due_ns) = due_ns {
            self.set_timer(due_ns, worker, Due::Patience);
        }
    }

    fn set_timer(&mut self, at_ns: u64, worker: u32, what: Due) {
        self.timers.push(Reverse(Timer {
            at_ns,
            worker,
            what,
        }));
    }

    fn outcome(self) -> Outcome {
        let first_ns = self.tally.first_ns.unwrap_or(0);
        let span_ns = self.tally.last_ns.saturating_sub(first_ns).max(1) as f64;
        let loads = || {
            self.group.slots[..self.model.workers]
                .iter()
                .map(|slot| &slot.load)
        };
        Outcome {
            all: self.tally.all.summary(),
            deviation_ns: self.tally.all.deviation_ns(),
            short: self.tally.short.summary(),
            wait: self.tally.wait.summary(),
            utilisation: self.tally.busy_ns / span_ns / self.model.workers as f64,
            accepts: loads().map(srv_common::layout::Load::accepts).collect(),
            stolen: loads().map(|load| load.stolen.get()).sum(),
            short_latencies: self.tally.short,
            recent: self.tally.recent.into(),
        }
    }
}
