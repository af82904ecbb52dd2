//! A connection that hyper drives, because a request is on its way: what it waits for, for how
//! long, and which state follows.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::server::conn::http1;
use srv_common::Refusal;

use super::taking::Taking;
use super::unparsed::{self, Unparsed};
use super::waiting::Waiting;
use super::{Driver, NEVER_NS, State, as_ns, linger};
use crate::serve::worker::http::{Ended, Exchange, Handler};
use crate::serve::worker::stream::{Socket, Stream};
use crate::serve::worker::task::Task;

const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// How often a connection whose request an application answers is polled in one turn.
const POLLS_MAX: u32 = 8;

/// A connection with a request on its way.
pub(super) struct Active {
    connection: http1::Connection<Stream, Handler>,
    socket: Rc<Socket>,
    exchange: Rc<Exchange>,
    task: Arc<Task>,
    waker: Waker,
    /// The socket's `bytes_in` at the start, if srv had read nothing of a request then.
    untouched: Option<u64>,
    /// Whether srv, and not the client, ends the connection after this request.
    pub(super) is_last: bool,
    /// The value of [`Exchange::requests`] when srv decided to end the connection, if it was
    /// between two requests then.
    ended_between: Option<u64>,
    /// What the connection waits for, with a count that changes when there is progress.
    phase: (Phase, u64),
    deadline_ns: u64,
    taking: Taking,
}

/// What an active connection waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Header,
    Body,
    Write,
    /// An application, which has deadlines of its own.
    Application,
}

impl Active {
    pub(super) fn new(
        connection: http1::Connection<Stream, Handler>,
        socket: Rc<Socket>,
        exchange: Rc<Exchange>,
        task: Arc<Task>,
        untouched: Option<u64>,
        deadline_ns: u64,
    ) -> Box<Self> {
        Box::new(Self {
            connection,
            socket,
            exchange,
            waker: Waker::from(task.clone()),
            task,
            untouched,
            is_last: false,
            ended_between: None,
            phase: (Phase::Header, 0),
            deadline_ns,
            taking: Taking::default(),
        })
    }

    /// Whether srv has read nothing of a request.
    pub(super) fn is_untouched(&self) -> bool {
        self.untouched == Some(self.socket.bytes_in.get()) && self.exchange.requests.get() == 0
    }

    /// Makes the current request the last one, or, if there is none, the next one.
    pub(super) fn shut_down(&mut self) {
        self.is_last = true;
        let in_service = self.exchange.is_in_service();
        self.ended_between = (!in_service).then(|| self.exchange.requests.get());
        Pin::new(&mut self.connection).graceful_shutdown();
    }

    /// Has hyper do no more than write what it has to write.
    pub(super) fn end_when_written(&mut self) {
        Pin::new(&mut self.connection).graceful_shutdown();
    }

    /// Continues as far as the socket and the connection's turn allow.
    pub(super) fn drive(mut self: Box<Self>, driver: &Driver, now_ns: u64) -> State {
        match self.poll() {
            Poll::Pending => self.rest(driver, now_ns),
            Poll::Ready(Ok(())) => self.finish(driver, now_ns),
            Poll::Ready(Err(error)) if error.is_parse() => self.reread(driver, &error, now_ns),
            // The client has gone, or srv could not complete the response.
            Poll::Ready(Err(_)) => {
                match self.exchange.asks.get() {
                    // After an orderly close, the client could take a part of the response for
                    // the whole.
                    true => linger::reset(&self.socket),
                    false => State::Closed,
                }
            }
        }
    }

    /// Handles a request that hyper could not read.
    fn reread(self: Box<Self>, driver: &Driver, error: &hyper::Error, now_ns: u64) -> State {
        // If the client was slow to receive the response before, hyper has sent its own answer.
        let is_answered = self.exchange.owes.get();
        let socket = self.socket;
        let unread = into_unread(self.connection);
        let answer = match Unparsed::judge(error, &unread) {
            Unparsed::Rewritten(request) if !is_answered => {
                return driver.start(&socket, request, now_ns).drive(driver, now_ns);
            }
            Unparsed::Rewritten(_) => unparsed::BAD_REQUEST,
            Unparsed::Refused(answer) => answer,
        };
        if !is_answered {
            socket.send_last(answer);
        }
        let ended = Ended::by(answer, self.exchange.begun_ns());
        driver.http.ended_unread(ended, driver.client(&socket));
        let too_large = error.is_parse_too_large();
        driver.http.published.refused(match too_large {
            true => Refusal::HeaderTooLarge,
            false => Refusal::Malformed,
        });
        linger::begin(&socket, now_ns)
    }

    fn poll(&mut self) -> Poll<hyper::Result<()>> {
        let turn = &self.socket.turn;
        self.exchange.turn_ns.set(turn.began_ns());
        let asks = &self.exchange.asks;
        let mut polls = 0;
        // hyper wakes itself when it yields in the middle of its work. What an application sends may
        // move no bytes of the client's, so it does not use up the turn.
        let goes_on = |result: &Poll<_>| {
            polls += 1;
            let is_over = turn.is_over() || asks.get() && polls >= POLLS_MAX;
            if result.is_pending() && is_over {
                turn.cut_short();
            }
            result.is_pending() && !is_over
        };
        let connection = &mut self.connection;
        let poll = |cx: &mut Context<'_>| Pin::new(&mut *connection).poll(cx);
        self.task.poll(&self.waker, poll, goes_on)
    }

    /// Whether this is its task.
    pub(super) fn has_task(&self, task: &Arc<Task>) -> bool {
        Arc::ptr_eq(&self.task, task)
    }

    /// Whether its request waits for an application, and not for the client.
    pub(super) fn waits_for_application(&self) -> bool {
        self.phase.0 == Phase::Application
    }

    /// Ends the connection: the last response is written, or the client has gone.
    fn finish(self: Box<Self>, driver: &Driver, now_ns: u64) -> State {
        let socket = self.socket;
        if socket.ended.get() {
            socket.announce_end();
            return State::Closed;
        }
        let read = into_unread(self.connection);
        let may_be_unread = socket.may_have_unread(!self.is_last);
        let is_unanswered = self.ended_between == Some(self.exchange.requests.get());
        if is_unanswered && (may_be_unread || !read.is_empty()) {
            // hyper was between two requests, and closed even if a request had arrived.
            socket.readable.set(true);
            return driver
                .start_last(&socket, read, now_ns)
                .drive(driver, now_ns);
        }
        if self.exchange.refused.get() || may_be_unread || !read.is_empty() {
            return linger::begin(&socket, now_ns);
        }
        socket.announce_end();
        State::Closed
    }

    /// Waits, since nothing more can be done now. The connection keeps as little memory as its
    /// state allows, and gets the deadline of that state.
    fn rest(mut self: Box<Self>, driver: &Driver, now_ns: u64) -> State {
        let between_requests = self.exchange.requests.get() > 0
            && !self.exchange.is_in_service()
            && !self.socket.write_blocked.get()
            && !self.socket.turn.was_cut_short();
        if !between_requests {
            self.set_deadline(driver, now_ns);
            return State::Active(self);
        }
        let unread = into_unread(self.connection);
        // If hyper has not read because it waited to write, there may be more.
        if is_blank(&unread) && !self.socket.readable.get() {
            return State::Waiting(Waiting::next(driver, now_ns));
        }
        // Part of the next request arrived together with the last one.
        driver
            .start(&self.socket, unread, now_ns)
            .drive(driver, now_ns)
    }

    fn set_deadline(&mut self, driver: &Driver, now_ns: u64) {
        let limits = &driver.http.limits;
        let (phase, timeout_ns) = if self.socket.write_blocked.get() {
            (
                (Phase::Write, self.socket.bytes_out.get()),
                Taking::looks_ns(as_ns(limits.write_timeout)),
            )
        } else if self.exchange.waits_for_application() {
            ((Phase::Application, 0), NEVER_NS.saturating_sub(now_ns))
        } else if self.exchange.is_in_service() {
            (
                (Phase::Body, self.socket.bytes_in.get()),
                as_ns(limits.read_timeout),
            )
        } else {
            (
                (Phase::Header, self.exchange.requests.get()),
                as_ns(limits.header_timeout),
            )
        };
        if self.phase != phase {
            self.phase = phase;
            self.deadline_ns = now_ns + timeout_ns;
            self.taking.begin(now_ns);
        }
    }

    /// When [`Self::judge`] is due, ns.
    pub(super) fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// Extends its deadline by `late_ns`.
    pub(super) fn excuse(&mut self, late_ns: u64) {
        self.deadline_ns += late_ns;
        self.taking.excuse(late_ns);
    }

    /// Whether it waits for bytes that may have arrived without being read.
    pub(super) fn waits_to_read(&self) -> bool {
        !matches!(self.phase.0, Phase::Write | Phase::Application)
    }

    /// Refuses or resets the connection at its deadline, or extends the deadline.
    pub(super) fn judge(mut self: Box<Self>, driver: &Driver, now_ns: u64) -> State {
        match self.phase.0 {
            Phase::Write => {}
            Phase::Application => return State::Active(self),
            Phase::Header | Phase::Body => return self.refuse(driver, now_ns),
        }
        let timeout_ns = as_ns(driver.http.limits.write_timeout);
        if let Some(next_ns) = self.taking.look(&self.socket, timeout_ns, now_ns) {
            self.deadline_ns = next_ns;
            return State::Active(self);
        }
        driver.http.published.refused(Refusal::WriteTimeout);
        // After an orderly close, the client could take a part of the response for the whole.
        linger::reset(&self.socket)
    }

    /// Ends the connection because the request did not come in time.
    fn refuse(self: Box<Self>, driver: &Driver, now_ns: u64) -> State {
        let in_service = self.exchange.is_in_service();
        // An application may answer before it has all of the body.
        if in_service && self.exchange.answers.get() {
            driver.http.published.refused(Refusal::Timeout);
            return linger::reset(&self.socket);
        }
        let ended = Ended::by(REQUEST_TIMEOUT, self.exchange.begun_ns());
        if in_service {
            self.exchange.answered_beside.set(ended.status);
        }
        let unread = into_unread(self.connection);
        // Browsers and pools open connections that they may never use. If there was no request,
        // srv sends no answer. (RFC 9112, 2.2: empty lines before a request are ignored.)
        if !in_service && is_blank(&unread) {
            return linger::part(&self.socket, now_ns);
        }
        driver.http.published.refused(Refusal::Timeout);
        self.socket.send_last(REQUEST_TIMEOUT);
        if !in_service {
            driver.http.ended_unread(ended, driver.client(&self.socket));
        }
        linger::begin(&self.socket, now_ns)
    }
}

/// The bytes that srv gave hyper to read and that hyper has not used for a request.
fn into_unread(connection: http1::Connection<Stream, Handler>) -> Bytes {
    let parts = connection.into_parts();
    match parts.io.into_prefix() {
        rest if rest.is_empty() => parts.read_buf,
        rest => [parts.read_buf, rest].concat().into(),
    }
}

/// Whether these bytes contain nothing of a request.
fn is_blank(unread: &Bytes) -> bool {
    unread.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}
