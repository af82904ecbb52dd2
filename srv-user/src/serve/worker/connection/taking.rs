//! How a client takes what does not fit into the socket's buffer. It is no measure that the socket
//! becomes writable: that happens when a third of the buffer is free, and a slow client needs
//! minutes for it.

use crate::serve::worker::stream::Socket;

/// How often within the write timeout srv checks whether the client receives anything.
const LOOKS: u64 = 4;

/// What was seen of a client at the last check.
#[derive(Clone, Copy, Default)]
pub(super) struct Taking {
    /// How many bytes the client's kernel had acknowledged.
    bytes: u64,
    /// When `bytes` last grew, ns.
    grew_ns: u64,
}

impl Taking {
    /// The time between two checks, ns.
    pub(super) fn looks_ns(timeout_ns: u64) -> u64 {
        timeout_ns / LOOKS
    }

    /// A client that has `timeout_ns` from now on.
    pub(super) fn begin(&mut self, now_ns: u64) {
        self.grew_ns = now_ns;
    }

    /// Extends its time by `late_ns`.
    pub(super) fn excuse(&mut self, late_ns: u64) {
        self.grew_ns += late_ns;
    }

    /// Checks the client, and says when to do so again, ns. `None`: its time is over.
    pub(super) fn look(&mut self, socket: &Socket, timeout_ns: u64, now_ns: u64) -> Option<u64> {
        let taken = socket.bytes_out.get() - socket.unacknowledged_bytes();
        if taken != self.bytes {
            self.bytes = taken;
            self.grew_ns = now_ns;
        }
        (now_ns < self.grew_ns + timeout_ns).then_some(now_ns + Self::looks_ns(timeout_ns))
    }
}
