//! The policy `least`: the worker with the least outstanding work.

use super::idle::{LANES, NO_SLOT, next_idle};
use super::score::{NOT_READY, Scoring, found, is_eligible, is_idle};
use super::{Host, checked_ready, nth_ready, remainder};
use crate::branchless::{bounded, lower, up_to};
use crate::layout::{Group, MAX_WORKERS, Reason};

/// Up to this number of workers, `least` compares all of them.
pub const SCAN_ALL_MAX: u32 = 16;
/// With more workers than [`SCAN_ALL_MAX`]: how many idle workers `least` compares.
const IDLE_SAMPLE: u32 = 2;

#[inline(always)]
pub(super) fn choose<const N: usize>(
    group: &Group<N>,
    host: &mut impl Host,
) -> Result<u32, Reason> {
    let workers = group.config.workers.get();
    if workers > N as u32 {
        return Err(Reason::NoneReady);
    }
    if workers > SCAN_ALL_MAX {
        return least_of_many(group, workers, host);
    }
    let scoring = Scoring::new(group, host);
    let mut best = NOT_READY;
    for slot in up_to::<SCAN_ALL_MAX>(workers) {
        // The loop keeps the bound. The mask tells the compiler, and costs no instruction.
        best = lower(best, scoring.score(group, slot as usize & (N - 1)));
    }
    found::<N>(best)
}

/// Compares a few idle workers, from a start that rotates. If no worker is idle, compares a
/// bounded sample.
#[inline(always)]
fn least_of_many<const N: usize>(
    group: &Group<N>,
    workers: u32,
    host: &mut impl Host,
) -> Result<u32, Reason> {
    let start = remainder(host.advance_cursor(), workers);
    let scoring = Scoring::new(group, host);
    let mut best = NOT_READY;
    let mut from = start;
    let mut skipped = 0;
    for nth in 0..IDLE_SAMPLE {
        let slot = next_idle(group, from);
        if slot == NO_SLOT {
            break;
        }
        if nth == 0 {
            // If the scan went around the end: there are no places behind the last worker.
            let around = if slot < start { workers } else { 0 };
            skipped = (slot + around).wrapping_sub(start);
        }
        best = lower(best, scoring.score_at(group, slot));
        from = slot + 1;
    }
    if is_idle(best) {
        if skipped > 0 {
            host.skip(skipped);
        }
        return found::<N>(best);
    }
    // The block of eight slots with the start. Each slot is the start equally often, and so is
    // each compared equally often, in a smaller last block, too.
    let block = start / LANES * LANES;
    // The compiler must not know the number of lanes: it would unroll the loop, which takes
    // longer, as the words of all slots do not fit into ten registers.
    let lanes = bounded(LANES, MAX_WORKERS) as u32;
    for lane in 0..SCAN_ALL_MAX {
        if lane >= lanes {
            break;
        }
        best = lower(best, scoring.score_at(group, block + lane));
    }
    if is_eligible(best) {
        return found::<N>(best);
    }
    // No worker of the block is ready. The ready list has those that are.
    let ready = group.config.ready_count.get();
    if ready == 0 {
        return Err(Reason::NoneReady);
    }
    checked_ready(group, nth_ready(group, remainder(start, ready)))
}
