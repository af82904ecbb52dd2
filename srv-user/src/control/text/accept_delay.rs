//! The line of `srv status` that says for how long connections waited until a worker accepted them.

use srv_common::histogram::Snapshot;

use crate::control::status::{ProgramStatus, WorkerStatus, accept_delays};

/// Median and p99 of the connections from workers' own listeners and from siblings', or why they are
/// unknown. There is no line if that is the same reason for which the group is not steered.
pub(super) fn line(workers: &[WorkerStatus], program: &ProgramStatus) -> String {
    let Some(delays) = accept_delays(workers) else {
        return match &program.accept_delay_unknown {
            Some(why) if program.why_not.as_ref() != Some(why) => {
                format!("waited to be accepted: unknown: {why}\n")
            }
            _ => String::new(),
        };
    };
    let mut parts = Vec::new();
    for (which, durations) in [("own", &delays.own), ("stolen", &delays.stolen)] {
        parts.extend(quantiles(durations).map(|quantiles| format!("{which} {quantiles}")));
    }
    if delays.unknown > 0 {
        parts.push(format!("{} unknown", delays.unknown));
    }
    match parts.is_empty() {
        true => String::new(),
        false => format!("waited to be accepted: {}\n", parts.join("; ")),
    }
}

fn quantiles(durations: &Snapshot) -> Option<String> {
    let (p50, p99) = (durations.quantile_ns(0.5)?, durations.quantile_ns(0.99)?);
    Some(format!("p50 {}, p99 {}", at_most(p50), at_most(p99)))
}

/// The bound of a bucket, with two digits at least.
pub(crate) fn at_most(ns: u64) -> String {
    const US: f64 = 1e3;
    const MS: f64 = 1e6;
    const S: f64 = 1e9;
    let (value, unit) = match ns as f64 {
        ns if ns < US => return format!("{ns}ns"),
        _ if ns == u64::MAX => return ">64s".into(),
        ns if ns < MS => (ns / US, "us"),
        ns if ns < S => (ns / MS, "ms"),
        ns => (ns / S, "s"),
    };
    match value < 10.0 {
        true => format!("{value:.1}{unit}"),
        false => format!("{value:.0}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use srv_common::histogram::Histogram;

    use super::*;
    use crate::control::status::{AcceptDelayStatus, group_for_tests, worker_for_tests};

    fn waited(durations_ns: &[u64]) -> Snapshot {
        let histogram = Histogram::default();
        durations_ns.iter().for_each(|ns| histogram.record(*ns));
        histogram.snapshot()
    }

    #[test]
    fn workers_are_summed_and_own_and_stolen_are_told_apart() {
        let delay = |own: &[u64], stolen: &[u64], unknown| AcceptDelayStatus {
            own: (&waited(own)).into(),
            stolen: (&waited(stolen)).into(),
            unknown,
        };
        let mut workers = [
            worker_for_tests(0),
            worker_for_tests(1),
            worker_for_tests(2),
        ];
        let program = group_for_tests(Vec::new()).program;
        assert_eq!(line(&workers, &program), "");
        workers[0].accept_delay = Some(delay(&[5_000; 90], &[], 0));
        let said = "waited to be accepted: own p50 5.4us, p99 5.4us\n";
        assert_eq!(line(&workers, &program), said);
        workers[2].accept_delay = Some(delay(&[300_000_000; 10], &[1 << 40, 700], 4));
        let said = "waited to be accepted: own p50 5.4us, p99 354ms; \
                    stolen p50 953ns, p99 >64s; 4 unknown\n";
        assert_eq!(line(&workers, &program), said);
    }

    #[test]
    fn a_reason_is_said_unless_it_is_said_already() {
        let workers = [worker_for_tests(0)];
        let mut program = group_for_tests(Vec::new()).program;
        program.accept_delay_unknown = Some("no BTF".into());
        let said = "waited to be accepted: unknown: no BTF\n";
        assert_eq!(line(&workers, &program), said);
        program.why_not = Some("no BTF".into());
        assert_eq!(line(&workers, &program), "");
    }
}
