//! The policy `hermes`, as published by Pan et al., "Hermes: Enhancing Layer-7
//! Cloud Load Balancers with Userspace-Directed I/O Event Notification",
//! SIGCOMM 2025: a baseline to compare the other policies with.
//!
//! At each end of its loop a worker runs [`filter`] over all workers and stores the result, a
//! bitmap, for the program. The program picks one of the set bits by the hash of the connection
//! ([`choose`]). Two things differ from the publication. The worker stores the bitmap to mapped
//! memory; the published system call is a third of the cost. And a worker that sleeps in
//! `epoll_wait` never counts as stalled, however long ago its last loop began.

use super::{Host, checked_ready, scale};
use crate::branchless::sign;
use crate::layout::{Group, NOT_ELIGIBLE, Reason, Slot};

/// Most workers that the policy can tell apart: the bits of its bitmap.
pub const WORKERS_MAX: u32 = u64::BITS;

/// The workers that may get the next connection, one bit for each slot. Three filters follow one
/// another. A worker passes
///
/// 1. if it is ready and its loop began at most [`crate::layout::Config::hang_after_ns`] before
///    `now_ns`,
/// 2. if it has less than 1.5 times the average of pending events,
/// 3. if it has less than 1.5 times the average of open connections.
///
/// The result is not zero if a worker passes the first filter: at least one of several workers is
/// at or below their average.
pub fn filter<const N: usize>(group: &Group<N>, now_ns: u64) -> u64 {
    let workers = group.config.workers.get().min(WORKERS_MAX);
    let slots = &group.slots[..N.min(workers as usize)];
    let hang_after_ns = group.config.hang_after_ns.get();
    let mut passed = 0;
    for (slot, at) in slots.iter().enumerate() {
        let is_eligible = group.steering[slot].eligible.get() != NOT_ELIGIBLE;
        passed |= u64::from(is_eligible && is_turning(at, hang_after_ns, now_ns)) << slot;
    }
    for count in [
        |at: &Slot| at.load.pending.get(),
        |at: &Slot| at.load.active.get(),
    ] {
        passed = below_average(slots, passed, count);
    }
    passed
}

fn is_turning(at: &Slot, hang_after_ns: u64, now_ns: u64) -> bool {
    let since_ns = at.load.busy_since_ns.get();
    since_ns == 0 || hang_after_ns == 0 || now_ns.saturating_sub(since_ns) <= hang_after_ns
}

/// The workers of `among` whose count is below 1.5 times the average of `among`, or is zero (if
/// all counts are zero, so is the average).
fn below_average(slots: &[Slot], among: u64, count: impl Fn(&Slot) -> u32) -> u64 {
    // Each count is read once: the average must be that of the counts compared with it.
    let mut counts = [0u64; WORKERS_MAX as usize];
    for (count_of_slot, at) in counts.iter_mut().zip(slots) {
        *count_of_slot = count(at).into();
    }
    let is_in = |bits: u64, slot: usize| bits >> slot & 1 != 0;
    let members = u64::from(among.count_ones());
    let sum: u64 = (0..slots.len())
        .filter(|slot| is_in(among, *slot))
        .map(|slot| counts[slot])
        .sum();
    let mut below = 0;
    for (slot, count) in counts.iter().enumerate().take(slots.len()) {
        let is_below = *count == 0 || 2 * count * members < 3 * sum;
        below |= u64::from(is_below) << slot;
    }
    among & below
}

/// One of the slots that passed, by the connection's hash.
#[inline(always)]
pub(super) fn choose<const N: usize>(
    group: &Group<N>,
    host: &mut impl Host,
) -> Result<u32, Reason> {
    let passed = group.hermes.0.get();
    if passed == 0 {
        return Err(Reason::NoneReady);
    }
    let nth = scale(host.flow_hash(), count_ones(passed) as u32);
    // The bitmap may be as old as one loop of a worker.
    checked_ready(group, nth_set_bit(passed, nth))
}

/// Number of the set bit that has `nth` set bits below it, for `nth` below their count. It takes
/// six halvings without a branch, so that the verifier follows one path.
#[inline(always)]
fn nth_set_bit(word: u64, nth: u32) -> u32 {
    let mut word = word;
    let mut nth = u64::from(nth);
    let mut at = 0;
    let mut width = u64::BITS / 2;
    while width > 0 {
        let in_lower = count_ones(word & ((1 << width) - 1));
        // All ones where the bit is in the upper half.
        let is_upper = !sign(nth.wrapping_sub(in_lower));
        nth -= in_lower & is_upper;
        at += width & is_upper as u32;
        word >>= u64::from(width) & is_upper;
        width /= 2;
    }
    at
}

/// Number of set bits. BPF has no instruction for it: this counts in adjacent pairs, then fours,
/// then bytes, and one multiplication adds up the bytes.
#[inline(always)]
fn count_ones(word: u64) -> u64 {
    let pairs = word - (word >> 1 & 0x5555_5555_5555_5555);
    let fours = (pairs & 0x3333_3333_3333_3333) + (pairs >> 2 & 0x3333_3333_3333_3333);
    let bytes = (fours + (fours >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    bytes.wrapping_mul(0x0101_0101_0101_0101) >> 56
}
