//! A connection to an application: a non-blocking socket in the worker's own epoll instance, whose
//! user waits for it by a [`Context`]. It knows no HTTP and no protocol of applications.
//! [`registry`] has all of a worker's, with what the kernel has said about each and until when its
//! user waits.

mod registry;

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

use crate::values::ApplicationAddr;

pub use registry::{UPSTREAM_TOKEN, Upstreams};

/// The most bytes that are read at a time.
const READ_BYTES: usize = 32 << 10;

/// A connection to an application. It is closed when this is dropped.
pub struct Upstream {
    fd: OwnedFd,
    key: usize,
    state: Cell<State>,
    upstreams: Rc<Upstreams>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The application's queue was full, or there was no attempt yet.
    Unconnected,
    /// The handshake is under way.
    Connecting,
    Connected,
}

/// What a user waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Read,
    Write,
    /// The next sweep.
    AnotherTry,
}

impl Upstream {
    /// A socket that is to be connected to `address`, by [`Self::poll_connected`].
    ///
    /// # Errors
    /// The kernel gives out no socket.
    pub fn new(upstreams: &Rc<Upstreams>, address: &ApplicationAddr) -> io::Result<Self> {
        let family = match address {
            ApplicationAddr::Unix(_) => AddressFamily::UNIX,
            ApplicationAddr::Tcp(address) if address.is_ipv4() => AddressFamily::INET,
            ApplicationAddr::Tcp(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        Ok(Self {
            fd,
            key: upstreams.insert(),
            state: Cell::new(State::Unconnected),
            upstreams: upstreams.clone(),
        })
    }

    /// From now on, its user waits for at most this long at a time (`None`: for any time). After
    /// that, what it waits for fails with `TimedOut`.
    pub fn wait_at_most(&self, timeout: Option<Duration>) {
        let ns = timeout.map(|timeout| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        self.upstreams.with(self.key, |known| {
            if known.timeout_ns != ns {
                known.timeout_ns = ns;
                known.has_progressed();
            }
        });
    }

    /// Connects to the address that the socket is for. If the queue of an application's socket in the file system is full, the kernel
    /// says that at once and never when there is room again; then this is tried again at each sweep.
    ///
    /// # Errors
    /// What the kernel says; `TimedOut`.
    pub fn poll_connected(
        &self,
        cx: &mut Context<'_>,
        address: &ApplicationAddr,
    ) -> Poll<io::Result<()>> {
        if self.state.get() == State::Unconnected {
            match self.connect(address) {
                Ok(()) => self.is_now(State::Connected),
                Err(Errno::INPROGRESS) => self.is_now(State::Connecting),
                Err(Errno::AGAIN) => return self.wait(cx, Want::AnotherTry),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        if self.state.get() == State::Connecting {
            if !self.upstreams.with(self.key, |known| known.is_writable) {
                return self.wait(cx, Want::Write);
            }
            sockopt::socket_error(&self.fd)??;
            self.upstreams
                .with(self.key, registry::Known::has_progressed);
            self.state.set(State::Connected);
        }
        Poll::Ready(Ok(()))
    }

    fn connect(&self, address: &ApplicationAddr) -> rustix::io::Result<()> {
        match address {
            ApplicationAddr::Unix(path) => {
                let address = SocketAddrUnix::new(path.as_path())?;
                rustix::net::connect(&self.fd, &address)
            }
            ApplicationAddr::Tcp(address) => {
                let _ = sockopt::set_tcp_nodelay(&self.fd, true);
                rustix::net::connect(&self.fd, address)
            }
        }
    }

    fn is_now(&self, state: State) {
        self.upstreams.with(self.key, |known| {
            known.is_writable = state == State::Connected;
            known.has_progressed();
        });
        self.state.set(state);
    }

    /// What has arrived, up to `READ_BYTES`; 0 bytes are the end.
    ///
    /// # Errors
    /// What the kernel says; `TimedOut`.
    pub fn poll_read(&self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let may_read = |known: &mut registry::Known| known.is_readable || known.has_timed_out;
        if !self.upstreams.with(self.key, may_read) {
            return self.wait(cx, Want::Read);
        }
        match self.read() {
            Ok((bytes, is_full)) => {
                // Edge-triggered: the kernel reports what arrives after a short read.
                self.upstreams.with(self.key, |known| {
                    known.is_readable = is_full || known.has_hung_up;
                    known.has_progressed();
                });
                Poll::Ready(Ok(bytes))
            }
            Err(Errno::AGAIN) => {
                self.upstreams
                    .with(self.key, |known| known.is_readable = false);
                self.wait(cx, Want::Read)
            }
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    /// Reads what has arrived. Also returns whether there may be more.
    fn read(&self) -> rustix::io::Result<(Bytes, bool)> {
        let mut room = self.upstreams.room.borrow_mut();
        if room.capacity() < READ_BYTES / 2 {
            room.reserve(READ_BYTES);
        }
        let spare = room.spare_capacity_mut();
        let most = spare.len().min(READ_BYTES);
        let filled = rustix::io::retry_on_intr(|| {
            let read = rustix::net::recv(&self.fd, &mut spare[..most], RecvFlags::empty());
            read.map(|(_, filled)| filled)
        })?;
        // SAFETY: that many bytes were just read into the spare room, and none were there before.
        unsafe { room.set_len(filled) };
        Ok((room.split().freeze(), filled == most))
    }

    /// Writes as much of `bytes` as there is room for.
    ///
    /// # Errors
    /// What the kernel says; `TimedOut`.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.upstreams.with(self.key, |known| known.is_writable) {
            return self.wait(cx, Want::Write);
        }
        let sent =
            rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, bytes, SendFlags::NOSIGNAL));
        match sent {
            Ok(written) => {
                self.upstreams
                    .with(self.key, registry::Known::has_progressed);
                Poll::Ready(Ok(written))
            }
            Err(Errno::AGAIN) => {
                self.upstreams
                    .with(self.key, |known| known.is_writable = false);
                self.wait(cx, Want::Write)
            }
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    /// Notes what its user waits for, and what is to be woken then. The kernel watches the socket
    /// from its first wait on: a request that fits into the socket's buffer is written before.
    fn wait<T>(&self, cx: &mut Context<'_>, want: Want) -> Poll<io::Result<T>> {
        self.upstreams.with(self.key, |known| {
            if known.has_timed_out {
                return Err(io::ErrorKind::TimedOut);
            }
            match want {
                Want::Read => known.wants_read = true,
                Want::Write => known.wants_write = true,
                Want::AnotherTry => known.tries_again = true,
            }
            known.waits(cx.waker());
            Ok(())
        })?;
        if want != Want::AnotherTry {
            self.upstreams.watch(self.key, &self.fd)?;
        }
        Poll::Pending
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.upstreams.remove(self.key);
    }
}
