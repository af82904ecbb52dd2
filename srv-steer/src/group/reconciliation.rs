//! Reconciliation of the waiting counts with the kernel's: connections that the kernel hashed,
//! half-open connections that never complete, and floods of these.

use socket2::Socket;
use srv_common::Group as Memory;

use super::Group;
use crate::balance;
use crate::listeners::accept_queue;
use crate::overflow::Overflow;

/// What the looks at the listeners have to remember.
pub(super) struct Reconciliation {
    /// Until when half-open connections count as those of a flood, ns of `CLOCK_MONOTONIC`.
    flooded_until_ns: u64,
    /// SYN cookies that had come back at the last look.
    pub(super) acks: u64,
    /// What the kernel had dropped at listeners at the last look that asked.
    drops: u64,
}

impl Reconciliation {
    /// Nothing was seen yet. What was dropped before does not count.
    pub(super) fn new() -> Self {
        Self {
            flooded_until_ns: 0,
            acks: 0,
            drops: drops().unwrap_or(0),
        }
    }

    /// Whether listeners have dropped something since the last call. If a SYN finds the SYN queue
    /// full, it has been counted as assigned, but no connection follows. This lasts for as long as
    /// a flood's half-open connections do, which is longer than the flood, and concerns clients
    /// that have not connected before (`tcp_peer_is_proven`).
    fn sees_drops(&mut self) -> bool {
        let before = self.drops;
        self.drops = drops().unwrap_or(before);
        self.drops != before
    }
}

/// If one listener has more half-open connections than this, they are a flood's: so many ordinary
/// handshakes under way would be thousands of connections a second.
const FLOOD: u64 = 256;
/// For how long half-open connections count as a flood's after that many were seen.
const FLOOD_LASTS_NS: u64 = 2_000_000_000;

impl Group {
    /// Reconciles the slots' waiting counts with the kernel's. Call it at an interval that is
    /// longer than a handshake takes.
    pub fn reconcile(&mut self) {
        if self.is_anothers() {
            return;
        }
        self.look_at_cookies();
        if let Ok(program) = &mut self.program {
            program.flush_log();
        }
        for (slot, record) in self.slots.iter_mut().enumerate() {
            let Some(socket) = self.listeners.sockets.get(slot) else {
                continue;
            };
            let Some(Surplus { most: surplus, .. }) = surplus(&self.memory, slot, socket) else {
                continue;
            };
            let to_write_off = to_write_off(surplus.min(record.surplus_min), surplus);
            self.memory.write_off(slot, to_write_off);
            record.surplus_min = surplus.wrapping_sub(to_write_off);
        }
    }

    /// Records, between two calls of [`Self::reconcile`], how low the surplus of each slot goes. In
    /// a flood it writes the surplus off each time. Otherwise, if a flood left a few more half-open
    /// connections at one listener than at another, that listener would get no connections until
    /// the next second but one.
    pub(super) fn sample_surplus(&mut self, now_ns: u64) {
        let (reconciliation, memory) = (&mut self.reconciliation, &self.memory);
        let slots = self.listeners.sockets.by_slot();
        let slots = slots.map(|(slot, socket)| (slot as usize, socket));
        let acks_before = std::mem::replace(&mut reconciliation.acks, acks(memory));
        // A connection that was dropped counts as waiting for ever, so the kernel is asked only if
        // one waits.
        let is_waited = slots.clone().any(|(slot, _)| memory.waiting(slot) > 0);
        let is_dropping = is_waited && reconciliation.sees_drops();
        // In a flood, a SYN that got a cookie stays counted at its listener, whereas the connection
        // is accepted at the listener to which its ACK goes.
        if is_dropping
            || reconciliation.acks != acks_before
            || slots
                .clone()
                .any(|(slot, socket)| is_flooded(memory, slot, socket))
        {
            reconciliation.flooded_until_ns = now_ns.saturating_add(FLOOD_LASTS_NS);
        }
        let is_flood = now_ns < reconciliation.flooded_until_ns;
        for (slot, socket) in slots {
            let record = &mut self.slots[slot as u32];
            if !is_flood && record.surplus_min <= 0 {
                continue;
            }
            let Some(surplus) = surplus(memory, slot, socket) else {
                continue;
            };
            record.surplus_min = surplus.most.min(record.surplus_min);
            if is_flood {
                memory.write_off(slot, surplus.certain());
                record.surplus_min = 0;
            }
        }
    }
}

pub(super) fn acks(memory: &Memory) -> u64 {
    balance::sum(memory.steering.iter().map(|steering| steering.acks.get()))
}

/// What the kernel dropped in the whole network namespace. If it dropped them at other servers'
/// listeners, the only effect is that handshakes which take longer than the time between two looks
/// do not count.
fn drops() -> Option<u64> {
    Overflow::read().ok().map(|counts| counts.drops)
}

/// Asks the kernel only if the counts say that it may be so.
fn is_flooded(memory: &Memory, slot: usize, socket: &Socket) -> bool {
    memory.waiting(slot) > FLOOD
        && surplus(memory, slot, socket).is_some_and(|surplus| surplus.least > FLOOD as i64)
}

/// By how much the connections that wait by a slot's counts exceed those in its accept queue.
/// Between reading the one and the other, connections come and are accepted, many if the master
/// cannot run just then. Therefore there is a lower and an upper bound.
struct Surplus {
    least: i64,
    most: i64,
}

impl Surplus {
    /// What to write off so that nothing but the accept queue counts, as far as that is certain.
    /// What waits in the queue is never written off, since a full queue would then not look full.
    fn certain(&self) -> i64 {
        match self.least {
            1.. => self.least,
            _ => self.most.min(0),
        }
    }
}

fn surplus(memory: &Memory, slot: usize, socket: &Socket) -> Option<Surplus> {
    let (steering, taken) = (&memory.steering[slot], &memory.summaries[slot].taken);
    let counts = || (steering.steered.get(), taken.get());
    let (assigned_before, taken_before) = counts();
    let (queued, _) = accept_queue(socket).ok()?;
    let (assigned_after, taken_after) = counts();
    let surplus = |assigned: u64, taken: u64| {
        let waiting = assigned.wrapping_sub(taken) as i64;
        waiting.wrapping_sub(queued.into())
    };
    Some(Surplus {
        least: surplus(assigned_before, taken_after),
        most: surplus(assigned_after, taken_before),
    })
}

/// What to write off of a slot's assigned connections so that `steered - taken` is
/// what waits. If the difference is less than the accept queue holds, the kernel hashed connections
/// there. If it is more, the surplus was never smaller than `surplus_min` since the last look.
/// Handshakes that complete would have reduced it, so these are half-open connections that never
/// complete. Handshakes that are always under way are written off with them, in each slot alike.
fn to_write_off(surplus_min: i64, surplus: i64) -> i64 {
    match surplus {
        ..0 => surplus,
        _ => surplus_min.clamp(0, surplus),
    }
}

#[cfg(test)]
mod tests {
    use super::{Surplus, to_write_off};

    #[test]
    fn in_a_flood_only_what_is_certain_is_written_off() {
        let certain = |least, most| Surplus { least, most }.certain();
        assert_eq!(certain(7, 7), 7);
        assert_eq!(certain(5, 9), 5);
        assert_eq!(certain(-2, 9), 0);
        assert_eq!(certain(-9, -4), -4);
    }

    #[test]
    fn half_open_connections_stop_weighing_after_one_interval() {
        // 5 never came, whatever else came and went.
        assert_eq!(to_write_off(5, 7), 5);
        // Just assigned: they may still complete.
        assert_eq!(to_write_off(0, 8), 0);
        assert_eq!(to_write_off(-2, 8), 0);
    }

    #[test]
    fn connections_hashed_by_the_kernel_are_written_back() {
        assert_eq!(to_write_off(-8, -8), -8);
        assert_eq!(to_write_off(0, 0), 0);
    }

    #[test]
    fn a_reconciled_connection_that_completes_late_does_not_count_below_zero() {
        assert_eq!(to_write_off(-3, -3), -3);
        assert_eq!(to_write_off(0, -3), -3);
    }
}
