//! One client connection on the reactor. While there is no request, srv keeps only its file
//! descriptor. Requests that can be answered at once are; while there is another one, hyper drives
//! the connection. If a client takes too long, it gets an answer that says so. This module knows no
//! listeners and no steering.

mod active;
mod handshake;
mod linger;
mod streamed;
mod taking;
mod unparsed;
mod waiting;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http1;
use srv_common::Refusal;

use crate::kernel::reactor::Readiness;
use crate::serve::access_log::record::Tls;
use crate::serve::router::Client;
use crate::serve::worker::http::at_once::AtOnce;
use crate::serve::worker::http::{Ended, Exchange, Handler, Http};
use crate::serve::worker::stream::{Socket, Stream};
use crate::serve::worker::task::{Task, Woken};
use crate::serve::worker::tls::{Acceptor, Keys, Session};
use crate::values::Http2;
use active::Active;
use handshake::Handshake;
use linger::Linger;
use srv_steer::{Incoming, Load};
use streamed::Streamed;
use waiting::Waiting;

const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// What all connections of a worker share.
pub struct Driver {
    http: Rc<Http>,
    /// For each listener group: what begins TLS there. `None`: its clients do not speak TLS.
    tls: Vec<Option<Rc<Acceptor>>>,
    tickets: Keys,
    at_once: AtOnce,
    /// Whether requests are answered without hyper. A test compares both ways.
    answers_at_once: bool,
    builder: http1::Builder,
    /// The builder for one request, whose response says that it is the last.
    last_builder: http1::Builder,
    woken: Arc<Woken>,
}

impl Driver {
    /// The driver of a worker that serves `http`. Connections that wait for something else than their
    /// client go to `woken` when it happens.
    pub fn new(http: Rc<Http>, woken: Arc<Woken>) -> Self {
        let mut builder = http1::Builder::new();
        // This module has its own deadlines: after a timeout, the client gets a 408.
        builder.header_read_timeout(None);
        builder.half_close(true);
        builder.max_header_size(http.limits.header_bytes);
        builder.max_buf_size(http.limits.header_bytes.max(HYPER_MIN_BUFFER_BYTES));
        let mut last_builder = builder.clone();
        last_builder.keep_alive(false);
        Self {
            http,
            tls: Vec::new(),
            tickets: Keys::default(),
            at_once: AtOnce::default(),
            answers_at_once: true,
            builder,
            last_builder,
            woken,
        }
    }

    /// Has clients speak TLS on the groups that have an acceptor here. `tickets` are the keys that
    /// the acceptors share.
    pub fn with_tls(self, tls: Vec<Option<Rc<Acceptor>>>, tickets: Keys) -> Self {
        Self {
            tls,
            tickets,
            ..self
        }
    }

    /// The keys of session tickets.
    pub fn tickets(&self) -> &Keys {
        &self.tickets
    }

    /// What answers requests, and within which limits.
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// The connections that were woken.
    pub fn woken(&self) -> &Arc<Woken> {
        &self.woken
    }

    /// Where the worker's load is published.
    pub fn published(&self) -> &Load {
        &self.http.published
    }

    /// What sites know of the client at the other end of `socket`.
    fn client(&self, socket: &Socket) -> Client {
        let listener = socket.listener;
        let router = &self.http.router;
        let asks = router.asks_for_addresses() || router.logs();
        let of_session = |tls: &RefCell<Session>| {
            let name = tls.borrow().server_name();
            self.http.router.certificate(listener, name.as_bytes())
        };
        Client {
            listener,
            address: asks.then(|| socket.client_address()).flatten(),
            certificate: socket.tls().map(of_session),
            is_tls: socket.tls().is_some(),
            accept_delay_ns: socket.accept_delay_ns,
            tls: socket.tls().map_or(Tls::None, |tls| tls.borrow().version()),
        }
    }

    /// Whether a connection that begins with these bytes speaks HTTP/2.
    fn speaks_http2(&self, socket: &Socket, read: &[u8]) -> bool {
        match socket.tls() {
            Some(tls) => tls.borrow().speaks_http2(),
            None => self.http.http2 == Http2::Always && streamed::is_preface(read),
        }
    }

    fn start(&self, socket: &Rc<Socket>, prefix: Bytes, now_ns: u64) -> Box<Active> {
        self.start_by(self.header_deadline_ns(now_ns), socket, prefix)
    }

    /// Starts hyper for a request whose header must have arrived at `deadline_ns`.
    fn start_by(&self, deadline_ns: u64, socket: &Rc<Socket>, prefix: Bytes) -> Box<Active> {
        let exchange = Rc::new(Exchange::default());
        let stream = Stream::new(socket.clone(), prefix, exchange.clone());
        self.start_with(&self.builder, stream, socket, exchange, deadline_ns)
    }

    /// Starts hyper for one request, whose response says that it is the last.
    fn start_last(&self, socket: &Rc<Socket>, prefix: Bytes, now_ns: u64) -> Box<Active> {
        let exchange = Rc::new(Exchange::default());
        let stream = Stream::new(socket.clone(), prefix, exchange.clone());
        let deadline_ns = self.header_deadline_ns(now_ns);
        let builder = &self.last_builder;
        let mut active = self.start_with(builder, stream, socket, exchange, deadline_ns);
        active.is_last = true;
        active
    }

    /// Answers what has arrived on a connection of which srv has read nothing, and no more.
    fn drive_last(&self, socket: &Rc<Socket>, now_ns: u64) -> State {
        if self.speaks_http2(socket, &[]) {
            let mut streamed = Streamed::start(self, socket, Bytes::new(), now_ns);
            streamed.shut_down();
            return streamed.drive(self, now_ns);
        }
        self.start_last(socket, Bytes::new(), now_ns)
            .drive(self, now_ns)
    }

    /// Starts hyper behind an answer of which `unsent` is not written yet. `is_last` says whether
    /// the client has asked for the close.
    fn start_after(
        &self,
        unsent: Bytes,
        is_last: bool,
        socket: &Rc<Socket>,
        prefix: Bytes,
        now_ns: u64,
    ) -> Box<Active> {
        let exchange = Rc::new(Exchange::answering());
        let stream = Stream::new(socket.clone(), prefix, exchange.clone()).after(unsent);
        let deadline_ns = self.header_deadline_ns(now_ns);
        let mut active = self.start_with(&self.builder, stream, socket, exchange, deadline_ns);
        if is_last {
            active.end_when_written();
        }
        active
    }

    fn header_deadline_ns(&self, now_ns: u64) -> u64 {
        now_ns + as_ns(self.http.limits.header_timeout)
    }

    fn start_with(
        &self,
        builder: &http1::Builder,
        stream: Stream,
        socket: &Rc<Socket>,
        exchange: Rc<Exchange>,
        deadline_ns: u64,
    ) -> Box<Active> {
        let untouched = (!stream.has_prefix()).then_some(socket.bytes_in.get());
        if stream.has_prefix() {
            exchange.first_byte_ns.set(socket.turn.began_ns());
        }
        let client = self.client(socket);
        let peer = socket.clone();
        let handler = Handler::new(self.http.clone(), exchange.clone(), client, peer);
        let connection = builder.serve_connection(stream, handler);
        let task = Task::new(socket.key.get(), self.woken.clone());
        let socket = socket.clone();
        Active::new(connection, socket, exchange, task, untouched, deadline_ns)
    }
}

/// The deadline of a connection that has none. It is far enough from the end that an excuse does not
/// exceed it.
const NEVER_NS: u64 = u64::MAX / 2;

/// hyper refuses a smaller `max_buf_size`.
const HYPER_MIN_BUFFER_BYTES: usize = 8192;

/// What the worker is to do with a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Progress {
    /// The connection waits for the client.
    Open,
    /// The connection could continue at once, but others have their turn first.
    Yielded,
    /// The connection has finished. Drop it.
    Closed,
}

/// A client connection.
pub struct Connection {
    /// Its socket, for the reactor.
    pub socket: Rc<Socket>,
    /// Whether the reactor watches it.
    pub watched: bool,
    /// Whether it waits for its next turn, which [`Self::resume`] gives it.
    pub in_line: bool,
    /// Whether srv turned it away because there was no room.
    pub was_turned_away: bool,
    state: State,
}

enum State {
    /// The connection is new, and its client is to speak TLS.
    Handshake(Handshake),
    /// The connection is new, or between two requests.
    Waiting(Waiting),
    /// hyper drives the connection.
    Active(Box<Active>),
    /// hyper drives the connection, which speaks HTTP/2.
    Streamed(Box<Streamed>),
    /// The client has its last answer. srv discards what it still sends.
    Lingering(Linger),
    /// The connection has ended. It is also in this state while the state changes.
    Closed,
}

impl Connection {
    /// A new connection. Its first bytes have probably arrived.
    pub fn accepted(incoming: Incoming, driver: &Driver, now_ns: u64) -> Self {
        let Some(Some(acceptor)) = driver.tls.get(incoming.group) else {
            let state = State::Waiting(Waiting::first(driver, now_ns));
            return Self::new(Rc::new(Socket::new(incoming, None)), state);
        };
        let state = State::Handshake(Handshake::first(driver, now_ns));
        let session = acceptor.session();
        Self::new(Rc::new(Socket::new(incoming, Some(session))), state)
    }

    /// A new connection for which there is no room. The client gets an answer that says so, and
    /// srv does not read what it sends as a request. With TLS, the answer would come after a
    /// handshake, so that the client sees only the close.
    pub fn turned_away(incoming: Incoming, driver: &Driver, now_ns: u64) -> Self {
        driver.published().refused(Refusal::TooManyConnections);
        let has_tls = matches!(driver.tls.get(incoming.group), Some(Some(_)));
        let socket = Rc::new(Socket::new(incoming, None));
        if !has_tls {
            // A new socket has room for this. If it has not, the client sees only the close.
            socket.send_last(UNAVAILABLE);
            let ended = Ended::by(UNAVAILABLE, now_ns);
            driver.http.ended_unread(ended, driver.client(&socket));
        }
        socket.turn.begin(now_ns);
        let state = linger::begin(&socket, now_ns);
        Self {
            was_turned_away: true,
            ..Self::new(socket, state)
        }
    }

    fn new(socket: Rc<Socket>, state: State) -> Self {
        Self {
            socket,
            watched: false,
            in_line: false,
            was_turned_away: false,
            state,
        }
    }

    /// Continues as far as the socket and the connection's turn allow.
    pub fn drive(&mut self, driver: &Driver, ready: Readiness, now_ns: u64) -> Progress {
        // A client that closed its side before the request began waits for the answer.
        let leaves = ready.failed || ready.hung_up && !self.socket.hung_up.get();
        if leaves && self.waits_for_application() {
            self.state = State::Closed;
            return Progress::Closed;
        }
        let socket = &self.socket;
        socket.readable.set(socket.readable.get() || ready.readable);
        socket.hung_up.set(socket.hung_up.get() || ready.hung_up);
        if self.in_line {
            return Progress::Yielded;
        }
        if !ready.readable {
            // This event matters only if a response did not fit into the socket's buffer. That
            // response may be long, so requests that have just arrived come first.
            return match self.state {
                State::Active(_) | State::Streamed(_) if socket.write_blocked.get() => {
                    Progress::Yielded
                }
                _ => Progress::Open,
            };
        }
        socket.turn.begin(now_ns);
        self.advance(driver, now_ns)
    }

    /// Has the turn for which the connection has waited in line.
    pub fn resume(&mut self, driver: &Driver, now_ns: u64) -> Progress {
        self.in_line = false;
        self.socket.turn.resume();
        self.advance(driver, now_ns)
    }

    /// Continues because `task` was woken, unless that is the task of an earlier request.
    pub fn wake(&mut self, task: &Arc<Task>, driver: &Driver, now_ns: u64) -> Progress {
        if self.in_line {
            return Progress::Yielded;
        }
        match &self.state {
            State::Active(active) if active.has_task(task) => {}
            State::Streamed(streamed) if streamed.has_task(task) => {}
            _ => return Progress::Open,
        }
        if !task.is_woken() {
            return Progress::Open;
        }
        self.socket.turn.proceed(now_ns);
        self.advance(driver, now_ns)
    }

    fn waits_for_application(&self) -> bool {
        matches!(&self.state, State::Active(active) if active.waits_for_application())
    }

    fn advance(&mut self, driver: &Driver, now_ns: u64) -> Progress {
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Handshake(handshake) => handshake.drive(&self.socket, driver, now_ns),
            State::Waiting(waiting) => waiting.drive(&self.socket, driver, now_ns),
            State::Active(active) => active.drive(driver, now_ns),
            State::Streamed(streamed) => streamed.drive(driver, now_ns),
            State::Lingering(linger) => linger.discard(&self.socket, now_ns),
            State::Closed => State::Closed,
        };
        self.progress()
    }

    /// Ends the connection if its deadline has passed. Before that, it reads what has arrived:
    /// the bytes may have come in time, and the worker may be late.
    pub fn expire(&mut self, driver: &Driver, now_ns: u64) -> Progress {
        if self.in_line {
            return Progress::Yielded;
        }
        if now_ns < self.deadline_ns() {
            return Progress::Open;
        }
        if self.waits_to_read() && self.socket.has_unread() {
            self.socket.readable.set(true);
            self.socket.turn.begin(now_ns);
            let progress = self.advance(driver, now_ns);
            if progress != Progress::Open || now_ns < self.deadline_ns() {
                return progress;
            }
        }
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Active(active) => active.judge(driver, now_ns),
            State::Streamed(streamed) => streamed.judge(driver, now_ns),
            State::Lingering(linger) => linger.judge(&self.socket, now_ns),
            State::Handshake(_) | State::Waiting(_) | State::Closed => {
                linger::part(&self.socket, now_ns)
            }
        };
        self.progress()
    }

    /// Extends the deadline by `late_ns`, in which the worker did not handle its connections.
    pub fn excuse(&mut self, late_ns: u64) {
        match &mut self.state {
            State::Handshake(handshake) => handshake.deadline_ns += late_ns,
            State::Waiting(waiting) => waiting.deadline_ns += late_ns,
            State::Active(active) => active.excuse(late_ns),
            State::Streamed(streamed) => streamed.excuse(late_ns),
            State::Lingering(linger) => linger.excuse(late_ns),
            State::Closed => {}
        }
    }

    /// Ends the connection as soon as srv owes the client nothing. srv answers a request that has
    /// arrived, even if it has not read it yet: a close with unread bytes is a reset. If the
    /// client has sent several requests ahead, srv does not answer those that this turn does not
    /// reach; the client sees an orderly end after the last answer.
    pub fn drain(&mut self, driver: &Driver, now_ns: u64) -> Progress {
        self.socket.turn.begin(now_ns);
        match &mut self.state {
            // The client begins its request when it has TLS.
            State::Handshake(handshake) => {
                handshake.is_last = true;
                return self.advance(driver, now_ns);
            }
            State::Waiting(_) => self.state = self.last(driver, now_ns),
            // hyper would close the connection, even if a request has arrived.
            State::Active(active) if active.is_untouched() => {
                self.state = self.last(driver, now_ns);
            }
            State::Active(active) => {
                active.shut_down();
                return self.advance(driver, now_ns);
            }
            State::Streamed(streamed) => {
                streamed.shut_down();
                return self.advance(driver, now_ns);
            }
            State::Lingering(_) | State::Closed => {}
        }
        self.progress()
    }

    /// Answers what has arrived on a connection of which srv has read nothing.
    fn last(&self, driver: &Driver, now_ns: u64) -> State {
        if !self.socket.has_unread() {
            return linger::part(&self.socket, now_ns);
        }
        self.socket.readable.set(true);
        driver.drive_last(&self.socket, now_ns)
    }

    /// How much is lost if srv closes the connection to make room; a smaller value means that
    /// less is lost. `None`: srv must not close it. A client that has its last answer loses
    /// nothing. After those come the connections that have been between two requests for
    /// longest.
    pub fn dispensable(&self) -> Option<(bool, u64)> {
        match &self.state {
            State::Lingering(linger) => Some((false, linger.deadline_ns())),
            State::Waiting(waiting) if !waiting.is_new => Some((true, waiting.deadline_ns)),
            State::Streamed(streamed) if streamed.is_idle() => Some((true, streamed.deadline_ns())),
            _ => None,
        }
    }

    fn waits_to_read(&self) -> bool {
        match &self.state {
            State::Handshake(_) | State::Waiting(_) | State::Lingering(_) => true,
            State::Active(active) => active.waits_to_read(),
            State::Streamed(streamed) => streamed.waits_to_read(),
            State::Closed => false,
        }
    }

    fn deadline_ns(&self) -> u64 {
        match &self.state {
            State::Handshake(handshake) => handshake.deadline_ns,
            State::Waiting(waiting) => waiting.deadline_ns,
            State::Active(active) => active.deadline_ns(),
            State::Streamed(streamed) => streamed.deadline_ns(),
            State::Lingering(linger) => linger.deadline_ns(),
            State::Closed => 0,
        }
    }

    fn progress(&self) -> Progress {
        match self.state {
            State::Closed => Progress::Closed,
            State::Handshake(_) | State::Active(_) | State::Streamed(_) | State::Lingering(_)
                if self.socket.turn.was_cut_short() =>
            {
                Progress::Yielded
            }
            _ => Progress::Open,
        }
    }
}

fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests;
