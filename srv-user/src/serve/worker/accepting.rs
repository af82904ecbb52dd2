//! When a worker accepts connections, and what it does if it cannot, because file descriptors or
//! memory are used up.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

use super::Worker;
use crate::serve::rate_limit::RateLimit;
use srv_steer::Accepted;

/// If the worker cannot accept a connection, it does not try again for this long, ns.
const REST_NS: u64 = 50_000_000;
/// How long the worker stays away from epoll meanwhile if it has nothing else to do: epoll would
/// report the listeners again and again. They stay registered, because a new registration would be
/// behind those of its siblings, which would be woken first from then on.
const PAUSE: Duration = Duration::from_millis(10);

/// Until when the worker does not accept, because it could not.
#[derive(Debug, Default)]
pub(super) struct Rest {
    until_ns: u64,
    failures: RateLimit,
}

impl Rest {
    fn is_over(&self, now_ns: u64) -> bool {
        now_ns >= self.until_ns
    }

    /// Sleeps a little, unless the rest is over.
    pub(super) fn pause(&self, now_ns: u64) {
        if !self.is_over(now_ns) {
            std::thread::sleep(PAUSE);
        }
    }
}

impl Worker {
    /// Accepts a connection from a listener that the last wait brought.
    pub(super) fn accept(&mut self, now_ns: u64) -> anyhow::Result<()> {
        // An order of the master in the same batch of events may have ended accepting.
        if self.ring.is_empty() || !self.rest.is_over(now_ns) {
            return Ok(());
        }
        let published = self.driver.published();
        let accepted = self.ring.accept(&self.reactor, published, now_ns)?;
        self.take(accepted, now_ns);
        Ok(())
    }

    /// Handles the outcome of an accept.
    pub(super) fn take(&mut self, accepted: Accepted, now_ns: u64) {
        match accepted {
            Accepted::Connection(connection) => self.open(connection, now_ns),
            Accepted::Nothing => {}
            Accepted::Failed(error) => self.handle_failure(&error, now_ns),
        }
    }

    fn handle_failure(&mut self, error: &io::Error, now_ns: u64) {
        let shortage = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
        let is_shortage =
            Errno::from_io_error(error).is_some_and(|error| shortage.contains(&error));
        let made_room = is_shortage && self.make_room(now_ns);
        if !made_room {
            self.rest.until_ns = now_ns + REST_NS;
        }
        if let Some(count) = self.rest.failures.happened(now_ns) {
            let instead = match made_room {
                true => "closed the longest idle connection",
                false => "accepting none for 50 ms",
            };
            tracing::warn!(
                slot = self.start.slot,
                count,
                "accept a connection: {error}; {instead}"
            );
        }
    }
}
