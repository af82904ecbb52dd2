//! The distribution of the short requests' latency over the rounds of an arm. At
//! each part of the requests it holds the median of the rounds, which is what tables
//! and verdicts show of a percentile: a curve and its table cannot contradict each other.

use crate::measure::result::CdfPoint;
use crate::measure::simulate::Latencies;
use crate::measure::stats::{median, nearest_rank};

/// Points of a curve for each factor of ten in rarity.
const POINTS_PER_DECADE: u32 = 40;

/// The percentiles that are named elsewhere: the curve passes through them exactly.
const NAMED: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 0.9999];

/// The latencies of one round.
pub(super) trait Distribution {
    /// How many latencies there are.
    fn count(&self) -> usize;

    /// What a part `at_most` of them, above 0 and up to 1, does not exceed, ns.
    /// There is at least one.
    fn quantile_ns(&self, at_most: f64) -> u64;
}

/// Latencies in ascending order, ns.
pub(super) struct Sorted(Vec<u64>);

impl Sorted {
    /// Sorts `latencies_ns`.
    pub(super) fn new(mut latencies_ns: Vec<u64>) -> Self {
        latencies_ns.sort_unstable();
        Self(latencies_ns)
    }
}

impl Distribution for Sorted {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn quantile_ns(&self, at_most: f64) -> u64 {
        nearest_rank(&self.0, at_most)
    }
}

impl Distribution for Latencies {
    fn count(&self) -> usize {
        Self::count(self) as usize
    }

    fn quantile_ns(&self, at_most: f64) -> u64 {
        Self::quantile_ns(self, at_most)
    }
}

/// The median over `rounds` at each part, with closer points towards the tail. It ends
/// where the round with the fewest latencies does: at its maximum, all of which are at
/// most the median of the maxima. Rounds without a latency are left out.
pub(super) fn over_rounds<'a, D: Distribution + 'a>(
    rounds: impl IntoIterator<Item = &'a D>,
) -> Vec<CdfPoint> {
    let rounds: Vec<&D> = rounds
        .into_iter()
        .filter(|round| round.count() > 0)
        .collect();
    let Some(fewest) = rounds.iter().map(|round| round.count()).min() else {
        return Vec::new();
    };
    parts(fewest)
        .map(|at_most| {
            let quantiles = rounds.iter().map(|round| round.quantile_ns(at_most) as f64);
            CdfPoint {
                latency_ns: median(&quantiles.collect::<Vec<_>>()).round() as u64,
                at_most,
            }
        })
        .collect()
}

/// The parts, in ascending order, that `count` latencies can tell apart.
fn parts(count: usize) -> impl Iterator<Item = f64> {
    let steps = ((count as f64).log10() * f64::from(POINTS_PER_DECADE)) as u32;
    let grid =
        (0..=steps).map(|step| 1.0 - 10f64.powf(-f64::from(step) / f64::from(POINTS_PER_DECADE)));
    let finest = 1.0 / count as f64;
    let mut parts: Vec<f64> = grid
        .chain(NAMED)
        .map(|part| part.max(finest))
        .filter(|part| 1.0 - part >= finest)
        .chain([1.0])
        .collect();
    parts.sort_by(f64::total_cmp);
    parts.dedup();
    parts.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::stats::Summary;

    fn curve(rounds: &[Vec<u64>]) -> Vec<CdfPoint> {
        let rounds: Vec<Sorted> = rounds.iter().cloned().map(Sorted::new).collect();
        over_rounds(&rounds)
    }

    fn at(points: &[CdfPoint], part: f64) -> Option<u64> {
        let mut points = points.iter();
        Some(points.find(|point| point.at_most == part)?.latency_ns)
    }

    #[test]
    fn the_curve_passes_through_the_medians_of_the_rounds_percentiles() {
        let rounds = [
            (1..=10_000).collect::<Vec<u64>>(),
            (1..=10_000).map(|ns| ns * 7).collect(),
            (1..=12_345).map(|ns| ns * 3).collect(),
        ];
        let points = curve(&rounds);
        let summaries = rounds.clone().map(Summary::of);
        let expect = |part: f64, figure: fn(&Summary) -> u64| {
            let expected = median(&summaries.each_ref().map(|round| figure(round) as f64));
            assert_eq!(at(&points, part), Some(expected as u64), "{part}");
        };
        expect(0.5, |round| round.p50_ns);
        expect(0.9, |round| round.p90_ns);
        expect(0.99, |round| round.p99_ns);
        expect(0.999, |round| round.p99_9_ns);
        expect(1.0, |round| round.max_ns);
    }

    #[test]
    fn a_curve_rises_to_all_of_them() {
        let points = curve(&[(1..=10_000).collect()]);
        let rises = |pair: &[CdfPoint]| {
            pair[0].at_most < pair[1].at_most && pair[0].latency_ns <= pair[1].latency_ns
        };
        assert!(points.windows(2).all(rises), "{points:?}");
        let last = points.last().unwrap();
        assert_eq!((last.at_most, last.latency_ns), (1.0, 10_000));
        assert!(points.len() > 100, "{}", points.len());
    }

    #[test]
    fn rounds_without_requests_are_left_out() {
        assert_eq!(curve(&[]), []);
        assert_eq!(curve(&[vec![]]), []);
        let points = curve(&[vec![], vec![7]]);
        let only = CdfPoint {
            latency_ns: 7,
            at_most: 1.0,
        };
        assert_eq!(points, [only]);
    }

    #[test]
    fn a_simulated_distribution_is_written_down_likewise() {
        let mut latencies = Latencies::new();
        (1..=10_000).for_each(|ns| latencies.record(ns));
        let points = over_rounds([&latencies]);
        assert_eq!(at(&points, 1.0), Some(10_000));
        let median_ns = at(&points, 0.5).unwrap();
        assert!((4_990..=5_010).contains(&median_ns), "{median_ns}");
    }
}
