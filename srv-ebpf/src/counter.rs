//! Counters to which programs on several CPUs add at the same time.

use srv_common::Shared;

/// Adds one and returns the value before.
#[inline(always)]
pub(crate) fn add_one(counter: &Shared<u64>) -> u64 {
    add(counter, 1)
}

/// Adds, wrapping, and returns the value before.
///
/// The ordering must be SeqCst: with Relaxed, LLVM 22 emits `lock +=`, which does not fetch, and
/// takes the operand for the result. A test of the policy round-robin would fail then.
#[inline(always)]
pub(crate) fn add(counter: &Shared<u64>, by: u64) -> u64 {
    // SAFETY: the pointer comes from a reference.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
            counter.as_ptr(),
            by,
        )
    }
}
