//! The TLS side of a connection: rustls without its own I/O, over the
//! generator's non-blocking socket. Knows nothing of HTTP.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::{RecvFlags, SendFlags};
use rustls::{ClientConnection, HandshakeKind};

use crate::measure::load::target::Tls;

/// A session over a socket that is passed to each call.
#[derive(Debug)]
pub(super) struct Session(ClientConnection);

impl Session {
    pub(super) fn new(tls: &Tls) -> Self {
        let connection = ClientConnection::new(Arc::clone(&tls.config), tls.name.clone());
        Self(connection.expect("the configuration made a session before the run"))
    }

    /// Completes the handshake over a socket that blocks.
    pub(super) fn shake_hands(&mut self, socket: &OwnedFd) -> io::Result<()> {
        while self.0.is_handshaking() {
            self.0.complete_io(&mut Socket(socket)).map_err(|error| {
                match (error.kind(), error.downcast::<rustls::Error>()) {
                    (_, Ok(error)) => explain(error),
                    (ErrorKind::WouldBlock, _) => io::Error::other("no answer in time"),
                    (_, Err(error)) => error,
                }
            })?;
        }
        Ok(())
    }

    /// Takes plaintext, and sends what that comes to as far as is possible at once.
    pub(super) fn send(&mut self, socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.flush(socket)?;
            let taken = self.0.writer().write(bytes)?;
            self.flush(socket)?;
            match taken {
                // The server made room between the two: nothing would wake this session.
                0 if !self.0.wants_write() && !self.0.is_handshaking() => {}
                0 => return Err(ErrorKind::WouldBlock.into()),
                taken => return Ok(taken),
            }
        }
    }

    /// Receives plaintext; 0 bytes: the server has ended the session.
    pub(super) fn recv(&mut self, socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            let read = self.0.read_tls(&mut Socket(socket));
            let processed = self.0.process_new_packets();
            // An alert that tells the server what is wrong goes out, too.
            let flushed = self.flush(socket);
            processed.map_err(explain)?;
            flushed?;
            read?;
        }
    }

    pub(super) fn waits_to_write(&self) -> bool {
        self.0.wants_write()
    }

    /// Whether it continues an earlier session.
    pub(super) fn is_resumed(&self) -> bool {
        self.0.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub(super) fn is_shaking_hands(&self) -> bool {
        self.0.is_handshaking()
    }

    /// Sends what waits, as far as is possible at once; what does not go out
    /// shows in [`Self::waits_to_write`].
    fn flush(&mut self, socket: &OwnedFd) -> io::Result<()> {
        while self.0.wants_write() {
            match self.0.write_tls(&mut Socket(socket)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                written => written?,
            };
        }
        Ok(())
    }
}

/// What is wrong, with what to do about it where that is known.
fn explain(error: rustls::Error) -> io::Error {
    let mend = match &error {
        rustls::Error::InvalidCertificate(_) => {
            " (name its authority's PEM file in SSL_CERT_FILE, or use --insecure)"
        }
        rustls::Error::InvalidMessage(_) => " (does the server speak TLS on this port?)",
        _ => "",
    };
    io::Error::other(format!("{error}{mend}"))
}

/// For rustls: the socket, which raises no SIGPIPE.
struct Socket<'a>(&'a OwnedFd);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(self.0, buffer, RecvFlags::empty())?.0)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
