//! When a worker accepts connections, and what it does where the system cannot give it
//! one: no file descriptors, no memory.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

use super::Worker;
use crate::serve::seldom::Seldom;
use srv_steer::Accepted;

/// For how long no connection is accepted where one could not be, ns.
const REST_NS: u64 = 50_000_000;
/// How long the worker stays away from epoll meanwhile if nothing else is to be done: it
/// would be told of the listeners again and again. They stay registered, because a new
/// registration would be behind its siblings', which would be woken first for good.
const PAUSE: Duration = Duration::from_millis(10);

/// Whether listeners are left alone.
#[derive(Debug, Default)]
pub(super) struct Rest {
    until_ns: u64,
    failures: Seldom,
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
        // A master's order in the same batch may have ended it.
        if self.ring.is_empty() || !self.rest.is_over(now_ns) {
            return Ok(());
        }
        let published = self.driver.published();
        let accepted = self.ring.accept(&self.reactor, published, now_ns)?;
        self.take(accepted, now_ns);
        Ok(())
    }

    /// Deals with what came of accepting.
    pub(super) fn take(&mut self, accepted: Accepted, now_ns: u64) {
        match accepted {
            Accepted::Connection(connection) => self.open(connection, now_ns),
            Accepted::Nothing => {}
            Accepted::Failed(error) => self.fall_short(&error, now_ns),
        }
    }

    fn fall_short(&mut self, error: &io::Error, now_ns: u64) {
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
                false => "accepting none for a moment",
            };
            tracing::warn!(
                slot = self.start.slot,
                count,
                "accept a connection: {error}; {instead}"
            );
        }
    }
}
