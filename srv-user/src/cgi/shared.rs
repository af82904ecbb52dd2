//! What all connections share: the scripts, the bounds, the places for scripts that run, and how far the
//! stop has got.

use std::cell::Cell;

use rustix::process::Resource;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::args::{CgiArgs, Variable};
use super::execution::Bounds;
use super::notes::Budget;
use super::reaper::Supervisors;
use super::scripts::Scripts;
use super::supervisor::Limit;
use crate::fastcgi::server::Values;

/// Beyond those that run and those that wait: connections that a client keeps.
const KEPT_CONNECTIONS: u32 = 256;

/// How far the stop of this process has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Serving,
    /// It accepts nothing more, and scripts may end.
    Stopping,
    /// Scripts are killed.
    Killing,
}

/// What all connections share.
pub(super) struct Shared {
    pub scripts: Scripts,
    pub variables: Vec<Variable>,
    pub limits: Vec<Limit>,
    pub bounds: Bounds,
    pub values: Values,
    pub places: Places,
    pub supervisors: Supervisors,
    pub notes: Budget,
    phase: watch::Receiver<Phase>,
}

impl Shared {
    /// As the command line says.
    pub(super) fn new(args: &CgiArgs, scripts: Scripts, phase: watch::Receiver<Phase>) -> Self {
        let limits = [
            // A dump of a script is the size of its memory, in the folder of scripts.
            Some((Resource::Core, 0)),
            args.cpu_time.map(|time| (Resource::Cpu, time.0.as_secs())),
            args.memory.map(|bytes| (Resource::As, bytes.0)),
            args.processes
                .map(|count| (Resource::Nproc, count.0.into())),
            args.file_size.map(|bytes| (Resource::Fsize, bytes.0)),
        ];
        let limits = limits.into_iter().flatten();
        Self {
            scripts,
            variables: args.env.clone(),
            limits: limits
                .map(|(resource, value)| Limit { resource, value })
                .collect(),
            bounds: Bounds {
                time: args.time_limit.0,
                output_bytes: args.output.0,
            },
            values: Values {
                max_connections: connections(args),
                max_requests: args.concurrent.0,
            },
            places: Places {
                free: Semaphore::new(args.concurrent.0 as usize),
                waiting: Cell::new(0),
                waiting_max: args.waiting.0,
            },
            supervisors: Supervisors::default(),
            notes: Budget::default(),
            phase,
        }
    }

    /// Whether this process is to take no more requests.
    pub(super) fn is_stopping(&self) -> bool {
        *self.phase.borrow() >= Phase::Stopping
    }

    /// Waits until the stop has got so far.
    pub(super) async fn reached(&self, phase: Phase) {
        let mut now = self.phase.clone();
        // The sender lives as long as the connections.
        let _ = now.wait_for(|now| *now >= phase).await;
    }
}

/// Places for scripts that run, and a bounded line of requests that wait for one, in order.
pub(super) struct Places {
    free: Semaphore,
    waiting: Cell<u32>,
    waiting_max: u32,
}

/// One that waits.
struct Waiting<'a>(&'a Cell<u32>);

impl Places {
    /// Waits for a place. `None`: too many wait.
    pub(super) async fn take(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(place) = self.free.try_acquire() {
            return Some(place);
        }
        if self.waiting.get() >= self.waiting_max {
            return None;
        }
        self.waiting.set(self.waiting.get() + 1);
        let _waiting = Waiting(&self.waiting);
        self.free.acquire().await.ok()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// How many connections there may be.
fn connections(args: &CgiArgs) -> u32 {
    args.concurrent.0 + args.waiting.0 + KEPT_CONNECTIONS
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_line_is_bounded_and_in_order() {
        let places = Places {
            free: Semaphore::new(1),
            waiting: Cell::new(0),
            waiting_max: 2,
        };
        let place = places.take().await.unwrap();
        let turns = std::cell::RefCell::new(Vec::new());
        let wait = async |nth: u32| {
            let taken = places.take().await;
            turns.borrow_mut().push((nth, taken.is_some()));
        };
        let release = async { drop(place) };
        tokio::join!(wait(1), wait(2), wait(3), release);
        assert_eq!(*turns.borrow(), [(3, false), (1, true), (2, true)]);
        assert_eq!(places.waiting.get(), 0);
        // One that gives up leaves its place in the line.
        let _place = places.take().await.unwrap();
        let given_up = tokio::time::timeout(Duration::from_millis(1), places.take()).await;
        assert!(given_up.is_err());
        assert_eq!(places.waiting.get(), 0);
    }
}
