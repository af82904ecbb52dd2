//! The TLS session of one connection, by rustls without its own buffers: what is read and written
//! goes through buffers of the worker. A session keeps bytes only while a record is incomplete, while
//! the reader has less room than a record, or while the socket's buffer is full. An idle session
//! has none.

use std::fmt;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::{Buf, Bytes};
use rustix::io::Errno;
use rustls::ProtocolVersion;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};

use super::shared::Shared;
use crate::serve::access_log::record::Tls;
use crate::serve::worker::tcp::TcpSocket;

/// The longest record, bytes: the header, and what TLS 1.2 allows for the rest (RFC 5246, 6.2.3).
const RECORD_BYTES_MAX: usize = 5 + RECORD_BYTES + 2048;
/// The least room for one read, bytes.
const READ_BYTES: usize = 32 << 10;
/// The most plaintext that one write takes, bytes: four records. If the client is slow, this is
/// what a session keeps.
const WRITE_BYTES: usize = 64 << 10;
/// The most plaintext in one record, bytes.
const RECORD_BYTES: usize = 16 << 10;
/// How much longer than its plaintext a record is at most, bytes: its header, and what a cipher of
/// TLS 1.2 or 1.3 adds. If one adds more, rustls says so.
const OVERHEAD_BYTES: usize = 64;

/// What encrypts.
type Traffic<'a> = WriteTraffic<'a, ServerConnectionData>;

/// The TLS session of a connection.
pub struct Session {
    connection: UnbufferedServerConnection,
    shared: Rc<Shared>,
    /// The number of the certificate that was chosen for the client.
    certificate: u32,
    /// The host that the client has named; empty if it has named none.
    server_name: Rc<str>,
    /// The beginning of a record, or of a message in several records.
    received: Vec<u8>,
    /// What was decrypted and not taken yet.
    plaintext: Bytes,
    /// What was encrypted and not sent yet.
    unsent: Bytes,
    /// How many bytes of plaintext in `unsent` the writer does not know as written yet.
    unreported: usize,
    /// Whether the client has said that nothing follows.
    peer_has_ended: bool,
    /// Whether the session has failed. The alert that says why is in `unsent`.
    has_failed: bool,
}

/// The name of HTTP/2 over TLS (RFC 9113, 3.2).
pub(super) const HTTP2: &[u8] = b"h2";

/// Why a handshake has failed.
#[derive(Debug)]
pub enum Failure {
    /// The client does not speak TLS. What it has sent looks like a request of HTTP.
    NotTls,
    /// The client sent what it must not send, or both have no version or algorithm in common.
    Refused(rustls::Error),
    /// The client has gone.
    Gone,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTls => f.write_str("the client does not speak TLS"),
            Self::Refused(error) => write!(f, "{error}"),
            Self::Gone => f.write_str("the client has gone"),
        }
    }
}

impl Session {
    /// The session of a new connection.
    pub(super) fn new(connection: UnbufferedServerConnection, shared: Rc<Shared>) -> Self {
        Self {
            connection,
            shared,
            certificate: 0,
            server_name: "".into(),
            received: Vec::new(),
            plaintext: Bytes::new(),
            unsent: Bytes::new(),
            unreported: 0,
            peer_has_ended: false,
            has_failed: false,
        }
    }

    /// The version that both have agreed on.
    pub fn version(&self) -> Tls {
        match self.connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => Tls::V12,
            Some(ProtocolVersion::TLSv1_3) => Tls::V13,
            _ => Tls::None,
        }
    }

    /// Whether both have agreed to speak HTTP/2.
    pub fn speaks_http2(&self) -> bool {
        self.connection.alpn_protocol() == Some(HTTP2)
    }

    /// Whether there is plaintext to read. No event reports it.
    pub fn has_plaintext(&self) -> bool {
        !self.plaintext.is_empty()
    }

    /// How many bytes it keeps beside what rustls keeps.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.received.capacity() + self.plaintext.len() + self.unsent.len()
    }

    /// Continues the handshake as far as socket and turn allow.
    pub fn poll_handshake(&mut self, tcp: &TcpSocket) -> Poll<Result<(), Failure>> {
        while self.connection.is_handshaking() {
            let sent = ready!(self.poll_flush(tcp));
            sent.map_err(|_| Failure::Gone)?;
            let shared = Rc::clone(&self.shared);
            let mut incoming = shared.incoming.borrow_mut();
            let is_first = tcp.bytes_in.get() == 0;
            match ready!(self.receive(tcp, &mut incoming)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Err(Failure::Gone)),
            }
            if is_first && looks_like_http(&incoming) {
                return Poll::Ready(Err(Failure::NotTls));
            }
            self.shared.choice.return_to(self.certificate);
            let (_, result) = self.process(&mut incoming, &mut []);
            self.note_choice();
            if let Err(error) = result {
                self.fail(tcp);
                return Poll::Ready(Err(Failure::Refused(error)));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Fills `room` with plaintext. 0 bytes: nothing follows. If that is not what the client has
    /// said but only the end of the connection, HTTP knows by its own framing what is missing.
    pub fn poll_read(
        &mut self,
        tcp: &TcpSocket,
        room: &mut [MaybeUninit<u8>],
    ) -> Poll<rustix::io::Result<usize>> {
        loop {
            if !self.plaintext.is_empty() {
                return self.take_plaintext(tcp, room);
            }
            if self.has_failed {
                return Poll::Ready(Err(Errno::PROTO));
            }
            if self.peer_has_ended {
                tcp.ended.set(true);
                return Poll::Ready(Ok(0));
            }
            let shared = Rc::clone(&self.shared);
            let mut incoming = shared.incoming.borrow_mut();
            let Poll::Ready(read) = self.receive(tcp, &mut incoming) else {
                // What no answer took along: tickets, or the end of the handshake.
                if self.unreported == 0 {
                    let _ = self.poll_flush(tcp)?;
                }
                return Poll::Pending;
            };
            if read? == 0 {
                return Poll::Ready(Ok(0));
            }
            let (filled, result) = self.process(&mut incoming, room);
            if result.is_err() {
                self.fail(tcp);
            }
            if !self.plaintext.is_empty() || self.has_failed || self.peer_has_ended {
                tcp.readable.set(true);
            }
            if filled > 0 {
                return Poll::Ready(Ok(filled));
            }
        }
    }

    /// Writes these parts. It is pending until all that it has taken of them is in the socket's
    /// buffer; the next call must then begin with the same bytes.
    pub fn poll_write(
        &mut self,
        tcp: &TcpSocket,
        parts: &[IoSlice<'_>],
    ) -> Poll<rustix::io::Result<usize>> {
        if !tcp.turn.allows_call() {
            tcp.write_blocked.set(false);
            return Poll::Pending;
        }
        if self.unreported == 0 {
            let shared = Rc::clone(&self.shared);
            let mut outgoing = shared.outgoing.borrow_mut();
            outgoing.clear();
            outgoing.extend_from_slice(&std::mem::take(&mut self.unsent));
            let taken = self.encrypt(parts, &mut outgoing)?;
            let mut rest = &outgoing[..];
            while !rest.is_empty() {
                match tcp.poll_write(&[IoSlice::new(rest)])? {
                    Poll::Ready(sent) => rest = &rest[sent..],
                    Poll::Pending => {
                        self.unsent = Bytes::copy_from_slice(rest);
                        self.unreported = taken;
                        return Poll::Pending;
                    }
                }
            }
            return Poll::Ready(Ok(taken));
        }
        ready!(self.poll_flush(tcp))?;
        Poll::Ready(Ok(std::mem::take(&mut self.unreported)))
    }

    /// Sends the last answer of a connection, as far as there is room in the socket's buffer.
    pub fn send_last(&mut self, tcp: &TcpSocket, answer: &[u8]) {
        let mut outgoing = std::mem::take(&mut self.unsent).to_vec();
        if self.encrypt(&[IoSlice::new(answer)], &mut outgoing).is_ok() {
            tcp.send_last(&outgoing);
        }
    }

    /// Tells the client that nothing follows.
    pub fn send_end(&mut self, tcp: &TcpSocket) {
        let mut outgoing = std::mem::take(&mut self.unsent).to_vec();
        let said = self.when_writable(&mut outgoing, |traffic, outgoing| {
            append(outgoing, OVERHEAD_BYTES, |room| {
                traffic.queue_close_notify(room).map_err(|_| None)
            })
        });
        if said.is_ok() {
            tcp.send_last(&outgoing);
        }
    }

    /// The host that the client has named, by SNI; empty if it has named none.
    pub fn server_name(&self) -> Rc<str> {
        self.server_name.clone()
    }

    /// Keeps what was chosen while rustls processed the client's first message.
    fn note_choice(&mut self) {
        self.certificate = self.shared.choice.certificate();
        let name = self.shared.choice.take_server_name();
        if !name.is_empty() {
            self.server_name = name.into();
        }
    }

    fn take_plaintext(
        &mut self,
        tcp: &TcpSocket,
        room: &mut [MaybeUninit<u8>],
    ) -> Poll<rustix::io::Result<usize>> {
        if !tcp.turn.allows_call() {
            return Poll::Pending;
        }
        let taken = fill(room, &self.plaintext);
        self.plaintext.advance(taken);
        if self.plaintext.is_empty() {
            // Not a view of a buffer that stays allocated.
            self.plaintext = Bytes::new();
        }
        // What is left, or what arrived after it, no event reports.
        tcp.readable.set(true);
        Poll::Ready(Ok(taken))
    }

    /// Reads what has arrived, behind what had arrived before. 0: the end of the connection.
    fn receive(
        &mut self,
        tcp: &TcpSocket,
        incoming: &mut Vec<u8>,
    ) -> Poll<rustix::io::Result<usize>> {
        incoming.clear();
        incoming.reserve(READ_BYTES.max(self.received.len() + RECORD_BYTES_MAX));
        incoming.extend_from_slice(&self.received);
        let filled = ready!(tcp.poll_read(incoming.spare_capacity_mut()))?;
        // SAFETY: that many bytes were just read behind the others.
        unsafe { incoming.set_len(incoming.len() + filled) };
        self.received = Vec::new();
        Poll::Ready(Ok(filled))
    }

    /// Has rustls process what was received. Plaintext goes to `room`, and what `room` is too
    /// small for stays here. Returns how many bytes `room` got.
    fn process(
        &mut self,
        incoming: &mut [u8],
        room: &mut [MaybeUninit<u8>],
    ) -> (usize, Result<(), rustls::Error>) {
        let (mut filled, mut done, mut result) = (0, 0, Ok(()));
        let mut more = Vec::new();
        let mut outgoing = std::mem::take(&mut self.unsent).to_vec();
        loop {
            let status = self.connection.process_tls_records(&mut incoming[done..]);
            let UnbufferedStatus { discard, state, .. } = status;
            done += discard;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        done += record.discard;
                        let taken = fill(&mut room[filled..], record.payload);
                        filled += taken;
                        more.extend_from_slice(&record.payload[taken..]);
                    }
                }
                Ok(ConnectionState::PeerClosed) => self.peer_has_ended = true,
                Ok(ConnectionState::EncodeTlsData(chunk)) => take_chunk(chunk, &mut outgoing),
                Ok(ConnectionState::TransmitTlsData(taken)) => taken.done(),
                Ok(_) => break,
                Err(error) => result = Err(error),
            }
            // What follows an error is the alert that says so, and nothing after it: rustls must not
            // look at these records again.
            if result.is_err() && !self.connection.wants_write() {
                break;
            }
        }
        self.unsent = outgoing.into();
        self.plaintext = more.into();
        if !self.peer_has_ended && result.is_ok() {
            self.received = incoming[done..].to_vec();
        }
        (filled, result)
    }

    /// Encrypts as much of these parts as one write takes. Returns how much that is.
    fn encrypt(
        &mut self,
        parts: &[IoSlice<'_>],
        outgoing: &mut Vec<u8>,
    ) -> rustix::io::Result<usize> {
        let mut taken = 0;
        self.when_writable(outgoing, |traffic, outgoing| {
            for part in parts {
                let part = &part[..part.len().min(WRITE_BYTES - taken)];
                if !part.is_empty() {
                    let room_bytes = part.len() + (part.len() / RECORD_BYTES + 1) * OVERHEAD_BYTES;
                    append(outgoing, room_bytes, |room| {
                        traffic.encrypt(part, room).map_err(|error| match error {
                            EncryptError::InsufficientSize(room) => Some(room.required_size),
                            EncryptError::EncryptExhausted => None,
                        })
                    })?;
                    taken += part.len();
                }
            }
            Ok(taken)
        })
    }

    /// Calls `act` with what encrypts. What rustls has to send before that comes before it.
    fn when_writable<T>(
        &mut self,
        outgoing: &mut Vec<u8>,
        act: impl FnOnce(&mut Traffic<'_>, &mut Vec<u8>) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        if self.has_failed {
            return Err(Errno::PROTO);
        }
        loop {
            let status = self.connection.process_tls_records(&mut self.received);
            let UnbufferedStatus { discard, state, .. } = status;
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let result = act(&mut traffic, outgoing);
                    self.received.drain(..discard);
                    return result;
                }
                Ok(ConnectionState::PeerClosed) => self.peer_has_ended = true,
                Ok(ConnectionState::EncodeTlsData(chunk)) => take_chunk(chunk, outgoing),
                Ok(ConnectionState::TransmitTlsData(taken)) => taken.done(),
                // The handshake is not over, or the session is.
                Ok(_) | Err(_) => return Err(Errno::PROTO),
            }
            self.received.drain(..discard);
        }
    }

    /// Sends what was encrypted before.
    fn poll_flush(&mut self, tcp: &TcpSocket) -> Poll<rustix::io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(tcp.poll_write(&[IoSlice::new(&self.unsent)]))?;
            self.unsent.advance(sent);
        }
        self.unsent = Bytes::new();
        Poll::Ready(Ok(()))
    }

    /// Sends the alert, after which the session has ended.
    fn fail(&mut self, tcp: &TcpSocket) {
        self.has_failed = true;
        tcp.send_last(&std::mem::take(&mut self.unsent));
    }
}

/// Copies as many bytes as there is room for. Returns how many.
fn fill(room: &mut [MaybeUninit<u8>], bytes: &[u8]) -> usize {
    for (to, from) in room.iter_mut().zip(bytes) {
        to.write(*from);
    }
    room.len().min(bytes.len())
}

/// Takes over a record of the handshake, or an alert.
fn take_chunk(mut chunk: EncodeTlsData<'_, ServerConnectionData>, outgoing: &mut Vec<u8>) {
    // rustls has the record already, and says how long it is.
    let _ = append(outgoing, 0, |room| {
        chunk.encode(room).map_err(|error| match error {
            EncodeError::InsufficientSize(room) => Some(room.required_size),
            EncodeError::AlreadyEncoded => None,
        })
    });
}

/// Appends what `write` writes into room of so many bytes. If that is too little, `write` says how
/// much it needs, if more is of use at all.
fn append(
    outgoing: &mut Vec<u8>,
    room_bytes: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> rustix::io::Result<()> {
    let before = outgoing.len();
    outgoing.resize(before + room_bytes, 0);
    let mut written = write(&mut outgoing[before..]);
    if let Err(Some(needed)) = written {
        outgoing.resize(before + needed, 0);
        written = write(&mut outgoing[before..]);
    }
    outgoing.truncate(before + written.unwrap_or(0));
    written.map(drop).map_err(|_| Errno::PROTO)
}

/// Whether these are the first bytes of a request. The first byte of a session is 22.
fn looks_like_http(first: &[u8]) -> bool {
    first.first().is_some_and(u8::is_ascii_uppercase)
}
