//! A connection's socket as hyper sees it: non-blocking reads and writes, and a record of
//! their results. This module knows no HTTP and no epoll.

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
use rustix::net::{RecvFlags, SendFlags};

use crate::serve::worker::http::Exchange;
use crate::serve::worker::turn::Turn;
use srv_steer::Incoming;

/// A connection's non-blocking socket, with the results of reads and writes.
pub struct Socket {
    /// The socket itself.
    pub fd: OwnedFd,
    /// The listener that it was accepted from, by its number in the order of the addresses.
    pub listener: usize,
    /// The number by which the worker knows the connection.
    pub key: Cell<usize>,
    /// Whether there may be something to read. A read that reaches the end of what has arrived
    /// clears it; the reactor sets it again.
    pub readable: Cell<bool>,
    /// Whether the client has closed its side. Then a short read does not prove that nothing is
    /// left; only the end of file does.
    pub hung_up: Cell<bool>,
    /// Whether srv has read the end of file: nothing can come any more.
    pub ended: Cell<bool>,
    /// Whether the socket's buffer was full at the last write.
    pub write_blocked: Cell<bool>,
    /// Bytes read so far.
    pub bytes_in: Cell<u64>,
    /// Bytes written so far.
    pub bytes_out: Cell<u64>,
    /// What the connection may still do before others come first.
    pub turn: Turn,
}

/// The request of `ioctl` that [`Socket::unacknowledged_bytes`] makes: tcp(7).
const SIOCOUTQ: u32 = libc::TIOCOUTQ as u32;

impl Socket {
    /// A socket that was just accepted.
    pub fn new(incoming: Incoming) -> Self {
        Self {
            fd: incoming.socket,
            listener: incoming.group,
            key: Cell::new(usize::MAX),
            readable: Cell::new(true),
            hung_up: Cell::new(false),
            ended: Cell::new(false),
            write_blocked: Cell::new(false),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            turn: Turn::default(),
        }
    }

    /// Whether bytes have arrived that srv has not read.
    pub fn has_unread(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(&self.fd, &mut [0u8], flags), Ok((1.., _)))
    }

    /// How many written bytes the client's kernel has not acknowledged, whether they were sent
    /// or not.
    pub fn unacknowledged_bytes(&self) -> u64 {
        // SAFETY: this request stores an int and nothing else.
        let queued = unsafe {
            let request = ioctl::Getter::<SIOCOUTQ, libc::c_int>::new();
            ioctl::ioctl(&self.fd, request)
        };
        // The call fails only if the socket is not a connection.
        queued.map_or(0, |bytes| bytes.max(0) as u64)
    }

    /// Fills `room` with the bytes that have arrived. It is pending if there are none, or if the
    /// connection's turn is over.
    pub fn poll_read(&self, room: &mut [MaybeUninit<u8>]) -> Poll<rustix::io::Result<usize>> {
        if !self.readable.get() || !self.turn.allows_call() {
            return Poll::Pending;
        }
        let room_bytes = room.len();
        let filled = retry(|| {
            let read = rustix::net::recv(&self.fd, &mut *room, RecvFlags::empty());
            read.map(|(_, filled)| filled)
        });
        match filled {
            Ok(filled) => {
                self.turn.spend(filled);
                self.bytes_in.set(self.bytes_in.get() + filled as u64);
                self.ended.set(filled == 0 && room_bytes > 0);
                // The registration is edge-triggered: the kernel reports bytes that arrive
                // after a short read, so there is no need to read until EAGAIN.
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

    /// As [`Self::poll_read`], with the bytes.
    pub fn poll_bytes<'a>(
        &self,
        room: &'a mut [MaybeUninit<u8>],
    ) -> Poll<rustix::io::Result<&'a [u8]>> {
        let filled = ready!(self.poll_read(room))?;
        // SAFETY: that many bytes were just read into the room.
        let read = unsafe { std::slice::from_raw_parts(room.as_ptr().cast(), filled) };
        Poll::Ready(Ok(read))
    }

    /// Writes these parts as far as there is room in the socket's buffer. It is pending if there is
    /// none, or if the connection's turn is over.
    pub fn poll_write(&self, parts: &[IoSlice<'_>]) -> Poll<rustix::io::Result<usize>> {
        if !self.turn.allows_call() {
            self.write_blocked.set(false);
            return Poll::Pending;
        }
        let result = retry(|| match parts {
            // The shorter way through the kernel.
            [one] => rustix::net::send(&self.fd, one, SendFlags::NOSIGNAL),
            _ => rustix::io::writev(&self.fd, parts),
        });
        self.write_blocked.set(result == Err(Errno::AGAIN));
        match result {
            Ok(written) => {
                self.turn.spend(written);
                self.bytes_out.set(self.bytes_out.get() + written as u64);
                Poll::Ready(Ok(written))
            }
            Err(Errno::AGAIN) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Whether bytes may have arrived that srv has not read. If the turn was one short read and one
    /// write, they have done so only in these few microseconds. A client that asked for the close
    /// sends nothing more then; `is_asked` says that it did. In all other cases, srv needs a system
    /// call to know it.
    pub fn may_have_unread(&self, is_asked: bool) -> bool {
        self.readable.get() || !(is_asked && self.turn.is_ordinary()) && self.has_unread()
    }
}

/// The socket as a byte stream. Bytes that were read before come first, and so do bytes of an
/// earlier answer that did not fit into the socket's buffer.
pub struct Stream {
    socket: Rc<Socket>,
    prefix: Bytes,
    unsent: Bytes,
    exchange: Rc<Exchange>,
}

impl Stream {
    /// hyper reads `prefix` first. If it writes while `exchange` owes nothing, the bytes are not
    /// sent.
    pub fn new(socket: Rc<Socket>, prefix: Bytes, exchange: Rc<Exchange>) -> Self {
        Self {
            socket,
            prefix,
            unsent: Bytes::new(),
            exchange,
        }
    }

    /// `unsent` is written before hyper reads or writes anything.
    pub fn after(mut self, unsent: Bytes) -> Self {
        self.unsent = unsent;
        self
    }

    /// Whether there are bytes for hyper that were read before.
    pub fn has_prefix(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// The rest of the prefix, which was not read.
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
        ready!(self.poll_unsent())?;
        if !self.prefix.is_empty() {
            let length = self.prefix.len().min(buffer.remaining());
            buffer.put_slice(&self.prefix[..length]);
            self.prefix.advance(length);
            return Poll::Ready(Ok(()));
        }
        // SAFETY: `poll_read` writes only to the part that it reports as read.
        let filled = ready!(self.socket.poll_read(unsafe { buffer.as_mut() }))?;
        // SAFETY: that many bytes were just read into the buffer.
        unsafe { buffer.advance(filled) };
        Poll::Ready(Ok(()))
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_unsent())?;
        if !self.exchange.owes.get() {
            return Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()));
        }
        Poll::Ready(Ok(ready!(self.socket.poll_write(parts))?))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper calls this when it has written all that it has.
    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unsent())?;
        self.exchange.flushed();
        Poll::Ready(Ok(()))
    }

    /// Does nothing: the close that follows has the same effect, with one system call less.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Stream {
    /// Is ready when all bytes of the earlier answer are written. What hyper writes then answers
    /// another request, or none.
    fn poll_unsent(&mut self) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let written = ready!(self.socket.poll_write(&[IoSlice::new(&self.unsent)]))?;
            self.unsent.advance(written);
            if self.unsent.is_empty() {
                self.exchange.flushed();
            }
        }
        Poll::Ready(Ok(()))
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
