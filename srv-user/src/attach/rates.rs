//! How many connections each worker of a server accepted between two samples. The kernel has no
//! tracepoint for an accept. A connection that was accepted is open at the second sample, or has
//! been closed since the first. Therefore accepts are the closes, plus the growth of the number of
//! open connections.

use std::collections::{BTreeMap, HashMap};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::closes::Thread;
use crate::kernel::owners::{Owner, Owners};

/// A sample of the connections of all processes.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Open connections, by process.
    pub open: HashMap<Pid, u64>,
    /// Connections closed so far, by thread; `None` if they are not counted.
    pub closed: Option<BTreeMap<Thread, u64>>,
}

/// A worker: a process, or a thread, if each thread of the process accepts by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerRate {
    /// Its process id.
    pub pid: u32,
    /// Its thread id; `None` if the process is the worker.
    pub thread: Option<u32>,
    /// The command name of its process.
    pub command: String,
    /// Connections that it accepted in the interval; `None` if unknown. If it is a thread, these
    /// are the connections that it closed, since open connections are known by process only.
    pub accepted: Option<u64>,
    /// The same per second.
    pub accepts_per_s: Option<f64>,
    /// Its share of all accepted connections, from 0 to 1; `None` if it is unknown, or if no
    /// connection was accepted.
    pub share: Option<f64>,
    /// Open connections at the end of the interval; `None` if it is a thread.
    pub connections: Option<u64>,
}

/// The workers, with the connections that they accepted between two samples `seconds` apart.
/// `has_workers` tells whether another process of the server is a child of the given one.
pub fn rates(
    owners: &Owners,
    has_workers: impl Fn(Pid) -> bool,
    before: &Sample,
    after: &Sample,
    seconds: f64,
) -> Vec<WorkerRate> {
    let all = owners.owners.iter();
    let polling: Vec<&Owner> = all.clone().filter(|owner| owner.epolls > 0).collect();
    let mut rows: Vec<WorkerRate> = match polling[..] {
        [only] if only.epolls > 1 => threads(only, before, after),
        _ => {
            // A master has every socket, too, but it accepts no connection.
            let is_worker = |(owner, row): &(&Owner, WorkerRate)| {
                let waits = match polling.is_empty() {
                    true => !has_workers(owner.pid),
                    false => owner.epolls > 0,
                };
                waits || row.accepted.is_some_and(|accepted| accepted > 0)
            };
            let rows = all.map(|owner| (owner, process(owner, before, after)));
            rows.filter(is_worker).map(|(_, row)| row).collect()
        }
    };
    let sum: u64 = rows.iter().filter_map(|row| row.accepted).sum();
    for row in &mut rows {
        row.accepts_per_s = row.accepted.map(|accepted| accepted as f64 / seconds);
        let accepted = row.accepted.filter(|_| sum > 0);
        row.share = accepted.map(|accepted| accepted as f64 / sum as f64);
    }
    rows
}

fn process(owner: &Owner, before: &Sample, after: &Sample) -> WorkerRate {
    let pid = owner.pid.as_raw_nonzero().get() as u32;
    let closed = |sample: &Sample| -> Option<u64> {
        let all = sample.closed.as_ref()?;
        Some(
            all.range((pid, 0)..=(pid, u32::MAX))
                .map(|(_, count)| count)
                .sum(),
        )
    };
    let open = |sample: &Sample| sample.open.get(&owner.pid).copied().unwrap_or(0);
    let accepted = || {
        let (was, is) = (closed(before)? + open(before), closed(after)? + open(after));
        // A sample reads the closes first and then the open connections. A close in between is
        // missing in both.
        Some(is.saturating_sub(was))
    };
    WorkerRate {
        pid,
        thread: None,
        command: owner.command.clone(),
        accepted: accepted(),
        accepts_per_s: None,
        share: None,
        connections: Some(open(after)),
    }
}

/// As many threads as there are epoll instances that watch the sockets: first the threads that have
/// ever closed a connection, then the others, which have accepted none.
fn threads(owner: &Owner, before: &Sample, after: &Sample) -> Vec<WorkerRate> {
    let pid = owner.pid.as_raw_nonzero().get() as u32;
    let row = |thread: Option<u32>, accepted: Option<u64>| WorkerRate {
        pid,
        thread,
        command: owner.command.clone(),
        accepted,
        accepts_per_s: None,
        share: None,
        connections: None,
    };
    let closed = |sample: &Sample, thread: Thread| {
        let all = sample.closed.as_ref();
        all.and_then(|all| all.get(&thread).copied()).unwrap_or(0)
    };
    let is_known = after.closed.is_some();
    let seen = after.closed.iter().flatten().map(|(thread, _)| *thread);
    let mut rows: Vec<WorkerRate> = seen
        .filter(|thread| thread.0 == pid)
        .map(|thread| {
            let accepted =
                closed(after, thread) - closed(before, thread).min(closed(after, thread));
            row(Some(thread.1), Some(accepted))
        })
        .collect();
    while rows.len() < owner.epolls {
        rows.push(row(None, is_known.then_some(0)));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(pid: i32, epolls: usize) -> Owner {
        Owner {
            pid: Pid::from_raw(pid).unwrap(),
            command: "server".into(),
            sockets: [(9, 7)].into(),
            polled: if epolls > 0 { [9].into() } else { [].into() },
            epolls,
        }
    }

    fn owners(owners: Vec<Owner>) -> Owners {
        Owners { owners, hidden: 0 }
    }

    fn sample(open: &[(i32, u64)], closed: &[(Thread, u64)]) -> Sample {
        let open = open
            .iter()
            .map(|(pid, count)| (Pid::from_raw(*pid).unwrap(), *count));
        Sample {
            open: open.collect(),
            closed: Some(closed.iter().copied().collect()),
        }
    }

    fn accepted(rows: &[WorkerRate]) -> Vec<(u32, Option<u64>)> {
        rows.iter().map(|row| (row.pid, row.accepted)).collect()
    }

    #[test]
    fn accepts_are_the_closes_and_the_growth_of_open_connections() {
        let all = owners(vec![owner(1, 0), owner(2, 1), owner(3, 1)]);
        let before = sample(&[(2, 5), (3, 0)], &[((2, 2), 100)]);
        let after = sample(&[(2, 3), (3, 10)], &[((2, 2), 130), ((3, 3), 20)]);
        let rows = rates(&all, |_| false, &before, &after, 2.0);
        assert_eq!(accepted(&rows), [(2, Some(28)), (3, Some(30))]);
        assert_eq!(rows[1].accepts_per_s, Some(15.0));
        assert_eq!(rows[1].connections, Some(10));
        assert!((rows[0].share.unwrap() - 28.0 / 58.0).abs() < 1e-9);
    }

    #[test]
    fn if_no_process_polls_the_master_is_the_parent() {
        let all = owners(vec![owner(1, 0), owner(2, 0), owner(3, 0)]);
        let (before, after) = (sample(&[], &[]), sample(&[(3, 4)], &[]));
        let is_master = |pid: Pid| pid.as_raw_nonzero().get() == 1;
        let rows = rates(&all, is_master, &before, &after, 1.0);
        assert_eq!(accepted(&rows), [(2, Some(0)), (3, Some(4))]);
    }

    #[test]
    fn threads_with_an_epoll_each_are_the_workers() {
        let all = owners(vec![owner(6, 0), owner(7, 3)]);
        let before = sample(&[(7, 9)], &[((7, 7), 10)]);
        let after = sample(&[(7, 2)], &[((7, 7), 50), ((7, 8), 4), ((8, 8), 99)]);
        let rows = rates(&all, |_| false, &before, &after, 1.0);
        let threads: Vec<_> = rows.iter().map(|row| (row.thread, row.accepted)).collect();
        let expected = [(Some(7), Some(40)), (Some(8), Some(4)), (None, Some(0))];
        assert_eq!(threads, expected);
    }

    #[test]
    fn without_counts_accepts_and_shares_are_unknown() {
        let all = owners(vec![owner(2, 1), owner(3, 1)]);
        let uncounted = Sample {
            closed: None,
            ..sample(&[(2, 1), (3, 8)], &[])
        };
        for row in rates(&all, |_| false, &uncounted, &uncounted, 1.0) {
            assert_eq!((row.accepted, row.share), (None, None));
        }
    }
}
