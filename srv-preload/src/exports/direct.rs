//! `syscall`.

use core::ffi::c_long;

use linux_raw_sys::general::{__NR_close, __NR_close_range, __NR_io_uring_setup};

use super::{descriptors, restricting};
use crate::c_library::outcome;
use crate::process;
use crate::sys::{self, errno};

/// Makes the system call. libuv closes its connections by it. The exception is that io_uring is
/// said to be missing: libuv would register listeners through it, unseen, and does without where
/// there is none.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    if number == c_long::from(__NR_io_uring_setup) && process::told().is_some() {
        return outcome(sys::failure(errno::ENOSYS)) as c_long;
    }
    if number == c_long::from(__NR_close) {
        return c_long::from(descriptors::close(a as i32));
    }
    if number == c_long::from(__NR_close_range) {
        return c_long::from(descriptors::close_range(a as u32, b as u32, c as i32));
    }
    restricting::before_call(number as u32, a);
    // SAFETY: the application's own call.
    let returned = unsafe { sys::call(number as u32, [a, b, c, d, e, f]) };
    outcome(returned) as c_long
}
