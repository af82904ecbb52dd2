//! One request and its response on a non-blocking connection, as the load
//! generator sees them: system calls in the order that costs least. Knows no
//! clock, no epoll and no plan; the generator waits.

mod tls;
mod wire;

use std::io::{self, ErrorKind};
use std::rc::Rc;

use rustix::io::Errno;

pub(crate) use self::wire::Wire;
use crate::measure::load::record::Outcome;
use crate::measure::load::requests::Request;
use crate::measure::load::response::{Head, Reader};
use crate::measure::load::target::Endpoint;

/// A request on its way, or its response.
#[derive(Debug)]
pub(crate) struct Exchange {
    wire: Wire,
    request: Rc<Request>,
    sent_bytes: usize,
    /// Sending failed after it had begun: the server may have answered before
    /// it closed, and that answer counts.
    send_error: Option<io::Error>,
    reader: Reader,
}

/// Where an exchange stands.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Nothing to do until the socket is writable, or an early answer comes.
    Writing,
    /// Nothing to do until the socket is readable.
    Reading,
    /// The whole response came.
    Answered(Head),
    /// It will not come: how that counts, and what happened, for people.
    Failed(Outcome, String),
}

impl Exchange {
    /// Opens a connection to `server` and sends as much of `request` as is possible at once.
    ///
    /// # Errors
    /// There is no socket to be had: this process's fault, not the server's.
    pub(crate) fn connect(
        server: &Endpoint,
        request: Rc<Request>,
    ) -> rustix::io::Result<(Self, Progress)> {
        let wire = Wire::to(server)?;
        match wire.connect(server) {
            Ok(()) => Ok(Self::reuse(wire, request)),
            Err(errno) => {
                let failed = Progress::Failed(of_connect(errno), format!("connect: {errno}"));
                Ok((Self::new(wire, request), failed))
            }
        }
    }

    /// Sends as much of `request` as is possible at once on an open connection.
    pub(crate) fn reuse(wire: Wire, request: Rc<Request>) -> (Self, Progress) {
        let mut exchange = Self::new(wire, request);
        let progress = exchange.send();
        (exchange, progress)
    }

    /// Goes on where the socket was not ready; `scratch` is any buffer.
    pub(crate) fn advance(&mut self, scratch: &mut [u8]) -> Progress {
        if !self.is_sending() {
            return self.receive(scratch);
        }
        if self.sent_bytes == 0 {
            return self.send();
        }
        // A server may answer before it has read the whole body, and then read no more.
        match self.receive(scratch) {
            Progress::Answered(head) => Progress::Answered(Head {
                keep_alive: false,
                ..head
            }),
            Progress::Failed(outcome, error) => Progress::Failed(outcome, error),
            Progress::Writing | Progress::Reading => self.send(),
        }
    }

    /// The connection.
    pub(crate) fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Gives the connection up, for another exchange or for closing.
    pub(crate) fn into_wire(self) -> Wire {
        self.wire
    }

    fn new(wire: Wire, request: Rc<Request>) -> Self {
        let reader = Reader::new(request.is_head());
        Self {
            wire,
            request,
            sent_bytes: 0,
            send_error: None,
            reader,
        }
    }

    fn is_sending(&self) -> bool {
        self.sent_bytes < self.request.len() && self.send_error.is_none()
    }

    fn send(&mut self) -> Progress {
        while self.is_sending() {
            let (head, body) = self.request.from(self.sent_bytes);
            match self.wire.send(head, body) {
                Ok(count) => self.sent_bytes += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if self.sent_bytes == 0 => {
                    return Progress::Failed(Outcome::Connect, format!("send: {error}"));
                }
                Err(error) => self.send_error = Some(error),
            }
        }
        self.wait()
    }

    fn wait(&self) -> Progress {
        if self.wire.waits_to_write(self.is_sending()) {
            Progress::Writing
        } else {
            Progress::Reading
        }
    }

    fn receive(&mut self, scratch: &mut [u8]) -> Progress {
        loop {
            let count = match self.wire.recv(scratch) {
                Ok(0) => return self.end_of_stream(),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.wait(),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return self.broken(&error),
            };
            match self.reader.feed(&scratch[..count]) {
                Ok(Some(head)) => return Progress::Answered(head),
                Err(error) => {
                    let error = format!("read the response: {error:#}");
                    return Progress::Failed(Outcome::Malformed, error);
                }
                Ok(None) if count < scratch.len() && self.wire.is_drained_by_short_reads() => {
                    return self.wait();
                }
                Ok(None) => {}
            }
        }
    }

    fn broken(&self, error: &io::Error) -> Progress {
        if self.wire.is_shaking_hands() {
            return Progress::Failed(Outcome::Connect, format!("TLS handshake: {error}"));
        }
        let error = match &self.send_error {
            Some(error) => format!("send: {error}"),
            None => format!("recv: {error}"),
        };
        Progress::Failed(Outcome::Reset, error)
    }

    fn end_of_stream(&self) -> Progress {
        match (self.reader.end(), &self.send_error) {
            (Some(head), _) => Progress::Answered(head),
            (None, Some(error)) => Progress::Failed(Outcome::Reset, format!("send: {error}")),
            (None, None) => Progress::Failed(
                Outcome::Reset,
                "closed before the response was complete".into(),
            ),
        }
    }
}

/// How a connect counts that fails at once.
fn of_connect(errno: Errno) -> Outcome {
    match errno {
        Errno::ADDRNOTAVAIL => Outcome::NoPort,
        Errno::NOBUFS | Errno::NOMEM => Outcome::NoSocket,
        _ => Outcome::Connect,
    }
}
