//! What is said about measurements: percentiles of latencies, evenness of shares (the same
//! functions as in `srv status`), and the comparison of two arms over rounds. Pure
//! arithmetic; knows nothing of how the figures came about.

use std::fmt;

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString};

use crate::measure::arrivals::Uniform;
pub use srv_steer::balance::{coefficient_of_variation, max_over_mean};

/// Latencies in ns, summed up; exact percentiles by nearest rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many.
    pub count: usize,
    /// Arithmetic mean; 0 if there are none, as everything below.
    pub mean_ns: f64,
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p99_9_ns: u64,
    /// Largest.
    pub max_ns: u64,
}

impl Summary {
    /// Sums up `latencies_ns`, in any order.
    pub fn of(latencies_ns: impl IntoIterator<Item = u64>) -> Self {
        let mut sorted: Vec<u64> = latencies_ns.into_iter().collect();
        sorted.sort_unstable();
        let Some(&max_ns) = sorted.last() else {
            return Self::default();
        };
        let rank = |fraction: f64| nearest_rank(&sorted, fraction);
        Self {
            count: sorted.len(),
            mean_ns: sorted.iter().map(|&ns| ns as f64).sum::<f64>() / sorted.len() as f64,
            p50_ns: rank(0.5),
            p90_ns: rank(0.9),
            p99_ns: rank(0.99),
            p99_9_ns: rank(0.999),
            max_ns,
        }
    }
}

/// The value that a part `fraction`, 0 to 1, of the ascending values `sorted` does not
/// exceed. There is at least one value.
pub fn nearest_rank(sorted: &[u64], fraction: f64) -> u64 {
    let rank = (fraction * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// Standard deviation (of the population); 0 if there is nothing.
pub fn deviation(values: impl Iterator<Item = f64>) -> f64 {
    // Welford's update: stable, and one pass.
    let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for value in values {
        count += 1.0;
        let before = value - mean;
        mean += before / count;
        squares += before * (value - mean);
    }
    if count == 0.0 {
        0.0
    } else {
        f64::sqrt(squares / count)
    }
}

/// Jain's fairness index, (Σx)² / (n·Σx²): 1 is perfectly even, 1/n is all to
/// one. 1 if there is nothing to share.
///
/// Source: Jain, Chiu, Hawe, DEC-TR-301, 1984.
pub fn jain(counts: &[u64]) -> f64 {
    let counts = || counts.iter().map(|&count| count as f64);
    let squares: f64 = counts().map(|count| count * count).sum();
    if squares == 0.0 {
        return 1.0;
    }
    counts().sum::<f64>().powi(2) / (counts().count() as f64 * squares)
}

/// How many of `workers` each worker from 0 to `count` has; a larger number counts nowhere.
pub fn per_worker(workers: impl IntoIterator<Item = u16>, count: usize) -> Vec<u64> {
    let mut counts = vec![0; count];
    for worker in workers {
        if let Some(count) = counts.get_mut(usize::from(worker)) {
            *count += 1;
        }
    }
    counts
}

/// Arithmetic mean; 0 if there are none.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    values.iter().sum::<f64>() / values.len() as f64
}

/// Median, the mean of the middle two if their number is even; 0 if there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// One figure over the rounds of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Median over the rounds.
    pub median: f64,
    /// Mean over the rounds.
    pub mean: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Over the figures of the rounds.
    pub fn of(rounds: &[f64]) -> Self {
        Self {
            median: median(rounds),
            mean: mean(rounds),
            min: rounds.iter().copied().fold(f64::INFINITY, f64::min),
            max: rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// Fewer rounds than this say nothing about chance.
pub const ROUNDS_MIN: usize = 3;

/// How far an A/A control may be off, as a part of 1: what cannot be told apart anyway.
const CONTROL_TOLERANCE: f64 = 0.02;

/// What the rounds say of two arms. The text is that of `result.json`, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Display, EnumString)]
#[serde(into = "String", try_from = "String")]
pub enum Judgement {
    /// There is no confidence interval.
    #[strum(serialize = "too few rounds to tell")]
    TooFewRounds,
    /// The interval does not contain 1.
    #[strum(serialize = "differs")]
    Differs,
    /// The interval contains 1.
    #[strum(serialize = "no difference")]
    NoDifference,
    /// Of the control: it differs by more than matters.
    #[strum(serialize = "THE CONTROL DIFFERS: this run is not usable")]
    ControlDiffers,
    /// Of the control: it differs, but by no more than [`CONTROL_TOLERANCE`].
    #[strum(serialize = "differs, but by less than matters here")]
    ControlDiffersLittle,
    /// Of the control: the interval contains 1.
    #[strum(serialize = "no difference, as it must be")]
    ControlAgrees,
}

impl From<Judgement> for String {
    fn from(judgement: Judgement) -> Self {
        judgement.to_string()
    }
}

impl TryFrom<String> for Judgement {
    type Error = strum::ParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// The ratio of two arms' figures, paired by round: its median, its range, and
/// the 95 % bootstrap confidence interval of the median.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// How many rounds.
    pub count: usize,
    /// Over the rounds.
    pub rounds: Spread,
    /// Lower end of the confidence interval; to be shown only as [`Ratio::interval`].
    pub low: f64,
    /// Upper end of the confidence interval; to be shown only as [`Ratio::interval`].
    pub high: f64,
}

impl Ratio {
    /// `arm[i] / base[i]` for each round `i`; both have the same rounds, at least one.
    pub fn paired(arm: &[f64], base: &[f64]) -> Self {
        assert_eq!(arm.len(), base.len(), "arms have the same rounds");
        let ratios: Vec<f64> = arm.iter().zip(base).map(|(arm, base)| arm / base).collect();
        let (low, high) = bootstrap_median(&ratios);
        Self {
            count: ratios.len(),
            rounds: Spread::of(&ratios),
            low,
            high,
        }
    }

    /// The confidence interval; `None` if there are fewer than [`ROUNDS_MIN`] rounds,
    /// which cannot tell a difference from chance.
    pub fn interval(&self) -> Option<(f64, f64)> {
        (self.count >= ROUNDS_MIN).then_some((self.low, self.high))
    }

    /// Whether the rounds tell the arms apart: 1 is outside the confidence interval.
    pub fn differs(&self) -> bool {
        let interval = self.interval();
        interval.is_some_and(|(low, high)| low > 1.0 || high < 1.0)
    }

    /// What the rounds say of two different arms.
    pub fn judgement(&self) -> Judgement {
        match (self.interval(), self.differs()) {
            (None, _) => Judgement::TooFewRounds,
            (Some(_), true) => Judgement::Differs,
            (Some(_), false) => Judgement::NoDifference,
        }
    }

    /// Whether it does so by more than [`CONTROL_TOLERANCE`].
    pub fn matters(&self) -> bool {
        self.differs() && (self.rounds.median - 1.0).abs() > CONTROL_TOLERANCE
    }

    /// The judgement of an A/A control, whose arms are the same server. With few
    /// rounds one in a dozen sound runs has them all on one side of 1, so the
    /// control also has to be off by more than [`CONTROL_TOLERANCE`] to condemn the run.
    pub fn as_control(&self) -> Judgement {
        if self.interval().is_none() {
            return Judgement::TooFewRounds;
        }
        match (self.differs(), self.matters()) {
            (true, true) => Judgement::ControlDiffers,
            (true, false) => Judgement::ControlDiffersLittle,
            (false, _) => Judgement::ControlAgrees,
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread {
            median, min, max, ..
        } = self.rounds;
        match self.interval() {
            Some((low, high)) => write!(
                f,
                "{median:.3} (95 % {low:.3} to {high:.3}; rounds {min:.3} to {max:.3})"
            ),
            None if self.count == 1 => write!(f, "{median:.3} (one round: no interval)"),
            None => write!(
                f,
                "{median:.3} (no interval; {} rounds, {min:.3} to {max:.3})",
                self.count
            ),
        }
    }
}

/// 95 % confidence interval of the median, by the percentile bootstrap (Efron,
/// 1979). Seeded: the same rounds give the same interval.
fn bootstrap_median(values: &[f64]) -> (f64, f64) {
    const RESAMPLES: usize = 10_000;
    let mut uniform = Uniform::stream(0x5eed, 0);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let resample: Vec<f64> = values
                .iter()
                .map(|_| values[uniform.below(values.len())])
                .collect();
            median(&resample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    (
        medians[RESAMPLES / 40],
        medians[RESAMPLES - 1 - RESAMPLES / 40],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let summary = Summary::of((1..=1000).rev());
        assert_eq!(summary.count, 1000);
        assert_eq!(summary.mean_ns, 500.5);
        let percentiles = [
            summary.p50_ns,
            summary.p90_ns,
            summary.p99_ns,
            summary.p99_9_ns,
        ];
        assert_eq!(percentiles, [500, 900, 990, 999]);
        assert_eq!(summary.max_ns, 1000);
        assert_eq!(Summary::of([5]).p99_9_ns, 5);
        assert_eq!(Summary::of([]).count, 0);
    }

    #[test]
    fn evenness_at_both_ends() {
        let even = [3; 8];
        assert_eq!(coefficient_of_variation(&even), 0.0);
        assert_eq!(max_over_mean(&even), 1.0);
        assert_eq!(jain(&even), 1.0);
        let all_to_one = [8, 0, 0, 0];
        assert_eq!(coefficient_of_variation(&all_to_one), 3.0_f64.sqrt());
        assert_eq!(max_over_mean(&all_to_one), 4.0);
        assert_eq!(jain(&all_to_one), 0.25);
        assert_eq!(coefficient_of_variation(&[0; 4]), 0.0);
        assert_eq!(jain(&[0; 4]), 1.0);
    }

    #[test]
    fn what_each_worker_has_is_counted() {
        assert_eq!(per_worker([0, 2, 2, 9], 3), [1, 0, 2]);
        assert_eq!(per_worker([1], 0), [0; 0]);
    }

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn a_clear_difference_is_told_and_noise_is_not() {
        let base = [10.0, 11.0, 9.0, 10.5, 9.5];
        let half = Ratio::paired(&base.map(|value| value / 2.0), &base);
        assert_eq!(half.rounds.median, 0.5);
        assert!(half.differs());
        let noise = Ratio::paired(&[10.1, 10.9, 9.1, 10.4, 9.6], &base);
        assert!(!noise.differs(), "{noise}");
    }

    #[test]
    fn few_rounds_have_no_interval_and_no_difference() {
        let one = Ratio::paired(&[2.0], &[1.0]);
        assert_eq!((one.interval(), one.differs()), (None, false));
        assert_eq!(one.to_string(), "2.000 (one round: no interval)");
        let two = Ratio::paired(&[2.0, 3.0], &[1.0, 1.0]);
        assert_eq!((two.interval(), two.matters()), (None, false));
        assert_eq!(two.judgement(), Judgement::TooFewRounds);
        assert!(two.to_string().contains("no interval"), "{two}");
        let three = Ratio::paired(&[2.0, 2.0, 2.0], &[1.0, 1.0, 1.0]);
        assert_eq!(
            (three.interval(), three.differs()),
            (Some((2.0, 2.0)), true)
        );
    }

    #[test]
    fn a_control_condemns_only_what_matters() {
        let base = [10.0, 11.0, 9.0, 10.5, 9.5];
        let control = |factor| Ratio::paired(&base.map(|value| value * factor), &base);
        assert_eq!(control(1.0).as_control(), Judgement::ControlAgrees);
        assert_eq!(control(1.01).as_control(), Judgement::ControlDiffersLittle);
        assert_eq!(control(1.05).as_control(), Judgement::ControlDiffers);
        let single = Ratio::paired(&[1.05], &[1.0]);
        assert_eq!(single.as_control(), Judgement::TooFewRounds);
    }
}
