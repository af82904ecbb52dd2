//! What a client says on its connection: its bytes become events, some of which wait. Knows no scripts.

use std::future::pending;
use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, ReadHalf};

use super::listener::Stream;
use crate::fastcgi::server::{Event, Requests, Values};

/// How much of a client's bytes is read at once.
const READ_BYTES: usize = 32 << 10;

/// More than the headers that any server takes.
const PARAMS_BYTES: usize = 256 << 10;

/// How much of a body is kept while its request waits for a place.
const WAITING_BODY_BYTES: usize = 64 << 10;

/// What a client says.
pub(super) struct Incoming {
    reader: ReadHalf<Box<dyn Stream>>,
    requests: Requests,
    /// What was read and not looked at.
    input: Bytes,
    buffer: BytesMut,
    /// Events that came while the request waited.
    waiting: Vec<Event>,
    /// What the client is to get as soon as no answer is under way.
    owed: Vec<u8>,
}

impl Incoming {
    /// Of a client that may ask for `values`.
    pub(super) fn new(reader: ReadHalf<Box<dyn Stream>>, values: Values) -> Self {
        Self {
            reader,
            requests: Requests::new(values, PARAMS_BYTES),
            input: Bytes::new(),
            buffer: BytesMut::new(),
            waiting: Vec::new(),
            owed: Vec::new(),
        }
    }

    /// Whether a request has begun and was not ended.
    pub(super) fn is_active(&self) -> bool {
        self.requests.is_active()
    }

    /// The request was answered: what still comes of it is ignored.
    pub(super) fn end_request(&mut self) {
        self.requests.end_request();
        self.waiting.clear();
    }

    /// Takes what the client is owed.
    pub(super) fn take_owed(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.owed)
    }

    /// What the client says next. `None`: it has closed the connection. This may be dropped and called
    /// again.
    ///
    /// # Errors
    /// It does not speak FastCGI, or the connection is broken.
    pub(super) async fn next(&mut self) -> io::Result<Option<Event>> {
        if !self.waiting.is_empty() {
            return Ok(Some(self.waiting.remove(0)));
        }
        self.read_next().await
    }

    /// Keeps what the client is owed.
    pub(super) fn owe(&mut self, reply: Vec<u8>) {
        // A client that asks without end, and reads nothing, is owed no more than that.
        if self.owed.len() < READ_BYTES {
            self.owed.extend(reply);
        }
    }

    async fn read_next(&mut self) -> io::Result<Option<Event>> {
        loop {
            let event = self.requests.next(&mut self.input);
            if let Some(event) = event.map_err(io::Error::other)? {
                return Ok(Some(event));
            }
            self.buffer.reserve(READ_BYTES);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
            self.input = self.buffer.split().freeze();
        }
    }

    /// Reads what the client still sends, until it closes.
    pub(super) async fn discard(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            self.buffer.reserve(READ_BYTES);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Collects a part of the body while the request waits. This ends only if the client wants no answer.
    pub(super) async fn collect(&mut self) -> io::Result<()> {
        let mut collected = 0;
        while collected < WAITING_BODY_BYTES {
            match self.read_next().await? {
                None | Some(Event::Abort) => return Ok(()),
                Some(Event::Reply(reply)) => self.owe(reply),
                Some(event) => {
                    // Each event costs memory of its own, too.
                    collected += 128;
                    if let Event::Stdin(content) = &event {
                        collected += content.len();
                    }
                    self.waiting.push(event);
                }
            }
        }
        pending().await
    }
}
