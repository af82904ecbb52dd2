//! How the keeper becomes a process of its own, which is no child of the server: the server waits
//! for its children, and may wonder about one that it has not started.

use std::ffi::CStr;
use std::io;
use std::os::fd::RawFd;

use anyhow::Context as _;

use super::invitation::REPORT;

/// Goes on in a child process in a session of its own, and ends this process, for which `srv run`
/// waits. Of the files that it has inherited, it keeps those of a coordinator and standard error.
/// This must be called before the process has a second thread.
///
/// # Errors
/// If there can be no further process.
pub(super) fn from_parent() -> anyhow::Result<()> {
    // SAFETY: this process has one thread, so the child is complete.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()).context("fork the keeper"),
        0 => {}
        // SAFETY: ends this process at once, without running what the child still needs.
        _ => unsafe { libc::_exit(0) },
    }
    rustix::process::setsid().context("begin a session")?;
    rustix::process::chdir("/").context("leave the server's folder")?;
    close_from(REPORT + 1);
    set_name(c"srv-keeper");
    Ok(())
}

/// Names this process. (One that was started by a link has the name of the link.)
pub(super) fn set_name(name: &CStr) {
    let _ = rustix::thread::set_name(name);
}

/// Ignores the signals that end a server, of which each may come to all of its processes: the
/// keeper ends with its coordinator. A signal that the server's parent ignores, and that this
/// process needs, is not ignored any more.
pub(super) fn handle_signals() {
    let ignored = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
    let ignored = ignored.map(|signal| (signal, libc::SIG_IGN));
    for (signal, handling) in ignored.into_iter().chain([(libc::SIGCHLD, libc::SIG_DFL)]) {
        // SAFETY: the call changes how a signal is handled, and nothing else.
        unsafe { libc::signal(signal, handling) };
    }
}

/// The server may have inherited files, such as sockets of systemd, that it closes at some time:
/// they must not stay open here. Before Linux 5.9 they do.
fn close_from(first: RawFd) {
    // SAFETY: nothing in this process owns a file of such a number yet.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
}
