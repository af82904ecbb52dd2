//! One request and its response on a non-blocking connection, as the load
//! generator sees them: system calls in the order that costs least. Knows no
//! clock, no epoll and no plan; whoever drives it waits.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};
use serde::{Deserialize, Serialize};

use crate::response::{self, Head};

/// A request on its way, or its response.
#[derive(Debug)]
pub struct Exchange {
    socket: OwnedFd,
    request: Rc<[u8]>,
    sent_bytes: usize,
    /// What came of a head that was incomplete.
    partial: Vec<u8>,
    /// The head, and the bytes of the body that came.
    answer: Option<(Head, u64)>,
}

/// Where an exchange stands.
#[derive(Debug)]
pub enum Progress {
    /// Nothing to do until the socket is writable.
    Writing,
    /// Nothing to do until the socket is readable.
    Reading,
    /// The whole response came.
    Answered(Head),
    /// It will not come: how that counts, and what happened, for people.
    Failed(Outcome, String),
}

/// How a request ended. Every request ends in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A complete response of status 200.
    Ok,
    /// No connection came about.
    Connect,
    /// The connection ended before the response did.
    Reset,
    /// No complete response within the time allowed, from the scheduled instant.
    Timeout,
    /// A complete response of another status.
    Status,
    /// Something that is not a response, or more than one.
    Malformed,
}

impl Outcome {
    /// Its name in files and on the terminal, the one that serde writes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Malformed => "malformed",
        }
    }
}

impl Exchange {
    /// Opens a connection to `target` and sends as much of `request` as is possible at once.
    ///
    /// # Errors
    /// There is no socket to be had: this process's fault, not the server's.
    pub fn connect(target: SocketAddr, request: Rc<[u8]>) -> rustix::io::Result<(Self, Progress)> {
        let socket = socket(target)?;
        match rustix::net::connect(&socket, &target) {
            // On loopback the handshake is over by now, although the kernel says EINPROGRESS.
            Ok(()) | Err(Errno::INPROGRESS) => Ok(Self::reuse(socket, request)),
            Err(errno) => {
                let failed = Progress::Failed(Outcome::Connect, format!("connect: {errno}"));
                Ok((Self::new(socket, request), failed))
            }
        }
    }

    /// Sends as much of `request` as is possible at once on an open connection.
    pub fn reuse(socket: OwnedFd, request: Rc<[u8]>) -> (Self, Progress) {
        let mut exchange = Self::new(socket, request);
        let progress = exchange.send();
        (exchange, progress)
    }

    /// Goes on where the socket was not ready; `scratch` is any buffer.
    pub fn advance(&mut self, scratch: &mut [u8]) -> Progress {
        if self.sent_bytes < self.request.len() {
            return self.send();
        }
        loop {
            match rustix::net::recv(&self.socket, &mut *scratch, RecvFlags::empty()) {
                Ok((0, _)) => return self.end_of_stream(),
                Ok((count, _)) => match self.receive(&scratch[..count]) {
                    Progress::Reading if count == scratch.len() => {}
                    progress => return progress,
                },
                Err(Errno::AGAIN) => return Progress::Reading,
                Err(Errno::INTR) => {}
                Err(errno) => return Progress::Failed(Outcome::Reset, format!("recv: {errno}")),
            }
        }
    }

    /// The connection's socket.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Gives the connection up, for another exchange or for closing.
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }

    fn new(socket: OwnedFd, request: Rc<[u8]>) -> Self {
        Self {
            socket,
            request,
            sent_bytes: 0,
            partial: Vec::new(),
            answer: None,
        }
    }

    fn send(&mut self) -> Progress {
        while self.sent_bytes < self.request.len() {
            let rest = &self.request[self.sent_bytes..];
            match rustix::net::send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(count) => self.sent_bytes += count,
                Err(Errno::AGAIN) => return Progress::Writing,
                Err(Errno::INTR) => {}
                Err(errno) => return Progress::Failed(self.broken(), format!("send: {errno}")),
            }
        }
        Progress::Reading
    }

    /// How an error counts: before the first byte went out, no connection came about.
    fn broken(&self) -> Outcome {
        if self.sent_bytes == 0 {
            Outcome::Connect
        } else {
            Outcome::Reset
        }
    }

    fn receive(&mut self, bytes: &[u8]) -> Progress {
        if let Some((head, body_bytes)) = &mut self.answer {
            *body_bytes += bytes.len() as u64;
            return complete(*head, *body_bytes);
        }
        let head = if self.partial.is_empty() {
            response::parse(bytes)
        } else {
            self.partial.extend_from_slice(bytes);
            response::parse(&self.partial)
        };
        match head {
            Ok(Some(head)) => {
                let came = self.partial.len().max(bytes.len());
                let body_bytes = (came - head.head_bytes) as u64;
                self.answer = Some((head, body_bytes));
                complete(head, body_bytes)
            }
            Ok(None) => {
                if self.partial.is_empty() {
                    self.partial.extend_from_slice(bytes);
                }
                Progress::Reading
            }
            Err(error) => Progress::Failed(Outcome::Malformed, format!("read head: {error:#}")),
        }
    }

    fn end_of_stream(&self) -> Progress {
        match self.answer {
            Some((head, _)) if head.body_bytes.is_none() => Progress::Answered(head),
            _ => Progress::Failed(
                Outcome::Reset,
                "closed before the response was complete".into(),
            ),
        }
    }
}

fn complete(head: Head, body_bytes: u64) -> Progress {
    match head.body_bytes {
        Some(expected) if body_bytes == expected => Progress::Answered(head),
        Some(expected) if body_bytes > expected => Progress::Failed(
            Outcome::Malformed,
            format!("{body_bytes} body bytes where {expected} were announced"),
        ),
        _ => Progress::Reading,
    }
}

fn socket(target: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = match target {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))
}
