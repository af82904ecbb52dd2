//! Whether this process may call `openat2`.

use std::io;

/// Why this process cannot call `openat2`; `None` if it can. The kernel refuses a call without
/// arguments as `EINVAL` (fs/open.c, the size of the structure comes first), an old kernel or a
/// sandbox says something else.
pub fn openat2_refusal() -> Option<io::Error> {
    // SAFETY: with a size of 0 the kernel reads nothing from the null pointers.
    let refused = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            -1,
            std::ptr::null::<u8>(),
            std::ptr::null::<u8>(),
            0,
        )
    };
    let error = io::Error::last_os_error();
    (refused == 0 || error.raw_os_error() != Some(libc::EINVAL)).then_some(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_openat2() {
        assert!(openat2_refusal().is_none(), "{:?}", openat2_refusal());
    }
}
