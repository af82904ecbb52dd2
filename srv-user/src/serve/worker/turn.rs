//! A connection's turn: what it may read and write before the worker looks at its
//! other connections. A connection that is always ready (a download from the page
//! cache, an upload, pipelined requests) would else hold the worker until its
//! socket blocks, which may be never.

use std::cell::Cell;

use srv_steer::monotonic_ns;

/// Most bytes that are read and written in one turn: four chunks of a file, some
/// 100 µs of work, beside which one more `epoll_wait` does not count.
const TURN_BYTES: usize = 256 << 10;
/// What a call costs at least, so that a turn has at most 16 calls: as many
/// pipelined requests.
const CALL_BYTES: usize = 16 << 10;
/// No call begins later than this in a turn, ns. Reads of files that are not in the
/// page cache take time and no bytes of the socket's.
const TURN_NS: u64 = 1_000_000;
/// An ordinary request is one read and one write. These are always allowed, and so
/// an ordinary request never asks for the time.
const FIRST_CALLS: u32 = 2;

/// How much of its turn a connection has used.
#[derive(Debug, Default)]
pub struct Turn {
    left_bytes: Cell<usize>,
    /// Calls so far.
    calls: Cell<u32>,
    /// Calls that are allowed in any case.
    free_calls: Cell<u32>,
    until_ns: Cell<u64>,
    /// A call was refused: there is more to do.
    cut_short: Cell<bool>,
}

impl Turn {
    /// Something happened to the connection, which the worker saw at `now_ns` of
    /// `CLOCK_MONOTONIC`.
    pub fn begin(&self, now_ns: u64) {
        self.start(FIRST_CALLS, now_ns);
    }

    /// The connection goes on where its last turn ended. One call is allowed however
    /// late it is, so that each turn gets somewhere.
    pub fn resume(&self) {
        self.start(1, monotonic_ns());
    }

    fn start(&self, free_calls: u32, now_ns: u64) {
        self.left_bytes.set(TURN_BYTES);
        self.calls.set(0);
        self.free_calls.set(free_calls);
        self.until_ns.set(now_ns + TURN_NS);
        self.cut_short.set(false);
    }

    /// Whether one more call is allowed. If it is not, the turn was cut short.
    pub fn allows_call(&self) -> bool {
        let allowed = !self.is_over();
        if !allowed {
            self.cut_short.set(true);
        }
        allowed
    }

    /// A call moved this many bytes.
    pub fn spend(&self, bytes: usize) {
        let spent = bytes.max(CALL_BYTES);
        self.left_bytes
            .set(self.left_bytes.get().saturating_sub(spent));
        self.calls.set(self.calls.get() + 1);
    }

    /// Whether others are to be looked at first.
    pub fn is_over(&self) -> bool {
        self.calls.get() >= self.free_calls.get()
            && (self.left_bytes.get() == 0 || monotonic_ns() >= self.until_ns.get())
    }

    /// There is more to do, although no call was refused.
    pub fn cut_short(&self) {
        self.cut_short.set(true);
    }

    /// Whether there is more to do that was left for the next turn.
    pub fn was_cut_short(&self) -> bool {
        self.cut_short.get()
    }

    /// Whether this turn had no more calls than an ordinary request has, and no
    /// turn came before it.
    pub fn is_ordinary(&self) -> bool {
        self.free_calls.get() == FIRST_CALLS && self.calls.get() <= FIRST_CALLS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER_NS: u64 = u64::MAX - TURN_NS;

    /// Calls of so many bytes that one turn allows.
    fn calls(turn: &Turn, bytes: usize) -> u32 {
        let mut calls = 0;
        while turn.allows_call() {
            turn.spend(bytes);
            calls += 1;
        }
        calls
    }

    #[test]
    fn bytes_and_calls_are_bounded() {
        let turn = Turn::default();
        turn.begin(NEVER_NS);
        assert_eq!(calls(&turn, 64 << 10), 4);
        assert!(turn.was_cut_short());
        turn.begin(NEVER_NS);
        assert!(!turn.was_cut_short());
        assert_eq!(calls(&turn, 1), 16);
    }

    #[test]
    fn time_is_bounded_but_each_turn_gets_somewhere() {
        let turn = Turn::default();
        turn.begin(0);
        assert_eq!(
            calls(&turn, 1),
            2,
            "an ordinary request, however late it is"
        );
        assert!(turn.is_ordinary());
        turn.resume();
        turn.until_ns.set(0);
        assert_eq!(calls(&turn, 1), 1);
        assert!(!turn.is_ordinary());
    }
}
