//! One request to a FastCGI application, record by record. The body is sent as fast as the application
//! reads, and the answer is read as fast as the client takes it; neither is kept.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};

use super::report;
use crate::fastcgi::client::{Answer, Event, put_body, put_end_of_body};
use crate::fastcgi::response::{BadHead, Head, HeadReader};
use crate::fastcgi::{Fault, ProtocolStatus};
use crate::serve::config::sites::FastCgi;
use crate::serve::site::Body;
use crate::serve::worker::http::{BodyFault, RequestBody};
use crate::serve::worker::upstream::{Upstream, Upstreams};

/// The longest header of an answer, bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The most bytes that are read at a time.
const READ_BYTES: usize = 32 << 10;
/// How often one poll reads what is no part of the answer. An application may write to its error
/// stream without an end, and other connections have their turn meanwhile.
const READS_MAX: u32 = 4;

/// A request that is on its way.
pub(super) struct Conversation {
    upstream: Upstream,
    is_connected: bool,
    /// `None` once the application has all of it.
    body: Option<RequestBody>,
    /// Records to send, and how much of them is sent.
    out: Vec<u8>,
    sent: usize,
    /// Whether the application takes no more of the request.
    is_sent: bool,
    /// What was read and not looked at.
    input: Bytes,
    answer: Answer,
    reader: HeadReader,
    timeouts: Timeouts,
    stderr: report::Stderr,
}

#[derive(Clone, Copy)]
struct Timeouts {
    send: Duration,
    read: Duration,
}

/// Why an application gave no answer, or only a part of one.
#[derive(Debug)]
pub(super) enum Failure {
    /// The kernel gives out no socket.
    NoSocket(io::Error),
    /// What was done, and what the kernel said.
    Io(&'static str, io::Error),
    /// It ended the connection before the answer was complete.
    BrokenOff,
    /// What it said is not FastCGI.
    Fault(Fault),
    /// The header of its answer is wrong.
    Head(BadHead),
    /// It refused the request.
    Refused(ProtocolStatus),
    /// Its answer cannot be followed.
    Answer(Cow<'static, str>),
    /// The body of the request is not what it must be.
    Body(BodyFault),
}

impl Conversation {
    /// `start` is all of the request but its body.
    pub(super) fn new(
        upstreams: &Rc<Upstreams>,
        fastcgi: &FastCgi,
        mut start: Vec<u8>,
        body: Option<RequestBody>,
    ) -> io::Result<Self> {
        let upstream = Upstream::new(upstreams, &fastcgi.to)?;
        upstream.wait_at_most(Some(fastcgi.connect_timeout));
        if body.is_none() {
            put_end_of_body(&mut start);
        }
        Ok(Self {
            upstream,
            is_connected: false,
            body,
            out: start,
            sent: 0,
            is_sent: false,
            input: Bytes::new(),
            answer: Answer::default(),
            reader: HeadReader::new(HEAD_BYTES_MAX),
            timeouts: Timeouts {
                send: fastcgi.send_timeout,
                read: fastcgi.read_timeout,
            },
            stderr: report::Stderr::new(&fastcgi.to),
        })
    }

    /// The header of the answer, and what of its body has come with it.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Head, Bytes), Failure>> {
        loop {
            match ready!(self.poll_event(cx))? {
                Some(bytes) => {
                    if let Some(done) = self.reader.push(bytes).map_err(Failure::Head)? {
                        return Poll::Ready(Ok(done));
                    }
                }
                None => return Poll::Ready(Err(Failure::Head(self.reader.end()))),
            }
        }
    }

    /// The next part of the answer. `None`: that was all.
    pub(super) fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Failure>> {
        for _ in 0..READS_MAX {
            match self.answer.next(&mut self.input).map_err(Failure::Fault)? {
                Some(Event::Stdout(bytes)) => return Poll::Ready(Ok(Some(bytes))),
                Some(Event::Stderr(bytes)) => self.stderr.take(&bytes),
                Some(Event::End {
                    protocol_status, ..
                }) => {
                    return Poll::Ready(match protocol_status {
                        ProtocolStatus::Complete => Ok(None),
                        other => Err(Failure::Refused(other)),
                    });
                }
                None => self.input = ready!(self.poll_input(cx))?,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Failure>> {
        if !self.is_connected {
            let connected = ready!(self.upstream.poll_connected(cx));
            connected.map_err(|error| Failure::Io("connect", error))?;
            self.is_connected = true;
        }
        // Whether or not all of the request is sent, the answer may come.
        if let Poll::Ready(Err(failure)) = self.poll_send(cx) {
            return Poll::Ready(Err(failure));
        }
        let mut input = Vec::with_capacity(READ_BYTES);
        let read = self.upstream.poll_read(cx, input.spare_capacity_mut());
        let filled = ready!(read).map_err(|error| Failure::Io("read", error))?;
        // SAFETY: that many bytes were just read into it.
        unsafe { input.set_len(filled) };
        match filled {
            0 => Poll::Ready(Err(Failure::BrokenOff)),
            _ => Poll::Ready(Ok(input.into())),
        }
    }

    /// Sends what there is of the request.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while !self.is_sent {
            while self.sent < self.out.len() {
                self.upstream.wait_at_most(Some(self.timeouts.send));
                match ready!(self.upstream.poll_write(cx, &self.out[self.sent..])) {
                    Ok(written) => self.sent += written,
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                        return Poll::Ready(Err(Failure::Io("write", error)));
                    }
                    // It wants no more of the request, and may have answered all the same.
                    Err(_) => return self.ends_sending(),
                }
            }
            self.out.clear();
            self.sent = 0;
            let Some(body) = &mut self.body else {
                return self.ends_sending();
            };
            // The client may be as slow as its own deadline allows.
            self.upstream.wait_at_most(None);
            match ready!(body.poll_piece(cx)) {
                Some(Ok(piece)) => put_body(&mut self.out, &piece),
                Some(Err(fault)) => return Poll::Ready(Err(Failure::Body(fault))),
                None => {
                    put_end_of_body(&mut self.out);
                    self.body = None;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn ends_sending(&mut self) -> Poll<Result<(), Failure>> {
        self.is_sent = true;
        self.upstream.wait_at_most(Some(self.timeouts.read));
        Poll::Ready(Ok(()))
    }

    /// The answer to a request whose body is not what it must be.
    pub(super) fn refuse_body(&self, fault: BodyFault) -> Response<Body> {
        match &self.body {
            Some(body) => body.refuse(fault),
            None => Response::new(Body::empty()),
        }
    }
}

impl Failure {
    /// What the client gets.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Io(_, error) if error.kind() == io::ErrorKind::TimedOut => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::Refused(ProtocolStatus::Overloaded) | Self::NoSocket(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::BAD_GATEWAY,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(what, error) if error.kind() == io::ErrorKind::TimedOut => {
                write!(f, "{what}: the application took too long")
            }
            Self::Io(what, error) => write!(f, "{what}: {error}"),
            Self::NoSocket(error) => write!(f, "open a socket: {error}"),
            Self::BrokenOff => f.write_str("read: the application closed the connection"),
            Self::Fault(fault) => write!(f, "read: the application sent {fault}"),
            Self::Head(bad) => write!(f, "read the header of the answer: {bad}"),
            Self::Refused(status) => write!(f, "the application refused it: {status:?}"),
            Self::Answer(what) => write!(f, "read the header of the answer: it {what}"),
            Self::Body(fault) => write!(f, "read the request's body: {fault:?}"),
        }
    }
}
