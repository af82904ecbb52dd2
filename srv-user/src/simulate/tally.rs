//! What is kept of a simulated run: counts that do not grow with it.

use hdrhistogram::Histogram;

use crate::stats::Summary;

/// Longer latencies count as this one in percentiles, ns: a day.
const LONGEST_NS: u64 = 86_400_000_000_000;
/// A percentile is within 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Latencies. An HdrHistogram rather than every value, as [`Summary::of`] wants
/// them: ten million take 160 MB and seconds to sort.
pub struct Latencies {
    histogram: Histogram<u64>,
    sum_ns: f64,
    max_ns: u64,
}

impl Latencies {
    /// None yet.
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, SIGNIFICANT_DIGITS);
        Self {
            histogram: histogram.expect("valid bounds"),
            sum_ns: 0.0,
            max_ns: 0,
        }
    }

    /// One more.
    pub fn record(&mut self, latency_ns: u64) {
        self.histogram.saturating_record(latency_ns);
        self.sum_ns += latency_ns as f64;
        self.max_ns = self.max_ns.max(latency_ns);
    }

    /// Sums up.
    pub fn summary(&self) -> Summary {
        let count = self.histogram.len();
        let quantile = |q| self.histogram.value_at_quantile(q).min(self.max_ns);
        Summary {
            count: count as usize,
            mean_ns: self.sum_ns / count.max(1) as f64,
            p50_ns: quantile(0.5),
            p90_ns: quantile(0.9),
            p99_ns: quantile(0.99),
            p99_9_ns: quantile(0.999),
            max_ns: self.max_ns,
        }
    }
}

/// All that is kept.
pub struct Tally {
    /// Of all requests.
    pub all: Latencies,
    /// Of the short ones.
    pub short: Latencies,
    /// Time in accept queues, of all together.
    pub wait_ns: f64,
    /// Time that workers were busy, of all together.
    pub busy_ns: f64,
    /// When the first SYN came.
    pub first_ns: Option<u64>,
    /// When the last request was finished.
    pub last_ns: u64,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            all: Latencies::new(),
            short: Latencies::new(),
            wait_ns: 0.0,
            busy_ns: 0.0,
            first_ns: None,
            last_ns: 0,
        }
    }
}
