//! Metric families: what is said, before a format is chosen. Knows neither servers nor formats.

use srv_common::histogram::{BUCKETS, FIRST_INDEX, Snapshot, bound_ns};

/// A label and its value.
pub(super) type Label = (&'static str, String);

/// Figures of one kind.
#[derive(Debug)]
pub(super) struct Family {
    /// Without the endings that a format adds to counters and infos, and without the unit.
    pub(super) name: &'static str,
    pub(super) unit: Option<Unit>,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) samples: Vec<Sample>,
}

/// The base units that are used.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unit {
    Seconds,
    Ratio,
}

/// The kind of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Info,
    Histogram,
}

/// One figure.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) labels: Vec<Label>,
    pub(super) value: Value,
}

/// What a figure is.
#[derive(Debug)]
pub(super) enum Value {
    Whole(u64),
    Real(f64),
    Durations(Box<Snapshot>),
}

impl From<u64> for Value {
    fn from(whole: u64) -> Self {
        Self::Whole(whole)
    }
}

impl From<u32> for Value {
    fn from(whole: u32) -> Self {
        Self::Whole(whole.into())
    }
}

impl From<bool> for Value {
    fn from(is_so: bool) -> Self {
        Self::Whole(is_so.into())
    }
}

impl From<f64> for Value {
    fn from(real: f64) -> Self {
        Self::Real(real)
    }
}

impl From<Snapshot> for Value {
    fn from(durations: Snapshot) -> Self {
        Self::Durations(Box::new(durations))
    }
}

impl Family {
    /// A count since the server started. Its name gets the ending `_total`.
    pub(super) fn counter(name: &'static str, help: &'static str) -> Self {
        Self::of(Kind::Counter, name, help)
    }

    /// What is so now.
    pub(super) fn gauge(name: &'static str, help: &'static str) -> Self {
        Self::of(Kind::Gauge, name, help)
    }

    /// What is said by labels alone. Its name gets the ending `_info`.
    pub(super) fn info(name: &'static str, help: &'static str) -> Self {
        Self::of(Kind::Info, name, help)
    }

    /// Durations, in seconds.
    pub(super) fn durations(name: &'static str, help: &'static str) -> Self {
        Self::of(Kind::Histogram, name, help).in_unit(Unit::Seconds)
    }

    fn of(kind: Kind, name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            unit: None,
            help,
            kind,
            samples: Vec::new(),
        }
    }

    /// With this unit, which is part of the name.
    pub(super) fn in_unit(mut self, unit: Unit) -> Self {
        self.unit = Some(unit);
        self
    }

    /// With one more figure.
    pub(super) fn with<const N: usize>(
        mut self,
        labels: [Label; N],
        value: impl Into<Value>,
    ) -> Self {
        self.add(labels.into(), value);
        self
    }

    /// Adds a figure.
    pub(super) fn add(&mut self, labels: Vec<Label>, value: impl Into<Value>) {
        let value = value.into();
        self.samples.push(Sample { labels, value });
    }
}

impl Unit {
    /// As it is written in a name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Ratio => "ratio",
        }
    }
}

/// One classic bucket for so many native ones. Queries over classic buckets read each of them, so
/// a factor of two is kept; native histograms have all.
const PER_CLASSIC_BUCKET: usize = 4;
/// The first classic bucket has what is at most 2^-14 s, 61 µs.
const FIRST_CLASSIC_INDEX: i32 = -56;

/// The classic buckets: their upper bounds in seconds, and how many durations are in each and in no
/// bucket before.
pub(super) fn classic_buckets(durations: &Snapshot) -> Vec<(f64, u64)> {
    let first = (FIRST_CLASSIC_INDEX - FIRST_INDEX) as usize;
    let mut buckets = Vec::new();
    let mut below = 0;
    for (nth, count) in durations.buckets.iter().enumerate() {
        below += count;
        let is_last = nth == BUCKETS - 1;
        let is_bound = nth >= first && (nth - first).is_multiple_of(PER_CLASSIC_BUCKET);
        if is_bound && bound_ns(nth).is_some() || is_last {
            let bound = match is_last {
                true => f64::INFINITY,
                false => exact_bound(FIRST_INDEX + nth as i32),
            };
            buckets.push((bound, std::mem::take(&mut below)));
        }
    }
    buckets
}

/// The upper bound of a native bucket, in seconds.
pub(super) fn exact_bound(index: i32) -> f64 {
    (f64::from(index) / 4.0).exp2()
}

#[cfg(test)]
mod tests {
    use srv_common::histogram::Histogram;

    use super::*;

    #[test]
    fn classic_buckets_have_all_durations_and_a_factor_of_two_between_them() {
        let histogram = Histogram::default();
        for ns in [
            10,
            61_035,
            61_036,
            1_000_000_000,
            1_000_000_001,
            65_000_000_000,
        ] {
            histogram.record(ns);
        }
        let buckets = classic_buckets(&histogram.snapshot());
        assert_eq!(buckets[0], ((-14f64).exp2(), 2));
        assert_eq!(buckets[1], ((-13f64).exp2(), 1));
        assert_eq!(buckets[14], (1.0, 1));
        assert_eq!(buckets[15], (2.0, 1));
        assert_eq!(buckets[20], (64.0, 0));
        assert_eq!(buckets[21..], [(f64::INFINITY, 1)]);
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 6);
    }
}
