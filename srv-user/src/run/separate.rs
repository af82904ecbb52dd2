//! How the coordinator becomes a process of its own, which is no child of the server: the server
//! waits for its children, and may wonder about one that it has not started.

use std::io;
use std::os::fd::RawFd;

use anyhow::Context as _;

use super::invitation::REPORT;

/// Goes on in a child process in a session of its own, and ends this process, for which `srv run`
/// waits. Of the files that it has inherited, it keeps those of the coordinator and standard error.
/// This must be called before the process has a second thread.
///
/// # Errors
/// If there can be no further process.
pub(super) fn from_parent() -> anyhow::Result<()> {
    // SAFETY: this process has one thread, so the child is complete.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()).context("fork the coordinator"),
        0 => {}
        // SAFETY: ends this process at once, without running what the child still needs.
        _ => unsafe { libc::_exit(0) },
    }
    rustix::process::setsid().context("begin a session")?;
    rustix::process::chdir("/").context("leave the server's folder")?;
    close_from(REPORT + 1);
    // The name of a process that was started by a link is that of the link.
    let _ = rustix::thread::set_name(c"srv");
    Ok(())
}

/// The server may have inherited files, such as sockets of systemd, that it closes at some time:
/// they must not stay open here. Before Linux 5.9 they do.
fn close_from(first: RawFd) {
    // SAFETY: nothing in this process owns a file of such a number yet.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
}
