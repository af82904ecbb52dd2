//! The master's side of one listener group: its sockets, its memory, its
//! steering, and the slots' states. Knows no processes.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, ensure};
use socket2::Socket;
use srv_common::layout::{ELIGIBLE, LAST_RESORT, NOT_ELIGIBLE};
use srv_common::policy::hermes;
use srv_common::{Policy, Reason, Refusal, Slot, State};

use crate::balance;
use crate::config::{self, Settings};
use crate::control::{GroupStatus, ProgramStatus, WorkerStatus};
use crate::hang::HangWatch;
use crate::listen::{ListenerGroup, accept_queue};
use crate::status;
use crate::steer::Steering;

/// A listener group with all that belongs to it.
pub struct Group {
    /// Its sockets.
    pub listeners: ListenerGroup,
    memory: &'static srv_common::Group,
    memory_fd: OwnedFd,
    steering: Result<Steering, String>,
    ordered: Ordered,
    healing: Vec<Healing>,
    /// Until when half-open connections are taken for those of a flood, ns.
    flooded_until_ns: u64,
    /// SYN cookies that had come back at the last look.
    acks: u64,
    hangs: Vec<HangWatch>,
    /// Limit of each accept queue, as the kernel cut it.
    backlog: u32,
}

/// What the master has written to the memory, as it remembers it: workers can write
/// there, too.
#[derive(Default)]
struct Ordered {
    policy: u32,
    workers: u32,
    hang_after_ns: u64,
    /// By slot.
    states: Vec<Cell<State>>,
}

/// A worker that is stuck, or may be.
pub struct Hang {
    /// Its slot.
    pub slot: u32,
    /// For how long so far.
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

/// A listener since the last [`Group::heal`].
#[derive(Clone, Copy, Default)]
struct Healing {
    /// The least [`surplus`] since then.
    surplus_min: i64,
}

impl Group {
    /// Prepares steering for `listeners`, which begins with
    /// [`Self::insert_listeners`] and [`Self::steer`]. Without a loadable program
    /// the group works unsteered.
    ///
    /// # Errors
    /// If memory cannot be shared.
    pub fn open(listeners: ListenerGroup, settings: &Settings) -> anyhow::Result<Self> {
        let steering = load(settings);
        let memory_fd = match &steering {
            Ok(steering) => steering
                .memory()
                .try_clone_to_owned()
                .context("duplicate a map's fd")?,
            Err(_) => status::memfd()?,
        };
        let memory = status::map(&memory_fd).context("map the shared status memory")?;
        let backlog = listeners.sockets.first().map(accept_queue);
        let backlog = backlog
            .and_then(Result::ok)
            .map_or(u32::MAX, |(_, limit)| limit);
        let mut group = Self {
            backlog,
            listeners,
            memory,
            memory_fd,
            steering,
            ordered: Ordered::default(),
            healing: Vec::new(),
            flooded_until_ns: 0,
            acks: 0,
            hangs: Vec::new(),
        };
        group.apply(settings);
        Ok(group)
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
        match &mut self.steering {
            Ok(steering) => steering.clear_listeners(),
            Err(_) => Ok(()),
        }
    }

    /// Opens a listener for each worker that has none.
    ///
    /// # Errors
    /// If the kernel refuses one; nothing has changed then.
    pub fn open_listeners(&mut self, settings: &Settings) -> anyhow::Result<()> {
        if !settings.serving.accept.has_own_listeners() {
            return Ok(());
        }
        let before = self.listeners.sockets.len();
        self.listeners.grow(settings.workers, settings)?;
        if let Ok(steering) = &mut self.steering {
            for (slot, socket) in self.listeners.sockets.iter().enumerate().skip(before) {
                steering.set_listener(slot as u32, socket)?;
            }
        }
        Ok(())
    }

    /// Takes over the settings that workers need not know. Slots beyond the
    /// workers keep their counts and their listeners.
    pub fn apply(&mut self, settings: &Settings) {
        let hang_after_ns = u64::try_from(settings.hang_after.as_nanos()).unwrap_or(u64::MAX);
        self.ordered.hang_after_ns = hang_after_ns;
        self.ordered.workers = settings.workers;
        self.restore_config();
        let slots = self.healing.len().max(settings.workers as usize);
        self.ordered.states.resize(slots, Cell::new(State::Absent));
        self.healing.resize(slots, Healing::default());
        self.hangs.resize(slots, HangWatch::default());
    }

    /// The memory to be inherited by workers.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory_fd.as_fd()
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
        self.pose_hermes();
        let steering = match &mut self.steering {
            Ok(steering) => steering,
            Err(_) if policy == Policy::Hash => return Ok(()),
            Err(why) => anyhow::bail!("steer by {}: {why}", policy.name()),
        };
        let workers = self.ordered.workers;
        config::ensure_workers_fit(policy, workers)
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
        let at = self.slot(slot);
        at.steering.pid.set(pid);
        at.steering.starts.bump(1);
        self.set_state(slot, State::Starting);
    }

    /// The worker process `pid` has taken over `slot` from one that publishes no more.
    pub fn worker_replaced(&self, slot: u32, pid: u32) {
        let at = self.slot(slot);
        at.steering.pid.set(pid);
        at.steering.starts.bump(1);
        at.load.active.set(0);
        at.load.running.set(0);
        at.load.pending.set(0);
    }

    /// The worker in `slot` has died and been reaped: what it published about
    /// itself is void. `then` is what the slot is from now on.
    pub fn worker_died(&self, slot: u32, then: State) {
        self.set_state(slot, then);
        let at = self.slot(slot);
        at.steering.pid.set(0);
        at.load.active.set(0);
        at.load.running.set(0);
        at.load.pending.set(0);
        at.load.busy_since_ns.set(0);
        at.load.woke_ns.set(0);
        self.memory.idle.0[slot as usize].set(0);
    }

    /// Whether the worker in `slot` accepts and does not hang.
    pub fn is_ready(&self, slot: u32) -> bool {
        self.ordered.states[slot as usize].get() == State::Ready
    }

    /// Whether the worker in `slot` is away from `epoll_wait`.
    pub fn is_busy(&self, slot: u32) -> bool {
        self.slot(slot).load.busy_since_ns.get() != 0
    }

    /// Sets a slot's state and with it the list of those that can be chosen.
    pub fn set_state(&self, slot: u32, state: State) {
        self.ordered.states[slot as usize].set(state);
        let steering = &self.slot(slot).steering;
        steering.state.set(state as u32);
        steering.eligible.set(eligibility(state));
        self.list_best();
        self.pose_hermes();
    }

    /// Whoever hangs gets something only where everybody does.
    fn list_best(&self) {
        let is_anybodys = |state: &State| self.ordered.states.iter().any(|at| at.get() == *state);
        let best = [State::Ready, State::Full, State::Hung];
        let best = best.into_iter().find(is_anybodys);
        self.list(best.unwrap_or(State::Ready));
    }

    /// Makes the slots in that state the ones to choose from.
    fn list(&self, state: State) {
        let mut count = 0;
        for (slot, ordered) in self.ordered.states.iter().enumerate() {
            if ordered.get() == state {
                self.memory.ready[count as usize].set(slot as u16);
                count += 1;
            }
        }
        self.memory.config.ready_count.set(count);
    }

    /// Writes the configuration where it is not what was ordered.
    fn restore_config(&self) {
        let (config, ordered) = (&self.memory.config, &self.ordered);
        if config.policy.get() != ordered.policy {
            config.policy.set(ordered.policy);
        }
        if config.workers.get() != ordered.workers {
            config.workers.set(ordered.workers);
        }
        if config.hang_after_ns.get() != ordered.hang_after_ns {
            config.hang_after_ns.set(ordered.hang_after_ns);
        }
    }

    /// What the policy `hermes` goes by until a worker's next turn.
    fn pose_hermes(&self) {
        let passed = hermes::filter(self.memory, status::monotonic_ns());
        self.memory.hermes.0.set(passed);
    }

    /// Steers around workers that hang or whose accept queue is full, and to those
    /// that have stopped to. The
    /// program does not look for itself: reading a clock costs it 36 ns a run.
    /// Those that hang now, or are newly suspected to.
    pub fn spot_hangs(&mut self) -> Vec<Hang> {
        self.restore_config();
        self.list_best();
        let now_ns = status::monotonic_ns();
        self.sample_surplus(now_ns);
        let hang_after_ns = self.ordered.hang_after_ns;
        let mut hangs = Vec::new();
        for slot in 0..self.hangs.len() as u32 {
            let was = self.ordered.states[slot as usize].get();
            let steering = &self.slot(slot).steering;
            let is_overwritten =
                steering.state.get() != was as u32 || steering.eligible.get() != eligibility(was);
            if !matches!(was, State::Ready | State::Hung | State::Full) {
                if is_overwritten {
                    self.set_state(slot, was);
                }
                continue;
            }
            let stuck_ns = self.stuck_ns(slot, now_ns);
            let is_hung = hang_after_ns != 0 && stuck_ns > hang_after_ns;
            if is_hung {
                hangs.push(Hang {
                    slot,
                    lasted: Duration::from_nanos(stuck_ns),
                    stage: match was == State::Hung {
                        true => Stage::GoesOn,
                        false => Stage::FoundOut,
                    },
                });
            } else if self.hangs[slot as usize].is_new_suspect(now_ns) {
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
            if now != was || is_overwritten {
                self.set_state(slot, now);
            }
        }
        hangs
    }

    /// The kernel is asked only where it may be so.
    fn is_full(&self, slot: u32) -> bool {
        let at = self.slot(slot);
        let may_be = |limit| at.waiting() >= u64::from(limit);
        let full = |socket| accept_queue(socket).is_ok_and(|(queued, limit)| queued >= limit);
        let socket = self.listeners.sockets.get(slot as usize);
        self.listeners.sockets.len() > 1 && may_be(self.backlog) && socket.is_some_and(full)
    }

    fn stuck_ns(&mut self, slot: u32, now_ns: u64) -> u64 {
        let at = &self.memory.slots[slot as usize];
        // Where all share one listener, none has an owner who would be woken first.
        if self.listeners.sockets.len() < 2 {
            let busy_since_ns = at.load.busy_since_ns.get();
            return now_ns.saturating_sub(if busy_since_ns == 0 {
                now_ns
            } else {
                busy_since_ns
            });
        }
        let socket = &self.listeners.sockets[slot as usize];
        let queued = || accept_queue(socket).is_ok_and(|(queued, _)| queued > 0);
        self.hangs[slot as usize].stuck_ns(at, now_ns, queued)
    }

    /// Brings the slots' waiting counts back to the kernel's truth. To be
    /// called at an interval longer than a handshake takes.
    pub fn heal(&mut self) {
        if let Ok(steering) = &mut self.steering {
            steering.flush_log();
        }
        for (slot, healing) in self.healing.iter_mut().enumerate() {
            let Some(socket) = self.listeners.sockets.get(slot) else {
                return;
            };
            let Some(surplus) = surplus(&self.memory.slots[slot], socket) else {
                continue;
            };
            let correction = correction(healing.surplus_min.min(surplus), surplus);
            let at = &self.memory.slots[slot];
            at.steering.healed.bump(correction as u64);
            healing.surplus_min = surplus.wrapping_add(correction);
        }
    }

    /// Between two looks: how low the surplus goes, where there is one. In a flood
    /// it is written off at each: a handful more at one listener than at another,
    /// left over from a flood, would keep everything away from that one until the
    /// next second but one.
    fn sample_surplus(&mut self, now_ns: u64) {
        let sockets = self.listeners.sockets.iter();
        let slots = self.memory.slots.iter().zip(sockets);
        let acks_before = std::mem::replace(&mut self.acks, acks(self.memory));
        // A SYN that got a cookie stays counted where it came to: its ACK is
        // accepted wherever that goes.
        if self.acks != acks_before || slots.clone().any(|(at, socket)| is_flooded(at, socket)) {
            self.flooded_until_ns = now_ns.saturating_add(FLOOD_LASTS_NS);
        }
        let is_flood = now_ns < self.flooded_until_ns;
        for (healing, (at, socket)) in self.healing.iter_mut().zip(slots) {
            if !is_flood && healing.surplus_min <= 0 {
                continue;
            }
            let Some(surplus) = surplus(at, socket) else {
                continue;
            };
            healing.surplus_min = healing.surplus_min.min(surplus);
            if is_flood {
                at.steering.healed.bump(surplus.wrapping_neg() as u64);
                healing.surplus_min = 0;
            }
        }
    }

    /// The group's state, for people.
    pub fn status(&self) -> GroupStatus {
        let now_ns = status::monotonic_ns();
        let slots = self.slots().iter().enumerate();
        let worker = |(slot, at): (usize, &Slot)| {
            let mut status = worker_status(slot as u32, at, now_ns);
            // Unsteered, only the kernel knows what waits.
            let queue = self.listeners.sockets.get(slot).map(accept_queue);
            if let Some(Ok((queued, _))) = queue {
                status.waiting = status.waiting.max(u64::from(queued));
            }
            status
        };
        let workers: Vec<_> = slots.map(worker).collect();
        GroupStatus {
            listen: self.listeners.address,
            program: self.program_status(),
            totals: balance::totals(&workers),
            workers,
        }
    }

    fn program_status(&self) -> ProgramStatus {
        let steered = self.slots().iter();
        let steered = balance::sum(steered.map(|slot| slot.steering.steered.get()));
        let acks = acks(self.memory);
        let counts = self
            .memory
            .program
            .fallbacks
            .iter()
            .map(|count| count.get());
        let attached = self.steering.as_ref().is_ok_and(Steering::is_attached);
        let why_not = match &self.steering {
            Err(why) => Some(why.clone()),
            Ok(_) if !attached => Some("the policy is hash".to_string()),
            Ok(_) => None,
        };
        ProgramStatus {
            attached,
            why_not,
            runs: balance::sum(counts.clone().chain([steered, acks])),
            steered,
            acks,
            fallbacks: Reason::NAMES
                .map(str::to_string)
                .into_iter()
                .zip(counts)
                .collect(),
        }
    }

    /// Those that have, or had, a worker.
    fn slots(&self) -> &[Slot] {
        &self.memory.slots[..self.healing.len()]
    }

    fn slot(&self, slot: u32) -> &Slot {
        &self.memory.slots[slot as usize]
    }
}

/// Whether the program may choose a slot in that state.
fn eligibility(state: State) -> u32 {
    match state {
        State::Ready => ELIGIBLE,
        State::Hung | State::Full => LAST_RESORT,
        _ => NOT_ELIGIBLE,
    }
}

/// Everything of steering that is likely to be refused, before a worker exists.
fn load(settings: &Settings) -> Result<Steering, String> {
    let load = || {
        let own = settings.serving.accept.has_own_listeners();
        ensure!(
            own,
            "all workers share one socket: there is nothing to steer between"
        );
        ensure!(settings.bpf, "--no-bpf was given");
        Steering::load()
    };
    load().map_err(|error: anyhow::Error| format!("{error:#}"))
}

/// Half-open connections at one listener that can only be a flood's: so many
/// handshakes under way would be thousands of connections a second.
const FLOOD: u64 = 256;
/// How long after that many were seen they are taken for a flood's.
const FLOOD_LASTS_NS: u64 = 2_000_000_000;

fn acks(memory: &srv_common::Group) -> u64 {
    balance::sum(memory.slots.iter().map(|slot| slot.steering.acks.get()))
}

/// The kernel is asked only where it may be so.
fn is_flooded(slot: &Slot, socket: &Socket) -> bool {
    slot.waiting() > FLOOD && surplus(slot, socket).is_some_and(|surplus| surplus > FLOOD as i64)
}

/// How much more the slot's counts say is waiting than its accept queue holds.
fn surplus(slot: &Slot, socket: &Socket) -> Option<i64> {
    // In this order what happens meanwhile makes it too large: it is the least that counts.
    let taken = slot.taken.0.get();
    let (queued, _) = accept_queue(socket).ok()?;
    let steering = &slot.steering;
    let assigned = steering.steered.get().wrapping_add(steering.healed.get());
    Some((assigned.wrapping_sub(taken) as i64).wrapping_sub(queued.into()))
}

/// What to add to a slot's assigned connections so that `assigned - taken` is
/// what waits. Too little is less than the accept queue holds: connections that
/// the kernel hashed there. Too much is a surplus over the accept queue that was
/// never smaller than `surplus_min` since the last look, which handshakes that
/// complete would have brought down: half-open connections that never do.
/// Handshakes that are always under way are written off with them, in each slot
/// alike.
fn correction(surplus_min: i64, surplus: i64) -> i64 {
    match surplus {
        ..0 => surplus.wrapping_neg(),
        _ => -surplus_min.clamp(0, surplus),
    }
}

fn worker_status(slot: u32, at: &Slot, now_ns: u64) -> WorkerStatus {
    let busy_since_ns = at.load.busy_since_ns.get();
    let busy_ns = if busy_since_ns == 0 {
        0
    } else {
        now_ns.saturating_sub(busy_since_ns)
    };
    let refused = Refusal::NAMES
        .into_iter()
        .zip(at.refused.0.iter().map(|count| count.get()));
    WorkerStatus {
        slot,
        pid: at.steering.pid.get(),
        state: State::name(at.steering.state.get()).to_string(),
        starts: at.steering.starts.get(),
        steered: at.steering.steered.get(),
        taken_own: at.load.own.get(),
        taken_stolen: at.load.stolen.get(),
        waiting: at.waiting(),
        active: at.load.active.get(),
        running: at.load.running.get(),
        busy_us: busy_ns / 1000,
        hang_kills: 0,
        served: at.load.served.get(),
        refused: refused
            .filter(|(_, n)| *n > 0)
            .map(|(name, n)| (name.to_string(), n))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use srv_common::Shared;

    use super::*;
    use crate::cli::ServeArgs;
    use crate::mutation;
    use crate::view;

    #[test]
    fn half_open_connections_stop_weighing_after_one_interval() {
        // 5 never came, whatever else came and went.
        assert_eq!(correction(5, 7), -5);
        // Just assigned: they may still complete.
        assert_eq!(correction(0, 8), 0);
        assert_eq!(correction(-2, 8), 0);
    }

    #[test]
    fn connections_hashed_by_the_kernel_are_added() {
        assert_eq!(correction(-8, -8), 8);
        assert_eq!(correction(0, 0), 0);
    }

    #[test]
    fn a_healed_connection_that_completes_late_does_not_count_below_zero() {
        assert_eq!(correction(-3, -3), 3);
        assert_eq!(correction(0, -3), 3);
    }

    fn unsteered_group() -> Group {
        let flags = ServeArgs {
            no_bpf: Some(true),
            workers: Some(config::value::Count(4)),
            ..ServeArgs::default()
        };
        let settings = config::settings(&flags).unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let listeners = ListenerGroup::bind(address, &settings).unwrap();
        Group::open(listeners, &settings).unwrap()
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

    /// A worker can write all of the memory that it shares.
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
            let text = view::status(&crate::control::Status {
                version: String::new(),
                pid: 0,
                policy: String::new(),
                accept: String::new(),
                listen_overflows: 0,
                listen_drops: 0,
                groups: vec![group.status()],
            });
            prop_assert!(text.contains(" all "), "{}", text);
            let published = status::Published::new(vec![group.memory], 3);
            for listener in 0..4 {
                let (owner, this) = published.owner_and_self(0, listener);
                srv_common::policy::steal_patience_ns(this, owner, words[0]);
                published.age_of_first(0, listener);
            }
            published.turns();
            published.started();
            published.finished();
        });
    }
}
