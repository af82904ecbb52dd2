//! A listener group's state, for people.

use srv_common::Reason;

use super::{Group, healing};
use crate::kernel::clock::monotonic_ns;
use crate::steering::balance;
use crate::steering::listeners::accept_queue;
use crate::steering::program::Steering;
use crate::steering::status::{GroupStatus, ProgramStatus, Totals, WorkerStatus};

impl Group {
    /// As it is now.
    pub fn status(&self) -> GroupStatus {
        let now_ns = monotonic_ns();
        let worker = |slot: u32| {
            let mut status = WorkerStatus::of(self.memory, slot, now_ns);
            // Unsteered, only the kernel knows what waits.
            let queue = self.listeners.sockets.get(slot as usize);
            let queue = queue.map(accept_queue);
            if let Some(Ok((queued, _))) = queue {
                status.waiting = status.waiting.max(u64::from(queued));
            }
            status
        };
        let workers: Vec<_> = self.slots.used().map(worker).collect();
        GroupStatus {
            listen: self.listeners.address,
            program: self.program_status(),
            totals: Totals::of(&workers),
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
