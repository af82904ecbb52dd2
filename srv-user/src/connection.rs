//! One client connection's life on the reactor: hyper drives it while there is
//! a request, a bare file descriptor is all that is kept while there is none,
//! and whoever takes too long is told so. Knows no listeners and no steering.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http1;
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};
use srv_common::Refusal;

use crate::http::{Exchange, Handler, Http};
use crate::reactor::Readiness;
use crate::status::Published;
use crate::stream::{Socket, Stream};
use unparsed::Unparsed;

mod unparsed;

/// How long, and for how many bytes, a refused client may go on sending: a
/// close with unread data would reset the connection and could take the
/// refusal with it.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_READS: u32 = 256;

const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// What all connections of a worker share.
pub struct Driver {
    http: Rc<Http>,
    builder: http1::Builder,
    /// For one request, whose response says that it is the last.
    last_builder: http1::Builder,
    woken: Arc<Woken>,
    waker: Waker,
}

/// A wake-up asked for during a poll, by the one connection that is polled.
/// There are no others: requests are served on this thread, to the end.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Driver {
    /// For a worker that serves `http`.
    pub fn new(http: Rc<Http>) -> Self {
        let mut builder = http1::Builder::new();
        // Deadlines are this module's: a timed-out client gets a 408.
        builder.header_read_timeout(None);
        builder.half_close(true);
        builder.max_header_size(http.limits.header_bytes);
        builder.max_buf_size(http.limits.header_bytes.max(HYPER_MIN_BUFFER_BYTES));
        let mut last_builder = builder.clone();
        last_builder.keep_alive(false);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        Self {
            http,
            builder,
            last_builder,
            woken,
            waker,
        }
    }

    /// Who answers, and within which limits.
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// Where the worker's load is published.
    pub fn published(&self) -> &Published {
        &self.http.published
    }

    /// Tells a client that there are too many, and closes.
    pub fn turn_away(&self, fd: OwnedFd) {
        self.http.published.refused(Refusal::TooManyConnections);
        // A fresh socket takes this; if it does not, the close says it.
        let _ = rustix::net::send(&fd, UNAVAILABLE, SendFlags::NOSIGNAL);
    }

    fn start(&self, socket: &Rc<Socket>, prefix: Bytes, now_ns: u64) -> Box<Active> {
        self.start_with(&self.builder, socket, prefix, now_ns)
    }

    fn start_with(
        &self,
        builder: &http1::Builder,
        socket: &Rc<Socket>,
        prefix: Bytes,
        now_ns: u64,
    ) -> Box<Active> {
        let exchange = Rc::new(Exchange::default());
        let untouched = prefix.is_empty().then_some(socket.bytes_in.get());
        let stream = Stream::new(socket.clone(), prefix, exchange.clone());
        let handler = Handler::new(self.http.clone(), exchange.clone());
        Box::new(Active {
            connection: builder.serve_connection(stream, handler),
            untouched,
            socket: socket.clone(),
            exchange,
            phase: (Phase::Header, 0),
            deadline_ns: now_ns + as_ns(self.http.limits.header_timeout),
        })
    }
}

/// hyper refuses a smaller `max_buf_size`.
const HYPER_MIN_BUFFER_BYTES: usize = 8192;

/// Whether a connection goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Progress {
    /// Waits for the client.
    Open,
    /// Finished; drop it.
    Closed,
}

/// A client connection.
pub struct Connection {
    /// Its socket, for the reactor.
    pub socket: Rc<Socket>,
    /// Whether the reactor watches it.
    pub watched: bool,
    state: State,
}

enum State {
    /// Between two requests, until this instant (ns) at most.
    Idle(u64),
    /// hyper has it.
    Active(Box<Active>),
    /// Refused; until this instant (ns) what the client still sends is thrown
    /// away.
    Lingering(u64),
    /// At the end, and while the state changes.
    Closed,
}

/// A connection with a request on its way.
struct Active {
    connection: http1::Connection<Stream, Handler>,
    socket: Rc<Socket>,
    exchange: Rc<Exchange>,
    /// The socket's [`Socket::bytes_in`] as long as nothing of a request has been read.
    untouched: Option<u64>,
    /// What it waits for, with a count that moves when there is progress.
    phase: (Phase, u64),
    deadline_ns: u64,
}

/// What an active connection waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Header,
    Body,
    Write,
}

impl Connection {
    /// A connection fresh from `accept`; its first bytes are probably there.
    pub fn accepted(fd: OwnedFd, driver: &Driver, now_ns: u64) -> Self {
        let socket = Rc::new(Socket::new(fd));
        let state = State::Active(driver.start(&socket, Bytes::new(), now_ns));
        Self {
            socket,
            watched: false,
            state,
        }
    }

    /// Goes on as far as the socket allows.
    pub fn drive(&mut self, driver: &Driver, ready: Readiness, now_ns: u64) -> Progress {
        if ready.readable {
            self.socket.readable.set(true);
        } else if matches!(self.state, State::Idle(_)) {
            // That it can be written to is no news, and no request.
            return Progress::Open;
        }
        self.socket
            .hung_up
            .set(self.socket.hung_up.get() || ready.hung_up);
        self.advance(driver, now_ns)
    }

    fn advance(&mut self, driver: &Driver, now_ns: u64) -> Progress {
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Idle(_) => {
                let active = driver.start(&self.socket, Bytes::new(), now_ns);
                active.drive(driver, now_ns)
            }
            State::Active(active) => active.drive(driver, now_ns),
            State::Lingering(until_ns) => discard(&self.socket, until_ns),
            State::Closed => State::Closed,
        };
        self.progress()
    }

    /// Ends it if its time is up.
    pub fn expire(&mut self, driver: &Driver, now_ns: u64) -> Progress {
        let deadline_ns = match &self.state {
            State::Idle(deadline_ns) | State::Lingering(deadline_ns) => *deadline_ns,
            State::Active(active) => active.deadline_ns,
            State::Closed => return Progress::Closed,
        };
        if now_ns < deadline_ns {
            return Progress::Open;
        }
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Active(active) => active.time_out(driver, now_ns),
            _ => State::Closed,
        };
        self.progress()
    }

    /// Ends it as soon as nothing is owed to the client. A request that has
    /// arrived is answered, read or not: a close with unread bytes is a reset.
    pub fn drain(&mut self, driver: &Driver, now_ns: u64) -> Progress {
        match &mut self.state {
            State::Idle(_) => self.state = self.last(driver, now_ns),
            // hyper would close it, whatever has arrived.
            State::Active(active) if active.is_untouched() => {
                self.state = self.last(driver, now_ns);
            }
            State::Active(active) => {
                Pin::new(&mut active.connection).graceful_shutdown();
                return self.advance(driver, now_ns);
            }
            State::Lingering(_) | State::Closed => {}
        }
        self.progress()
    }

    /// Of a connection of which nothing has been read: answers what is there.
    fn last(&self, driver: &Driver, now_ns: u64) -> State {
        if !self.socket.has_unread() {
            return State::Closed;
        }
        self.socket.readable.set(true);
        let builder = &driver.last_builder;
        let active = driver.start_with(builder, &self.socket, Bytes::new(), now_ns);
        active.drive(driver, now_ns)
    }

    /// When its idle time ends, ns, if it is between two requests: the lowest
    /// has been idle the longest.
    pub fn idle_deadline_ns(&self) -> Option<u64> {
        match self.state {
            State::Idle(deadline_ns) => Some(deadline_ns),
            _ => None,
        }
    }

    fn progress(&self) -> Progress {
        match self.state {
            State::Closed => Progress::Closed,
            _ => Progress::Open,
        }
    }
}

impl Active {
    fn is_untouched(&self) -> bool {
        self.untouched == Some(self.socket.bytes_in.get()) && self.exchange.requests.get() == 0
    }

    fn drive(mut self: Box<Self>, driver: &Driver, now_ns: u64) -> State {
        match self.poll(driver) {
            Poll::Pending => self.rest(driver, now_ns),
            Poll::Ready(Ok(())) if self.exchange.refused.get() => linger(&self.socket, now_ns),
            Poll::Ready(Ok(())) => State::Closed,
            Poll::Ready(Err(error)) if error.is_parse() => self.judge(driver, &error, now_ns),
            // The client is gone.
            Poll::Ready(Err(_)) => State::Closed,
        }
    }

    /// hyper could not read a request.
    fn judge(self: Box<Self>, driver: &Driver, error: &hyper::Error, now_ns: u64) -> State {
        // Behind a response that the client was slow to take, hyper's own answer went out.
        let is_answered = self.exchange.owes.get();
        let socket = self.socket;
        let parts = self.connection.into_parts();
        let unread = match parts.io.into_prefix() {
            rest if rest.is_empty() => parts.read_buf,
            rest => [parts.read_buf, rest].concat().into(),
        };
        match Unparsed::judge(error, &unread) {
            Unparsed::Rewritten(request) if !is_answered => {
                return driver.start(&socket, request, now_ns).drive(driver, now_ns);
            }
            Unparsed::Refused(answer) if !is_answered => {
                let _ = rustix::net::send(&socket.fd, answer, SendFlags::NOSIGNAL);
            }
            _ => {}
        }
        driver
            .http
            .published
            .refused(match error.is_parse_too_large() {
                true => Refusal::HeaderTooLarge,
                false => Refusal::Malformed,
            });
        linger(&socket, now_ns)
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
        }
    }

    /// Nothing more can be done now: lays the connection down as cheaply as
    /// its state allows, with the deadline that belongs to it.
    fn rest(mut self: Box<Self>, driver: &Driver, now_ns: u64) -> State {
        let between_requests = self.exchange.requests.get() > 0
            && !self.exchange.in_service.get()
            && !self.socket.write_blocked.get();
        if !between_requests {
            self.set_deadline(driver, now_ns);
            return State::Active(self);
        }
        let unread = self.connection.into_parts().read_buf;
        if unread.is_empty() {
            return State::Idle(now_ns + as_ns(driver.http.limits.idle_timeout));
        }
        // Part of the next request came along with the last one.
        driver
            .start(&self.socket, unread, now_ns)
            .drive(driver, now_ns)
    }

    fn set_deadline(&mut self, driver: &Driver, now_ns: u64) {
        let limits = &driver.http.limits;
        let (phase, timeout) = if self.socket.write_blocked.get() {
            (
                (Phase::Write, self.socket.bytes_out.get()),
                limits.write_timeout,
            )
        } else if self.exchange.in_service.get() {
            (
                (Phase::Body, self.socket.bytes_in.get()),
                limits.read_timeout,
            )
        } else {
            (
                (Phase::Header, self.exchange.requests.get()),
                limits.header_timeout,
            )
        };
        if self.phase != phase {
            self.phase = phase;
            self.deadline_ns = now_ns + as_ns(timeout);
        }
    }

    fn time_out(self: Box<Self>, driver: &Driver, now_ns: u64) -> State {
        let published = &driver.http.published;
        if self.phase.0 == Phase::Write {
            published.refused(Refusal::WriteTimeout);
            // The client could take a part for the whole: reset instead.
            let at_once = Some(Duration::ZERO);
            let _ = rustix::net::sockopt::set_socket_linger(&self.socket.fd, at_once);
            return State::Closed;
        }
        published.refused(Refusal::Timeout);
        let _ = rustix::net::send(&self.socket.fd, REQUEST_TIMEOUT, SendFlags::NOSIGNAL);
        linger(&self.socket, now_ns)
    }
}

fn linger(socket: &Socket, now_ns: u64) -> State {
    match rustix::net::shutdown(&socket.fd, Shutdown::Write) {
        Ok(()) => discard(socket, now_ns + as_ns(LINGER)),
        Err(_) => State::Closed,
    }
}

fn discard(socket: &Socket, until_ns: u64) -> State {
    let mut waste = [0u8; 4096];
    for _ in 0..LINGER_READS {
        match rustix::io::read(&socket.fd, &mut waste) {
            Ok(1..) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return State::Lingering(until_ns),
            Ok(0) | Err(_) => return State::Closed,
        }
    }
    State::Closed
}

fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests;
