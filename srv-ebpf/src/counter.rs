//! Counters that programs on any CPU add to at once.

use srv_common::Shared;

/// Adds one and returns what was there before.
#[inline(always)]
pub fn add_one(counter: &Shared<u64>) -> u64 {
    add(counter, 1)
}

/// Adds, wrapping, and returns what was there before.
///
/// SeqCst on purpose: with Relaxed, LLVM 22 emits the non-fetching `lock +=`
/// and takes the operand for the result. `tests` looks for that.
#[inline(always)]
pub fn add(counter: &Shared<u64>, by: u64) -> u64 {
    // SAFETY: the pointer comes from a reference.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
            counter.as_ptr(),
            by,
        )
    }
}
