//! A file descriptor that tokio watches.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Has the event loop of this thread watch `fd`.
///
/// # Errors
/// What `epoll_ctl` says.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and is the same file, until it is dropped; the `AsyncFd` has it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
