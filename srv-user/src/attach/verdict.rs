//! Whether a server has the problem that steering solves: a verdict of one line, the remedy, and an
//! exit code for scripts. Pure.

use serde::{Deserialize, Serialize};

use super::rates::WorkerRate;

/// What was measured in an interval.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// The workers, with the connections that they accepted.
    pub workers: &'a [WorkerRate],
    /// Why accepts are unknown; `None` if they are known.
    pub unknown: Option<&'a str>,
    /// The length of the interval, in seconds.
    pub seconds: f64,
    /// How often the accept queues were sampled.
    pub looks: u32,
    /// In how many samples the queue of one socket held connections for 20 ms while the queue of
    /// another was empty.
    pub waiting: u32,
    /// What would steer the server; `None` if it is steered already.
    pub fix: Option<&'a str>,
}

/// The kind of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// The workers share evenly, and no connection waits beside an idle worker.
    Even,
    /// One worker takes much more than its share.
    Uneven,
    /// Connections wait at the socket of one worker while no connection waits at that of another.
    Waiting,
    /// Too few connections came for a verdict.
    Few,
    /// There is one worker, so there are no shares.
    OneWorker,
    /// It is unknown which worker accepts how many connections.
    Unknown,
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its kind.
    pub finding: Finding,
    /// One line for people.
    pub text: String,
    /// The remedy; `None` if none is needed.
    pub fix: Option<String>,
}

impl Finding {
    /// The exit code of the command: 0 if the workers share evenly, 3 if there is something to fix,
    /// 4 if a verdict is not possible.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Even => 0,
            Self::Uneven | Self::Waiting => 3,
            Self::Few | Self::OneWorker | Self::Unknown => 4,
        }
    }
}

/// The fewest connections for each worker that allow a verdict.
const ENOUGH_PER_WORKER: u64 = 20;
/// A worker takes too much if it has more than this multiple of an even share, and if its number of
/// connections is also more than [`DEVIATIONS`] above the mean.
const TOO_MUCH: f64 = 1.5;
/// In standard deviations of a fair draw.
const DEVIATIONS: f64 = 4.0;
/// Connections wait if they do so in more than this share of all samples. A single sample may meet a
/// burst.
const WAITING_SHARE: f64 = 0.1;

/// Judges an interval.
pub fn judge(seen: &Seen<'_>) -> Verdict {
    // If the server is steered, connections that wait are no finding: a worker that becomes busy
    // after a connection was assigned to it keeps that connection, and there is no remedy.
    let can_fix = seen.fix.is_some();
    let waits = f64::from(seen.waiting) > WAITING_SHARE * f64::from(seen.looks);
    let (finding, text) = if can_fix && waits {
        let (waiting, looks) = (seen.waiting, seen.looks);
        let text = format!(
            "in {waiting} of {looks} samples connections waited at the socket of one worker for 20 ms while none waited at the socket of another"
        );
        (Finding::Waiting, text)
    } else {
        shares(seen)
    };
    let is_bad = finding.exit_code() == 3;
    let fix = seen.fix.filter(|_| is_bad).map(str::to_owned);
    let text = match &fix {
        Some(fix) => format!("{text}; fix: {fix}"),
        None => text,
    };
    Verdict { finding, text, fix }
}

fn shares(seen: &Seen<'_>) -> (Finding, String) {
    let count = seen.workers.len();
    if let Some(why) = seen.unknown {
        return (Finding::Unknown, format!("shares are unknown: {why}"));
    }
    if count < 2 {
        return (
            Finding::OneWorker,
            "there is one worker, so there is nothing to share".into(),
        );
    }
    let accepted: Vec<u64> = seen.workers.iter().filter_map(|row| row.accepted).collect();
    let sum: u64 = accepted.iter().sum();
    if sum < ENOUGH_PER_WORKER * count as u64 {
        let text = format!(
            "{sum} connections in {:.1} s are too few for a verdict on {count} workers: observe for longer (--interval 30s)",
            seen.seconds
        );
        return (Finding::Few, text);
    }
    let mean = sum as f64 / count as f64;
    let most = accepted.iter().copied().max().unwrap_or(0);
    let least = accepted.iter().copied().min().unwrap_or(0);
    let percent = |part: u64| 100.0 * part as f64 / sum as f64;
    let even = 100.0 / count as f64;
    let excess = most as f64 - mean;
    if most as f64 > TOO_MUCH * mean && excess > DEVIATIONS * mean.sqrt() {
        let text = format!(
            "one of {count} workers accepted {:.0} % of {sum} connections, an even share is {even:.1} %",
            percent(most)
        );
        return (Finding::Uneven, text);
    }
    let (least, most) = (percent(least), percent(most));
    let text = format!(
        "each of {count} workers accepted {least:.0} to {most:.0} % of {sum} connections, an even share is {even:.1} %"
    );
    (Finding::Even, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(accepted: &[u64]) -> Vec<WorkerRate> {
        let row = |accepted: &u64| WorkerRate {
            pid: 1,
            thread: None,
            command: "nginx".into(),
            accepted: Some(*accepted),
            accepts_per_s: None,
            share: None,
            connections: None,
        };
        accepted.iter().map(row).collect()
    }

    fn judged(accepted: &[u64], waiting: u32) -> Verdict {
        judge(&Seen {
            workers: &workers(accepted),
            unknown: None,
            seconds: 1.0,
            looks: 10,
            waiting,
            fix: Some("srv attach"),
        })
    }

    #[test]
    fn one_worker_that_takes_most_is_named_with_the_fix() {
        let verdict = judged(&[610, 60, 60, 60, 60, 50, 50, 50], 0);
        assert_eq!(verdict.finding, Finding::Uneven);
        assert_eq!(
            verdict.text,
            "one of 8 workers accepted 61 % of 1000 connections, an even share is 12.5 %; fix: srv attach"
        );
        assert_eq!(verdict.finding.exit_code(), 3);
    }

    #[test]
    fn what_a_fair_draw_gives_is_even() {
        for accepted in [&[130, 110, 125, 135][..], &[25, 15, 20, 30], &[100, 100]] {
            let verdict = judged(accepted, 0);
            assert_eq!(verdict.finding, Finding::Even, "{verdict:?}");
            assert_eq!((verdict.fix, verdict.finding.exit_code()), (None, 0));
        }
    }

    #[test]
    fn too_few_connections_and_one_worker_are_no_verdict() {
        assert_eq!(judged(&[10, 0], 0).finding, Finding::Few);
        assert_eq!(judged(&[1000], 0).finding, Finding::OneWorker);
        assert_eq!(Finding::Few.exit_code(), 4);
    }

    #[test]
    fn connections_that_wait_beside_an_idle_worker_are_worse_than_uneven_shares() {
        let verdict = judged(&[100, 100], 5);
        assert_eq!(verdict.finding, Finding::Waiting);
        assert!(verdict.text.contains("in 5 of 10 samples"), "{verdict:?}");
        assert_eq!(judged(&[100, 100], 1).finding, Finding::Even, "one burst");
        let workers = workers(&[100, 100]);
        let steered = judge(&Seen {
            workers: &workers,
            unknown: None,
            seconds: 1.0,
            looks: 10,
            waiting: 5,
            fix: None,
        });
        assert_eq!(steered.finding, Finding::Even);
    }

    #[test]
    fn what_is_unknown_says_why() {
        let verdict = judge(&Seen {
            workers: &workers(&[]),
            unknown: Some("needs CAP_BPF"),
            seconds: 1.0,
            looks: 10,
            waiting: 0,
            fix: Some("srv attach"),
        });
        assert_eq!(verdict.finding, Finding::Unknown);
        assert_eq!(verdict.text, "shares are unknown: needs CAP_BPF");
    }
}
