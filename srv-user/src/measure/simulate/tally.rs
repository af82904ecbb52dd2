//! What remains of a simulated run: counts whose size does not grow with the run.

use std::collections::VecDeque;

use hdrhistogram::Histogram;

use crate::measure::stats::Summary;

/// Longer latencies count as this one in percentiles, ns: a day.
const LONGEST_NS: u64 = 86_400_000_000_000;
/// A percentile is within 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Latencies, or other times. An HdrHistogram rather than every value, as
/// [`Summary::of`] wants them: ten million take 160 MB and seconds to sort.
#[derive(Clone, Debug, PartialEq)]
pub struct Latencies {
    histogram: Histogram<u64>,
    /// Exact, as the histogram's is not.
    mean_ns: f64,
    /// The sum of the squared distances to it.
    squares: f64,
    max_ns: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// None yet.
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, SIGNIFICANT_DIGITS);
        Self {
            histogram: histogram.expect("valid bounds"),
            mean_ns: 0.0,
            squares: 0.0,
            max_ns: 0,
        }
    }

    /// One more.
    pub fn record(&mut self, latency_ns: u64) {
        self.histogram.saturating_record(latency_ns);
        // Welford's update: stable over millions.
        let before = latency_ns as f64 - self.mean_ns;
        self.mean_ns += before / self.histogram.len() as f64;
        self.squares += before * (latency_ns as f64 - self.mean_ns);
        self.max_ns = self.max_ns.max(latency_ns);
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// What a part `at_most` of them, 0 to 1, does not exceed, ns.
    pub fn quantile_ns(&self, at_most: f64) -> u64 {
        self.histogram.value_at_quantile(at_most).min(self.max_ns)
    }

    /// Standard deviation (of the population), ns; 0 if there are none.
    pub fn deviation_ns(&self) -> f64 {
        (self.squares / self.count().max(1) as f64).sqrt()
    }

    /// Sums up.
    pub fn summary(&self) -> Summary {
        Summary {
            count: self.count() as usize,
            mean_ns: self.mean_ns,
            p50_ns: self.quantile_ns(0.5),
            p90_ns: self.quantile_ns(0.9),
            p99_ns: self.quantile_ns(0.99),
            p99_9_ns: self.quantile_ns(0.999),
            max_ns: self.max_ns,
        }
    }
}

/// How many of the last accepts are remembered one by one.
pub(super) const RECENT: usize = 4096;

/// All that is kept.
pub(super) struct Tally {
    /// Of all requests.
    pub all: Latencies,
    /// Of the short ones.
    pub short: Latencies,
    /// Time in the accept queue.
    pub wait: Latencies,
    /// Time that workers were busy, of all together.
    pub busy_ns: f64,
    /// When the first SYN came.
    pub first_ns: Option<u64>,
    /// When the last request was finished.
    pub last_ns: u64,
    /// Which worker accepted each of the last [`RECENT`] connections.
    pub recent: VecDeque<u16>,
}

impl Tally {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self {
            all: Latencies::new(),
            short: Latencies::new(),
            wait: Latencies::new(),
            busy_ns: 0.0,
            first_ns: None,
            last_ns: 0,
            recent: VecDeque::with_capacity(RECENT),
        }
    }

    /// `worker` accepts a connection.
    pub(super) fn accepted_by(&mut self, worker: u32) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        // `simulate::WORKERS_MAX` is less.
        self.recent.push_back(worker as u16);
    }
}
