//! Taking a listening socket of another process for a moment, with `pidfd_getfd`. The caller closes
//! it at once: a copy that stays open keeps the listener of a dead worker open, and no process
//! answers the connections that arrive there.

use std::os::fd::{OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::SockRef;

use super::refusal::Refusal;
use crate::kernel::owners::{Owner, Owners};
use crate::kernel::sock_diag::Listener;

/// A copy of `listener`, from the first of its owners that this process may take it from. Drop it
/// at once. `None` if the socket is closed or its owners have ended.
///
/// # Errors
/// There are owners, but this process may not take the socket from any of them.
pub(crate) fn take(listener: &Listener, owners: &Owners) -> Result<Option<OwnedFd>, Refusal> {
    let mut refused = None;
    for owner in owners.having(listener.inode) {
        match take_from(owner.pid, owner.sockets[&listener.inode], listener.cookie) {
            Ok(Some(socket)) => return Ok(Some(socket)),
            Ok(None) => {}
            Err(errno) => refused = Some(refusal(owner, errno)),
        }
    }
    refused.map_or(Ok(None), Err)
}

fn take_from(pid: Pid, fd: RawFd, cookie: u64) -> Result<Option<OwnedFd>, Errno> {
    let open = || {
        pidfd_getfd(
            pidfd_open(pid, PidfdFlags::empty())?,
            fd,
            PidfdGetfdFlags::empty(),
        )
    };
    match open() {
        // The number may belong to another file by now.
        Ok(socket) => Ok(is_it(&socket, cookie)?.then_some(socket)),
        Err(Errno::SRCH | Errno::BADF) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn is_it(file: &OwnedFd, cookie: u64) -> Result<bool, Errno> {
    match SockRef::from(file).cookie() {
        Ok(its) => Ok(its == cookie),
        // Linux before 4.12 has no SO_COOKIE. If the file is no socket, the error is ENOTSOCK.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOPROTOOPT) => {
            Err(Errno::NOPROTOOPT)
        }
        Err(_) => Ok(false),
    }
}

fn refusal(owner: &Owner, errno: Errno) -> Refusal {
    let from = format!("process {} ({})", owner.pid.as_raw_nonzero(), owner.command);
    match errno {
        said @ Errno::NOSYS => Refusal::KernelTooOld {
            tried: format!("take a socket from {from} with pidfd_getfd"),
            said,
            since: "5.6",
        },
        said @ Errno::NOPROTOOPT => Refusal::KernelTooOld {
            tried: format!("read SO_COOKIE of a socket of {from}"),
            said,
            since: "4.12",
        },
        Errno::PERM | Errno::ACCESS => Refusal::MayNotTake {
            pid: owner.pid.as_raw_nonzero().get() as u32,
            command: owner.command.clone(),
        },
        errno => Refusal::Kernel(format!("take a socket from {from}: {errno}")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn only_the_very_socket_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (this, fd) = (rustix::process::getpid(), listener.as_raw_fd());
        let cookie = SockRef::from(&listener).cookie().unwrap();
        let copy = take_from(this, fd, cookie).unwrap().unwrap();
        assert_ne!(copy.as_raw_fd(), fd);
        assert!(take_from(this, fd, cookie + 1).unwrap().is_none());
        assert!(take_from(this, 9999, cookie).unwrap().is_none());
    }

    #[test]
    fn what_the_kernel_refuses_has_a_mend() {
        let owner = Owner {
            pid: rustix::process::getpid(),
            command: "nginx".into(),
            sockets: [].into(),
            polled: [].into(),
            epolls: 0,
        };
        let said = refusal(&owner, Errno::PERM).to_string();
        assert!(
            said.contains("CAP_SYS_PTRACE") && said.contains("nginx"),
            "{said}"
        );
    }
}
