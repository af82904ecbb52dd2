//! The phase that a master is in, and what belongs to that phase alone. Knows no workers.

use std::time::Instant;

use super::stopping::Stopping;
use super::under_way::Upgrade;
use crate::control::ServerPhase;

/// The phase of a master. It begins with `Starting` and ends with `Stopping`.
pub(super) enum Phase {
    /// At no time yet have all workers been ready.
    Starting,
    /// All workers have been ready at the same time.
    Serving,
    /// A successor comes up beside this server, which serves until the successor has taken over.
    HandingOver {
        /// The upgrade.
        upgrade: Box<Upgrade>,
        /// The phase that this server goes back to if the successor fails.
        otherwise: Otherwise,
    },
    /// The workers finish what they have, and the server ends.
    Stopping(Stopping),
}

/// The phase that follows an upgrade that has failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Otherwise {
    /// [`Phase::Starting`].
    Starting,
    /// [`Phase::Serving`].
    Serving,
}

impl Phase {
    /// For `srv status`.
    pub(super) fn reported(&self) -> ServerPhase {
        match self {
            Self::Starting => ServerPhase::Starting,
            Self::Serving => ServerPhase::Serving,
            Self::HandingOver { .. } => ServerPhase::HandingOver,
            Self::Stopping(_) => ServerPhase::Stopping,
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping().is_some()
    }

    pub(super) fn stopping(&self) -> Option<&Stopping> {
        match self {
            Self::Stopping(stopping) => Some(stopping),
            _ => None,
        }
    }

    pub(super) fn stopping_mut(&mut self) -> Option<&mut Stopping> {
        match self {
            Self::Stopping(stopping) => Some(stopping),
            _ => None,
        }
    }

    pub(super) fn upgrade(&self) -> Option<&Upgrade> {
        match self {
            Self::HandingOver { upgrade, .. } => Some(upgrade),
            _ => None,
        }
    }

    pub(super) fn upgrade_mut(&mut self) -> Option<&mut Upgrade> {
        match self {
            Self::HandingOver { upgrade, .. } => Some(upgrade),
            _ => None,
        }
    }

    /// Begins to hand over. A server that is stopping goes on stopping.
    pub(super) fn begin_upgrade(&mut self, upgrade: Upgrade) {
        let otherwise = match self {
            Self::Starting => Otherwise::Starting,
            Self::Serving => Otherwise::Serving,
            Self::HandingOver { otherwise, .. } => *otherwise,
            Self::Stopping(_) => return,
        };
        let upgrade = Box::new(upgrade);
        *self = Self::HandingOver { upgrade, otherwise };
    }

    /// Ends an upgrade: the server is in the phase of before again.
    pub(super) fn end_upgrade(&mut self) -> Option<Upgrade> {
        let before = match self {
            Self::HandingOver { otherwise, .. } => match otherwise {
                Otherwise::Starting => Self::Starting,
                Otherwise::Serving => Self::Serving,
            },
            _ => return None,
        };
        match std::mem::replace(self, before) {
            Self::HandingOver { upgrade, .. } => Some(*upgrade),
            _ => None,
        }
    }

    /// Whether all workers have been ready at the same time, in a server that does not stop.
    pub(super) fn has_started(&self) -> bool {
        match self {
            Self::Starting | Self::Stopping(_) => false,
            Self::Serving => true,
            Self::HandingOver { otherwise, .. } => *otherwise == Otherwise::Serving,
        }
    }

    /// All workers are ready now. Whether this ends the start.
    pub(super) fn end_start(&mut self) -> bool {
        match self {
            Self::Starting => *self = Self::Serving,
            Self::HandingOver { otherwise, .. } if *otherwise == Otherwise::Starting => {
                *otherwise = Otherwise::Serving;
            }
            Self::Serving | Self::HandingOver { .. } | Self::Stopping(_) => return false,
        }
        true
    }

    /// When the master has to act if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Starting | Self::Serving => None,
            Self::HandingOver { upgrade, .. } => Some(upgrade.deadline()),
            Self::Stopping(stopping) => stopping.deadline(),
        }
    }
}
