//! A connection that speaks HTTP/2. hyper drives it and all its streams: the connection and the
//! answers to its streams are one task. What this module adds are deadlines, an age after which a
//! connection is asked to end (it is bound to its worker for as long as it lives), and an orderly
//! end.

mod streams;

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::server::conn::http2;
use srv_common::Refusal;

use self::streams::Streams;
use super::taking::Taking;
use super::{Driver, NEVER_NS, State, as_ns, linger};
use crate::serve::config::Limits;
use crate::serve::worker::http::{Exchange, Handler};
use crate::serve::worker::stream::{Socket, Stream};
use crate::serve::worker::task::Task;

/// What an HTTP/2 client sends first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// So much of it is in no other request.
const PREFACE_BEGIN: usize = 4;

/// How many bytes of bodies a client may send to one stream before srv has taken them.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// As above, to all streams of a connection together: this much memory it can cost.
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;
/// How much of an answer waits for the client's window, bytes.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// Streams that a client opened and reset at once: if there are more at a time, hyper ends the
/// connection (CVE-2023-44487).
const RESET_STREAMS_MAX: usize = 20;
/// Streams that srv itself has reset because the client broke the protocol: likewise
/// (CVE-2025-8671).
const FAULTY_STREAMS_MAX: usize = 128;
/// How long a client may take to end a connection that it was asked to end, ns.
const PARTING_NS: u64 = 5_000_000_000;
/// The age of a connection varies by this part of it, so that those that began together do not
/// end together.
const AGE_JITTER: u64 = 10;

/// A connection that speaks HTTP/2.
pub(super) struct Streamed {
    connection: http2::Connection<Stream, Handler, Streams>,
    streams: Streams,
    socket: Rc<Socket>,
    exchange: Rc<Exchange>,
    task: Arc<Task>,
    waker: Waker,
    /// What the connection waits for, with a count that changes when there is progress.
    phase: (Phase, u64),
    deadline_ns: u64,
    taking: Taking,
    /// When it is asked to end, ns; `None`: it was.
    ends_ns: Option<u64>,
}

/// What a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The next request.
    Request,
    /// The client, to send a body or to take an answer.
    Streams,
    /// The client's kernel, to take bytes.
    Write,
    /// An application, which has deadlines of its own.
    Application,
    /// The client, to end the connection.
    End,
}

/// The settings of a connection.
fn builder(limits: &Limits, streams: Streams) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    let header_bytes = u32::try_from(limits.header_bytes).unwrap_or(u32::MAX);
    builder
        .max_concurrent_streams(limits.streams)
        // CONTINUATION frames are counted, too.
        .max_header_list_size(header_bytes)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(FAULTY_STREAMS_MAX);
    builder
}

/// Whether a connection that begins with these bytes speaks HTTP/2.
pub(super) fn is_preface(read: &[u8]) -> bool {
    let common = read.len().min(PREFACE.len());
    common >= PREFACE_BEGIN && read[..common] == PREFACE[..common]
}

impl Streamed {
    /// A connection of which `read` was read.
    pub(super) fn start(
        driver: &Driver,
        socket: &Rc<Socket>,
        read: Bytes,
        now_ns: u64,
    ) -> Box<Self> {
        let exchange = Rc::new(Exchange::streamed());
        let stream = Stream::new(socket.clone(), read, exchange.clone());
        let client = driver.client(socket);
        let handler = Handler::new(
            driver.http.clone(),
            exchange.clone(),
            client,
            socket.clone(),
        );
        let task = Task::new(socket.key.get(), driver.woken.clone());
        let limits = &driver.http.limits;
        let streams = Streams::default();
        Box::new(Self {
            connection: builder(limits, streams.clone()).serve_connection(stream, handler),
            streams,
            socket: socket.clone(),
            exchange,
            waker: Waker::from(task.clone()),
            task,
            phase: (Phase::Request, 0),
            deadline_ns: now_ns + as_ns(limits.header_timeout),
            taking: Taking::default(),
            ends_ns: Some(now_ns + aged_ns(as_ns(limits.connection_age), now_ns)),
        })
    }

    /// Continues as far as the socket and the connection's turn allow.
    pub(super) fn drive(mut self: Box<Self>, driver: &Driver, now_ns: u64) -> State {
        match self.poll() {
            Poll::Pending => self.rest(driver, now_ns),
            Poll::Ready(result) => {
                if result.is_err_and(|error| !error.is_closed()) && !self.socket.ended.get() {
                    driver.http.published.refused(Refusal::Malformed);
                }
                end(&self.socket, now_ns)
            }
        }
    }

    fn poll(&mut self) -> Poll<hyper::Result<()>> {
        let turn = &self.socket.turn;
        self.exchange.turn_ns.set(turn.began_ns());
        let goes_on = |result: &Poll<_>| {
            let is_over = turn.is_over();
            if result.is_pending() && is_over {
                turn.cut_short();
            }
            result.is_pending() && !is_over
        };
        let (connection, streams) = (&mut self.connection, &self.streams);
        let poll = |cx: &mut Context<'_>| {
            let result = Pin::new(&mut *connection).poll(cx);
            streams.poll(cx);
            result
        };
        self.task.poll(&self.waker, poll, goes_on)
    }

    /// Whether this is its task.
    pub(super) fn has_task(&self, task: &Arc<Task>) -> bool {
        Arc::ptr_eq(&self.task, task)
    }

    /// Waits, since nothing more can be done now.
    fn rest(mut self: Box<Self>, driver: &Driver, now_ns: u64) -> State {
        let limits = &driver.http.limits;
        let (phase, timeout_ns) = if self.socket.write_blocked.get() {
            let looks_ns = Taking::looks_ns(as_ns(limits.write_timeout));
            ((Phase::Write, self.socket.bytes_out.get()), looks_ns)
        } else if self.exchange.waits_for_application() {
            ((Phase::Application, 0), NEVER_NS.saturating_sub(now_ns))
        } else if self.exchange.is_in_service() {
            let timeout = limits.read_timeout.max(limits.write_timeout);
            ((Phase::Streams, self.exchange.moved.get()), as_ns(timeout))
        } else if self.ends_ns.is_none() {
            ((Phase::End, 0), PARTING_NS)
        } else {
            let requests = self.exchange.requests.get();
            let timeout = match requests {
                0 => limits.header_timeout,
                _ => limits.idle_timeout,
            };
            ((Phase::Request, requests), as_ns(timeout))
        };
        if self.phase != phase {
            self.phase = phase;
            self.deadline_ns = now_ns + timeout_ns;
            self.taking.begin(now_ns);
        }
        State::Streamed(self)
    }

    /// Asks the client to end the connection: it opens no further streams (GOAWAY).
    pub(super) fn shut_down(&mut self) {
        if self.ends_ns.take().is_some() {
            Pin::new(&mut self.connection).graceful_shutdown();
        }
    }

    /// Whether no stream is open.
    pub(super) fn is_idle(&self) -> bool {
        !self.exchange.is_in_service()
    }

    /// When [`Self::judge`] is due, ns.
    pub(super) fn deadline_ns(&self) -> u64 {
        self.deadline_ns.min(self.ends_ns.unwrap_or(u64::MAX))
    }

    /// Extends its deadlines by `late_ns`.
    pub(super) fn excuse(&mut self, late_ns: u64) {
        self.deadline_ns += late_ns;
        self.taking.excuse(late_ns);
    }

    /// Whether it waits for bytes that may have arrived without being read.
    pub(super) fn waits_to_read(&self) -> bool {
        self.phase.0 != Phase::Write
    }

    /// Ends the connection at its deadline, or extends the deadline.
    pub(super) fn judge(mut self: Box<Self>, driver: &Driver, now_ns: u64) -> State {
        if now_ns < self.deadline_ns {
            // It has reached its age.
            self.shut_down();
            return self.drive(driver, now_ns);
        }
        match self.phase.0 {
            Phase::Request => {
                self.shut_down();
                self.drive(driver, now_ns)
            }
            Phase::Write => {
                let timeout_ns = as_ns(driver.http.limits.write_timeout);
                if let Some(next_ns) = self.taking.look(&self.socket, timeout_ns, now_ns) {
                    self.deadline_ns = next_ns;
                    return State::Streamed(self);
                }
                driver.http.published.refused(Refusal::WriteTimeout);
                linger::reset(&self.socket)
            }
            Phase::Streams => {
                driver.http.published.refused(Refusal::Timeout);
                // An open stream has no end that the client could take for the whole.
                linger::begin(&self.socket, now_ns)
            }
            Phase::Application => State::Streamed(self),
            Phase::End => end(&self.socket, now_ns),
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.streams.abandon();
    }
}

/// `age_ns`, less or more by some of it. The instant of the accept is random enough.
fn aged_ns(age_ns: u64, now_ns: u64) -> u64 {
    let part_ns = age_ns / AGE_JITTER;
    let jitter_ns = match part_ns {
        0 => 0,
        part_ns => now_ns.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32) % (2 * part_ns),
    };
    age_ns - part_ns + jitter_ns
}

/// Ends a connection that has nothing more to write.
fn end(socket: &Socket, now_ns: u64) -> State {
    match (socket.ended.get(), socket.has_unread()) {
        (true, _) => {
            socket.announce_end();
            State::Closed
        }
        (false, true) => linger::begin(socket, now_ns),
        (false, false) => linger::part(socket, now_ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_preface_is_one() {
        assert!(is_preface(PREFACE) && is_preface(b"PRI * H"));
        for other in ["", "P", "PRI", "PRI * HTTP/1.1\r\n", "POST / HTTP/2.0\r\n"] {
            assert!(!is_preface(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn ages_are_within_a_tenth_and_differ() {
        let ages: Vec<u64> = (0..100).map(|nth| aged_ns(1_000, nth * 17)).collect();
        assert!(
            ages.iter().all(|age| (900..1_100).contains(age)),
            "{ages:?}"
        );
        let mut different = ages.clone();
        different.sort_unstable();
        different.dedup();
        assert!(different.len() > 50, "{ages:?}");
        assert_eq!(aged_ns(5, 3), 5);
    }
}
