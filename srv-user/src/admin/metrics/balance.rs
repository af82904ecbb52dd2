//! How evenly connections were shared of late: the interval that this is said of. It is at least as
//! long as [`LENGTH`], so that a client that asks often does not get the noise of a moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::families::{Family, Unit};
use crate::admin::source::Snapshot;
use crate::control::interval::GroupInterval;

/// The shortest interval. The longest is twice as long, or the time between two requests.
const LENGTH: Duration = Duration::from_secs(10);

/// States from which intervals begin.
#[derive(Default)]
pub(in crate::admin) struct Balance {
    begin: Option<(Instant, Arc<Snapshot>)>,
    /// Becomes the begin once it is old enough.
    next: Option<(Instant, Arc<Snapshot>)>,
}

impl Balance {
    /// What happened in the interval that ends with this state. Of the first state, nothing is
    /// known.
    pub(in crate::admin) fn since(
        &mut self,
        now: Instant,
        snapshot: &Arc<Snapshot>,
    ) -> Vec<GroupInterval> {
        let is_old = |(at, _): &(Instant, _)| now - *at >= LENGTH;
        if self.next.as_ref().is_none_or(is_old) {
            self.begin = self.next.replace((now, snapshot.clone()));
        }
        let begin = self.begin.as_ref().or(self.next.as_ref());
        begin.map_or_else(Vec::new, |(at, earlier)| snapshot.since(earlier, now - *at))
    }
}

/// The figures of these intervals.
pub(super) fn families(intervals: &[GroupInterval]) -> Vec<Family> {
    let mut cv = Family::gauge(
        "srv_accepts_cv",
        "Accepts of each worker in the last interval of 10 s or more: standard deviation over mean; 0 is even.",
    )
    .in_unit(Unit::Ratio);
    let mut max = Family::gauge(
        "srv_accepts_max_over_mean",
        "Accepts of each worker in the last interval of 10 s or more: largest over mean; 1 is even.",
    )
    .in_unit(Unit::Ratio);
    for group in intervals {
        let labels = || vec![("listen", group.listen.to_string())];
        if let Some(figure) = group.accepts_cv {
            cv.add(labels(), figure);
        }
        if let Some(figure) = group.accepts_max_over_mean {
            max.add(labels(), figure);
        }
    }
    vec![cv, max]
}
