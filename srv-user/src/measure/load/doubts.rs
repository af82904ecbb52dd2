//! Reasons not to believe a run's figures: the generator, not the server, may
//! have made them.

use std::fs;

use super::{Outcome, Run};

/// A generator later than this is visible in the latencies, ns.
const LATE_NS: u64 = 1_000_000;
/// If less than this part of the rate asked for was reached, it was not that rate.
const REACHED_MIN: f64 = 0.99;
/// If the generator used a CPU for more than this part of the time, it had none left.
const BUSY_MAX: f64 = 0.95;

/// One sentence each. `scheduled_ns`: how long the plan is; `None` in a closed loop.
pub(super) fn doubts(run: &Run, scheduled_ns: Option<u64>) -> Vec<String> {
    let mut doubts = Vec::new();
    if let Some(scheduled_ns) = scheduled_ns {
        let late_ns = run.lateness.p99_ns;
        if late_ns > LATE_NS {
            doubts.push(format!(
                "the generator fell behind: it picked up 1 % of the requests more than {} late, which \
                 the latencies contain; lower --rate",
                super::table::time(late_ns as f64)
            ));
        }
        let reached = scheduled_ns as f64 / scheduled_ns.max(run.picked_up_ns) as f64;
        if run.is_complete && reached < REACHED_MIN {
            doubts.push(format!(
                "the generator reached only {:.0} % of the rate asked for; lower --rate",
                reached * 100.0
            ));
        }
    } else if run.busy > BUSY_MAX {
        doubts.push(format!(
            "the generator itself limited the rate: it used a CPU for {:.0} % of the time; use more \
             than one generator",
            run.busy * 100.0
        ));
    }
    if run.put_off > 0 {
        doubts.push(
            "requests had to wait until connections of other requests ended: this process may not \
             open more files; raise `ulimit -Hn`"
                .into(),
        );
    }
    doubts.extend(unsent(run));
    doubts.extend(redirected(run));
    doubts
}

/// Why requests were not sent, in which the server has no part.
fn unsent(run: &Run) -> Vec<String> {
    let count = |outcome| {
        let ended = run.records.iter().filter(|r| r.outcome == outcome);
        ended.count()
    };
    let reasons = [
        (
            Outcome::NoPort,
            format!(
                "this machine had no local port left for the server's address{}; use \
                 --keep-alive, send fewer requests, or widen net.ipv4.ip_local_port_range",
                port_range()
            ),
        ),
        (
            Outcome::NoSocket,
            "this process could not open more sockets; raise `ulimit -Hn`, or send fewer requests"
                .into(),
        ),
        (
            Outcome::Late,
            "the generator was late by more than --timeout; send fewer requests".into(),
        ),
    ];
    let counted = reasons
        .into_iter()
        .map(|(outcome, why)| (count(outcome), why));
    counted
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("{count} requests were not sent: {why}"))
        .collect()
}

/// How many ports there are at all; empty if the kernel does not say.
fn port_range() -> String {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    match range.split_whitespace().collect::<Vec<_>>()[..] {
        [first, last] => format!(" (ports {first} to {last})"),
        _ => String::new(),
    }
}

/// If all answers are redirections, the URL is probably not the one that was meant.
fn redirected(run: &Run) -> Option<String> {
    let mut answered = run.records.iter().filter(|r| r.outcome == Outcome::Ok);
    let is_redirection = |status: Option<u16>| matches!(status, Some(300..=303 | 307 | 308));
    let status = answered.next()?.status?;
    (is_redirection(Some(status)) && answered.all(|r| is_redirection(r.status))).then(|| {
        format!(
            "each answer was a redirection (the first: {status}), which is not followed; name \
             the place that it leads to"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::load::Record;
    use crate::measure::stats::Summary;

    fn run(late_ns: u64, picked_up_ns: u64, busy: f64) -> Run {
        Run {
            records: Vec::new(),
            lateness: Summary::of([late_ns]),
            first_error: None,
            is_complete: true,
            unanswered: 0,
            span_ns: picked_up_ns,
            picked_up_ns,
            busy,
            put_off: 0,
            resumed: 0,
        }
    }

    fn ended(outcome: Outcome, status: Option<u16>) -> Record {
        Record {
            scheduled_ns: 0,
            sent_ns: None,
            finished_ns: 1,
            service_us: 0,
            worker: None,
            outcome,
            status,
            target: 0,
        }
    }

    #[test]
    fn only_a_generator_that_fell_behind_is_doubted() {
        assert_eq!(doubts(&run(1000, 990, 1.0), Some(1000)), [""; 0]);
        assert!(doubts(&run(2_000_000, 990, 0.1), Some(1000))[0].contains("2.00ms late"));
        assert!(doubts(&run(0, 2000, 0.1), Some(1000))[0].contains("50 %"));
        assert_eq!(doubts(&run(0, 5000, 0.5), None), [""; 0]);
        assert!(doubts(&run(0, 5000, 0.99), None)[0].contains("99 %"));
    }

    #[test]
    fn each_limit_of_the_generator_is_named_with_its_count() {
        let mut run = run(0, 1000, 0.1);
        let outcomes = [
            Outcome::NoPort,
            Outcome::NoPort,
            Outcome::NoSocket,
            Outcome::Late,
        ];
        run.records
            .extend(outcomes.map(|outcome| ended(outcome, None)));
        let doubts = doubts(&run, Some(1000));
        for (doubt, expected) in doubts.iter().zip([
            "2 requests were not sent: this machine had no local port",
            "1 requests were not sent: this process could not open",
            "1 requests were not sent: the generator was late",
        ]) {
            assert!(doubt.starts_with(expected), "{doubts:?}");
        }
        assert_eq!(doubts.len(), 3);
    }

    #[test]
    fn a_run_of_redirections_only_is_doubted() {
        let mut run = run(0, 1000, 0.1);
        run.records.push(ended(Outcome::Ok, Some(301)));
        assert!(doubts(&run, Some(1000))[0].contains("the first: 301"));
        run.records.push(ended(Outcome::Ok, Some(200)));
        assert_eq!(doubts(&run, Some(1000)), [""; 0]);
    }
}
