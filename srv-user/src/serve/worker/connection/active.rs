//! A connection with a request on its way: hyper has it. What it waits for, for how
//! long, and what becomes of it afterwards.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http1;
use rustix::net::SendFlags;
use srv_common::Refusal;

use super::unparsed::Unparsed;
use super::{Driver, State, as_ns, linger};
use crate::serve::worker::http::{Exchange, Handler};
use crate::serve::worker::stream::{Socket, Stream};

const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// How often within the write timeout srv looks whether the client takes anything.
const WRITE_LOOKS: u64 = 4;

/// A connection with a request on its way.
pub(super) struct Active {
    connection: http1::Connection<Stream, Handler>,
    socket: Rc<Socket>,
    exchange: Rc<Exchange>,
    /// The socket's [`Socket::bytes_in`] as long as nothing of a request has been read.
    untouched: Option<u64>,
    /// srv ends it after this request, not the client.
    pub(super) is_last: bool,
    /// [`Exchange::requests`] when srv decided to end it, if it was between two requests.
    ended_between: Option<u64>,
    /// What it waits for, with a count that moves when there is progress.
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
}

/// How the client takes a response that does not fit into the socket's buffer. That the
/// socket becomes writable is no measure: it does when a third of the buffer is free,
/// which takes a slow client minutes.
#[derive(Clone, Copy, Default)]
struct Taking {
    /// Bytes that the client's kernel had acknowledged at the last look.
    bytes: u64,
    /// When that was last more than before, ns.
    grew_ns: u64,
}

impl Active {
    pub(super) fn new(
        connection: http1::Connection<Stream, Handler>,
        socket: Rc<Socket>,
        exchange: Rc<Exchange>,
        untouched: Option<u64>,
        deadline_ns: u64,
    ) -> Box<Self> {
        Box::new(Self {
            connection,
            socket,
            exchange,
            untouched,
            is_last: false,
            ended_between: None,
            phase: (Phase::Header, 0),
            deadline_ns,
            taking: Taking::default(),
        })
    }

    /// Whether nothing of a request has been read.
    pub(super) fn is_untouched(&self) -> bool {
        self.untouched == Some(self.socket.bytes_in.get()) && self.exchange.requests.get() == 0
    }

    /// The request that it has is the last, or the next one if it has none.
    pub(super) fn shut_down(&mut self) {
        self.is_last = true;
        let in_service = self.exchange.in_service.get();
        self.ended_between = (!in_service).then(|| self.exchange.requests.get());
        Pin::new(&mut self.connection).graceful_shutdown();
    }

    /// Goes on as far as the socket and its turn allow.
    pub(super) fn drive(mut self: Box<Self>, driver: &Driver, now_ns: u64) -> State {
        match self.poll(driver) {
            Poll::Pending => self.rest(driver, now_ns),
            Poll::Ready(Ok(())) => self.finish(driver, now_ns),
            Poll::Ready(Err(error)) if error.is_parse() => self.reread(driver, &error, now_ns),
            // The client is gone, or its response broke off.
            Poll::Ready(Err(_)) => State::Closed,
        }
    }

    /// hyper could not read a request.
    fn reread(self: Box<Self>, driver: &Driver, error: &hyper::Error, now_ns: u64) -> State {
        // Behind a response that the client was slow to take, hyper's own answer went out.
        let is_answered = self.exchange.owes.get();
        let socket = self.socket;
        let unread = into_unread(self.connection);
        match Unparsed::judge(error, &unread) {
            Unparsed::Rewritten(request) if !is_answered => {
                return driver.start(&socket, request, now_ns).drive(driver, now_ns);
            }
            Unparsed::Refused(answer) if !is_answered => {
                let _ = rustix::net::send(&socket.fd, answer, SendFlags::NOSIGNAL);
            }
            _ => {}
        }
        let too_large = error.is_parse_too_large();
        driver.http.published.refused(match too_large {
            true => Refusal::HeaderTooLarge,
            false => Refusal::Malformed,
        });
        linger::begin(&socket, now_ns)
    }

    fn poll(&mut self, driver: &Driver) -> Poll<hyper::Result<()>> {
        let mut cx = Context::from_waker(&driver.waker);
        loop {
            let result = Pin::new(&mut self.connection).poll(&mut cx);
            // hyper wakes itself when it yields in the middle of its work.
            let woken = driver.woken.0.swap(false, Ordering::Relaxed);
            if result.is_ready() || !woken {
                return result;
            }
            if self.socket.turn.is_over() {
                self.socket.turn.cut_short();
                return result;
            }
        }
    }

    /// The last response is written, or the client has gone.
    fn finish(self: Box<Self>, driver: &Driver, now_ns: u64) -> State {
        let socket = self.socket;
        if socket.ended.get() {
            return State::Closed;
        }
        let read = into_unread(self.connection);
        // After one read that found less than it had room for and one write, nothing is
        // unread unless it came in these few microseconds, in which a client that asked
        // for the close has no more to say. Else to ask costs a call.
        let may_be_unread = socket.readable.get()
            || (self.is_last || !socket.turn.is_ordinary()) && socket.has_unread();
        let is_unanswered = self.ended_between == Some(self.exchange.requests.get());
        if is_unanswered && (may_be_unread || !read.is_empty()) {
            // hyper was between two requests and closed, whatever had arrived.
            socket.readable.set(true);
            return driver
                .start_last(&socket, read, now_ns)
                .drive(driver, now_ns);
        }
        if self.exchange.refused.get() || may_be_unread || !read.is_empty() {
            return linger::begin(&socket, now_ns);
        }
        State::Closed
    }

    /// Nothing more can be done now: lays the connection down as cheaply as
    /// its state allows, with the deadline that belongs to it.
    fn rest(mut self: Box<Self>, driver: &Driver, now_ns: u64) -> State {
        let between_requests = self.exchange.requests.get() > 0
            && !self.exchange.in_service.get()
            && !self.socket.write_blocked.get()
            && !self.socket.turn.was_cut_short();
        if !between_requests {
            self.set_deadline(driver, now_ns);
            return State::Active(self);
        }
        let unread = into_unread(self.connection);
        if is_blank(&unread) {
            return State::Idle(now_ns + as_ns(driver.http.limits.idle_timeout));
        }
        // Part of the next request came along with the last one.
        driver
            .start(&self.socket, unread, now_ns)
            .drive(driver, now_ns)
    }

    fn set_deadline(&mut self, driver: &Driver, now_ns: u64) {
        let limits = &driver.http.limits;
        let (phase, timeout_ns) = if self.socket.write_blocked.get() {
            (
                (Phase::Write, self.socket.bytes_out.get()),
                as_ns(limits.write_timeout) / WRITE_LOOKS,
            )
        } else if self.exchange.in_service.get() {
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
            self.taking.grew_ns = now_ns;
        }
    }

    /// When it is to be judged, ns.
    pub(super) fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// Gives it so much longer.
    pub(super) fn excuse(&mut self, late_ns: u64) {
        self.deadline_ns += late_ns;
        self.taking.grew_ns += late_ns;
    }

    /// Whether it waits for something that may have arrived without being read.
    pub(super) fn waits_to_read(&self) -> bool {
        self.phase.0 != Phase::Write
    }

    /// Its deadline has come.
    pub(super) fn judge(mut self: Box<Self>, driver: &Driver, now_ns: u64) -> State {
        if self.phase.0 != Phase::Write {
            return self.refuse(driver, now_ns);
        }
        let timeout_ns = as_ns(driver.http.limits.write_timeout);
        let taken = self.socket.bytes_out.get() - self.socket.unacknowledged_bytes();
        if taken != self.taking.bytes {
            self.taking = Taking {
                bytes: taken,
                grew_ns: now_ns,
            };
        }
        if now_ns < self.taking.grew_ns + timeout_ns {
            self.deadline_ns = now_ns + timeout_ns / WRITE_LOOKS;
            return State::Active(self);
        }
        driver.http.published.refused(Refusal::WriteTimeout);
        // The client could take a part for the whole: reset instead.
        let at_once = Some(Duration::ZERO);
        let _ = rustix::net::sockopt::set_socket_linger(&self.socket.fd, at_once);
        State::Closed
    }

    /// The request did not come in time.
    fn refuse(self: Box<Self>, driver: &Driver, now_ns: u64) -> State {
        let in_service = self.exchange.in_service.get();
        let unread = into_unread(self.connection);
        // Browsers and pools open connections that they may never use: no answer to
        // what was no request. (RFC 9112, 2.2: empty lines before one are ignored.)
        if !in_service && is_blank(&unread) {
            return linger::part(&self.socket, now_ns);
        }
        driver.http.published.refused(Refusal::Timeout);
        let _ = rustix::net::send(&self.socket.fd, REQUEST_TIMEOUT, SendFlags::NOSIGNAL);
        linger::begin(&self.socket, now_ns)
    }
}

/// What hyper has not taken for a request, of what it was given to read.
fn into_unread(connection: http1::Connection<Stream, Handler>) -> Bytes {
    let parts = connection.into_parts();
    match parts.io.into_prefix() {
        rest if rest.is_empty() => parts.read_buf,
        rest => [parts.read_buf, rest].concat().into(),
    }
}

/// Whether there is nothing of a request in it.
fn is_blank(unread: &Bytes) -> bool {
    unread.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}
