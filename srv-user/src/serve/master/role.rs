//! The part that a server has at its addresses: it has them alone, or it is one of two.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;

use srv_common::Policy;

use super::join::{ToPrimary, ToSecondary};
use crate::control::JoinedStatus;
use crate::serve::master::between_masters::Peer;

/// The part that this server has at its addresses.
pub(super) enum Role {
    /// No other server has its listeners.
    Alone,
    /// This server steers, and a secondary has joined it.
    Primary(SecondaryServer),
    /// This server has joined a primary, which steers.
    Secondary(PrimaryServer),
}

impl Role {
    /// Whether two servers have the listeners.
    pub(super) fn is_joined(&self) -> bool {
        !matches!(self, Self::Alone)
    }

    pub(super) fn is_secondary(&self) -> bool {
        self.primary().is_some()
    }

    /// The server that has joined this one.
    pub(super) fn secondary(&self) -> Option<&SecondaryServer> {
        match self {
            Self::Primary(secondary) => Some(secondary),
            Self::Alone | Self::Secondary(_) => None,
        }
    }

    pub(super) fn secondary_mut(&mut self) -> Option<&mut SecondaryServer> {
        match self {
            Self::Primary(secondary) => Some(secondary),
            Self::Alone | Self::Secondary(_) => None,
        }
    }

    /// The server that this one has joined.
    pub(super) fn primary(&self) -> Option<&PrimaryServer> {
        match self {
            Self::Secondary(primary) => Some(primary),
            Self::Alone | Self::Primary(_) => None,
        }
    }

    pub(super) fn primary_mut(&mut self) -> Option<&mut PrimaryServer> {
        match self {
            Self::Secondary(primary) => Some(primary),
            Self::Alone | Self::Primary(_) => None,
        }
    }

    /// The secondary is gone: this server is alone again.
    pub(super) fn end_of_secondary(&mut self) -> Option<SecondaryServer> {
        match std::mem::replace(self, Self::Alone) {
            Self::Primary(secondary) => Some(secondary),
            other => {
                *self = other;
                None
            }
        }
    }

    /// The primary is gone: this server is alone.
    pub(super) fn end_of_primary(&mut self) -> Option<PrimaryServer> {
        match std::mem::replace(self, Self::Alone) {
            Self::Secondary(primary) => Some(primary),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Behind the last slot of the secondary; 0 without one.
    pub(super) fn secondary_slots_end(&self) -> u32 {
        self.secondary().map_or(0, |secondary| secondary.slots.end)
    }

    /// Tells the primary, if this server has joined one.
    pub(super) fn tell_primary(&self, message: ToPrimary) {
        if let Some(primary) = self.primary() {
            primary.peer.tell(message);
        }
    }

    /// Tells the secondary, if one has joined this server.
    pub(super) fn tell_secondary(&self, message: ToSecondary) {
        if let Some(secondary) = self.secondary() {
            secondary.peer.tell(message);
        }
    }
}

/// The secondary, as the primary knows it.
pub(super) struct SecondaryServer {
    pub(super) peer: Peer<ToSecondary>,
    pub(super) pid: u32,
    pub(super) slots: Range<u32>,
    /// The process ids of its workers, by slot.
    pub(super) pids: HashMap<u32, u32>,
    pub(super) stay: Stay,
}

/// Whether a secondary stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    Stays,
    /// Its workers leave, and it takes nothing over any more.
    Leaves,
}

impl SecondaryServer {
    /// For `srv status`.
    pub(super) fn status(&self) -> JoinedStatus {
        JoinedStatus {
            pid: self.pid,
            first_slot: self.slots.start,
            workers: self.slots.len() as u32,
        }
    }
}

/// The primary, as the secondary knows it.
pub(super) struct PrimaryServer {
    pub(super) peer: Peer<ToPrimary>,
    pub(super) pid: u32,
    /// Its control socket, which will be this server's.
    pub(super) control: PathBuf,
    pub(super) first_slot: u32,
    pub(super) policy: Policy,
}
