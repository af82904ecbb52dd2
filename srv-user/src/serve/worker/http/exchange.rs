//! The state of a connection's requests. This module knows no hyper.

use std::cell::Cell;
use std::rc::Rc;

/// The state of the requests of a connection, or of one request of a connection that has several
/// at a time (HTTP/2).
#[derive(Default)]
pub struct Exchange {
    /// How many requests hyper has read whose responses are not complete yet.
    in_service: Cell<u32>,
    /// Whether the bytes that hyper writes answer a request. If they do not, they are hyper's own
    /// answer to a request that it could not read; `connection::unparsed` makes a better one.
    pub owes: Cell<bool>,
    /// How many requests have begun on this connection.
    pub requests: Cell<u64>,
    /// A count that changes when a part of a body has come or gone.
    pub moved: Cell<u64>,
    /// Whether srv has refused a request. The client then gets an answer, and the connection
    /// ends, although the client may still be sending.
    pub refused: Cell<bool>,
    /// Whether an application answers the last request.
    pub asks: Cell<bool>,
    /// Whether its answer has begun.
    pub answers: Cell<bool>,
    /// Whether that application needs more of the request's body, which the client has not sent.
    pub awaits_client: Cell<bool>,
    /// The status with which srv answers the request in service beside hyper; 0: it does not.
    pub answered_beside: Cell<u16>,
    /// When the turn that goes on now began, ns of `CLOCK_MONOTONIC`.
    pub turn_ns: Cell<u64>,
    /// When the first byte of the request came that has not begun yet, ns; 0: it is not known.
    pub first_byte_ns: Cell<u64>,
    /// Whether the connection has several requests at a time.
    pub is_streamed: bool,
    /// How many of several requests wait for an application.
    waiting: Cell<u32>,
    /// The connection of one of several requests.
    connection: Option<Rc<Exchange>>,
}

impl Exchange {
    /// The state of a connection whose first answer is on its way.
    pub fn answering() -> Self {
        let exchange = Self::default();
        exchange.owes.set(true);
        exchange.requests.set(1);
        exchange
    }

    /// The state of a connection that has several requests at a time. srv always owes bytes.
    pub fn streamed() -> Self {
        Self {
            owes: Cell::new(true),
            is_streamed: true,
            ..Self::default()
        }
    }

    /// The state for the next request of the connection whose state is `self`.
    pub(super) fn next(self: &Rc<Self>) -> Rc<Self> {
        match self.is_streamed {
            true => Rc::new(Self {
                connection: Some(self.clone()),
                turn_ns: self.turn_ns.clone(),
                ..Self::streamed()
            }),
            false => self.clone(),
        }
    }

    /// When the request began that has not been read whole, ns.
    pub fn begun_ns(&self) -> u64 {
        match self.first_byte_ns.get() {
            0 => self.turn_ns.get(),
            first_byte_ns => first_byte_ns,
        }
    }

    /// A request has begun: when that was, ns.
    pub(super) fn begin(&self) -> u64 {
        let begun_ns = self.begun_ns();
        self.first_byte_ns.set(0);
        self.in_service.set(self.in_service.get() + 1);
        self.owes.set(true);
        self.asks.set(false);
        self.answers.set(false);
        self.awaits_client.set(false);
        self.requests.set(self.requests.get() + 1);
        if let Some(connection) = &self.connection {
            connection.begin();
        }
        begun_ns
    }

    /// A request has been answered, or abandoned.
    pub(super) fn end(&self) {
        self.waits(false);
        self.in_service.set(self.in_service.get() - 1);
        if let Some(connection) = &self.connection {
            connection.end();
        }
    }

    /// Whether a request is being answered.
    pub fn is_in_service(&self) -> bool {
        self.in_service.get() > 0
    }

    /// A part of a body has come or gone.
    pub(super) fn moves(&self) {
        self.moved.set(self.moved.get() + 1);
        if let Some(connection) = &self.connection {
            connection.moves();
        }
    }

    /// Notes for one of several requests whether it waits for an application.
    pub(super) fn waits(&self, waits: bool) {
        let Some(connection) = &self.connection else {
            return;
        };
        let before = self.waiting.replace(u32::from(waits));
        let all = &connection.waiting;
        all.set(all.get() + u32::from(waits) - before);
    }

    /// Whether the request waits for an application, and not for the client; of several requests,
    /// one.
    pub fn waits_for_application(&self) -> bool {
        match self.is_streamed {
            true => self.waiting.get() > 0,
            false => self.is_in_service() && self.asks.get() && !self.awaits_client.get(),
        }
    }

    /// Notes that hyper has written all that it had to write.
    pub fn flushed(&self) {
        if !self.is_in_service() && !self.is_streamed {
            self.owes.set(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_its_requests_and_which_of_them_wait() {
        let connection = Rc::new(Exchange::streamed());
        let (one, other) = (connection.next(), connection.next());
        one.begin();
        other.begin();
        assert!(connection.is_in_service() && !connection.waits_for_application());
        one.waits(true);
        one.waits(true);
        other.moves();
        assert!(connection.waits_for_application());
        assert_eq!((connection.requests.get(), connection.moved.get()), (2, 1));
        one.end();
        assert!(connection.is_in_service() && !connection.waits_for_application());
        other.end();
        assert!(!connection.is_in_service());
    }

    #[test]
    fn a_connection_with_one_request_at_a_time_has_one_state() {
        let connection = Rc::new(Exchange::default());
        assert!(Rc::ptr_eq(&connection, &connection.next()));
        connection.begin();
        connection.asks.set(true);
        assert!(connection.waits_for_application());
        connection.awaits_client.set(true);
        assert!(!connection.waits_for_application());
        connection.end();
        connection.flushed();
        assert!(!connection.owes.get() && !connection.is_in_service());
    }
}
