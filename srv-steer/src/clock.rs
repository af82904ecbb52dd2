//! The monotonic clock.

/// `CLOCK_MONOTONIC` in ns, the clock of `bpf_ktime_get_ns`; read through the
/// vDSO, so without a system call.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
