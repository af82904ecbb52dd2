//! A listener group's state and counts.

use std::fmt;
use std::sync::Arc;

use srv_common::{Policy, Reason};

use super::{Group, reconciliation};
use crate::balance;
use crate::error::Error;
use crate::listeners::accept_queue;
use crate::program::SelectProgram;

/// What chooses a listener for a new connection.
#[derive(Clone, Debug)]
pub enum GroupState {
    /// The BPF program.
    Steered,
    /// The kernel's hash, since there is no program or it is not attached.
    Hashing(HashingReason),
}

/// Why the kernel's hash chooses.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum HashingReason {
    /// The policy is [`Policy::Hash`].
    Policy,
    /// [`GroupOptions::steer`](crate::GroupOptions::steer) is false.
    SwitchedOff,
    /// All workers share one listener.
    SharedListener,
    /// The server that this one has joined has no program.
    NothingToAdopt,
    /// A socket that got `SO_REUSEPORT` after `listen` is the only one so far. The kernel lets no
    /// program decide for it until another socket listens beside it.
    OneListener,
    /// The build carries no program, or the kernel refused it.
    Refused(Arc<Error>),
}

impl fmt::Display for HashingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy => f.write_str("the policy is hash"),
            Self::SwitchedOff => f.write_str("steering is switched off"),
            Self::SharedListener => {
                f.write_str("all workers share one socket: there is nothing to steer between")
            }
            Self::NothingToAdopt => f.write_str("the server that this one joined had no program"),
            Self::OneListener => {
                f.write_str("there is one listener so far: there is nothing to steer between")
            }
            Self::Refused(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steered => f.write_str("the BPF program steers"),
            Self::Hashing(reason) => write!(f, "the kernel's hash chooses: {reason}"),
        }
    }
}

/// What the BPF program has counted, in connections unless the field says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramCounts {
    /// Runs of the program.
    pub runs: u64,
    /// Connections that it assigned to a worker.
    pub steered: u64,
    /// ACKs that belong to no connection and were given to a worker's listener: SYN cookies that
    /// come back, and strays. If each handshake begins with a SYN cookie
    /// (`net.ipv4.tcp_syncookies=2`), these ACKs count as `steered` instead, and SYNs do not.
    pub acks: u64,
    /// Runs that left the choice to the kernel's hash, by reason ([`Reason::NAMES`]).
    pub fallbacks: [u64; Reason::NAMES.len()],
}

impl Group {
    /// What chooses now.
    pub fn state(&self) -> GroupState {
        match &self.program {
            Ok(program) if program.is_attached() => GroupState::Steered,
            Ok(_) if self.policy() != Policy::Hash => {
                GroupState::Hashing(HashingReason::OneListener)
            }
            Ok(_) => GroupState::Hashing(HashingReason::Policy),
            Err(why) => GroupState::Hashing(why.clone()),
        }
    }

    /// Why it is not known for how long connections wait until a worker accepts them, if it is not.
    /// What is known is in the [figures](Self::figures) of each slot.
    pub fn why_not_recording(&self) -> Option<String> {
        match &self.program {
            Ok(program) => program.why_not_recording(),
            Err(why) => Some(why.to_string()),
        }
    }

    /// Whether the program decides now.
    pub fn is_steered(&self) -> bool {
        self.program.as_ref().is_ok_and(SelectProgram::is_attached)
    }

    /// The policy in force, or ordered.
    pub fn policy(&self) -> Policy {
        Policy::from_number(self.ordered.policy).unwrap_or(Policy::Hash)
    }

    /// What the program has counted so far.
    pub fn counts(&self) -> ProgramCounts {
        let steering = self.memory.steering.iter().take(self.slots.iter().len());
        let steered = balance::sum(steering.map(|steering| steering.steered.get()));
        let acks = reconciliation::acks(&self.memory);
        let fallbacks = std::array::from_fn(|nth| self.memory.program.fallbacks[nth].get());
        ProgramCounts {
            runs: balance::sum(fallbacks.into_iter().chain([steered, acks])),
            steered,
            acks,
            fallbacks,
        }
    }

    /// The memory that workers and the program share, with the figures of each slot.
    pub fn figures(&self) -> &srv_common::Group {
        &self.memory
    }

    /// Connections that wait at the listener of `slot`, half-open ones included. If the group is
    /// not steered, only the kernel knows them.
    pub fn waiting(&self, slot: u32) -> u64 {
        let queue = self.listeners.sockets.get(slot as usize).map(accept_queue);
        let queued = match queue {
            Some(Ok((queued, _))) => queued.into(),
            _ => 0,
        };
        self.memory.waiting(slot as usize).max(queued)
    }
}
