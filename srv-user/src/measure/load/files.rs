//! What a run leaves in a folder: raw records, histograms in the formats of
//! HdrHistogram's tools, the figures. Written aside and then renamed, so that a
//! file under its own name is whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

use super::figures::{Figures, has_latency};
use super::{Record, Run};

const NAMES: [&str; 4] = [
    "records.csv",
    "latency.hgrm",
    "latency.hlog",
    "summary.json",
];
/// Of an interval of the log.
const INTERVAL_NS: u64 = 1_000_000_000;
/// Significant decimal digits that a histogram keeps.
const DIGITS: u8 = 3;

/// The files of a run, opened before it: what cannot be written is to be known then.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    open: Vec<File>,
}

impl Files {
    /// Creates `folder` if need be, and the files aside.
    pub(super) fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| {
            format!(
                "create folder {} (name another with --out)",
                folder.display()
            )
        })?;
        let create = |name| {
            let path = aside(folder, name);
            File::create(&path).with_context(|| {
                format!("create {} (name another folder with --out)", path.display())
            })
        };
        let open = NAMES.into_iter().map(create).collect::<Result<_>>()?;
        Ok(Self {
            folder: folder.to_owned(),
            open,
        })
    }

    /// Writes all of them; `began` is instant 0.
    pub(super) fn write(self, run: &Run, figures: &Figures, began: SystemTime) -> Result<()> {
        for (name, file) in NAMES.into_iter().zip(&self.open) {
            let mut file = BufWriter::new(file);
            let written = match name {
                "records.csv" => records(&mut file, &run.records),
                "latency.hgrm" => distribution(&mut file, run),
                "latency.hlog" => interval_log(&mut file, run, began),
                _ => summary(&mut file, figures),
            };
            let path = self.folder.join(name);
            written
                .and_then(|()| file.flush())
                .and_then(|()| fs::rename(aside(&self.folder, name), &path))
                .with_context(|| {
                    format!(
                        "write {} (make room, or name another folder with --out)",
                        path.display()
                    )
                })?;
        }
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for name in NAMES {
            // Those that were written are no longer there.
            let _ = fs::remove_file(aside(&self.folder, name));
        }
    }
}

fn aside(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.part"))
}

/// A line per request; an empty field is what is not known.
pub(crate) fn records(file: &mut impl Write, records: &[Record]) -> io::Result<()> {
    writeln!(
        file,
        "scheduled_ns,sent_ns,finished_ns,service_us,worker,outcome,status,target"
    )?;
    for record in records {
        write!(file, "{},", record.scheduled_ns)?;
        if let Some(sent_ns) = record.sent_ns {
            write!(file, "{sent_ns}")?;
        }
        write!(file, ",{},{},", record.finished_ns, record.service_us)?;
        if let Some(worker) = record.worker {
            write!(file, "{worker}")?;
        }
        write!(file, ",{},", record.outcome.name())?;
        if let Some(status) = record.status {
            write!(file, "{status}")?;
        }
        writeln!(file, ",{}", record.target)?;
    }
    Ok(())
}

fn summary(file: &mut impl Write, figures: &Figures) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *file, figures)?;
    writeln!(file)
}

/// The percentile distribution as HdrHistogram's Java original prints it
/// (`outputPercentileDistribution`), 5 steps per half distance, in ms.
pub(crate) fn distribution(file: &mut impl Write, run: &Run) -> io::Result<()> {
    const MS_NS: f64 = 1e6;
    let mut histogram = new_histogram();
    for record in run.records.iter().filter(has_latency) {
        histogram += record.latency_ns();
    }
    writeln!(
        file,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let mut count = 0;
    for step in histogram.iter_quantiles(5) {
        count += step.count_since_last_iteration();
        let value = step.value_iterated_to() as f64 / MS_NS;
        let quantile = step.quantile_iterated_to();
        write!(file, "{value:12.3} {quantile:14.12} {count:10}")?;
        match quantile {
            ..1.0 => writeln!(file, " {:14.2}", 1.0 / (1.0 - quantile))?,
            _ => writeln!(file)?,
        }
    }
    let (mean, deviation) = (histogram.mean() / MS_NS, histogram.stdev() / MS_NS);
    let (max, total) = (histogram.max() as f64 / MS_NS, histogram.len());
    writeln!(
        file,
        "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]"
    )?;
    writeln!(file, "#[Max     = {max:12.3}, Total count    = {total:12}]")?;
    let (buckets, sub_buckets) = (histogram.buckets(), 2 * 10u32.pow(DIGITS.into()));
    let sub_buckets = sub_buckets.next_power_of_two();
    writeln!(
        file,
        "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]"
    )?;
    if !run.is_complete {
        writeln!(file, "#[Incomplete: the run was stopped]")?;
    }
    Ok(())
}

/// A histogram of the latencies, ns, of what finished in each second.
fn interval_log(file: &mut impl Write, run: &Run, began: SystemTime) -> io::Result<()> {
    let mut intervals = vec![new_histogram(); (run.span_ns / INTERVAL_NS + 1) as usize];
    for record in run.records.iter().filter(has_latency) {
        let nth = (record.finished_ns / INTERVAL_NS) as usize;
        intervals[nth] += record.latency_ns();
    }
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder
        .add_comment("[Histogram log format version 1.3]")
        .with_start_time(began)
        .with_base_time(began)
        .with_max_value_divisor(1e6);
    if !run.is_complete {
        builder.add_comment("[Incomplete: the run was stopped]");
    }
    let mut log = builder.begin_log_with(file, &mut serializer)?;
    for (nth, histogram) in intervals.iter().enumerate() {
        let start_ns = nth as u64 * INTERVAL_NS;
        let length_ns = INTERVAL_NS.min(run.span_ns - start_ns);
        let (start, length) = (
            Duration::from_nanos(start_ns),
            Duration::from_nanos(length_ns),
        );
        log.write_histogram(histogram, start, length, None)
            .map_err(io::Error::other)?;
    }
    Ok(())
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new(DIGITS).expect("a precision that there is")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::load::Outcome;
    use crate::measure::stats::Summary;

    fn run() -> Run {
        let record = |number: u64| Record {
            scheduled_ns: number * 1_000_000,
            sent_ns: (number != 3).then_some(number * 1_000_000 + 5),
            finished_ns: number * 1_000_000 + 1_000_000,
            service_us: 7,
            worker: (number != 3).then_some(1),
            outcome: if number == 3 {
                Outcome::Timeout
            } else {
                Outcome::Ok
            },
            status: (number != 3).then_some(200),
            target: number as u32 % 2,
        };
        Run {
            records: (0..2000).map(record).collect(),
            lateness: Summary::default(),
            first_error: None,
            is_complete: false,
            unanswered: 0,
            span_ns: 2_100_000_000,
            picked_up_ns: 2_000_000_000,
            busy: 0.1,
            put_off: 0,
            resumed: 0,
        }
    }

    fn written(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut bytes = Vec::new();
        write(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn records_leave_unknown_fields_empty() {
        let text = written(|file| records(file, &run().records));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2001);
        assert_eq!(lines[2], "1000000,1000005,2000000,7,1,ok,200,1");
        assert_eq!(lines[4], "3000000,,4000000,7,,timeout,,1");
    }

    #[test]
    fn the_distribution_is_in_the_format_that_plotters_read() {
        let text = written(|file| distribution(file, &run()));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "       Value     Percentile TotalCount 1/(1-Percentile)"
        );
        assert_eq!(lines[1], "");
        assert_eq!(
            lines[2],
            "       1.000 0.000000000000       2000           1.00"
        );
        let last = lines.iter().rfind(|line| !line.starts_with('#')).unwrap();
        assert_eq!(*last, "       1.000 1.000000000000       2000");
        assert!(text.contains("#[Max     =        1.000, Total count    =         2000]"));
        assert!(text.contains("#[Incomplete"));
    }

    #[test]
    fn the_log_has_an_interval_for_each_second() {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;
        use hdrhistogram::serialization::Deserializer;
        use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
        let text = written(|file| interval_log(file, &run(), SystemTime::UNIX_EPOCH));
        assert!(text.contains("#[Incomplete"), "{text}");
        let entries = IntervalLogIterator::new(text.as_bytes()).map(Result::unwrap);
        let counts: Vec<u64> = entries
            .filter_map(|entry| match entry {
                LogEntry::Interval(interval) => Some(interval),
                _ => None,
            })
            .map(|interval| {
                let bytes = STANDARD.decode(interval.encoded_histogram()).unwrap();
                let histogram: Histogram<u64> = Deserializer::new()
                    .deserialize(&mut bytes.as_slice())
                    .unwrap();
                histogram.len()
            })
            .collect();
        assert_eq!(counts, [999, 1000, 1]);
    }
}
