//! Answers without hyper: to plain requests for which the router has an answer ready. The bytes are
//! those that hyper would write, the counters those that [`super::Handler`] would move. This module
//! knows no sockets.

use std::cell::{Cell, Ref, RefCell};

use bytes::Bytes;

use super::Http;
use super::date::DateLine;
use super::ended::Ended;
use super::logged::{self, Entry};
use super::plain::{Plain, Room};
use crate::serve::router::Client;
use crate::serve::site::{PlainRequest, Ready};
use crate::values::LogId;

/// Up to this size, bytes, a body is copied behind its header: one buffer costs the kernel less
/// than two.
const COPIED_BYTES: usize = 8 << 10;

/// What the answers of a worker share.
#[derive(Default)]
pub struct AtOnce {
    date: DateLine,
    /// The last answer's header, and its body if that is small.
    start: RefCell<Vec<u8>>,
    /// What the client has said in that request, if it is to be logged.
    said: RefCell<Vec<u8>>,
    /// How many requests were answered so.
    answered: Cell<u64>,
}

/// An answer to the first request of what was read.
pub struct Answer<'a> {
    /// The length of that request.
    pub request_bytes: usize,
    /// How the request has ended.
    pub ended: Ended,
    log: Option<LogId>,
    client: Client,
    is_http_11: bool,
    said: Ref<'a, [u8]>,
    /// Whether the answer is the connection's last.
    pub is_last: bool,
    /// The header, and the body if that is small.
    pub start: Ref<'a, [u8]>,
    /// The rest of the body.
    pub rest: Bytes,
}

impl Answer<'_> {
    /// What the request leaves for the access log, if it is to be logged.
    pub fn entry(&self) -> Option<Entry<'_>> {
        let log = self.log?;
        Some(Entry::plain(log, self.client, self.is_http_11, &self.said))
    }
}

impl AtOnce {
    /// How many requests were answered so.
    #[cfg(test)]
    pub(in crate::serve::worker) fn answered(&self) -> u64 {
        self.answered.get()
    }

    /// Counts them from here on.
    #[cfg(test)]
    pub(in crate::serve::worker) fn forget_answered(&self) {
        self.answered.set(0);
    }

    /// Answers the first request of `read`, which `client` sent and which came at `begun_ns`. `None`:
    /// hyper has to read it.
    pub fn answer(
        &self,
        http: &Http,
        client: Client,
        begun_ns: u64,
        read: &[u8],
    ) -> Option<Answer<'_>> {
        let mut room = Room::new();
        let plain = Plain::parse(read, &mut room)?;
        if plain.bytes > http.limits.header_bytes {
            return None;
        }
        let request = PlainRequest {
            is_head: plain.is_head,
            target: plain.target,
            headers: plain.headers,
        };
        let ready = http.router.ready(&request, client)?;
        http.published.started();
        let ended = Ended {
            body_bytes: ready.body.len() as u64,
            ..Ended::by(&ready.head, begun_ns)
        };
        let log = ready.log;
        if log.is_some() {
            logged::write_said(&plain, &mut self.said.borrow_mut());
        }
        let rest = self.write(&plain, ready);
        http.published.finished();
        self.answered.set(self.answered.get() + 1);
        Some(Answer {
            request_bytes: plain.bytes,
            ended,
            log,
            client,
            is_http_11: plain.is_http_11,
            said: Ref::map(self.said.borrow(), Vec::as_slice),
            is_last: !plain.keeps_alive,
            start: Ref::map(self.start.borrow(), Vec::as_slice),
            rest,
        })
    }

    /// Writes the answer's header, and its body if that is small. Returns the rest of the body.
    fn write(&self, plain: &Plain<'_, '_>, ready: Ready<'_>) -> Bytes {
        let mut start = self.start.borrow_mut();
        start.clear();
        start.extend_from_slice(match plain.is_http_11 {
            true => b"HTTP/1.1",
            false => b"HTTP/1.0",
        });
        start.extend_from_slice(&ready.head);
        start.extend_from_slice(ready.signature);
        // hyper says how the connection goes on if the client's version implies the opposite.
        match (plain.is_http_11, plain.keeps_alive) {
            (true, false) => start.extend_from_slice(b"connection: close\r\n"),
            (false, true) => start.extend_from_slice(b"connection: keep-alive\r\n"),
            _ => {}
        }
        start.extend_from_slice(&self.date.now());
        match ready.body.len() {
            ..=COPIED_BYTES => {
                start.extend_from_slice(&ready.body);
                Bytes::new()
            }
            _ => ready.body,
        }
    }
}
