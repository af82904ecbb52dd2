//! The end of a connection that asks: how a request is written, and what an application's answer
//! consists of.

use bytes::{Buf, Bytes};

use super::record::{self, Decoder, Fragment, Kind};
use super::{Fault, ProtocolStatus};

/// The id of the only request of a connection.
pub const REQUEST_ID: u16 = 1;

/// FCGI_RESPONDER
const RESPONDER: u8 = 1;

/// FCGI_KEEP_CONN
const KEEP_CONNECTION: u8 = 1;

/// The body of FCGI_END_REQUEST.
const END_BYTES: usize = 8;

/// The start of a request: its role and its parameters. The body follows, by [`put_body`] and
/// [`put_end_of_body`].
#[derive(Debug)]
pub struct Start(Vec<u8>);

/// As much as the start of most requests takes, bytes.
const START_BYTES: usize = 2 << 10;

/// Where the parameters begin: behind the record of the role and the header of their own.
const PAIRS_AT: usize = record::HEADER_BYTES + BEGIN_BYTES + record::HEADER_BYTES;

/// The body of FCGI_BEGIN_REQUEST.
const BEGIN_BYTES: usize = 8;

impl Start {
    /// A request without parameters.
    pub fn new(keeps_connection: bool) -> Self {
        let flags = if keeps_connection { KEEP_CONNECTION } else { 0 };
        let begin: [u8; BEGIN_BYTES] = [0, RESPONDER, flags, 0, 0, 0, 0, 0];
        let mut out = Vec::with_capacity(START_BYTES);
        record::put(&mut out, Kind::BeginRequest, REQUEST_ID, &begin);
        out.extend_from_slice(&record::header(Kind::Params, REQUEST_ID, 0));
        Self(out)
    }

    /// Where the parameters are appended, as [`super::pairs`] writes them.
    pub fn pairs(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// All of it as records.
    pub fn into_records(self) -> Vec<u8> {
        let Self(mut out) = self;
        match u16::try_from(out.len() - PAIRS_AT) {
            // The header is there already, and would end the stream.
            Ok(0) => return out,
            Ok(length) => {
                let header = record::header(Kind::Params, REQUEST_ID, length);
                out[PAIRS_AT - header.len()..PAIRS_AT].copy_from_slice(&header);
            }
            Err(_) => {
                let pairs = out.split_off(PAIRS_AT);
                out.truncate(PAIRS_AT - record::HEADER_BYTES);
                record::put(&mut out, Kind::Params, REQUEST_ID, &pairs);
            }
        }
        record::put_end_of_stream(&mut out, Kind::Params, REQUEST_ID);
        out
    }
}

/// Appends the start of a request with these parameters.
pub fn put_request(out: &mut Vec<u8>, pairs: &[u8], keeps_connection: bool) {
    let mut start = Start::new(keeps_connection);
    start.pairs().extend_from_slice(pairs);
    out.extend(start.into_records());
}

/// Appends a part of the body, copied. [`body_header`] is for parts that are not to be copied.
pub fn put_body(out: &mut Vec<u8>, body: &[u8]) {
    record::put(out, Kind::Stdin, REQUEST_ID, body);
}

/// What goes before a part of the body, `length` bytes from 1 to [`record::CONTENT_BYTES`].
pub const fn body_header(length: u16) -> [u8; record::HEADER_BYTES] {
    record::header(Kind::Stdin, REQUEST_ID, length)
}

/// Appends the end of the body, which a request without a body needs as well.
pub fn put_end_of_body(out: &mut Vec<u8>) {
    record::put_end_of_stream(out, Kind::Stdin, REQUEST_ID);
}

/// Appends that the answer is not wanted any more. The application still ends the request.
pub fn put_abort(out: &mut Vec<u8>) {
    record::put_end_of_stream(out, Kind::AbortRequest, REQUEST_ID);
}

/// What an application says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A part of the answer: the CGI header, then the body. Never empty.
    Stdout(Bytes),
    /// A part of what belongs into a log. Never empty.
    Stderr(Bytes),
    /// The request has ended.
    End {
        /// The exit status of a program; 0 if it succeeded.
        app_status: u32,
        /// What the application says of the request.
        protocol_status: ProtocolStatus,
    },
}

/// The answer to one request.
#[derive(Debug, Default)]
pub struct Answer {
    decoder: Decoder,
    stdout_ended: bool,
    stderr_ended: bool,
    end: [u8; END_BYTES],
    end_filled: usize,
    has_ended: bool,
}

impl Answer {
    /// Takes the next event off `input`. `None`: all of `input` is used up. If the connection ends
    /// without [`Event::End`], the application has broken off.
    ///
    /// # Errors
    /// The application says what is not FastCGI, or what is out of order.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Event>, Fault> {
        loop {
            let Some(fragment) = self.decoder.decode(input)? else {
                return Ok(None);
            };
            if self.has_ended {
                return Err(Fault::AfterEnd);
            }
            if fragment.request_id != REQUEST_ID {
                return Err(Fault::RequestId(fragment.request_id));
            }
            let event = match fragment.kind {
                Kind::Stdout => content(fragment, &mut self.stdout_ended)?.map(Event::Stdout),
                Kind::Stderr => content(fragment, &mut self.stderr_ended)?.map(Event::Stderr),
                Kind::EndRequest => self.end(fragment)?,
                kind => return Err(Fault::Kind(kind.code())),
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Whether the request has ended and the next one can follow on the connection.
    pub fn is_complete(&self) -> bool {
        self.has_ended && self.decoder.is_between_records()
    }

    fn end(&mut self, fragment: Fragment) -> Result<Option<Event>, Fault> {
        if usize::from(fragment.record_bytes) != END_BYTES {
            return Err(Fault::Size);
        }
        let mut part = fragment.content;
        let length = part.len();
        // The record as a whole has this size, so that its parts fit.
        part.copy_to_slice(&mut self.end[self.end_filled..][..length]);
        self.end_filled += length;
        if !fragment.is_last {
            return Ok(None);
        }
        self.has_ended = true;
        let [a, b, c, d, protocol_status, ..] = self.end;
        Ok(Some(Event::End {
            app_status: u32::from_be_bytes([a, b, c, d]),
            protocol_status: ProtocolStatus::of(protocol_status),
        }))
    }
}

/// The content of a stream. Applications may end a stream twice: libfcgi does so at times.
fn content(fragment: Fragment, has_ended: &mut bool) -> Result<Option<Bytes>, Fault> {
    if fragment.is_end_of_stream() {
        *has_ended = true;
        return Ok(None);
    }
    match *has_ended {
        true => Err(Fault::AfterEndOfStream),
        false => Ok(Some(fragment.content)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fastcgi::server;

    /// What an answer says in `bytes` that arrive in portions; neighbouring parts of a stream are joined.
    fn events(bytes: &[u8], portion: usize) -> Result<Vec<Event>, Fault> {
        let mut answer = Answer::default();
        let mut events: Vec<Event> = Vec::new();
        for portion in bytes.chunks(portion) {
            let mut input = Bytes::copy_from_slice(portion);
            while let Some(event) = answer.next(&mut input)? {
                match (events.last_mut(), event) {
                    (Some(Event::Stdout(before)), Event::Stdout(more))
                    | (Some(Event::Stderr(before)), Event::Stderr(more)) => {
                        *before = [before.as_ref(), &more].concat().into();
                    }
                    (_, event) => events.push(event),
                }
            }
        }
        let ended = matches!(events.last(), Some(Event::End { .. }));
        assert_eq!(answer.is_complete(), ended);
        Ok(events)
    }

    fn end(app_status: u32, protocol_status: ProtocolStatus) -> Vec<u8> {
        let mut out = Vec::new();
        server::put_end(&mut out, REQUEST_ID, app_status, protocol_status);
        out
    }

    #[test]
    fn a_request_is_begun_as_the_specification_says() {
        let mut out = Vec::new();
        put_request(&mut out, b"\x01\x01AB", true);
        put_body(&mut out, b"x");
        put_end_of_body(&mut out);
        put_abort(&mut out);
        assert_eq!(
            out,
            b"\x01\x01\0\x01\0\x08\0\0\0\x01\x01\0\0\0\0\0\
              \x01\x04\0\x01\0\x04\0\0\x01\x01AB\x01\x04\0\x01\0\0\0\0\
              \x01\x05\0\x01\0\x01\0\0x\x01\x05\0\x01\0\0\0\0\
              \x01\x02\0\x01\0\0\0\0"
        );
        assert_eq!(body_header(1), *b"\x01\x05\0\x01\0\x01\0\0");
    }

    #[test]
    fn the_streams_come_apart() {
        let mut out = Vec::new();
        record::put(
            &mut out,
            Kind::Stdout,
            REQUEST_ID,
            b"Content-Type: a/b\r\n\r\n",
        );
        record::put(&mut out, Kind::Stderr, REQUEST_ID, b"note\n");
        record::put(&mut out, Kind::Stdout, REQUEST_ID, b"body");
        record::put_end_of_stream(&mut out, Kind::Stdout, REQUEST_ID);
        record::put_end_of_stream(&mut out, Kind::Stderr, REQUEST_ID);
        out.extend(end(0x0102_0304, ProtocolStatus::Overloaded));
        let expected = [
            Event::Stdout(Bytes::from_static(b"Content-Type: a/b\r\n\r\n")),
            Event::Stderr(Bytes::from_static(b"note\n")),
            Event::Stdout(Bytes::from_static(b"body")),
            Event::End {
                app_status: 0x0102_0304,
                protocol_status: ProtocolStatus::Overloaded,
            },
        ];
        for portion in 1..=out.len() {
            assert_eq!(events(&out, portion).unwrap(), expected, "{portion}");
        }
    }

    #[test]
    fn what_is_out_of_order_is_a_fault() {
        let record = |kind, id, content: &[u8]| {
            let mut out = Vec::new();
            record::put(&mut out, kind, id, content);
            out
        };
        let mut ended = Vec::new();
        record::put_end_of_stream(&mut ended, Kind::Stdout, REQUEST_ID);
        let complete = end(0, ProtocolStatus::Complete);
        for (bytes, fault) in [
            (record(Kind::Stdout, 2, b"x"), Fault::RequestId(2)),
            (record(Kind::GetValuesResult, 0, b"x"), Fault::RequestId(0)),
            (record(Kind::Stdin, 1, b"x"), Fault::Kind(5)),
            (record(Kind::Other(99), 1, b"x"), Fault::Kind(99)),
            (record(Kind::EndRequest, 1, b"1234567"), Fault::Size),
            (record(Kind::EndRequest, 1, b"123456789"), Fault::Size),
            (
                [ended.clone(), record(Kind::Stdout, 1, b"x")].concat(),
                Fault::AfterEndOfStream,
            ),
            ([complete.clone(), ended.clone()].concat(), Fault::AfterEnd),
            ([complete.clone(), complete].concat(), Fault::AfterEnd),
            (b"HTTP/1.1 200 OK".to_vec(), Fault::Version(b'H')),
        ] {
            for portion in 1..=bytes.len() {
                assert_eq!(
                    events(&bytes, portion),
                    Err(fault),
                    "{bytes:?} by {portion}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn any_records_give_events_or_a_fault(
            records in prop::collection::vec((1..13_u8, 0..3_u16, 0..12_usize), 0..12),
            portion in 1..40_usize,
        ) {
            let mut out = Vec::new();
            for (kind, id, length) in records {
                let length = if kind == 3 { 8 } else { length };
                out.extend(record::header(Kind::of(kind), id, length as u16));
                out.extend(vec![kind; length]);
            }
            let whole = events(&out, out.len().max(1));
            prop_assert_eq!(events(&out, portion), whole);
        }
    }
}
