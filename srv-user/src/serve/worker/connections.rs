//! A worker's connections: how many there may be, which of them continues next, and which of them
//! have missed a deadline.

use std::collections::VecDeque;

use slab::Slab;
use srv_steer::Incoming;

use super::{LATE_NS, Worker};
use crate::kernel::reactor::Readiness;
use crate::serve::rate_limit::RateLimit;
use crate::serve::worker::connection::{Connection, Progress};

/// If a client is turned away, the worker reads from it for a moment, since a close with unread bytes
/// would destroy the answer. It does so for at most this many clients at a time.
const TURNED_AWAY_MAX: usize = 16;

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// As many as the settings allow.
    pub(super) connections: usize,
    /// File descriptors for these, for the files that their responses keep open, and for connections
    /// to applications.
    pub(super) descriptors: usize,
}

/// All open connections, by the reactor's token.
#[derive(Default)]
pub(super) struct Connections {
    slab: Slab<Connection>,
    /// The connections that could continue at once, but wait until others have had their turn. A
    /// connection that has closed meanwhile is still in here.
    line: VecDeque<usize>,
    /// How many of the open connections belong to clients that are turned away.
    turned_away: usize,
    unwatched: RateLimit,
}

impl Connections {
    pub(super) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// Whether a connection waits for its next turn.
    pub(super) fn has_line(&self) -> bool {
        !self.line.is_empty()
    }

    /// How many connections the worker serves, also those that wait for a request.
    fn served(&self) -> usize {
        self.slab.len() - self.turned_away
    }

    fn insert(&mut self, connection: Connection) -> usize {
        let entry = self.slab.vacant_entry();
        let key = entry.key();
        connection.socket.key.set(key);
        entry.insert(connection);
        key
    }

    fn keys(&self) -> Vec<usize> {
        self.slab.iter().map(|(key, _)| key).collect()
    }
}

impl Worker {
    /// Serves a connection that was just accepted.
    pub(super) fn open(&mut self, incoming: Incoming, now_ns: u64) {
        let (served, room) = (self.connections.served(), self.room);
        let others = self.other_descriptors();
        let is_full = served >= room.connections || served + others >= room.descriptors;
        if is_full && !self.make_room(now_ns) {
            return self.turn_away(incoming, now_ns);
        }
        let connection = Connection::accepted(incoming, &self.driver, now_ns);
        let key = self.connections.insert(connection);
        self.publish_active();
        if self.mode.is_draining() {
            let progress = self.connections.slab[key].drain(&self.driver, now_ns);
            self.settle(key, progress, now_ns);
        } else {
            self.drive(key, Readiness::of_new(key as u64), now_ns);
        }
    }

    /// Tells a client that there are too many connections.
    fn turn_away(&mut self, incoming: Incoming, now_ns: u64) {
        let mut connection = Connection::turned_away(incoming, &self.driver, now_ns);
        let progress = connection.drive(&self.driver, Readiness::of_new(0), now_ns);
        if progress == Progress::Closed || self.connections.turned_away >= TURNED_AWAY_MAX {
            return;
        }
        self.connections.turned_away += 1;
        let key = self.connections.insert(connection);
        self.settle(key, progress, now_ns);
    }

    /// Drives a connection to which something has happened.
    pub(super) fn drive(&mut self, key: usize, ready: Readiness, now_ns: u64) {
        if let Some(connection) = self.connections.slab.get_mut(key) {
            let progress = connection.drive(&self.driver, ready, now_ns);
            self.settle(key, progress, now_ns);
            self.keep_room(now_ns);
        }
    }

    /// Continues the connections that were woken: what they have waited for, beside their clients,
    /// has happened.
    pub(super) fn serve_woken(&mut self, now_ns: u64) {
        if !self.driver.woken().has_any() {
            return;
        }
        for task in self.driver.woken().take() {
            let key = task.key();
            if let Some(connection) = self.connections.slab.get_mut(key) {
                let progress = connection.wake(&task, &self.driver, now_ns);
                self.settle(key, progress, now_ns);
                self.keep_room(now_ns);
            }
        }
    }

    /// Responses may have opened files or connections to applications.
    fn keep_room(&mut self, now_ns: u64) {
        if self.connections.served() + self.other_descriptors() > self.room.descriptors {
            self.make_room(now_ns);
        }
    }

    /// Continues the connection that has waited for longest. It is only one, so that the worker
    /// handles other events before the next one.
    pub(super) fn resume_next(&mut self, now_ns: u64) {
        while let Some(key) = self.connections.line.pop_front() {
            match self.connections.slab.get_mut(key) {
                Some(connection) if connection.in_line => {
                    let progress = connection.resume(&self.driver, now_ns);
                    return self.settle(key, progress, now_ns);
                }
                _ => {}
            }
        }
    }

    /// If a connection waits, has the reactor watch it. If it could continue, puts it at the end of
    /// the line. If it has finished, drops it.
    fn settle(&mut self, key: usize, progress: Progress, now_ns: u64) {
        let connection = &mut self.connections.slab[key];
        match progress {
            Progress::Open if connection.watched => return,
            Progress::Open => {
                let watched = self
                    .reactor
                    .registry()
                    .watch_stream(&connection.socket.fd, key as u64);
                connection.watched = watched.is_ok();
                match watched {
                    Ok(()) => return,
                    Err(error) => {
                        if let Some(count) = self.connections.unwatched.happened(now_ns) {
                            tracing::warn!(
                                slot = self.start.slot,
                                count,
                                "watch a connection by epoll: {error}; closed the connection"
                            );
                        }
                    }
                }
            }
            Progress::Yielded => {
                if !std::mem::replace(&mut connection.in_line, true) {
                    self.connections.line.push_back(key);
                }
                return;
            }
            Progress::Closed => {}
        }
        let connection = self.connections.slab.remove(key);
        self.connections.turned_away -= usize::from(connection.was_turned_away);
        self.publish_active();
    }

    fn publish_active(&self) {
        let served = self.connections.served();
        self.published().active(served as u32);
    }

    /// File descriptors beside those of connections with clients.
    fn other_descriptors(&self) -> usize {
        let http = self.driver.http();
        http.files.get() + http.upstreams.count()
    }

    /// Closes the connection whose client loses least. Returns whether there was one to close.
    pub(super) fn make_room(&mut self, now_ns: u64) -> bool {
        let connections = self.connections.slab.iter();
        let dispensable = connections
            .filter(|(_, connection)| !connection.was_turned_away)
            .filter_map(|(key, connection)| Some((connection.dispensable()?, key)));
        let Some((_, key)) = dispensable.min() else {
            return false;
        };
        self.settle(key, Progress::Closed, now_ns);
        true
    }

    /// Extends all deadlines by the time in which this worker did not handle events, because a
    /// request blocked or the process was stopped.
    pub(super) fn excuse_lateness(&mut self, now_ns: u64) {
        let late_ns = now_ns.saturating_sub(self.looked_ns + LATE_NS);
        self.looked_ns = now_ns;
        if late_ns > 0 {
            self.driver.http().upstreams.excuse(late_ns);
            for (_, connection) in &mut self.connections.slab {
                connection.excuse(late_ns);
            }
        }
    }

    /// Checks the deadlines of all connections.
    pub(super) fn sweep(&mut self, now_ns: u64) {
        self.swept_ns = now_ns;
        self.driver.http().upstreams.sweep(now_ns);
        self.serve_woken(now_ns);
        for key in self.connections.keys() {
            let progress = self.connections.slab[key].expire(&self.driver, now_ns);
            self.settle(key, progress, now_ns);
        }
        if self.mode.is_draining() {
            self.leave_listeners_if_empty(now_ns);
        }
    }

    /// Ends each connection as soon as its client has all answers that srv owes it.
    pub(super) fn drain_connections(&mut self, now_ns: u64) {
        for key in self.connections.keys() {
            let progress = self.connections.slab[key].drain(&self.driver, now_ns);
            self.settle(key, progress, now_ns);
        }
    }
}
