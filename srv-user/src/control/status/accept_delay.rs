//! For how long connections waited until a worker accepted them: as it is sent, and the sum over
//! workers. Knows no table.

use serde::{Deserialize, Serialize};
use srv_common::histogram::Snapshot;
use srv_common::layout::AcceptDelay;

use super::HistogramStatus;

/// For how long connections waited until a worker accepted them: from the moment at which they could
/// be accepted (they were established; with deferred accept, their first data had come) until
/// `accept` returned them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptDelayStatus {
    /// Of the connections from its own listener.
    pub own: HistogramStatus,
    /// Of the connections from its siblings' listeners.
    pub stolen: HistogramStatus,
    /// Connections of which that is not known.
    pub unknown: u64,
}

impl AcceptDelayStatus {
    /// What the memory has.
    pub(super) fn of(delay: &AcceptDelay) -> Self {
        Self {
            own: HistogramStatus::from(&delay.own.snapshot()),
            stolen: HistogramStatus::from(&delay.stolen.snapshot()),
            unknown: delay.unknown.get(),
        }
    }
}

/// The waiting times of several workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcceptDelays {
    /// Of the connections from the workers' own listeners.
    pub own: Snapshot,
    /// Of the connections from siblings' listeners.
    pub stolen: Snapshot,
    /// Connections of which that is not known.
    pub unknown: u64,
}

impl AcceptDelays {
    /// All of them together; `None` if there is none.
    pub(super) fn of<'a>(each: impl Iterator<Item = &'a AcceptDelayStatus>) -> Option<Self> {
        let each = each.map(|delay| Self {
            own: delay.own.snapshot(),
            stolen: delay.stolen.snapshot(),
            unknown: delay.unknown,
        });
        each.reduce(|sum, each| Self {
            own: sum.own.merged(&each.own),
            stolen: sum.stolen.merged(&each.stolen),
            unknown: sum.unknown.saturating_add(each.unknown),
        })
    }

    /// Of all connections, from whichever listener.
    pub fn all(&self) -> Snapshot {
        self.own.merged(&self.stolen)
    }
}
