//! The functions of the C library that this library takes the place of. Each decides by the byte
//! of the file descriptor ([`crate::files`]) whether the call concerns a listener or one of its
//! connections. If it does not, the function makes the system call, as the C library does.
//!
//! (A thread that waits here cannot be ended by `pthread_cancel`, which no known server does.)

mod descriptors;
mod direct;
mod epoll;
mod execution;
mod listed;
mod listening;
mod polling;
mod restricting;
mod transfer;

use linux_raw_sys::general as nr;
use linux_raw_sys::net;

use crate::files::{self, File};
use crate::sys::{self, passed};
use crate::{channel, process};

pub(crate) use transfer::find;

/// Looks at the descriptors that the process was started with: some may be listeners.
pub(crate) fn inherit() {
    let Some(told) = process::told() else {
        return;
    };
    let folder = c"/proc/self/fd";
    let flags = nr::O_RDONLY | nr::O_DIRECTORY | nr::O_CLOEXEC;
    let at = passed!(__NR_openat, nr::AT_FDCWD, folder.as_ptr(), flags, 0) as i32;
    if at >= 0 {
        let mut buffer = [0_u64; 512];
        loop {
            let length = size_of_val(&buffer);
            let filled = passed!(__NR_getdents64, at, buffer.as_mut_ptr(), length);
            if filled <= 0 {
                break;
            }
            // SAFETY: the kernel has written that many bytes.
            let bytes = unsafe {
                core::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), filled as usize)
            };
            names(bytes).filter_map(number).for_each(mark_listener);
        }
        channel::drop_fd(at);
    }
    if sys::inode(told.inherited) == Some(told.inode) {
        files::set(told.inherited, File::Private);
    }
}

/// The names of `struct linux_dirent64` after one another.
fn names(mut entries: &[u8]) -> impl Iterator<Item = &[u8]> {
    /// Where the length of an entry and its name are.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    core::iter::from_fn(move || {
        let length = entries.get(LENGTH..LENGTH + 2)?;
        let length = usize::from(u16::from_ne_bytes([length[0], length[1]]));
        let name = entries.get(NAME..length)?;
        entries = &entries[length..];
        name.split(|byte| *byte == 0).next()
    })
}

fn number(name: &[u8]) -> Option<i32> {
    core::str::from_utf8(name).ok()?.parse().ok()
}

fn mark_listener(fd: i32) {
    if sys::socket_option::<u32>(fd, net::SO_ACCEPTCONN) == Some(1) {
        let blocks = sys::is_blocking(fd);
        files::set(fd, File::Listener { blocks });
    }
}
