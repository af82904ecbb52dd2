//! A listener group's state, for people.

use srv_common::{Group as Memory, Reason, Refusal, State};

use super::{Group, healing};
use crate::kernel::clock::monotonic_ns;
use crate::steering::balance;
use crate::steering::listeners::accept_queue;
use crate::steering::program::Steering;
use crate::steering::status::{GroupStatus, ProgramStatus, WorkerStatus};

impl Group {
    /// As it is now.
    pub fn status(&self) -> GroupStatus {
        let now_ns = monotonic_ns();
        let worker = |slot: u32| {
            let slot = slot as usize;
            let mut status = worker_status(self.memory, slot, now_ns);
            // Unsteered, only the kernel knows what waits.
            let queue = self.listeners.sockets.get(slot).map(accept_queue);
            if let Some(Ok((queued, _))) = queue {
                status.waiting = status.waiting.max(u64::from(queued));
            }
            status
        };
        let workers: Vec<_> = self.slots.used().map(worker).collect();
        GroupStatus {
            listen: self.listeners.address,
            program: self.program_status(),
            totals: balance::totals(&workers),
            workers,
        }
    }

    fn program_status(&self) -> ProgramStatus {
        let steering = self.memory.steering.iter().take(self.slots.iter().len());
        let steered = balance::sum(steering.map(|steering| steering.steered.get()));
        let acks = healing::acks(self.memory);
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
}

fn worker_status(memory: &Memory, slot: usize, now_ns: u64) -> WorkerStatus {
    let (at, steering) = (&memory.slots[slot], &memory.steering[slot]);
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
        slot: slot as u32,
        joined: false,
        pid: steering.pid.get(),
        behind: false,
        state: State::name(steering.state.get()).to_string(),
        starts: steering.starts.get(),
        steered: steering.steered.get(),
        taken_own: at.load.own.get(),
        taken_stolen: at.load.stolen.get(),
        waiting: memory.waiting(slot),
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
