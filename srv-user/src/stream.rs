//! A connection's socket as hyper sees it: non-blocking reads and writes, and
//! a record of how they went. Knows no HTTP and no epoll.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::http::Exchange;

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
    /// The last write met a full socket buffer.
    pub write_blocked: Cell<bool>,
    /// Bytes read so far.
    pub bytes_in: Cell<u64>,
    /// Bytes written so far.
    pub bytes_out: Cell<u64>,
}

impl Socket {
    /// A socket that was just accepted.
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            readable: Cell::new(true),
            hung_up: Cell::new(false),
            write_blocked: Cell::new(false),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
        }
    }

    /// Whether bytes have arrived that were not read.
    pub fn has_unread(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(&self.fd, &mut [0u8], flags), Ok((1.., _)))
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
        if !self.socket.readable.get() {
            return Poll::Pending;
        }
        let room = buffer.remaining();
        let filled = retry(|| {
            // SAFETY: `read` writes only to what it reports as read.
            let room = unsafe { buffer.as_mut() };
            rustix::io::read(&self.socket.fd, room).map(|(filled, _)| filled.len())
        });
        let filled = match filled {
            Ok(filled) => filled,
            Err(Errno::AGAIN) => {
                self.socket.readable.set(false);
                return Poll::Pending;
            }
            Err(error) => return Poll::Ready(Err(error.into())),
        };
        // SAFETY: that many bytes were just read into the buffer.
        unsafe { buffer.advance(filled) };
        self.socket
            .bytes_in
            .set(self.socket.bytes_in.get() + filled as u64);
        // The registration is edge-triggered: what comes after a short read
        // is announced, so there is no need to meet EAGAIN first.
        if filled < room && !self.socket.hung_up.get() {
            self.socket.readable.set(false);
        }
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
        self.note_write(retry(|| rustix::io::write(&self.socket.fd, bytes)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.exchange.owes.get() {
            return Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()));
        }
        self.note_write(retry(|| rustix::io::writev(&self.socket.fd, parts)))
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
    fn note_write(&self, result: rustix::io::Result<usize>) -> Poll<io::Result<usize>> {
        self.socket.write_blocked.set(result == Err(Errno::AGAIN));
        match result {
            Ok(written) => {
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
