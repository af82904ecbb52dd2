//! A connection of which srv has nothing of a request: it is new, or between two requests. When
//! bytes arrive, plain requests are answered from here, without hyper. What is left goes to hyper,
//! and what follows is as if hyper had answered.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;

use super::streamed::Streamed;
use super::{Driver, State, as_ns, linger};
use crate::serve::worker::http::at_once::Answer;
use crate::serve::worker::stream::Socket;

/// As much as hyper reads at first, bytes.
const READ_BYTES: usize = 8 << 10;

/// How long it waits for the next request.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    /// When srv closes the connection, ns.
    pub(super) deadline_ns: u64,
    /// Whether it has never had a request.
    pub(super) is_new: bool,
}

/// How an answer left the connection.
enum Sent {
    /// All of it was written.
    All,
    /// The rest, for which the socket's buffer had no room.
    Rest(Bytes),
    /// The client has gone.
    Failed,
}

impl Waiting {
    /// A connection that was just accepted.
    pub(super) fn first(driver: &Driver, now_ns: u64) -> Self {
        Self {
            deadline_ns: now_ns + as_ns(driver.http.limits.header_timeout),
            is_new: true,
        }
    }

    /// A connection that was accepted a moment ago, and has TLS now.
    pub(super) fn after_handshake(deadline_ns: u64) -> Self {
        Self {
            deadline_ns,
            is_new: true,
        }
    }

    /// A connection whose client has all its answers.
    pub(super) fn next(driver: &Driver, now_ns: u64) -> Self {
        Self {
            deadline_ns: now_ns + as_ns(driver.http.limits.idle_timeout),
            is_new: false,
        }
    }

    /// Reads what has arrived, answers the plain requests, and lets hyper continue with the others.
    pub(super) fn drive(mut self, socket: &Rc<Socket>, driver: &Driver, now_ns: u64) -> State {
        let mut room = [MaybeUninit::uninit(); READ_BYTES];
        loop {
            let mut read = match socket.poll_bytes(&mut room) {
                Poll::Ready(Ok([])) => {
                    // Also with TLS, each side says that nothing follows (RFC 8446, 6.1).
                    socket.announce_end();
                    return State::Closed;
                }
                Poll::Ready(Err(_)) => return State::Closed,
                Poll::Ready(Ok(read)) => read,
                // The turn is over. hyper gets no further, and has the next turn.
                Poll::Pending if socket.turn.was_cut_short() => &[],
                Poll::Pending => return State::Waiting(self),
            };
            if self.is_new && driver.speaks_http2(socket, read) {
                let read = Bytes::copy_from_slice(read);
                return Streamed::start(driver, socket, read, now_ns).drive(driver, now_ns);
            }
            while let Some(answer) = answer(socket, driver, read) {
                read = &read[answer.request_bytes..];
                let sent = send(socket, &answer);
                driver.http.ended(answer.ended, answer.entry().as_ref());
                match sent {
                    Sent::All if answer.is_last => return end(socket, read, now_ns),
                    Sent::All => self = Self::next(driver, now_ns),
                    Sent::Rest(unsent) => {
                        let read = Bytes::copy_from_slice(read);
                        let active =
                            driver.start_after(unsent, answer.is_last, socket, read, now_ns);
                        return active.drive(driver, now_ns);
                    }
                    Sent::Failed => return State::Closed,
                }
            }
            if !read.is_empty() || socket.turn.was_cut_short() {
                let read = Bytes::copy_from_slice(read);
                let active = driver.start_by(self.header_deadline_ns(driver, now_ns), socket, read);
                return active.drive(driver, now_ns);
            }
        }
    }

    /// When the header of the next request must have arrived, ns, if it begins now.
    fn header_deadline_ns(self, driver: &Driver, now_ns: u64) -> u64 {
        match self.is_new {
            true => self.deadline_ns,
            false => now_ns + as_ns(driver.http.limits.header_timeout),
        }
    }
}

/// The answer to the first request of `read`, unless that is hyper's.
fn answer<'a>(socket: &Socket, driver: &'a Driver, read: &[u8]) -> Option<Answer<'a>> {
    if read.is_empty() || !driver.answers_at_once || socket.turn.is_over() {
        return None;
    }
    let (client, begun_ns) = (driver.client(socket), socket.turn.began_ns());
    driver.at_once.answer(&driver.http, client, begun_ns, read)
}

fn send(socket: &Socket, answer: &Answer<'_>) -> Sent {
    let (start, rest) = (&*answer.start, &*answer.rest);
    let parts = [IoSlice::new(start), IoSlice::new(rest)];
    let parts = match rest {
        [] => &parts[..1],
        _ => &parts,
    };
    match socket.poll_write(parts) {
        Poll::Ready(Ok(written)) if written == start.len() + rest.len() => Sent::All,
        Poll::Ready(Ok(written)) => Sent::Rest([start, rest].concat().split_off(written).into()),
        Poll::Pending => Sent::Rest([start, rest].concat().into()),
        Poll::Ready(Err(_)) => Sent::Failed,
    }
}

/// Ends the connection after its last answer, as the client asked.
fn end(socket: &Socket, unread: &[u8], now_ns: u64) -> State {
    if socket.may_have_unread(true) || !unread.is_empty() {
        return linger::begin(socket, now_ns);
    }
    socket.announce_end();
    State::Closed
}
