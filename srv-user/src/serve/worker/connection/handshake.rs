//! A connection whose client and srv agree on TLS. When they have, what follows is as if the
//! connection were new.

use std::rc::Rc;
use std::task::Poll;

use srv_common::Refusal;

use super::waiting::Waiting;
use super::{Driver, State, as_ns, linger};
use crate::serve::worker::stream::Socket;
use crate::serve::worker::tls::Failure;

/// The answer to a request without TLS.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\
    content-type: text/plain; charset=utf-8\r\n\r\n\
    400 Bad Request: this port speaks TLS: ask it by an https URL.\n";

/// A handshake that is under way.
#[derive(Clone, Copy)]
pub(super) struct Handshake {
    /// When the header of the first request must have arrived, ns.
    pub(super) deadline_ns: u64,
    /// Whether the worker drains: the first request is the last.
    pub(super) is_last: bool,
}

impl Handshake {
    /// The handshake of a connection that was just accepted.
    pub(super) fn first(driver: &Driver, now_ns: u64) -> Self {
        Self {
            deadline_ns: now_ns + as_ns(driver.http.limits.header_timeout),
            is_last: false,
        }
    }

    /// Continues as far as the socket and the connection's turn allow.
    pub(super) fn drive(self, socket: &Rc<Socket>, driver: &Driver, now_ns: u64) -> State {
        let Some(tls) = socket.tls() else {
            return State::Closed;
        };
        let outcome = tls.borrow_mut().poll_handshake(socket.tcp());
        match outcome {
            Poll::Pending => State::Handshake(self),
            Poll::Ready(Ok(())) if self.is_last => driver.drive_last(socket, now_ns),
            Poll::Ready(Ok(())) => {
                Waiting::after_handshake(self.deadline_ns).drive(socket, driver, now_ns)
            }
            Poll::Ready(Err(Failure::Gone)) => State::Closed,
            Poll::Ready(Err(failure)) => {
                driver.http.published.refused(Refusal::Malformed);
                match failure {
                    Failure::NotTls => socket.tcp().send_last(NOT_TLS),
                    other => tracing::debug!("refuse a TLS handshake: {other}"),
                }
                linger::begin(socket, now_ns)
            }
        }
    }
}
