//! Answers of servers that do not run, for the tests.

use std::time::{Duration, Instant};

use serde_json::json;

use super::sources::{Lost, Sample, Source};
use super::view::Answer;
use crate::control::status::{GroupStatus, group_for_tests, worker_for_tests};
use crate::control::status_for_tests;

/// A server of srv after `second` seconds, whose workers accept so many connections per second.
/// Each answers two requests on a connection in 5 ms, takes every fourth from a sibling, and has its slot as
/// the number of open connections and of those that wait.
pub(super) fn server(second: u64, accepts_per_s: &[u64]) -> GroupStatus {
    let workers = accepts_per_s.iter().enumerate().map(|(slot, rate)| {
        let mut worker = worker_for_tests(slot as u32);
        let accepts = rate * second;
        worker.pid = 4000 + slot as u32;
        (worker.taken_own, worker.taken_stolen) = (accepts - accepts / 4, accepts / 4);
        worker.served = 2 * accepts;
        worker.busy_sum_ns = Some(accepts.saturating_mul(5_000_000));
        (worker.active, worker.running) = (slot as u32, 1);
        worker.waiting = slot as u64;
        worker
    });
    GroupStatus {
        read_at_us: (1 + second) * 1_000_000,
        ..group_for_tests(workers.collect())
    }
}

/// An attached nginx after `second` seconds, with one socket for each of these rates.
pub(super) fn attached(second: u64, steered_per_s: &[u64]) -> Answer {
    let listeners = steered_per_s.iter().enumerate().map(|(slot, rate)| {
        json!({"slot": slot, "workers": [900 + slot, 950], "owners": 3, "sleep": "busy",
               "steered": rate * second, "acks": 0, "live": 1, "queued": 2, "backlog": 511,
               "connections": 7, "inode": 1, "cookie": 70 + slot, "fd": null})
    });
    let listeners: Vec<_> = listeners.collect();
    let status = serde_json::from_value(json!({"listen": "10.0.0.1:80", "namespace": 1,
        "server": "nginx", "agent": 99, "policy": "p2c", "signals": {}, "half_open": 0,
        "program": {"attached": true, "why_not": null, "runs": 0, "steered": 0, "acks": 0,
                    "fallbacks": {}},
        "balance": {"connections": null, "queued": 4, "empty_while_others_queue": 0},
        "read_at_us": (1 + second) * 1_000_000, "listeners": listeners}));
    Answer::Attached(status.unwrap())
}

/// The source of that name.
pub(super) fn source(name: &str) -> Source {
    Source::Socket(name.into())
}

/// An answer with these groups, `second` seconds after `start`.
pub(super) fn sample(start: Instant, second: u64, groups: Vec<GroupStatus>) -> Sample {
    let answer = Answer::Server(status_for_tests(groups));
    answered("/run/srv/8080.sock", start, second, Ok(answer))
}

/// An outcome from the source of that name.
pub(super) fn answered(
    name: &str,
    start: Instant,
    second: u64,
    outcome: Result<Answer, Lost>,
) -> Sample {
    Sample {
        source: source(name),
        asked_at: start + Duration::from_secs(second),
        outcome,
    }
}
