//! A connection's bytes as HTTP sees them: with or without TLS, and as hyper reads and writes them.
//! This module knows no HTTP and no epoll.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};

use crate::serve::worker::http::Exchange;
use crate::serve::worker::tcp::TcpSocket;
use crate::serve::worker::tls::Session;
use srv_steer::Incoming;

/// A connection's socket. What is read from it and written to it is plaintext, whether the client
/// speaks TLS or not; all else is that of the [`TcpSocket`].
pub struct Socket {
    tcp: TcpSocket,
    tls: Option<RefCell<Session>>,
}

impl Deref for Socket {
    type Target = TcpSocket;

    fn deref(&self) -> &TcpSocket {
        &self.tcp
    }
}

impl Socket {
    /// A socket that was just accepted. With a `session`, its client is to speak TLS.
    pub fn new(incoming: Incoming, session: Option<Session>) -> Self {
        Self {
            tcp: TcpSocket::new(incoming),
            tls: session.map(RefCell::new),
        }
    }

    /// What is beneath TLS.
    pub fn tcp(&self) -> &TcpSocket {
        &self.tcp
    }

    /// The TLS session, if the client is to speak TLS.
    pub fn tls(&self) -> Option<&RefCell<Session>> {
        self.tls.as_ref()
    }

    /// Whether bytes have arrived that srv has not read.
    pub fn has_unread(&self) -> bool {
        let is_decrypted = |tls: &RefCell<Session>| tls.borrow().has_plaintext();
        self.tls.as_ref().is_some_and(is_decrypted) || self.tcp.has_unread()
    }

    /// Fills `room` with the bytes that have arrived. It is pending if there are none, or if the
    /// connection's turn is over.
    pub fn poll_read(&self, room: &mut [MaybeUninit<u8>]) -> Poll<rustix::io::Result<usize>> {
        match &self.tls {
            None => self.tcp.poll_read(room),
            Some(tls) => tls.borrow_mut().poll_read(&self.tcp, room),
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
    /// none, or if the connection's turn is over; the next call must then begin with the same bytes.
    pub fn poll_write(&self, parts: &[IoSlice<'_>]) -> Poll<rustix::io::Result<usize>> {
        match &self.tls {
            None => self.tcp.poll_write(parts),
            Some(tls) => tls.borrow_mut().poll_write(&self.tcp, parts),
        }
    }

    /// Sends the last answer of a connection, as far as there is room in the socket's buffer.
    pub fn send_last(&self, answer: &[u8]) {
        match &self.tls {
            None => self.tcp.send_last(answer),
            Some(tls) => tls.borrow_mut().send_last(&self.tcp, answer),
        }
    }

    /// Tells the client that nothing follows, if TLS is to say it. Call this before an orderly close.
    pub fn announce_end(&self) {
        if let Some(tls) = &self.tls {
            tls.borrow_mut().send_end(&self.tcp);
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

impl AsRef<TcpSocket> for Socket {
    fn as_ref(&self) -> &TcpSocket {
        &self.tcp
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
