//! A connection's socket as hyper sees it: non-blocking reads and writes, and
//! a record of how they went. Knows no HTTP and no epoll.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use rustix::io::Errno;
use rustix::ioctl;
use rustix::net::RecvFlags;

use crate::serve::worker::http::Exchange;
use crate::serve::worker::turn::Turn;

/// A connection's non-blocking socket and how reading and writing it went.
pub struct Socket {
    /// The socket itself.
    pub fd: OwnedFd,
    /// There may be something to read. Cleared by a read that met the end of
    /// what was there; set again by the reactor.
    pub readable: Cell<bool>,
    /// The peer has closed its side: a short read does not prove that nothing
    /// is left, the end of file is.
    pub hung_up: Cell<bool>,
    /// The peer's end was read: nothing can come any more.
    pub ended: Cell<bool>,
    /// The last write met a full socket buffer.
    pub write_blocked: Cell<bool>,
    /// Bytes read so far.
    pub bytes_in: Cell<u64>,
    /// Bytes written so far.
    pub bytes_out: Cell<u64>,
    /// What it may still do before others are looked at.
    pub turn: Turn,
}

/// The request of `ioctl` that [`Socket::unacknowledged_bytes`] makes: tcp(7).
const SIOCOUTQ: u32 = libc::TIOCOUTQ as u32;

impl Socket {
    /// A socket that was just accepted.
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            readable: Cell::new(true),
            hung_up: Cell::new(false),
            ended: Cell::new(false),
            write_blocked: Cell::new(false),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            turn: Turn::default(),
        }
    }

    /// Whether bytes have arrived that were not read.
    pub fn has_unread(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(&self.fd, &mut [0u8], flags), Ok((1.., _)))
    }

    /// Bytes written that the peer's kernel has not acknowledged, sent or not.
    pub fn unacknowledged_bytes(&self) -> u64 {
        // SAFETY: this request stores an int and nothing else.
        let queued = unsafe {
            let request = ioctl::Getter::<SIOCOUTQ, libc::c_int>::new();
            ioctl::ioctl(&self.fd, request)
        };
        // It fails only on what is no connection.
        queued.map_or(0, |bytes| bytes.max(0) as u64)
    }

    /// Fills `room` with what has arrived. Pending: nothing is there, or the
    /// connection's turn is over.
    pub fn poll_read(&self, room: &mut [MaybeUninit<u8>]) -> Poll<rustix::io::Result<usize>> {
        if !self.readable.get() || !self.turn.allows_call() {
            return Poll::Pending;
        }
        let room_bytes = room.len();
        let filled =
            retry(|| rustix::io::read(&self.fd, &mut *room).map(|(filled, _)| filled.len()));
        match filled {
            Ok(filled) => {
                self.turn.spend(filled);
                self.bytes_in.set(self.bytes_in.get() + filled as u64);
                self.ended.set(filled == 0 && room_bytes > 0);
                // The registration is edge-triggered: what comes after a short read
                // is announced, so there is no need to meet EAGAIN first.
                if filled < room_bytes && !self.hung_up.get() {
                    self.readable.set(false);
                }
                Poll::Ready(Ok(filled))
            }
            Err(Errno::AGAIN) => {
                self.readable.set(false);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

/// The socket as a byte stream, preceded by bytes that were read before.
pub struct Stream {
    socket: Rc<Socket>,
    prefix: Bytes,
    exchange: Rc<Exchange>,
}

impl Stream {
    /// `prefix` is read first. What is written while `exchange` owes nothing is not sent.
    pub fn new(socket: Rc<Socket>, prefix: Bytes, exchange: Rc<Exchange>) -> Self {
        Self {
            socket,
            prefix,
            exchange,
        }
    }

    /// What of the prefix was not read.
    pub fn into_prefix(self) -> Bytes {
        self.prefix
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let length = self.prefix.len().min(buffer.remaining());
            buffer.put_slice(&self.prefix[..length]);
            self.prefix.advance(length);
            return Poll::Ready(Ok(()));
        }
        // SAFETY: `poll_read` writes only to what it reports as read.
        let filled = ready!(self.socket.poll_read(unsafe { buffer.as_mut() }))?;
        // SAFETY: that many bytes were just read into the buffer.
        unsafe { buffer.advance(filled) };
        Poll::Ready(Ok(()))
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.exchange.owes.get() {
            return Poll::Ready(Ok(bytes.len()));
        }
        self.write(|fd| rustix::io::write(fd, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.exchange.owes.get() {
            return Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()));
        }
        self.write(|fd| rustix::io::writev(fd, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper calls this when it has written all that it has.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.exchange.flushed();
        Poll::Ready(Ok(()))
    }

    /// Nothing: the close that follows says the same with one system call less.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Stream {
    fn write(
        &self,
        call: impl Fn(&OwnedFd) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if !self.socket.turn.allows_call() {
            self.socket.write_blocked.set(false);
            return Poll::Pending;
        }
        let result = retry(|| call(&self.socket.fd));
        self.socket.write_blocked.set(result == Err(Errno::AGAIN));
        match result {
            Ok(written) => {
                self.socket.turn.spend(written);
                self.socket
                    .bytes_out
                    .set(self.socket.bytes_out.get() + written as u64);
                Poll::Ready(Ok(written))
            }
            Err(Errno::AGAIN) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
