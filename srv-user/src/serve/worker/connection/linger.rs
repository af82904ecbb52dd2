//! How srv ends a connection whose client may still be sending.
//!
//! A close with unread bytes, or before bytes that are still on their way, is a
//! reset, and a reset takes with it what the client has not received yet: RFC 9112,
//! 9.6. So srv closes its side only, reads on, and throws away what comes: until the
//! client closes, or is silent for a while, or has sent for long enough.

use std::mem::MaybeUninit;
use std::task::Poll;

use rustix::net::Shutdown;

use super::State;
use crate::serve::worker::stream::Socket;

/// Without any progress it is over after this, ns. (nginx: `lingering_timeout`.)
const QUIET_NS: u64 = 5_000_000_000;
/// It is over after this in any case, ns. (nginx: `lingering_time`.)
const TOTAL_NS: u64 = 30_000_000_000;
/// Most bytes that are thrown away at a time.
const WASTE_BYTES: usize = 64 << 10;

/// A connection that is closed on srv's side only.
pub(super) struct Linger {
    quiet_until_ns: u64,
    until_ns: u64,
    /// What the client had not acknowledged when this was last looked at.
    unacknowledged_bytes: u64,
}

/// Closes srv's side and reads on.
pub(super) fn begin(socket: &Socket, now_ns: u64) -> State {
    if socket.ended.get() || rustix::net::shutdown(&socket.fd, Shutdown::Write).is_err() {
        return State::Closed;
    }
    // A short read proves nothing any more: time has passed.
    socket.readable.set(true);
    let linger = Linger {
        quiet_until_ns: now_ns + QUIET_NS,
        until_ns: now_ns + TOTAL_NS,
        unacknowledged_bytes: u64::MAX,
    };
    linger.discard(socket, now_ns)
}

/// Ends a connection to which nothing was said lately and of which nothing is unread.
/// If the client has received all of the last answer, even a request that crosses the
/// close cannot destroy anything.
pub(super) fn part(socket: &Socket, now_ns: u64) -> State {
    match socket.unacknowledged_bytes() {
        0 => State::Closed,
        _ => begin(socket, now_ns),
    }
}

impl Linger {
    /// Throws away what has arrived.
    pub(super) fn discard(mut self, socket: &Socket, now_ns: u64) -> State {
        let mut waste = [MaybeUninit::uninit(); WASTE_BYTES];
        loop {
            match socket.poll_read(&mut waste) {
                Poll::Pending => return State::Lingering(self),
                Poll::Ready(Ok(1..)) => self.quiet_until_ns = now_ns + QUIET_NS,
                Poll::Ready(Ok(0) | Err(_)) => return State::Closed,
            }
        }
    }

    /// When its time is up, ns, unless the client has taken more of the answer by then.
    pub(super) fn deadline_ns(&self) -> u64 {
        self.quiet_until_ns.min(self.until_ns)
    }

    /// Its time is up.
    pub(super) fn judge(mut self, socket: &Socket, now_ns: u64) -> State {
        let before = self.unacknowledged_bytes;
        self.unacknowledged_bytes = socket.unacknowledged_bytes();
        let takes_more = (1..before).contains(&self.unacknowledged_bytes);
        if now_ns >= self.until_ns || !takes_more {
            return State::Closed;
        }
        self.quiet_until_ns = now_ns + QUIET_NS;
        State::Lingering(self)
    }

    /// Gives it so much longer.
    pub(super) fn excuse(&mut self, late_ns: u64) {
        self.quiet_until_ns += late_ns;
        self.until_ns += late_ns;
    }
}
