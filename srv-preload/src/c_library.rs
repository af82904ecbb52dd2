//! What is borrowed from the C library of the process, whichever that is: glibc and musl have
//! these names alike. The dynamic loader finds them, since they are in every dynamically linked
//! process.

use core::ffi::{c_char, c_int, c_void};

use crate::sys::Returned;

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
    fn clock_gettime(clock: c_int, time: *mut [i64; 2]) -> c_int;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    static environ: *const *const c_char;
}

// Before glibc 2.34, `dlsym` is in a library of its own, which a process may not have.
#[cfg(not(test))]
core::arch::global_asm!(".weak dlsym");

const CLOCK_MONOTONIC: c_int = 1;

/// What a C function returns for what a system call returned: -1 with `errno` for an error.
pub(crate) fn outcome(returned: Returned) -> Returned {
    if (-4095..0).contains(&returned) {
        // SAFETY: the address is that of the thread's errno.
        unsafe { *__errno_location() = -returned as c_int };
        return -1;
    }
    returned
}

/// Likewise, for a function that returns an `int`.
pub(crate) fn outcome_int(returned: Returned) -> c_int {
    outcome(returned) as c_int
}

/// ns of `CLOCK_MONOTONIC`, without a system call where the machine has a vDSO.
pub(crate) fn monotonic_ns() -> u64 {
    let mut time = [0; 2];
    // SAFETY: a timespec is two integers of 64 bits.
    unsafe { clock_gettime(CLOCK_MONOTONIC, &raw mut time) };
    time[0] as u64 * 1_000_000_000 + time[1] as u64
}

/// The process's environment: entries up to a null pointer, or null.
pub(crate) fn environment() -> *const *const c_char {
    // SAFETY: the C library's variable; a read of a pointer.
    unsafe { (&raw const environ).read() }
}

/// The function of that name in what was loaded after this library; `None` if it cannot be found.
/// `name` ends with a zero byte.
pub(crate) fn next(name: &core::ffi::CStr) -> Option<*mut c_void> {
    const RTLD_NEXT: *mut c_void = usize::MAX as *mut c_void;
    let dlsym: Option<unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void> =
        // SAFETY: a weak symbol that was not found has the address 0, which is `None`.
        unsafe { core::mem::transmute(dlsym as *const c_void) };
    // SAFETY: the name ends with a zero byte.
    let found = dlsym.map(|dlsym| unsafe { dlsym(RTLD_NEXT, name.as_ptr()) })?;
    (!found.is_null()).then_some(found)
}
