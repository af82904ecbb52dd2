//! A connection to an application: a non-blocking socket in the worker's own epoll instance, whose
//! user waits for it by a [`Context`]. It knows no HTTP and no protocol of applications.
//! [`registry`] has all of a worker's, with what the kernel has said about each and until when its
//! user waits.

mod registry;

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

use crate::values::ApplicationAddr;

pub use registry::{UPSTREAM_TOKEN, Upstreams};

/// A connection to an application. It is closed when this is dropped.
pub struct Upstream {
    fd: OwnedFd,
    address: ApplicationAddr,
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

impl Upstream {
    /// A socket that is to be connected to `address`. [`Self::poll_connected`] does that.
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
            address: address.clone(),
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

    /// Connects. If the queue of an application's socket in the file system is full, the kernel
    /// says that at once and never when there is room again; then this is tried again at each sweep.
    ///
    /// # Errors
    /// What the kernel says; `TimedOut`.
    pub fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.get() == State::Unconnected {
            match self.connect() {
                Ok(()) => self.watch(State::Connected)?,
                Err(Errno::INPROGRESS) => self.watch(State::Connecting)?,
                Err(Errno::AGAIN) => {
                    return self.wait(cx, |known| known.tries_again = true);
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        if self.state.get() == State::Connecting {
            if !self.upstreams.with(self.key, |known| known.is_writable) {
                return self.wait(cx, |known| known.wants_write = true);
            }
            sockopt::socket_error(&self.fd)??;
            self.upstreams
                .with(self.key, registry::Known::has_progressed);
            self.state.set(State::Connected);
        }
        Poll::Ready(Ok(()))
    }

    fn connect(&self) -> rustix::io::Result<()> {
        match &self.address {
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

    fn watch(&self, state: State) -> io::Result<()> {
        self.upstreams.watch(self.key, &self.fd)?;
        self.upstreams.with(self.key, |known| {
            known.is_writable = state == State::Connected;
            known.has_progressed();
        });
        self.state.set(state);
        Ok(())
    }

    /// Fills `room` with what has arrived; 0 bytes are the end.
    ///
    /// # Errors
    /// What the kernel says; `TimedOut`.
    pub fn poll_read(
        &self,
        cx: &mut Context<'_>,
        room: &mut [MaybeUninit<u8>],
    ) -> Poll<io::Result<usize>> {
        let may_read = |known: &mut registry::Known| known.is_readable || known.has_timed_out;
        if !self.upstreams.with(self.key, may_read) {
            return self.wait(cx, |known| known.wants_read = true);
        }
        let room_bytes = room.len();
        let read = rustix::io::retry_on_intr(|| {
            let read = rustix::net::recv(&self.fd, &mut *room, RecvFlags::empty());
            read.map(|(_, filled)| filled)
        });
        match read {
            Ok(filled) => {
                // Edge-triggered: the kernel reports what arrives after a short read.
                self.upstreams.with(self.key, |known| {
                    known.is_readable = filled == room_bytes || known.has_hung_up;
                    known.has_progressed();
                });
                Poll::Ready(Ok(filled))
            }
            Err(Errno::AGAIN) => {
                self.upstreams
                    .with(self.key, |known| known.is_readable = false);
                self.wait(cx, |known| known.wants_read = true)
            }
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    /// Writes as much of `bytes` as there is room for.
    ///
    /// # Errors
    /// What the kernel says; `TimedOut`.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.upstreams.with(self.key, |known| known.is_writable) {
            return self.wait(cx, |known| known.wants_write = true);
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
                self.wait(cx, |known| known.wants_write = true)
            }
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    /// Notes what its user waits for, and who is to be woken then.
    fn wait<T>(
        &self,
        cx: &mut Context<'_>,
        want: impl FnOnce(&mut registry::Known),
    ) -> Poll<io::Result<T>> {
        self.upstreams.with(self.key, |known| {
            if known.has_timed_out {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            want(known);
            known.waits(cx.waker());
            Poll::Pending
        })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.upstreams.remove(self.key);
    }
}
