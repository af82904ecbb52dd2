//! The master's side of one listener group: its sockets, its memory, its
//! steering, and the slots' states. Knows no processes.

mod healing;
mod inspection;
mod report;

use std::cell::Cell;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context, ensure};
use srv_common::layout::{self, ELIGIBLE, LAST_RESORT, NOT_ELIGIBLE, eligibility};
use srv_common::policy::hermes;
use srv_common::{Policy, Slot, State};

use crate::kernel::clock::monotonic_ns;
use crate::steering::listeners::{ListenerGroup, accept_queue};
use crate::steering::memory::SharedMemory;
use crate::steering::options::{self, GroupOptions};
use crate::steering::program::{self, Steering};
use crate::steering::slots::SlotTable;
use crate::steering::stall::{HangWatch, Stuck};
use healing::Healing;
use inspection::Inspection;

/// A listener group with all that belongs to it.
pub struct Group {
    /// Its sockets.
    pub listeners: ListenerGroup,
    memory: &'static srv_common::Group,
    shared: SharedMemory<srv_common::Group>,
    steering: Result<Steering, String>,
    ordered: Ordered,
    healing: Healing,
    inspection: Inspection,
    slots: SlotTable<SlotRecord>,
    /// Limit of each accept queue, as the kernel cut it.
    backlog: u32,
    /// Another server's master writes what masters write, and steers.
    is_anothers: bool,
}

/// What the master has written to the memory, or would have if it were not another's.
#[derive(Default)]
struct Ordered {
    policy: u32,
    workers: u32,
    hang_after_ns: u64,
}

/// What the master knows of one slot in this group.
struct SlotRecord {
    /// As ordered: as it is in the memory, or would be if that were not another's.
    state: Cell<State>,
    /// The least surplus (`healing`) since the last [`Group::heal`].
    surplus_min: i64,
    hang: HangWatch,
}

impl Default for SlotRecord {
    fn default() -> Self {
        Self {
            state: Cell::new(State::Absent),
            surplus_min: 0,
            hang: HangWatch::default(),
        }
    }
}

/// A worker that is stuck, or may be.
pub struct Hang {
    /// Its slot.
    pub slot: u32,
    /// For how long nothing of it has moved so far.
    pub lasted: Duration,
    /// What is known of it.
    pub stage: Stage,
}

/// How far it has come with a worker that is stuck.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It sleeps and may have missed something: whoever can wakes up when told anything.
    Suspected,
    /// It has only now been found out.
    FoundOut,
    /// It was known.
    GoesOn,
}

impl Group {
    /// Prepares steering for `listeners`, which begins with
    /// [`Self::insert_listeners`] and [`Self::steer`]. Without a loadable program
    /// the group works unsteered.
    ///
    /// # Errors
    /// If memory cannot be shared.
    pub fn open(listeners: ListenerGroup, options: &GroupOptions) -> anyhow::Result<Self> {
        let steering = load(options);
        let shared = match &steering {
            Ok(steering) => steering
                .memory()
                .try_clone()
                .context("duplicate a map's fd")?,
            Err(_) => SharedMemory::new()?,
        };
        let mut group = Self::new(listeners, shared, steering)?;
        group.apply(options, options.workers);
        Ok(group)
    }

    /// Another server's group, which that one's master steers until
    /// [`Self::take_over`].
    ///
    /// # Errors
    /// If the memory cannot be mapped.
    pub fn join(
        listeners: ListenerGroup,
        shared: SharedMemory<srv_common::Group>,
        steering: Result<Steering, String>,
        options: &GroupOptions,
    ) -> anyhow::Result<Self> {
        let slots = listeners.sockets.len() as u32;
        let mut group = Self::new(listeners, shared, steering)?;
        group.is_anothers = true;
        group.apply(options, slots);
        Ok(group)
    }

    fn new(
        listeners: ListenerGroup,
        shared: SharedMemory<srv_common::Group>,
        steering: Result<Steering, String>,
    ) -> anyhow::Result<Self> {
        let memory = shared.map().context("map the shared status memory")?;
        let backlog = listeners.sockets.first().map(accept_queue);
        let backlog = backlog
            .and_then(Result::ok)
            .map_or(u32::MAX, |(_, limit)| limit);
        let inspection = Inspection::new(&listeners);
        Ok(Self {
            backlog,
            listeners,
            memory,
            shared,
            steering,
            ordered: Ordered::default(),
            healing: Healing::new(),
            inspection,
            slots: SlotTable::default(),
            is_anothers: false,
        })
    }

    /// The other server has gone: this one steers by `policy` from now on, and has
    /// the workers in the slots of `own`. Why the kernel hashes, if it does.
    pub fn take_over(&mut self, own: Range<u32>, policy: Policy) -> Option<String> {
        self.is_anothers = false;
        self.healing.acks = healing::acks(self.memory);
        self.ordered.workers = own.end;
        for slot in self.slots.used() {
            match own.contains(&slot) {
                true => self.set_state(slot, self.slots[slot].state.get()),
                false => self.worker_died(slot, State::Absent),
            }
        }
        if self.steering.is_err() {
            program::take_off(&self.listeners.sockets[0]);
        }
        self.write_config();
        let why = self.steer(policy).err()?;
        let _ = self.steer(Policy::Hash);
        Some(format!("{why:#}"))
    }

    /// Leaves memory and program, as they are, to another server's master.
    pub fn hand_over(&mut self) {
        self.is_anothers = true;
        if let Ok(steering) = &mut self.steering {
            steering.let_go();
        }
    }

    /// What another server needs to join, beside the listeners: the memory, then
    /// what [`Steering::handles`] has, if there is a program.
    pub fn handles(&self) -> Vec<BorrowedFd<'_>> {
        let steering = self.steering.as_ref().ok().map(Steering::handles);
        let memory = std::iter::once(self.shared.as_fd());
        memory.chain(steering.into_iter().flatten()).collect()
    }

    /// Makes the listeners known to the program; they must be in no other array.
    /// If the kernel refuses one, the group is unsteered from now on.
    pub fn insert_listeners(&mut self) {
        let Ok(steering) = &mut self.steering else {
            return;
        };
        let mut sockets = self.listeners.sockets.iter().enumerate();
        let inserted =
            sockets.try_for_each(|(slot, socket)| steering.set_listener(slot as u32, socket));
        if let Err(error) = inserted {
            self.steering = Err(format!("{error:#}"));
        }
    }

    /// Leaves the listeners to another program, and until then to the hash.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn release(&mut self) -> anyhow::Result<()> {
        self.steer(Policy::Hash)?;
        if let Ok(steering) = &mut self.steering {
            steering.clear_listeners();
        }
        Ok(())
    }

    /// Opens a listener for each of the first `slots` slots that has none.
    ///
    /// # Errors
    /// If the kernel refuses one; nothing has changed then.
    pub fn open_listeners(&mut self, slots: u32, options: &GroupOptions) -> anyhow::Result<()> {
        if !options.accept.has_own_listeners() {
            return Ok(());
        }
        let before = self.listeners.sockets.len();
        self.listeners.grow(slots, options)?;
        if let Ok(steering) = &mut self.steering {
            for (slot, socket) in self.listeners.sockets.iter().enumerate().skip(before) {
                steering.set_listener(slot as u32, socket)?;
            }
        }
        Ok(())
    }

    /// Takes over the settings that workers need not know; workers are in the first
    /// `slots` slots. Those beyond keep their counts and their listeners.
    pub fn apply(&mut self, options: &GroupOptions, slots: u32) {
        let hang_after_ns = u64::try_from(options.hang_after.as_nanos()).unwrap_or(u64::MAX);
        self.ordered.hang_after_ns = hang_after_ns;
        self.ordered.workers = slots;
        self.write_config();
        self.slots.use_until(slots);
    }

    /// The memory to be inherited by workers.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.shared.as_fd()
    }

    /// Why there is no program to steer with, if there is none.
    pub fn why_unsteered(&self) -> Option<&str> {
        self.steering.as_ref().err().map(String::as_str)
    }

    /// Steers by `policy` from now on. Connections that exist are not touched.
    ///
    /// # Errors
    /// If there is no program to do it, or the kernel refuses to attach it.
    pub fn steer(&mut self, policy: Policy) -> anyhow::Result<()> {
        if self.is_anothers {
            return Ok(());
        }
        self.pose_hermes();
        let steering = match &mut self.steering {
            Ok(steering) => steering,
            Err(_) if policy == Policy::Hash => return Ok(()),
            Err(why) => anyhow::bail!("steer by {}: {why}", policy.name()),
        };
        let workers = self.ordered.workers;
        options::ensure_workers_fit(policy, workers)
            .with_context(|| format!("steer by {}", policy.name()))?;
        if policy == Policy::Hash {
            steering.detach()?;
        }
        self.ordered.policy = policy as u32;
        self.memory.config.policy.set(policy as u32);
        if policy != Policy::Hash && !steering.is_attached() {
            steering.attach(&self.listeners.sockets[0])?;
        }
        Ok(())
    }

    /// Lets no new connection in and leaves the group unsteered: its last
    /// connections are its workers' to finish.
    ///
    /// # Errors
    /// What the kernel says to either.
    pub fn close(&mut self) -> anyhow::Result<()> {
        let stopped = self.listeners.stop_new_connections();
        self.steer(Policy::Hash)?;
        stopped.context("drop new SYNs")
    }

    /// The worker process `pid` starts in `slot`; nobody else writes there.
    pub fn worker_starts(&self, slot: u32, pid: u32) {
        self.number(slot, pid);
        self.set_state(slot, State::Starting);
    }

    fn number(&self, slot: u32, pid: u32) {
        if !self.is_anothers {
            let steering = self.steering_of(slot);
            steering.pid.set(pid);
            steering.starts.bump(1);
        }
    }

    /// The worker process `pid` has taken over `slot` from one that publishes no more.
    pub fn worker_replaced(&self, slot: u32, pid: u32) {
        self.number(slot, pid);
        self.slot(slot).reset_gauges();
        self.memory.sum_up(slot);
    }

    /// The worker in `slot` has died and been reaped: what it published about
    /// itself is void. `then` is what the slot is from now on.
    pub fn worker_died(&self, slot: u32, then: State) {
        self.set_state(slot, then);
        if !self.is_anothers {
            self.steering_of(slot).pid.set(0);
        }
        self.slot(slot).reset_gauges();
        let load = &self.slot(slot).load;
        load.busy_since_ns.set(0);
        load.woke_ns.set(0);
        self.memory.sum_up(slot);
        self.memory.idle.0[slot as usize].set(0);
    }

    /// Whether the worker in `slot` accepts and does not hang.
    pub fn is_ready(&self, slot: u32) -> bool {
        self.slots[slot].state.get() == State::Ready
    }

    /// Whether the worker in `slot` is away from `epoll_wait`.
    pub fn is_busy(&self, slot: u32) -> bool {
        self.slot(slot).load.busy_since_ns.get() != 0
    }

    /// Whether the worker in `slot` has come back from `epoll_wait` after `since_ns` of
    /// `CLOCK_MONOTONIC`, and is there again.
    pub fn has_woken_since(&self, slot: u32, since_ns: u64) -> bool {
        !self.is_busy(slot) && self.slot(slot).load.woke_ns.get() > since_ns
    }

    /// Sets a slot's state and with it the list of those that can be chosen.
    pub fn set_state(&self, slot: u32, state: State) {
        self.slots[slot].state.set(state);
        if self.is_anothers {
            return;
        }
        let steering = self.steering_of(slot);
        steering.state.set(state as u32);
        steering.eligible.set(eligible(state, slot));
        self.list_best();
        self.pose_hermes();
    }

    /// Whoever hangs gets something only where everybody does.
    fn list_best(&self) {
        let is_anybodys = |state: &State| self.slots.iter().any(|at| at.state.get() == *state);
        let best = [State::Ready, State::Full, State::Hung];
        let best = best.into_iter().find(is_anybodys);
        self.list(best.unwrap_or(State::Ready));
    }

    /// Makes the slots in that state the ones to choose from.
    fn list(&self, state: State) {
        let mut count = 0;
        for (slot, record) in self.slots.iter().enumerate() {
            if record.state.get() == state {
                self.memory.ready[count as usize].set(slot as u16);
                count += 1;
            }
        }
        self.memory.config.ready_count.set(count);
    }

    /// Writes what was ordered.
    fn write_config(&self) {
        if self.is_anothers {
            return;
        }
        let (config, ordered) = (&self.memory.config, &self.ordered);
        config.policy.set(ordered.policy);
        config.workers.set(ordered.workers);
        config.hang_after_ns.set(ordered.hang_after_ns);
    }

    /// What the policy `hermes` goes by until a worker's next turn.
    fn pose_hermes(&self) {
        let passed = hermes::filter(self.memory, monotonic_ns());
        self.memory.hermes.0.set(passed);
    }

    /// Steers around workers that hang or whose accept queue is full, and to those
    /// that have stopped to. The
    /// program does not look for itself: reading a clock costs it 36 ns a run.
    /// Those that hang now, or are newly suspected to.
    pub fn spot_hangs(&mut self) -> Vec<Hang> {
        if self.is_anothers {
            return Vec::new();
        }
        let now_ns = monotonic_ns();
        self.sample_surplus(now_ns);
        let hang_after_ns = self.ordered.hang_after_ns;
        let mut hangs = Vec::new();
        for slot in self.slots.used() {
            let was = self.slots[slot].state.get();
            if !matches!(was, State::Ready | State::Hung | State::Full) {
                continue;
            }
            let stuck = self.stuck(slot, now_ns);
            let is_hung = hang_after_ns != 0 && stuck.away_ns > hang_after_ns;
            if is_hung {
                hangs.push(Hang {
                    slot,
                    lasted: Duration::from_nanos(stuck.still_ns),
                    stage: match was == State::Hung {
                        true => Stage::GoesOn,
                        false => Stage::FoundOut,
                    },
                });
            } else if self.slots[slot].hang.is_new_suspect(now_ns) {
                hangs.push(Hang {
                    slot,
                    lasted: Duration::ZERO,
                    stage: Stage::Suspected,
                });
            }
            let now = match (is_hung, self.is_full(slot)) {
                (true, _) => State::Hung,
                (false, true) => State::Full,
                (false, false) => State::Ready,
            };
            if now != was {
                self.set_state(slot, now);
            }
        }
        hangs
    }

    /// The kernel is asked only where it may be so.
    fn is_full(&self, slot: u32) -> bool {
        let waiting = self.memory.waiting(slot as usize);
        let may_be = |limit| waiting >= u64::from(limit);
        let full = |socket| accept_queue(socket).is_ok_and(|(queued, limit)| queued >= limit);
        let socket = self.listeners.sockets.get(slot as usize);
        self.listeners.sockets.len() > 1 && may_be(self.backlog) && socket.is_some_and(full)
    }

    fn stuck(&mut self, slot: u32, now_ns: u64) -> Stuck {
        let load = &self.memory.slots[slot as usize].load;
        let watch = &mut self.slots[slot].hang;
        // Where all share one listener, none has an owner who would be woken first.
        if self.listeners.sockets.len() < 2 {
            return watch.look(load, 0, now_ns, || false);
        }
        let socket = self.listeners.sockets.get(slot as usize);
        let has_queue = |socket| accept_queue(socket).is_ok_and(|(queued, _)| queued > 0);
        let queued = || socket.is_some_and(has_queue);
        let accepted = self.memory.accepted(slot as usize);
        watch.look(load, accepted, now_ns, queued)
    }

    fn steering_of(&self, slot: u32) -> &layout::Steering {
        &self.memory.steering[slot as usize]
    }

    fn slot(&self, slot: u32) -> &Slot {
        &self.memory.slots[slot as usize]
    }
}

/// How the program may choose a slot in that state.
fn eligible(state: State, slot: u32) -> u64 {
    let how = match state {
        State::Ready => ELIGIBLE,
        State::Hung | State::Full => LAST_RESORT,
        _ => NOT_ELIGIBLE,
    };
    eligibility(how, slot)
}

/// Everything of steering that is likely to be refused, before a worker exists.
fn load(options: &GroupOptions) -> Result<Steering, String> {
    let load = || {
        let own = options.accept.has_own_listeners();
        ensure!(
            own,
            "all workers share one socket: there is nothing to steer between"
        );
        ensure!(options.bpf, "--no-bpf was given");
        Steering::load()
    };
    load().map_err(|error: anyhow::Error| {
        tracing::debug!("{error:#}");
        program::on_one_line(&error)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use srv_common::Shared;

    use super::*;
    use crate::mutation;
    use crate::steering::accept_mode::AcceptMode;
    use crate::steering::published::Published;

    fn unsteered_group() -> Group {
        let options = GroupOptions {
            accept: AcceptMode::Ring,
            workers: 4,
            backlog: 16,
            fast_open: 0,
            v6_only: true,
            bpf: false,
            hang_after: Duration::from_millis(100),
        };
        let address = "127.0.0.1:0".parse().unwrap();
        let listeners = ListenerGroup::bind(address, &options).unwrap();
        Group::open(listeners, &options).unwrap()
    }

    /// Anything: mostly what is next to a bound.
    fn word() -> impl Strategy<Value = u64> {
        let bounds = vec![
            0,
            1,
            2,
            5,
            u64::MAX,
            1 << 63,
            (1 << 63) - 1,
            u32::MAX.into(),
        ];
        prop_oneof![prop::sample::select(bounds), any::<u64>()]
    }

    /// Whoever wrote it.
    #[test]
    fn the_master_survives_whatever_the_shared_memory_says() {
        let group = std::cell::RefCell::new(unsteered_group());
        let words = prop::collection::vec(word(), 24..200);
        proptest!(mutation::config(), |(words in words)| {
            let group = &mut *group.borrow_mut();
            let start = std::ptr::from_ref(group.memory).cast::<Shared<u64>>();
            let length = size_of::<srv_common::Group>() / size_of::<u64>();
            // SAFETY: the mapping is that long, aligned, and made of integers that others
            // may change.
            let memory = unsafe { std::slice::from_raw_parts(start, length) };
            memory.iter().zip(words.iter().cycle()).for_each(|(place, word)| place.set(*word));
            group.spot_hangs();
            group.heal();
            group.spot_hangs();
            let status = group.status();
            prop_assert_eq!(status.workers.len(), 4);
            let published = Published::new(vec![group.memory], 3);
            for listener in 0..4 {
                published.accepts_of_owner(0, listener);
                published.patience_ns(0, listener, words[0]);
                published.age_of_first(0, listener);
            }
            published.turns();
            published.started();
            published.finished();
        });
    }
}
