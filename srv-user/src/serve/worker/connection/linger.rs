//! How srv ends a connection whose client may still be sending.
//!
//! If srv closes a socket with unread bytes, or while bytes are still on their way, the client
//! gets a reset. A reset destroys what the client has not received yet (RFC 9112, 9.6). So srv
//! closes only its own side, reads on, and discards what comes. It ends this when the client
//! closes, sends nothing for `QUIET_NS`, or has sent for `TOTAL_NS`.

use std::mem::MaybeUninit;
use std::task::Poll;
use std::time::Duration;

use rustix::net::Shutdown;

use super::State;
use crate::serve::worker::stream::Socket;

/// If there is no progress for this long, ns, srv closes the connection. (nginx:
/// `lingering_timeout`.)
const QUIET_NS: u64 = 5_000_000_000;
/// After this, ns, srv always closes the connection. (nginx: `lingering_time`.)
const TOTAL_NS: u64 = 30_000_000_000;
/// The most bytes that srv discards in one read.
const WASTE_BYTES: usize = 64 << 10;

/// A connection that srv has closed on its own side only.
pub(super) struct Linger {
    quiet_until_ns: u64,
    until_ns: u64,
    /// How many bytes the client had not acknowledged at the last check.
    unacknowledged_bytes: u64,
}

/// Closes srv's side and reads on.
pub(super) fn begin(socket: &Socket, now_ns: u64) -> State {
    socket.announce_end();
    if socket.ended.get() || rustix::net::shutdown(&socket.fd, Shutdown::Write).is_err() {
        return State::Closed;
    }
    // Bytes may have arrived since the last short read.
    socket.readable.set(true);
    let linger = Linger {
        quiet_until_ns: now_ns + QUIET_NS,
        until_ns: now_ns + TOTAL_NS,
        unacknowledged_bytes: u64::MAX,
    };
    linger.discard(socket, now_ns)
}

/// Ends a connection at once, by a reset.
pub(super) fn reset(socket: &Socket) -> State {
    let at_once = Some(Duration::ZERO);
    let _ = rustix::net::sockopt::set_socket_linger(&socket.fd, at_once);
    State::Closed
}

/// Ends a connection on which srv has sent nothing lately, and of which it has read everything.
/// If the client has received all of the last answer, srv closes at once: a request that is on
/// its way then causes a reset, but there is nothing that the reset could destroy.
pub(super) fn part(socket: &Socket, now_ns: u64) -> State {
    match socket.unacknowledged_bytes() {
        0 => {
            socket.announce_end();
            State::Closed
        }
        _ => begin(socket, now_ns),
    }
}

impl Linger {
    /// Discards what has arrived.
    pub(super) fn discard(mut self, socket: &Socket, now_ns: u64) -> State {
        let mut waste = [MaybeUninit::uninit(); WASTE_BYTES];
        loop {
            match socket.tcp().poll_read(&mut waste) {
                Poll::Pending => return State::Lingering(self),
                Poll::Ready(Ok(1..)) => self.quiet_until_ns = now_ns + QUIET_NS,
                Poll::Ready(Ok(0) | Err(_)) => return State::Closed,
            }
        }
    }

    /// When srv closes the connection, ns, unless the client has received more of the answer by
    /// then.
    pub(super) fn deadline_ns(&self) -> u64 {
        self.quiet_until_ns.min(self.until_ns)
    }

    /// Closes the connection at its deadline, or extends the deadline.
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

    /// Extends its deadlines by `late_ns`.
    pub(super) fn excuse(&mut self, late_ns: u64) {
        self.quiet_until_ns += late_ns;
        self.until_ns += late_ns;
    }
}
