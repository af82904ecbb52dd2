//! When a socket without an owner is closed. What waits there is drained by the siblings first.
//!
//! A socket of the server is needed for as long as the server has it open: a worker that the
//! master replaced has left it, and the next worker claims it. A socket that the coordinator made
//! is needed for a moment, in which the next worker may claim it, and after that for as long as a
//! process has it open that accepts there without a slot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use srv_common::claim::{Kind, Message};
use srv_steer::{accept_queue, drop_syns};

use super::{Condition, GroupSocket, Origin, RunGroup};
use crate::run::holders::Holders;
use crate::run::members::Members;

/// How long a socket that the coordinator made waits for its next owner at least.
const FREE_FOR: Duration = Duration::from_secs(10);
/// For how long nothing must have waited at a socket that gets no SYN any more: a handshake
/// that has begun takes a round trip to complete.
const QUIET_FOR: Duration = Duration::from_millis(200);

/// A socket that gets no SYN any more.
pub(super) struct Closing {
    /// Since when nothing has waited there.
    quiet_since: Instant,
}

impl Closing {
    /// From now on.
    pub(super) fn begins() -> Self {
        Self {
            quiet_since: Instant::now(),
        }
    }
}

impl RunGroup {
    /// The inode numbers of the sockets that are closed when the server has not got them open.
    pub(in crate::run) fn unowned(&self) -> impl Iterator<Item = u64> {
        let sockets = self.sockets.values();
        let unowned = sockets.filter(|socket| socket.may_be_closed(Instant::now()));
        unowned.map(|socket| socket.inode)
    }

    /// Whether the group is still needed. If no process has a slot, that is so for a moment, in
    /// which the server may start its next worker, and only if one of `pids`, the server's
    /// processes, has one of the server's sockets open, or another process: a server that has
    /// replaced its binary has a first process that never claims, and workers that have not yet.
    pub(in crate::run) fn is_needed(&mut self, pids: &BTreeSet<u32>) -> bool {
        let Some(since) = self.idle_since else {
            return self.has_claims();
        };
        let sockets = self.sockets.values();
        let sockets = sockets.filter(|socket| socket.origin == Origin::Server);
        let inodes = sockets.map(|socket| socket.inode).collect();
        if since.elapsed() >= FREE_FOR {
            return false;
        }
        if Holders::is_open_in(&inodes, pids) || Holders::is_open_in(&inodes, &self.heirs) {
            return true;
        }
        // All processes are looked at when those that were known have closed the sockets.
        self.heirs = Holders::of(inodes, self.keeper.pid()).pids();
        !self.heirs.is_empty()
    }

    /// Closes the sockets that the server has closed, as far as `holders` says so. `members` are
    /// the server's processes. (A socket that a process left and still has open gets connections by
    /// the kernel's hash. Without SYNs it would lose them.)
    pub(in crate::run) fn close_abandoned(
        &mut self,
        holders: &Holders,
        members: &Members,
        pids: &BTreeSet<u32>,
    ) {
        for slot in self.slots() {
            let Some(socket) = self.sockets.get(&slot) else {
                continue;
            };
            if !socket.may_be_closed(Instant::now()) {
                continue;
            }
            let copies = self.copies_of(slot, members);
            if holders.has(socket.inode, &copies, pids) == Some(false) {
                self.begin_to_close(slot);
            }
        }
    }

    /// Goes on with what is being closed.
    pub(super) fn close_unneeded(&mut self, now: Instant, members: &mut Members) {
        for slot in self.slots() {
            let Some(socket) = self.sockets.get_mut(&slot) else {
                continue;
            };
            match &mut socket.condition {
                Condition::Closing(closing) => {
                    let listener = self.group.listeners.sockets.get(slot as usize);
                    let queued = listener.map(accept_queue);
                    if matches!(queued, Some(Ok((1.., _)))) {
                        closing.quiet_since = now;
                    } else if now.saturating_duration_since(closing.quiet_since) > QUIET_FOR {
                        self.close(slot, members);
                    }
                }
                Condition::Owned(_) | Condition::Free(_) => {}
            }
        }
    }

    /// Undoes the beginning of a close, because the socket has been claimed.
    pub(super) fn reopen(&self, slot: u32) {
        let socket = self.sockets.get(&slot).map(|socket| &socket.condition);
        let listener = self.group.listeners.sockets.get(slot as usize);
        if let (Some(Condition::Closing(_)), Some(listener)) = (socket, listener) {
            // Without a filter that is an error, and nothing is to be undone.
            let _ = listener.detach_filter();
        }
    }

    fn begin_to_close(&mut self, slot: u32) {
        let listener = self.group.listeners.sockets.get(slot as usize);
        // If the kernel has no memory for the filter, what comes is drained all the same.
        if let Some(Err(error)) = listener.map(drop_syns) {
            tracing::debug!("drop SYNs at the listener of slot {slot}: {error}");
        }
        if let Some(socket) = self.sockets.get_mut(&slot) {
            socket.condition = Condition::Closing(Closing::begins());
        }
        self.keep_condition(slot);
    }

    fn close(&mut self, slot: u32, members: &mut Members) {
        for socket in self.sockets.values_mut() {
            if let Condition::Owned(owner) = &mut socket.condition
                && owner.knows.remove(&slot)
            {
                let gone = Message {
                    slot,
                    ..Message::new(Kind::Gone, owner.claim.number)
                };
                members.tell(owner.claim.member, gone, &[]);
                members.ring(owner.claim.member);
            }
        }
        self.count_notice();
        self.sockets.remove(&slot);
        self.forget_socket(slot);
        drop(self.group.take_listener(slot));
    }

    /// How many descriptors of the socket of `slot` each process was given to watch, by process.
    fn copies_of(&self, slot: u32, members: &Members) -> BTreeMap<u32, usize> {
        let mut copies = BTreeMap::new();
        let watchers = self
            .owners()
            .filter(|(_, owner)| owner.knows.contains(&slot));
        for (_, owner) in watchers {
            *copies.entry(members.pid(owner.claim.member)).or_default() += 1;
        }
        copies
    }
}

impl GroupSocket {
    /// Whether no process owns the socket, for long enough if this coordinator made it.
    fn may_be_closed(&self, now: Instant) -> bool {
        match (&self.condition, self.origin) {
            (Condition::Free(_), Origin::Server) => true,
            (Condition::Free(since), Origin::Coordinator) => {
                now.saturating_duration_since(*since) > FREE_FOR
            }
            _ => false,
        }
    }
}
