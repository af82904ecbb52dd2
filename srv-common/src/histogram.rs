//! A histogram of durations in memory that one process writes and others read. Its buckets are those
//! of a Prometheus native histogram of schema 2 in seconds: the upper bound of each bucket is the
//! bound before it times the fourth root of two, and belongs to the bucket. A program that exports
//! the histogram therefore copies counts and computes none.
//!
//! Bounds are whole nanoseconds, rounded down. Every duration here is a whole number of nanoseconds,
//! too, so that each gets into the bucket of the exact bound. Knows no clock.

use crate::shared::Shared;

/// The schema of the Prometheus native histogram with the same buckets: 2 to the power of it is the
/// number of buckets for each factor of two.
pub const SCHEMA: i32 = 2;

/// The index, in that schema, of the first bucket. Its upper bound is 2^(-80/4) s = 2^-20 s, that is
/// 0.95 µs. It has all durations down to 0, which a native histogram counts as zeros.
pub const FIRST_INDEX: i32 = -80;

/// The index of the last bucket with an upper bound, which is 2^(24/4) s = 64 s.
const LAST_INDEX: i32 = 24;

/// The number of upper bounds.
pub const BOUNDS: usize = (LAST_INDEX - FIRST_INDEX + 1) as usize;

/// The number of buckets. The last one has all durations above the last bound.
pub const BUCKETS: usize = BOUNDS + 1;

/// Bounds for each factor of two.
const PER_OCTAVE: usize = 1 << SCHEMA;

/// The upper bounds in ns, and then as many that no duration exceeds as one look-up may read too
/// many.
const BOUNDS_NS: [u64; BOUNDS + PER_OCTAVE] = {
    let mut bounds = [u64::MAX; BOUNDS + PER_OCTAVE];
    let mut nth = 0;
    while nth < BOUNDS {
        bounds[nth] = exact_bound_ns(FIRST_INDEX + nth as i32);
        nth += 1;
    }
    bounds
};

/// 2^(index/4) s in ns, rounded down.
const fn exact_bound_ns(index: i32) -> u64 {
    const SECOND_NS: u128 = 1_000_000_000;
    const FRACTION_BITS: i32 = 62;
    /// 2^0, 2^(1/4), 2^(2/4) and 2^(3/4), with 62 bits after the point, rounded down. A bound has at
    /// most 36 bits before the point. The tests show that no bound is so close to a whole number that
    /// the rounding of the factor matters.
    const ROOTS: [u128; PER_OCTAVE] = [
        0x4000_0000_0000_0000,
        0x4c1b_f828_c6dc_54b7,
        0x5a82_7999_fcef_3242,
        0x6ba2_7e65_6b4e_b57a,
    ];
    let root = ROOTS[index.rem_euclid(PER_OCTAVE as i32) as usize];
    let octave = index.div_euclid(PER_OCTAVE as i32);
    ((SECOND_NS * root) >> (FRACTION_BITS - octave)) as u64
}

/// The upper bound in ns of the `nth` bucket, which belongs to the bucket; `None` for the last
/// bucket, which has none.
pub fn bound_ns(nth: usize) -> Option<u64> {
    BOUNDS_NS[..BOUNDS].get(nth).copied()
}

/// The number of the bucket that has a duration of `ns`.
#[inline]
pub fn bucket_of(ns: u64) -> usize {
    /// How many bounds are below 2^n ns: 4 × n minus this, because 2^(index/4) s is below 2^n ns if
    /// index is below 4 × (n - log2(10^9)) = 4 × n - 119.59.
    const BELOW_ONE_NS: usize = 39;
    let octave = (ns | 1).ilog2() as usize;
    let first = (octave * PER_OCTAVE)
        .saturating_sub(BELOW_ONE_NS)
        .min(BOUNDS);
    // All bounds that are neither below 2^octave nor above the duration are among the next four.
    let candidates = &BOUNDS_NS[first..first + PER_OCTAVE];
    first + candidates.iter().filter(|bound| **bound < ns).count()
}

/// A histogram in shared memory. If the memory is all zeros, it is empty. Each field has one writer,
/// the same for all: the process that calls [`Self::record`].
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Histogram {
    /// The sum of the durations, ns. Wraps.
    pub sum_ns: Shared<u64>,
    /// How many durations each bucket has. Each counts in one bucket only.
    pub buckets: [Shared<u64>; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            sum_ns: Shared::default(),
            buckets: [const { Shared::new(0) }; BUCKETS],
        }
    }
}

impl Histogram {
    /// Counts a duration, by plain stores. Only the one writer may call this.
    #[inline]
    pub fn record(&self, ns: u64) {
        self.buckets[bucket_of(ns)].bump(1);
        self.sum_ns.bump(ns);
    }

    /// What it has now. If the writer records meanwhile, the sum may lack a duration that a bucket
    /// has.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            sum_ns: self.sum_ns.get(),
            buckets: core::array::from_fn(|nth| self.buckets[nth].get()),
        }
    }
}

/// What a [`Histogram`] had at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The sum of the durations, ns. Wraps.
    pub sum_ns: u64,
    /// How many durations each bucket has.
    pub buckets: [u64; BUCKETS],
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            sum_ns: 0,
            buckets: [0; BUCKETS],
        }
    }
}

impl Snapshot {
    /// How many durations it has.
    pub fn count(&self) -> u64 {
        self.buckets
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The mean of the durations, ns; `None` if there is none.
    pub fn mean_ns(&self) -> Option<u64> {
        self.sum_ns.checked_div(self.count())
    }

    /// The upper bound, ns, of the bucket with the duration that the part `at_most` of all durations,
    /// between 0 and 1, does not exceed. The duration itself is at most 16 % below. `None` if there
    /// is no duration, `u64::MAX` if the bucket has no upper bound.
    pub fn quantile_ns(&self, at_most: f64) -> Option<u64> {
        let count = self.count();
        // Not `ceil`, which `core` does not have at this project's minimum version of Rust.
        let exact = at_most.clamp(0.0, 1.0) * count as f64;
        let rank = (exact as u64 + u64::from(exact > exact as u64 as f64)).clamp(1, count.max(1));
        self.cumulative()
            .find(|(_, cumulative)| *cumulative >= rank)
            .map(|(bound, _)| bound.unwrap_or(u64::MAX))
    }

    /// The durations that were recorded after `earlier`. If a bucket has fewer than then, the
    /// histogram began anew in between, and the result is all that it has now.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut buckets = self.buckets;
        for (now, before) in buckets.iter_mut().zip(&earlier.buckets) {
            match now.checked_sub(*before) {
                Some(difference) => *now = difference,
                None => return *self,
            }
        }
        Self {
            sum_ns: self.sum_ns.wrapping_sub(earlier.sum_ns),
            buckets,
        }
    }

    /// The durations of both.
    pub fn merged(&self, other: &Self) -> Self {
        Self {
            sum_ns: self.sum_ns.wrapping_add(other.sum_ns),
            buckets: core::array::from_fn(|nth| {
                self.buckets[nth].saturating_add(other.buckets[nth])
            }),
        }
    }

    /// For each bucket in ascending order: its upper bound in ns (`None`: the last, which has none),
    /// and the number of durations in it and in all buckets before.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        let mut cumulative = 0u64;
        self.buckets.iter().enumerate().map(move |(nth, count)| {
            cumulative = cumulative.saturating_add(*count);
            (bound_ns(nth), cumulative)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2^(index/4) s in ns.
    fn bound(index: i32) -> f64 {
        1e9 * (f64::from(index) / 4.0).exp2()
    }

    fn boxed() -> Box<Histogram> {
        Box::default()
    }

    #[test]
    fn every_bound_is_that_of_the_formula() {
        for (nth, index) in (FIRST_INDEX..=LAST_INDEX).enumerate() {
            let exact = bound(index);
            assert_eq!(bound_ns(nth), Some(exact.floor() as u64), "index {index}");
            // 2^(index/4) is irrational or a power of two, of which the latter floating-point
            // numbers have exactly. A duration of whole nanoseconds is then at most the bound if
            // and only if it is at most what the bound rounds down to.
            let from_whole = (exact - exact.round()).abs();
            assert!(
                index % 4 == 0 || from_whole > 1e-4,
                "index {index}: {exact}"
            );
        }
        assert_eq!(bound_ns(BOUNDS), None);
        assert_eq!(
            (bound_ns(0), bound_ns(BOUNDS - 1)),
            (Some(953), Some(64_000_000_000))
        );
    }

    #[test]
    fn a_bound_belongs_to_its_bucket_and_the_next_nanosecond_does_not() {
        for nth in 0..BOUNDS {
            let bound = bound_ns(nth).unwrap();
            assert_eq!(bucket_of(bound), nth, "{bound}");
            assert_eq!(bucket_of(bound + 1), nth + 1, "{bound} + 1");
        }
        for (ns, nth) in [(0, 0), (1, 0), (953, 0), (954, 1), (u64::MAX, BOUNDS)] {
            assert_eq!(bucket_of(ns), nth, "{ns}");
        }
    }

    #[test]
    fn each_power_of_two_has_the_bucket_that_a_search_finds() {
        for octave in 0..u64::BITS {
            for ns in [(1 << octave) - 1, 1 << octave, (1 << octave) + 1] {
                let searched = (0..BOUNDS).position(|nth| ns <= bound_ns(nth).unwrap());
                assert_eq!(bucket_of(ns), searched.unwrap_or(BOUNDS), "{ns}");
            }
        }
    }

    proptest! {
        #[test]
        fn each_duration_has_the_bucket_that_a_search_finds(ns: u64, shift in 0..u64::BITS) {
            let ns = ns >> shift;
            let searched = (0..BOUNDS).position(|nth| ns <= bound_ns(nth).unwrap());
            prop_assert_eq!(bucket_of(ns), searched.unwrap_or(BOUNDS));
        }

        /// Sorted durations tell the quantile, and so does the histogram, to one bucket.
        #[test]
        fn a_quantile_is_the_bound_of_the_bucket_of_the_nearest_rank(
            mut durations in prop::collection::vec(0u64..100_000_000_000, 1..200),
            at_most in 0.0f64..=1.0,
        ) {
            let histogram = boxed();
            durations.iter().for_each(|ns| histogram.record(*ns));
            durations.sort_unstable();
            let rank = (at_most * durations.len() as f64).ceil().max(1.0) as usize;
            let bucket = bucket_of(durations[rank - 1]);
            let quantile = histogram.snapshot().quantile_ns(at_most);
            prop_assert_eq!(quantile, Some(bound_ns(bucket).unwrap_or(u64::MAX)));
        }
    }

    #[test]
    fn every_duration_counts_once_and_in_the_sum() {
        let histogram = boxed();
        assert_eq!(histogram.snapshot(), Snapshot::default());
        let durations = [0, 1_000, 300_000_000, 300_000_001, 64_000_000_001];
        durations.iter().for_each(|ns| histogram.record(*ns));
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), 5);
        assert_eq!(snapshot.sum_ns, durations.iter().sum::<u64>());
        assert_eq!(snapshot.mean_ns(), Some(snapshot.sum_ns / 5));
        let last = snapshot.cumulative().last();
        assert_eq!(last, Some((None, 5)));
        let below = snapshot
            .cumulative()
            .filter(|(_, count)| *count == 4)
            .count();
        assert_eq!(below, BOUNDS - bucket_of(300_000_001), "cumulative");
    }

    #[test]
    fn an_empty_histogram_has_neither_mean_nor_quantile() {
        let empty = Snapshot::default();
        assert_eq!((empty.mean_ns(), empty.quantile_ns(0.5)), (None, None));
    }

    /// What one process writes by plain stores, another one reads while it goes on: no bucket ever
    /// has fewer than before, and in the end nothing is lost.
    #[test]
    fn one_writer_loses_nothing_while_others_read() {
        const RECORDS: u64 = 20_000;
        let histogram = boxed();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (0..RECORDS).for_each(|ns| histogram.record(ns * 1_000)));
            let mut earlier = Snapshot::default();
            while !writer.is_finished() {
                let now = histogram.snapshot();
                let grown = now.buckets.iter().zip(&earlier.buckets);
                assert!({ grown }.all(|(now, before)| now >= before));
                assert!(now.count() >= earlier.count());
                earlier = now;
            }
        });
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), RECORDS);
        assert_eq!(snapshot.sum_ns, 1_000 * RECORDS * (RECORDS - 1) / 2);
    }

    #[test]
    fn a_difference_has_what_came_in_between() {
        let histogram = boxed();
        histogram.record(5_000);
        let earlier = histogram.snapshot();
        histogram.record(5_000);
        histogram.record(7_000_000);
        let both = histogram.snapshot();
        let between = both.since(&earlier);
        assert_eq!((between.count(), between.sum_ns), (2, 7_005_000));
        assert_eq!(between.merged(&earlier), both);
        assert_eq!(earlier.since(&both), earlier, "it began anew");
    }
}
