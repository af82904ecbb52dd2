//! A connection as the load generator has it: a non-blocking socket, plain or
//! with TLS over it. The plain one costs the system call and a comparison.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, ipproto,
};

use super::tls::Session;
use crate::measure::load::target::{Address, Endpoint};

/// A connection.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: OwnedFd,
    session: Option<Box<Session>>,
}

impl Wire {
    /// A socket for a connection to `server`, not connected.
    pub(super) fn to(server: &Endpoint) -> rustix::io::Result<Self> {
        let (family, protocol) = match &server.address {
            Address::Tcp(address) if address.is_ipv4() => (AddressFamily::INET, Some(ipproto::TCP)),
            Address::Tcp(_) => (AddressFamily::INET6, Some(ipproto::TCP)),
            Address::Unix(_) => (AddressFamily::UNIX, None),
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, protocol)?;
        if server.tls.is_some() && protocol == Some(ipproto::TCP) {
            // The request follows the end of the handshake in a packet of its own. It must not wait
            // until the server has acknowledged the first one, which takes 40 ms.
            rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
        }
        Ok(Self::over(socket, server))
    }

    /// Over a socket that is connected to `server`, or will be.
    pub(crate) fn over(socket: OwnedFd, server: &Endpoint) -> Self {
        let session = server.tls.as_ref().map(|tls| Box::new(Session::new(tls)));
        Self { socket, session }
    }

    /// Begins to connect.
    pub(super) fn connect(&self, server: &Endpoint) -> rustix::io::Result<()> {
        let connected = match &server.address {
            Address::Tcp(address) => rustix::net::connect(&self.socket, address),
            Address::Unix(path) => SocketAddrUnix::new(path)
                .and_then(|address| rustix::net::connect(&self.socket, &address)),
        };
        match connected {
            // On loopback the handshake is over by now, although the kernel says EINPROGRESS.
            Err(Errno::INPROGRESS) => Ok(()),
            connected => connected,
        }
    }

    /// Completes the TLS handshake over a socket that still blocks.
    pub(crate) fn shake_hands(&mut self) -> io::Result<()> {
        match &mut self.session {
            Some(session) => session.shake_hands(&self.socket),
            None => Ok(()),
        }
    }

    /// The connection's socket.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Sends as much as is possible at once of `head` and of `body` behind it.
    pub(super) fn send(&mut self, head: &[u8], body: &[u8]) -> io::Result<usize> {
        if let Some(session) = &mut self.session {
            let next = if head.is_empty() { body } else { head };
            return session.send(&self.socket, next);
        }
        let sent = if body.is_empty() {
            rustix::net::send(&self.socket, head, SendFlags::NOSIGNAL)
        } else {
            rustix::net::sendmsg(
                &self.socket,
                &[IoSlice::new(head), IoSlice::new(body)],
                &mut SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL,
            )
        };
        Ok(sent?)
    }

    /// Receives; 0 bytes: the server sends no more.
    pub(super) fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.session {
            Some(session) => session.recv(&self.socket, buffer),
            None => Ok(rustix::net::recv(&self.socket, buffer, RecvFlags::empty())?.0),
        }
    }

    /// Whether a read of fewer bytes than asked for has drained the connection.
    pub(super) fn is_drained_by_short_reads(&self) -> bool {
        self.session.is_none()
    }

    /// Whether it waits to write, with or without `unsent` bytes of a request.
    pub(super) fn waits_to_write(&self, unsent: bool) -> bool {
        match &self.session {
            Some(session) => session.waits_to_write(),
            None => unsent,
        }
    }

    /// Whether the TLS handshake is not over.
    pub(super) fn is_shaking_hands(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.is_shaking_hands())
    }

    /// Whether its TLS session continues an earlier one.
    pub(crate) fn is_resumed(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.is_resumed())
    }

    /// Whether an idle connection can carry a request: open, and nothing left over on it.
    pub(crate) fn is_open(&mut self) -> bool {
        let mut byte = [0];
        match &mut self.session {
            // What came may be the session's own, such as a ticket.
            Some(session) => session
                .recv(&self.socket, &mut byte)
                .is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
            None => {
                let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
                let read = rustix::net::recv(&self.socket, &mut byte, peek);
                matches!(read, Err(Errno::AGAIN))
            }
        }
    }
}
