//! Socket options that socket2 does not know.

use std::io;
use std::os::fd::AsRawFd;

/// Sets an option whose value is an integer.
///
/// # Errors
/// What `setsockopt` says.
pub fn set_socket_option(
    socket: &impl AsRawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    let value = std::ptr::from_ref(&value).cast();
    // SAFETY: `value` points to an int of `length` bytes.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
