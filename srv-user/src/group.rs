//! The master's side of one listener group: its sockets, its memory, its
//! steering, and the slots' states. Knows no processes.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, ensure};
use srv_common::layout::{ELIGIBLE, LAST_RESORT, NOT_ELIGIBLE};
use srv_common::policy::hermes;
use srv_common::{Policy, Reason, Refusal, Slot, State};

use crate::balance;
use crate::config::{self, Settings};
use crate::control::{GroupStatus, ProgramStatus, WorkerStatus};
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
    healing: Vec<Healing>,
}

/// What a listener looked like at the last [`Group::heal`].
#[derive(Clone, Copy, Default)]
struct Healing {
    assigned: u64,
}

impl Group {
    /// Binds `address` and prepares steering, which begins with [`Self::steer`].
    /// Without a loadable program the group works unsteered.
    ///
    /// # Errors
    /// If the address cannot be had, or memory cannot be shared.
    pub fn open(address: SocketAddr, settings: &Settings) -> anyhow::Result<Self> {
        let listeners = ListenerGroup::bind(address, settings)?;
        let steering = load(&listeners, settings);
        let memory_fd = match &steering {
            Ok(steering) => steering
                .memory()
                .try_clone_to_owned()
                .context("duplicate a map's fd")?,
            Err(_) => status::memfd()?,
        };
        let memory = status::map(&memory_fd).context("map the shared status memory")?;
        memory.config.workers.set(settings.workers);
        let hang_after_ns = u64::try_from(settings.hang_after.as_nanos()).unwrap_or(u64::MAX);
        memory.config.hang_after_ns.set(hang_after_ns);
        let healing = vec![Healing::default(); settings.workers as usize];
        Ok(Self {
            listeners,
            memory,
            memory_fd,
            steering,
            healing,
        })
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
        let workers = self.memory.config.workers.get();
        config::ensure_workers_fit(policy, workers)
            .with_context(|| format!("steer by {}", policy.name()))?;
        if policy == Policy::Hash {
            steering.detach()?;
        }
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
        self.listeners
            .stop_new_connections()
            .context("drop new SYNs")?;
        self.steer(Policy::Hash)
    }

    /// The worker process `pid` starts in `slot`; nobody else writes there.
    pub fn worker_starts(&self, slot: u32, pid: u32) {
        let at = self.slot(slot);
        at.steering.pid.set(pid);
        at.steering.starts.bump(1);
        self.set_state(slot, State::Starting);
    }

    /// The worker in `slot` has died and been reaped: what it published about
    /// itself is void.
    pub fn worker_died(&self, slot: u32) {
        self.set_state(slot, State::Dead);
        let at = self.slot(slot);
        at.steering.pid.set(0);
        at.load.active.set(0);
        at.load.running.set(0);
        at.load.pending.set(0);
        at.load.busy_since_ns.set(0);
        self.memory.idle.0[slot as usize].set(0);
    }

    /// Sets a slot's state and with it the list of those that can be chosen.
    pub fn set_state(&self, slot: u32, state: State) {
        let steering = &self.slot(slot).steering;
        let is_ready = state == State::Ready;
        steering.state.set(state as u32);
        steering
            .eligible
            .set(if is_ready { ELIGIBLE } else { NOT_ELIGIBLE });
        let mut count = 0;
        for (slot, at) in self.slots().iter().enumerate() {
            if at.steering.state.get() == State::Ready as u32 {
                self.memory.ready[count].set(slot as u16);
                count += 1;
            }
        }
        self.memory.config.ready_count.set(count as u32);
        self.pose_hermes();
    }

    /// What the policy `hermes` goes by until a worker's next turn.
    fn pose_hermes(&self) {
        let passed = hermes::filter(self.memory, status::monotonic_ns());
        self.memory.hermes.0.set(passed);
    }

    /// Steers around workers that hang, and to those that have stopped to. The
    /// program does not look for itself: reading a clock costs it 36 ns a run.
    pub fn spot_hangs(&self) {
        let now_ns = status::monotonic_ns();
        let hang_after_ns = self.memory.config.hang_after_ns.get();
        for slot in self.slots() {
            let busy_since_ns = slot.load.busy_since_ns.get();
            let hangs = busy_since_ns != 0
                && hang_after_ns != 0
                && now_ns.saturating_sub(busy_since_ns) > hang_after_ns;
            if slot.steering.state.get() == State::Ready as u32 {
                slot.steering
                    .eligible
                    .set(if hangs { LAST_RESORT } else { ELIGIBLE });
            }
        }
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
            let Ok((queued, _)) = accept_queue(socket) else {
                continue;
            };
            let at = &self.memory.slots[slot];
            let taken = at.taken.0.get();
            let correction = correction(healing.assigned, assigned(at), taken, queued);
            at.steering.healed.bump(correction as u64);
            healing.assigned = assigned(at);
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
        let steered = self
            .slots()
            .iter()
            .map(|slot| slot.steering.steered.get())
            .sum();
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
            runs: steered + counts.clone().sum::<u64>(),
            steered,
            fallbacks: Reason::NAMES
                .map(str::to_string)
                .into_iter()
                .zip(counts)
                .collect(),
        }
    }

    fn slots(&self) -> &[Slot] {
        &self.memory.slots[..self.memory.config.workers.get() as usize]
    }

    fn slot(&self, slot: u32) -> &Slot {
        &self.memory.slots[slot as usize]
    }
}

/// Everything of steering that can be refused, before a worker exists.
fn load(listeners: &ListenerGroup, settings: &Settings) -> Result<Steering, String> {
    let load = || {
        let own = settings.serving.accept.has_own_listeners();
        ensure!(
            own,
            "all workers share one socket: there is nothing to steer between"
        );
        ensure!(settings.bpf, "--no-bpf was given");
        let mut steering = Steering::load()?;
        for (slot, socket) in listeners.sockets.iter().enumerate() {
            steering.set_listener(slot as u32, socket)?;
        }
        Ok(steering)
    };
    load().map_err(|error: anyhow::Error| format!("{error:#}"))
}

fn assigned(slot: &Slot) -> u64 {
    slot.steering
        .steered
        .get()
        .wrapping_add(slot.steering.healed.get())
}

/// What to add to a slot's assigned connections so that `assigned - taken` is
/// what waits. Too much is what was assigned by the last look, has not been
/// taken by now and is not in the accept queue either: half-open connections
/// that never complete. Too little is less than the accept queue holds:
/// connections that the kernel hashed there.
fn correction(assigned_before: u64, assigned: u64, taken: u64, queued: u32) -> i64 {
    let queued = i64::from(queued);
    let stale = assigned_before.wrapping_sub(taken) as i64 - queued;
    let missing = queued - assigned.wrapping_sub(taken) as i64;
    if missing > 0 { missing } else { -stale.max(0) }
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
        served: at.load.served.get(),
        refused: refused
            .filter(|(_, n)| *n > 0)
            .map(|(name, n)| (name.to_string(), n))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::correction;

    #[test]
    fn half_open_connections_stop_weighing_after_one_interval() {
        // 10 assigned before the last look, 4 taken, 1 queued: 5 never came.
        assert_eq!(correction(10, 12, 4, 1), -5);
        // Just assigned: they may still complete.
        assert_eq!(correction(4, 12, 4, 0), 0);
    }

    #[test]
    fn connections_hashed_by_the_kernel_are_added() {
        assert_eq!(correction(0, 0, 5, 3), 8);
        assert_eq!(correction(7, 7, 7, 0), 0);
    }

    #[test]
    fn a_healed_connection_that_completes_late_does_not_count_below_zero() {
        // 3 were written off (assigned 7 of 10), then all 10 were taken.
        assert_eq!(correction(7, 7, 10, 0), 3);
    }
}
