//! A connection's turn: how much it may read and write before the worker handles its
//! other connections. Without turns, a connection that is always ready (a download from
//! the page cache, an upload, pipelined requests) would occupy the worker until its
//! socket blocks, which may never happen.

use std::cell::Cell;

use srv_steer::monotonic_ns;

/// The most bytes that a connection reads and writes in one turn: four chunks of a file, which
/// take about 100 µs. Compared with that, one more `epoll_wait` costs little.
const TURN_BYTES: usize = 256 << 10;
/// The least that a call costs, bytes. It bounds a turn to 16 calls, which are 16 pipelined
/// requests at most.
const CALL_BYTES: usize = 16 << 10;
/// No call begins later than this in a turn, ns. Reads of files that are not in the page
/// cache take time, but move no bytes on the socket.
const TURN_NS: u64 = 1_000_000;
/// An ordinary request is one read and one write. These are always allowed, so an ordinary
/// request never needs to read the clock.
const FIRST_CALLS: u32 = 2;

/// How much of its turn a connection has used.
#[derive(Debug, Default)]
pub struct Turn {
    left_bytes: Cell<usize>,
    /// How many calls the turn has had.
    calls: Cell<u32>,
    /// How many calls are always allowed.
    free_calls: Cell<u32>,
    until_ns: Cell<u64>,
    /// Whether there is more to do, for example because a call was refused.
    cut_short: Cell<bool>,
}

impl Turn {
    /// Begins a turn because of an event that the worker saw at `now_ns` of
    /// `CLOCK_MONOTONIC`.
    pub fn begin(&self, now_ns: u64) {
        self.start(FIRST_CALLS, now_ns);
    }

    /// Begins a turn in which the connection continues where its last turn ended. One call is
    /// allowed even if the time is over, so that each turn makes progress.
    pub fn resume(&self) {
        self.start(1, monotonic_ns());
    }

    /// Begins a turn because what the connection has waited for, beside its client, happened
    /// before `now_ns`. It is no ordinary request: since its last read, time has passed.
    pub fn proceed(&self, now_ns: u64) {
        self.start(1, now_ns);
    }

    fn start(&self, free_calls: u32, now_ns: u64) {
        self.left_bytes.set(TURN_BYTES);
        self.calls.set(0);
        self.free_calls.set(free_calls);
        self.until_ns.set(now_ns + TURN_NS);
        self.cut_short.set(false);
    }

    /// When it began, ns of `CLOCK_MONOTONIC`.
    pub fn began_ns(&self) -> u64 {
        self.until_ns.get().saturating_sub(TURN_NS)
    }

    /// Whether one more call is allowed. If it is not, the turn was cut short.
    pub fn allows_call(&self) -> bool {
        let allowed = !self.is_over();
        if !allowed {
            self.cut_short.set(true);
        }
        allowed
    }

    /// Counts a call that moved this many bytes.
    pub fn spend(&self, bytes: usize) {
        let spent = bytes.max(CALL_BYTES);
        self.left_bytes
            .set(self.left_bytes.get().saturating_sub(spent));
        self.calls.set(self.calls.get() + 1);
    }

    /// Whether other connections come first now.
    pub fn is_over(&self) -> bool {
        self.calls.get() >= self.free_calls.get()
            && (self.left_bytes.get() == 0 || monotonic_ns() >= self.until_ns.get())
    }

    /// Notes that there is more to do, although no call was refused.
    pub fn cut_short(&self) {
        self.cut_short.set(true);
    }

    /// Whether the next turn has more to do.
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
