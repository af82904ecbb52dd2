//! Which workers sleep in `epoll_wait`: one byte for each, eight in a word. Knows no policy and
//! no load.

use crate::branchless::bounded;
use crate::layout::Group;

/// No slot has this number.
pub(super) const NO_SLOT: u32 = u32::MAX;

/// Idle bytes in a word.
pub(super) const LANES: u32 = 8;
/// Words in a cache line.
const LINE_WORDS: u32 = 8;

/// The first slot from `from` on, around the end, whose worker sleeps, or
/// [`NO_SLOT`]. Slots without a worker are never idle.
#[inline(always)]
pub(super) fn next_idle<const N: usize>(group: &Group<N>, from: u32) -> u32 {
    // In the first word, the lanes below `from` come last, after the way around the end.
    let first = from / LANES;
    let skipped = (1u64 << (8 * (from % LANES))) - 1;
    let mut word = idle_word(group, first) & !skipped;
    if word == 0 && !is_any_idle(group) {
        return NO_SLOT;
    }
    let mut at = first;
    for _ in 0..N as u32 / LANES {
        if word != 0 {
            break;
        }
        at += 1;
        word = idle_word(group, at);
    }
    if word == 0 {
        NO_SLOT
    } else {
        at * LANES % N as u32 + lowest_lane(word)
    }
}

/// Whether any worker sleeps. If none does, this is much faster than the way around.
#[inline(always)]
fn is_any_idle<const N: usize>(group: &Group<N>) -> bool {
    let mut idle = 0;
    for line in 0..N as u32 / LANES / LINE_WORDS {
        if line * LANES * LINE_WORDS >= group.config.workers.get() {
            break;
        }
        for nth in 0..LINE_WORDS {
            idle |= idle_word(group, line * LINE_WORDS + nth);
        }
    }
    idle != 0
}

/// Eight workers' idle bytes.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn idle_word<const N: usize>(group: &Group<N>, word: u32) -> u64 {
    let lanes = group.idle.0.as_ptr().cast::<u64>();
    // SAFETY: the array is 64-byte aligned and the masked index is inside it. Here all
    // accesses are instructions (see `Shared`): one load takes eight lanes, each of which
    // its worker writes whole.
    let word = unsafe { lanes.add(bounded(word, N / 8)).read_volatile() };
    u64::from_le(word) & 0x0101_0101_0101_0101
}

/// Eight workers' idle bytes, one by one: elsewhere each is an atomic, which must not be
/// read as a part of something larger.
#[cfg(not(target_arch = "bpf"))]
fn idle_word<const N: usize>(group: &Group<N>, word: u32) -> u64 {
    let first = bounded(word, N / 8) * 8;
    let lanes = core::array::from_fn(|lane| group.idle.0[first + lane].get() & 1);
    u64::from_le_bytes(lanes)
}

/// Index of the lowest byte that is 1, of bytes that are 0 or 1 and not all 0.
/// (BPF has no instruction that counts trailing zeros.)
#[inline(always)]
fn lowest_lane(word: u64) -> u32 {
    let lowest = word & word.wrapping_neg();
    (lowest.wrapping_mul(0x0001_0203_0405_0607) >> 56) as u32
}
