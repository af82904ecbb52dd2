//! A histogram of durations as the control socket sends it: the buckets that have something.
//! Whatever a client or a renderer computes of it, it computes by srv-common's [`Snapshot`].

use serde::{Deserialize, Serialize};
use srv_common::histogram::{BUCKETS, FIRST_INDEX, Snapshot};

/// Durations, counted in buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistogramStatus {
    /// How many durations there are.
    pub count: u64,
    /// Their sum, ns.
    pub sum_ns: u64,
    /// The buckets with a duration, in ascending order: the index and how many durations. The bucket
    /// of index i has those of at most 2^(i/4) s that no bucket before has: the indices are those of
    /// a Prometheus native histogram of schema 2 in seconds. Index -80 has all of at most 0.95 µs,
    /// and index 25 all above 64 s.
    pub buckets: Vec<(i32, u64)>,
}

impl From<&Snapshot> for HistogramStatus {
    fn from(snapshot: &Snapshot) -> Self {
        let indexed = (FIRST_INDEX..).zip(snapshot.buckets);
        Self {
            count: snapshot.count(),
            sum_ns: snapshot.sum_ns,
            buckets: indexed.filter(|(_, count)| *count > 0).collect(),
        }
    }
}

impl HistogramStatus {
    /// With all buckets. A bucket that this version does not know counts as the nearest one that it
    /// knows.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            sum_ns: self.sum_ns,
            ..Snapshot::default()
        };
        for (index, count) in &self.buckets {
            let nth = index
                .saturating_sub(FIRST_INDEX)
                .clamp(0, BUCKETS as i32 - 1);
            let bucket = &mut snapshot.buckets[nth as usize];
            *bucket = bucket.saturating_add(*count);
        }
        snapshot
    }
}

#[cfg(test)]
mod tests {
    use srv_common::histogram::Histogram;

    use super::*;

    #[test]
    fn what_is_sent_is_sparse_and_arrives_whole() {
        let histogram = Histogram::default();
        for ns in [0, 953, 954, 300_000_000, 300_000_000, u64::MAX >> 8] {
            histogram.record(ns);
        }
        let snapshot = histogram.snapshot();
        let sent = HistogramStatus::from(&snapshot);
        let json = serde_json::to_string(&sent).unwrap();
        assert!(json.contains("[[-80,2],[-79,1],[-6,2],[25,1]]"), "{json}");
        let received: HistogramStatus = serde_json::from_str(&json).unwrap();
        assert_eq!(received, sent);
        assert_eq!(received.snapshot(), snapshot);
    }

    #[test]
    fn indices_of_another_version_count_as_the_nearest() {
        let sent = HistogramStatus {
            count: 3,
            sum_ns: 9,
            buckets: vec![(i32::MIN, 1), (i32::MAX, 2)],
        };
        let buckets = sent.snapshot().buckets;
        assert_eq!((buckets[0], buckets[BUCKETS - 1]), (1, 2));
    }
}
