//! Families as Prometheus' protocol buffers, each preceded by its length: the one format that has
//! native histograms, whose buckets are those of [`srv_common::histogram`]. The messages are those
//! of the Prometheus project's `metrics.proto`, with the fields that are needed.
//!
//! prometheus-client can write this format, too, but generates the messages at build time, by a
//! compiler for protocol buffers that takes longer to build than all else of the admin process.

use prost::Message;
use srv_common::histogram::{FIRST_INDEX, SCHEMA, Snapshot};

use super::families::{self, Family, Kind, Sample, Value, classic_buckets, exact_bound};

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    help: String,
    /// 0: counter, 1: gauge, 4: histogram.
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Figure>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Figure>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// A counter or a gauge.
#[derive(Clone, PartialEq, Message)]
struct Figure {
    #[prost(double, tag = "1")]
    value: f64,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, tag = "1")]
    sample_count: u64,
    #[prost(double, tag = "2")]
    sample_sum: f64,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, tag = "5")]
    schema: i32,
    #[prost(double, tag = "6")]
    zero_threshold: f64,
    #[prost(uint64, tag = "7")]
    zero_count: u64,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    /// Each bucket's count less that of the bucket before.
    #[prost(sint64, repeated, tag = "13")]
    positive_delta: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, tag = "1")]
    cumulative_count: u64,
    #[prost(double, tag = "2")]
    upper_bound: f64,
}

#[derive(Clone, PartialEq, Message)]
struct BucketSpan {
    /// From the end of the span before; of the first one, from index 0.
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

/// The families, one message after the other.
pub(super) fn delimited(families: &[Family]) -> Vec<u8> {
    let mut written = Vec::new();
    for family in families {
        let message = MetricFamily {
            name: name(family),
            help: family.help.to_owned(),
            kind: match family.kind {
                Kind::Counter => 0,
                Kind::Gauge | Kind::Info => 1,
                Kind::Histogram => 4,
            },
            metric: family
                .samples
                .iter()
                .map(|one| metric(family.kind, one))
                .collect(),
        };
        written.extend(message.encode_length_delimited_to_vec());
    }
    written
}

fn name(family: &Family) -> String {
    let unit = family.unit.map(families::Unit::name);
    let ending = match family.kind {
        Kind::Counter => Some("total"),
        Kind::Info => Some("info"),
        Kind::Gauge | Kind::Histogram => None,
    };
    let parts = [Some(family.name), unit, ending];
    parts.into_iter().flatten().collect::<Vec<_>>().join("_")
}

fn metric(kind: Kind, sample: &Sample) -> Metric {
    let label = sample.labels.iter().map(|(name, value)| LabelPair {
        name: (*name).to_owned(),
        value: value.clone(),
    });
    let mut metric = Metric {
        label: label.collect(),
        ..Metric::default()
    };
    let value = match &sample.value {
        Value::Whole(figure) => *figure as f64,
        Value::Real(figure) => *figure,
        Value::Durations(durations) => {
            metric.histogram = Some(histogram(durations));
            return metric;
        }
    };
    match kind {
        Kind::Counter => metric.counter = Some(Figure { value }),
        _ => metric.gauge = Some(Figure { value }),
    }
    metric
}

fn histogram(durations: &Snapshot) -> Histogram {
    let mut cumulative_count = 0;
    let bucket = classic_buckets(durations).into_iter();
    let bucket = bucket.map(|(upper_bound, count)| {
        cumulative_count += count;
        Bucket {
            cumulative_count,
            upper_bound,
        }
    });
    let bucket = bucket.collect();
    let (zero_count, positive) = (durations.buckets[0], &durations.buckets[1..]);
    let (positive_span, positive_delta) = native(positive, FIRST_INDEX + 1);
    Histogram {
        sample_count: durations.count(),
        sample_sum: durations.sum_ns as f64 / 1e9,
        bucket,
        schema: SCHEMA,
        zero_threshold: exact_bound(FIRST_INDEX),
        zero_count,
        positive_span,
        positive_delta,
    }
}

/// The buckets that have something, the first of which has this index.
fn native(buckets: &[u64], first: i32) -> (Vec<BucketSpan>, Vec<i64>) {
    let (mut spans, mut deltas) = (Vec::<BucketSpan>::new(), Vec::new());
    let (mut before, mut end) = (0, 0);
    for (index, count) in (first..).zip(buckets).filter(|(_, count)| **count > 0) {
        match spans.last_mut() {
            Some(span) if index == end => span.length += 1,
            _ => spans.push(BucketSpan {
                offset: index - end,
                length: 1,
            }),
        }
        end = index + 1;
        deltas.push(*count as i64 - before);
        before = *count as i64;
    }
    if spans.is_empty() {
        // Otherwise it would not be a native histogram.
        spans.push(BucketSpan::default());
    }
    (spans, deltas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_buckets_are_spans_and_differences() {
        // Indices 7 to 9, and 12.
        let (spans, deltas) = native(&[0, 5, 2, 4, 0, 0, 9, 0], 6);
        let spans: Vec<_> = spans
            .iter()
            .map(|span| (span.offset, span.length))
            .collect();
        assert_eq!(spans, [(7, 3), (2, 1)]);
        assert_eq!(deltas, [5, -3, 2, 5]);
        assert_eq!(native(&[0, 0], 6).0, [BucketSpan::default()]);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let durations = srv_common::histogram::Histogram::default();
        for ns in [0, 1_000_000_000, 3_000_000_000] {
            durations.record(ns);
        }
        let families = [
            Family::durations("a_delay", "Help.")
                .with([("b", "c".to_owned())], durations.snapshot()),
            Family::counter("d", "Help.").with([], 3u64),
        ];
        let written = delimited(&families);
        let mut left = &written[..];
        let delay = MetricFamily::decode_length_delimited(&mut left).unwrap();
        let count = MetricFamily::decode_length_delimited(&mut left).unwrap();
        assert!(left.is_empty());
        assert_eq!(
            (delay.name.as_str(), count.name.as_str()),
            ("a_delay_seconds", "d_total")
        );
        let histogram = delay.metric[0].histogram.as_ref().unwrap();
        assert_eq!((histogram.sample_count, histogram.sample_sum), (3, 4.0));
        assert_eq!(histogram.zero_count, 1);
        // 1 s is the bound of index 0, and 3 s is below that of index 7, 2^(7/4) s.
        let spans = &histogram.positive_span;
        assert_eq!((spans[0].offset, spans[1].offset), (0, 6));
        assert_eq!(histogram.bucket.last().unwrap().cumulative_count, 3);
    }
}
