//! Socket options as the bytes that the kernel has for them, whatever their type.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Longest value of an option that is read or written here, bytes.
const VALUE_BYTES_MAX: usize = 64;

/// The value of an option.
///
/// # Errors
/// What `getsockopt` says.
pub fn get(socket: impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<Vec<u8>> {
    let mut value = [0u8; VALUE_BYTES_MAX];
    let length = get_into(&socket, level, option, &mut value)?;
    Ok(value[..length.min(VALUE_BYTES_MAX)].to_vec())
}

/// Reads the value of an option. Returns how many bytes it has.
fn get_into(
    socket: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &mut [u8],
) -> io::Result<usize> {
    let mut length = value.len() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the buffer is as long as `length` says.
    let result = unsafe {
        let buffer = value.as_mut_ptr().cast();
        libc::getsockopt(fd, level, option, buffer, &raw mut length)
    };
    match result {
        0 => Ok(length as usize),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets an option to a value of these bytes.
///
/// # Errors
/// What `setsockopt` says.
pub fn set(
    socket: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    let length = value.len() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the buffer is as long as `length` says.
    match unsafe { libc::setsockopt(fd, level, option, value.as_ptr().cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The number of the network namespace in which a socket was made; `None` before Linux 5.14.
pub fn namespace(socket: impl AsFd) -> Option<u64> {
    /// include/uapi/asm-generic/socket.h
    const SO_NETNS_COOKIE: libc::c_int = 71;
    // The kernel demands exactly this length.
    let mut cookie = [0; size_of::<u64>()];
    get_into(socket, libc::SOL_SOCKET, SO_NETNS_COOKIE, &mut cookie).ok()?;
    Some(u64::from_ne_bytes(cookie))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_option_is_read_as_it_was_set() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let (level, option) = (libc::SOL_SOCKET, libc::SO_KEEPALIVE);
        assert_eq!(get(&socket, level, option).unwrap(), 0i32.to_ne_bytes());
        set(&socket, level, option, &1i32.to_ne_bytes()).unwrap();
        assert_eq!(get(&socket, level, option).unwrap(), 1i32.to_ne_bytes());
        assert!(get(&socket, level, -1).is_err());
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = namespace(&socket);
        assert_eq!(here, namespace(&other));
        let is_known = here.map(drop).ok_or("Linux before 5.14".into());
        if crate::gate::can("tell network namespaces apart", is_known) {
            assert_ne!(here, Some(0));
        }
    }
}
