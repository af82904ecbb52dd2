//! Families in the two text formats, by the Prometheus project's own library.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::families::{self, Family, Kind, Sample, Value, classic_buckets};

/// The format that every Prometheus reads, version 0.0.4.
pub(super) fn prometheus(families: Vec<Family>) -> Result<Vec<u8>, fmt::Error> {
    let mut written = String::new();
    prometheus_text::encode(&mut written, &registry(families))?;
    Ok(written.into())
}

/// OpenMetrics 1.0.
pub(super) fn open_metrics(families: Vec<Family>) -> Result<Vec<u8>, fmt::Error> {
    let mut written = String::new();
    text::encode(&mut written, &registry(families))?;
    Ok(written.into())
}

fn registry(families: Vec<Family>) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    registry
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let unit = family.unit.map(|unit| match unit {
                families::Unit::Seconds => Unit::Seconds,
                families::Unit::Ratio => Unit::Other(unit.name().to_owned()),
            });
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Info => MetricType::Info,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metrics =
                encoder.encode_descriptor(family.name, family.help, unit.as_ref(), kind)?;
            for sample in &family.samples {
                encode(&mut metrics, family.kind, sample)?;
            }
        }
        Ok(())
    }
}

fn encode(metrics: &mut MetricEncoder<'_>, kind: Kind, sample: &Sample) -> Result<(), fmt::Error> {
    if kind == Kind::Info {
        return metrics.encode_info(&sample.labels);
    }
    let mut metric = metrics.encode_family(&sample.labels)?;
    match (kind, &sample.value) {
        (Kind::Counter, Value::Whole(count)) => {
            metric.encode_counter::<NoLabelSet, _, u64>(count, None)
        }
        (Kind::Counter, Value::Real(count)) => {
            metric.encode_counter::<NoLabelSet, _, u64>(count, None)
        }
        (_, Value::Whole(figure)) => metric.encode_gauge(figure),
        (_, Value::Real(figure)) => metric.encode_gauge(figure),
        (_, Value::Durations(durations)) => {
            let sum_s = durations.sum_ns as f64 / 1e9;
            let buckets = classic_buckets(durations);
            metric.encode_histogram::<NoLabelSet>(sum_s, durations.count(), &buckets, None)
        }
    }
}
