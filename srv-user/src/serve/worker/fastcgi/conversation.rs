//! One request to a FastCGI application, record by record. The body is sent as fast as the application
//! reads, and the answer is read as fast as the client takes it; neither is kept.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;

use super::failure::Failure;
use super::report;
use super::sending::{Sending, Source};
use crate::fastcgi::client::{Answer, Event};
use crate::fastcgi::response::{Head, HeadReader};
use crate::fastcgi::{Fault, ProtocolStatus};
use crate::serve::config::sites::FastCgi;
use crate::serve::site::Body;
use crate::serve::worker::http::BodyFault;
use crate::serve::worker::upstream::{Upstream, Upstreams};

/// The longest header of an answer, bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How often one poll reads what is no part of the answer. An application may write to its error
/// stream without an end, and other connections have their turn meanwhile.
const READS_MAX: u32 = 4;

/// A request that is on its way.
pub(super) struct Conversation {
    fastcgi: Rc<FastCgi>,
    /// `None` once the application has answered all: it waits for the close of the connection.
    upstream: Option<Upstream>,
    is_connected: bool,
    sending: Sending,
    /// What was read and not looked at.
    input: Bytes,
    answer: Answer,
    /// What comes next, if that was looked at already.
    ahead: Option<Result<Event, Fault>>,
    reader: HeadReader,
    stderr: report::Stderr,
}

impl Conversation {
    /// `start` is all of the request but its body.
    pub(super) fn new(
        upstreams: &Rc<Upstreams>,
        fastcgi: &Rc<FastCgi>,
        start: Vec<u8>,
        body: Option<Source>,
    ) -> io::Result<Self> {
        let upstream = Upstream::new(upstreams, &fastcgi.to)?;
        upstream.wait_at_most(Some(fastcgi.connect_timeout));
        Ok(Self {
            fastcgi: fastcgi.clone(),
            upstream: Some(upstream),
            is_connected: false,
            sending: Sending::new(fastcgi, start, body),
            input: Bytes::new(),
            answer: Answer::default(),
            ahead: None,
            reader: HeadReader::new(HEAD_BYTES_MAX),
            stderr: report::Stderr::new(fastcgi.clone()),
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
            match self.next_event().map_err(Failure::Fault)? {
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

    /// Whether the application has ended its answer: what was read and not taken is nothing else.
    pub(super) fn has_ended(&mut self) -> bool {
        if self.ahead.is_none() {
            self.ahead = self.next_event().transpose();
        }
        matches!(
            self.ahead,
            Some(Ok(Event::End {
                protocol_status: ProtocolStatus::Complete,
                ..
            }))
        )
    }

    /// What comes next, if it was read. At the end, the connection is closed: the application, which
    /// waits for that, then has it behind it before the client has its answer.
    fn next_event(&mut self) -> Result<Option<Event>, Fault> {
        if let Some(ahead) = self.ahead.take() {
            return ahead.map(Some);
        }
        let event = self.answer.next(&mut self.input)?;
        if let Some(Event::End { .. }) = event {
            self.upstream = None;
        }
        Ok(event)
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Failure>> {
        let Some(upstream) = &self.upstream else {
            return Poll::Ready(Err(Failure::BrokenOff));
        };
        if !self.is_connected {
            let connected = ready!(upstream.poll_connected(cx, &self.fastcgi.to));
            connected.map_err(|error| Failure::Io("connect", error))?;
            self.is_connected = true;
        }
        // Whether or not all of the request is sent, the answer may come.
        if let Poll::Ready(Err(failure)) = self.sending.poll(upstream, cx) {
            return Poll::Ready(Err(failure));
        }
        let read = ready!(upstream.poll_read(cx));
        let input = read.map_err(|error| Failure::Io("read", error))?;
        match input.is_empty() {
            true => Poll::Ready(Err(Failure::BrokenOff)),
            false => Poll::Ready(Ok(input)),
        }
    }

    /// The answer to a request whose body is not what it must be.
    pub(super) fn refuse_body(&self, fault: BodyFault) -> Response<Body> {
        self.sending.refuse_body(fault)
    }
}
