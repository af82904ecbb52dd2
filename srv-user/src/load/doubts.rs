//! Reasons not to believe a run's figures: the generator, not the server, may
//! have made them.

use super::Run;

/// A generator later than this is visible in the latencies, ns.
const LATE_NS: u64 = 1_000_000;
/// Less than this part of the rate asked for is not that rate.
const REACHED_MIN: f64 = 0.99;
/// A generator on CPU for more than this part of the time had none to spare.
const BUSY_MAX: f64 = 0.95;

/// One sentence each. `scheduled_ns`: how long the plan is; `None` in a closed loop.
pub(super) fn doubts(run: &Run, scheduled_ns: Option<u64>) -> Vec<String> {
    let mut doubts = Vec::new();
    if let Some(scheduled_ns) = scheduled_ns {
        let late_ns = run.lateness.p99_ns;
        if late_ns > LATE_NS {
            doubts.push(format!(
                "the generator fell behind: it picked up 1 % of the requests more than {} late; \
                 the latencies contain that",
                super::table::time(late_ns as f64)
            ));
        }
        let reached = scheduled_ns as f64 / scheduled_ns.max(run.picked_up_ns) as f64;
        if run.is_complete && reached < REACHED_MIN {
            doubts.push(format!(
                "the generator reached only {:.0} % of the rate asked for; ask for less",
                reached * 100.0
            ));
        }
    } else if run.busy > BUSY_MAX {
        doubts.push(format!(
            "the generator itself was the limit: it used a CPU for {:.0} % of the time",
            run.busy * 100.0
        ));
    }
    if run.was_out_of_files {
        doubts.push(
            "requests had to wait for others' connections to end: this process may not open \
             more files; raise `ulimit -Hn`"
                .into(),
        );
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Summary;

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
            was_out_of_files: false,
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
}
