//! The end of a connection that answers: what a client asks for, and how the answer is written.

use bytes::{Buf, Bytes};

use super::record::{self, Decoder, Fragment, Kind};
use super::{Fault, ProtocolStatus, pairs};

/// The body of FCGI_BEGIN_REQUEST.
const BEGIN_BYTES: usize = 8;

/// FCGI_RESPONDER
const RESPONDER: u16 = 1;

/// FCGI_KEEP_CONN
const KEEP_CONNECTION: u8 = 1;

/// What a client may ask for of this application, at most; the protocol has three short names.
const VALUES_BYTES: usize = 1 << 10;

/// Appends a part of the answer.
pub fn put_stdout(out: &mut Vec<u8>, request_id: u16, content: &[u8]) {
    record::put(out, Kind::Stdout, request_id, content);
}

/// Appends a part of what belongs into the client's log.
pub fn put_stderr(out: &mut Vec<u8>, request_id: u16, content: &[u8]) {
    record::put(out, Kind::Stderr, request_id, content);
}

/// Appends the end of the answer, if there was one.
pub fn put_end_of_stdout(out: &mut Vec<u8>, request_id: u16) {
    record::put_end_of_stream(out, Kind::Stdout, request_id);
}

/// Appends the end of a request.
pub fn put_end(out: &mut Vec<u8>, request_id: u16, app_status: u32, status: ProtocolStatus) {
    let [a, b, c, d] = app_status.to_be_bytes();
    let body = [a, b, c, d, status.code(), 0, 0, 0];
    record::put(out, Kind::EndRequest, request_id, &body);
}

/// What this application says of itself (FCGI_GET_VALUES).
#[derive(Clone, Copy, Debug)]
pub struct Values {
    /// FCGI_MAX_CONNS
    pub max_connections: u32,
    /// FCGI_MAX_REQS
    pub max_requests: u32,
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request has begun, and its parameters are complete.
    Request {
        /// Its id, which the answer repeats.
        request_id: u16,
        /// Whether the client wants to use the connection afterwards.
        keeps_connection: bool,
        /// The parameters in the order in which they came. A name may occur twice.
        params: Vec<(Bytes, Bytes)>,
    },
    /// A part of the body. Never empty.
    Stdin(Bytes),
    /// The body has ended.
    EndOfStdin,
    /// The client does not want the answer any more.
    Abort,
    /// The client is owed these bytes, whatever the request does.
    Reply(Vec<u8>),
}

/// A request that has begun.
#[derive(Debug)]
struct Active {
    request_id: u16,
    keeps_connection: bool,
    /// `None` once they are complete.
    params: Option<Vec<u8>>,
    stdin_ended: bool,
}

/// What one client asks for: one request at a time.
#[derive(Debug)]
pub struct Requests {
    decoder: Decoder,
    values: Values,
    params_bytes: usize,
    active: Option<Active>,
    /// A record that has to be whole.
    collected: Vec<u8>,
}

impl Requests {
    /// Nothing yet. Parameters of more than `params_bytes` are a fault.
    pub fn new(values: Values, params_bytes: usize) -> Self {
        Self {
            decoder: Decoder::default(),
            values,
            params_bytes,
            active: None,
            collected: Vec::new(),
        }
    }

    /// The request was answered: what still comes of it is ignored, and another may begin.
    pub fn end_request(&mut self) {
        self.active = None;
    }

    /// Whether a request has begun and was not ended.
    pub fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// Takes the next event off `input`. `None`: all of `input` is used up.
    ///
    /// # Errors
    /// The client says what is not FastCGI, or what is out of order or beyond its bounds.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Event>, Fault> {
        loop {
            let Some(fragment) = self.decoder.decode(input)? else {
                return Ok(None);
            };
            let event = if fragment.request_id == 0 {
                self.about_connection(fragment)?
            } else if fragment.kind == Kind::BeginRequest {
                self.begin(fragment)?
            } else {
                self.about_request(fragment)?
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Collects a record that has to be whole, and has at most `bound` bytes.
    fn collect(&mut self, fragment: &Fragment, bound: usize) -> Result<Option<Vec<u8>>, Fault> {
        if usize::from(fragment.record_bytes) > bound {
            return Err(Fault::TooLarge);
        }
        self.collected.extend_from_slice(&fragment.content);
        Ok(fragment
            .is_last
            .then(|| std::mem::take(&mut self.collected)))
    }

    fn about_connection(&mut self, fragment: Fragment) -> Result<Option<Event>, Fault> {
        let mut reply = Vec::new();
        match fragment.kind {
            Kind::GetValues => {
                let Some(asked) = self.collect(&fragment, VALUES_BYTES)? else {
                    return Ok(None);
                };
                let known = self.known(asked.into())?;
                record::put(&mut reply, Kind::GetValuesResult, 0, &known);
                if known.is_empty() {
                    record::put_end_of_stream(&mut reply, Kind::GetValuesResult, 0);
                }
            }
            _ if !fragment.is_last => return Ok(None),
            kind => {
                let body = [kind.code(), 0, 0, 0, 0, 0, 0, 0];
                record::put(&mut reply, Kind::UnknownType, 0, &body);
            }
        }
        Ok(Some(Event::Reply(reply)))
    }

    /// The values of the names that are `asked` for and known, each once.
    fn known(&self, asked: Bytes) -> Result<Vec<u8>, Fault> {
        let asked = pairs::parse(asked)?;
        let mut known = Vec::new();
        for (name, value) in [
            ("FCGI_MAX_CONNS", self.values.max_connections),
            ("FCGI_MAX_REQS", self.values.max_requests),
            ("FCGI_MPXS_CONNS", 0),
        ] {
            if asked.iter().any(|(asked, _)| asked == name) {
                pairs::put(&mut known, name.as_bytes(), value.to_string().as_bytes());
            }
        }
        Ok(known)
    }

    fn begin(&mut self, fragment: Fragment) -> Result<Option<Event>, Fault> {
        if usize::from(fragment.record_bytes) != BEGIN_BYTES {
            return Err(Fault::Size);
        }
        let Some(body) = self.collect(&fragment, BEGIN_BYTES)? else {
            return Ok(None);
        };
        let mut body = body.as_slice();
        let (role, flags) = (body.get_u16(), body.get_u8());
        let request_id = fragment.request_id;
        let refusal = match &self.active {
            Some(active) if active.request_id == request_id => {
                return Err(Fault::RequestId(request_id));
            }
            Some(_) => Some(ProtocolStatus::CannotMultiplex),
            None if role != RESPONDER => Some(ProtocolStatus::UnknownRole),
            None => None,
        };
        if let Some(refusal) = refusal {
            let mut reply = Vec::new();
            put_end(&mut reply, request_id, 0, refusal);
            return Ok(Some(Event::Reply(reply)));
        }
        self.active = Some(Active {
            request_id,
            keeps_connection: flags & KEEP_CONNECTION != 0,
            params: Some(Vec::new()),
            stdin_ended: false,
        });
        Ok(None)
    }

    fn about_request(&mut self, fragment: Fragment) -> Result<Option<Event>, Fault> {
        let active = self.active.as_mut();
        // "The application ignores records with inactive request ids" (section 3.3).
        let Some(active) = active.filter(|active| active.request_id == fragment.request_id) else {
            return Ok(None);
        };
        match fragment.kind {
            Kind::Params => active.params(&fragment, self.params_bytes),
            Kind::Stdin if active.params.is_some() => Err(Fault::Kind(fragment.kind.code())),
            Kind::Stdin => active.stdin(fragment),
            Kind::AbortRequest => Ok(fragment.is_last.then_some(Event::Abort)),
            kind => Err(Fault::Kind(kind.code())),
        }
    }
}

impl Active {
    fn params(&mut self, fragment: &Fragment, bound: usize) -> Result<Option<Event>, Fault> {
        let Some(params) = &mut self.params else {
            return Err(Fault::AfterEndOfStream);
        };
        if params.len() + fragment.content.len() > bound {
            return Err(Fault::TooLarge);
        }
        params.extend_from_slice(&fragment.content);
        if !fragment.is_end_of_stream() {
            return Ok(None);
        }
        let params = pairs::parse(std::mem::take(params).into())?;
        self.params = None;
        Ok(Some(Event::Request {
            request_id: self.request_id,
            keeps_connection: self.keeps_connection,
            params,
        }))
    }

    fn stdin(&mut self, fragment: Fragment) -> Result<Option<Event>, Fault> {
        match (fragment.is_end_of_stream(), self.stdin_ended) {
            (true, true) => Ok(None),
            (true, false) => {
                self.stdin_ended = true;
                Ok(Some(Event::EndOfStdin))
            }
            (false, true) => Err(Fault::AfterEndOfStream),
            (false, false) => Ok(Some(Event::Stdin(fragment.content))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fastcgi::client;

    const VALUES: Values = Values {
        max_connections: 100,
        max_requests: 10,
    };

    /// What a client says in `bytes` that arrive in portions; neighbouring parts of a body are joined.
    fn events(bytes: &[u8], portion: usize) -> Result<Vec<Event>, Fault> {
        let mut requests = Requests::new(VALUES, 256);
        let mut events: Vec<Event> = Vec::new();
        for portion in bytes.chunks(portion) {
            let mut input = Bytes::copy_from_slice(portion);
            while let Some(event) = requests.next(&mut input)? {
                match (events.last_mut(), event) {
                    (Some(Event::Stdin(before)), Event::Stdin(more)) => {
                        *before = [before.as_ref(), &more].concat().into();
                    }
                    (_, event) => events.push(event),
                }
            }
        }
        Ok(events)
    }

    fn record(kind: Kind, id: u16, content: &[u8]) -> Vec<u8> {
        let mut out = record::header(kind, id, content.len() as u16).to_vec();
        out.extend_from_slice(content);
        out
    }

    fn begin(id: u16, role: u8) -> Vec<u8> {
        record(Kind::BeginRequest, id, &[0, role, 0, 0, 0, 0, 0, 0])
    }

    fn request(pairs_of: &[(&'static str, &'static str)], keeps_connection: bool) -> Event {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        Event::Request {
            request_id: client::REQUEST_ID,
            keeps_connection,
            params: pairs_of
                .iter()
                .map(|(name, value)| (bytes(name), bytes(value)))
                .collect(),
        }
    }

    #[test]
    fn what_a_client_writes_is_read() {
        let mut params = Vec::new();
        pairs::put(&mut params, b"A", b"b");
        pairs::put(&mut params, b"A", b"");
        let mut out = Vec::new();
        client::put_request(&mut out, &params, true);
        client::put_body(&mut out, b"body");
        client::put_end_of_body(&mut out);
        client::put_abort(&mut out);
        let expected = [
            request(&[("A", "b"), ("A", "")], true),
            Event::Stdin(Bytes::from_static(b"body")),
            Event::EndOfStdin,
            Event::Abort,
        ];
        for portion in 1..=out.len() {
            assert_eq!(events(&out, portion).unwrap(), expected, "{portion}");
        }
    }

    #[test]
    fn a_client_learns_what_it_asks_for() {
        let mut asked = Vec::new();
        for name in ["FCGI_MPXS_CONNS", "FCGI_MAX_REQS", "FCGI_MAX_REQS", "X"] {
            pairs::put(&mut asked, name.as_bytes(), b"");
        }
        let mut known = Vec::new();
        pairs::put(&mut known, b"FCGI_MAX_REQS", b"10");
        pairs::put(&mut known, b"FCGI_MPXS_CONNS", b"0");
        let bytes = [
            record(Kind::GetValues, 0, &asked),
            record(Kind::GetValues, 0, b""),
            record(Kind::Other(77), 0, b"whatever"),
        ]
        .concat();
        let expected = [
            Event::Reply(record(Kind::GetValuesResult, 0, &known)),
            Event::Reply(record(Kind::GetValuesResult, 0, b"")),
            Event::Reply(record(Kind::UnknownType, 0, &[77, 0, 0, 0, 0, 0, 0, 0])),
        ];
        for portion in 1..=bytes.len() {
            assert_eq!(events(&bytes, portion).unwrap(), expected, "{portion}");
        }
    }

    #[test]
    fn another_role_and_a_second_request_are_refused() {
        let end = |id, status| {
            let mut out = Vec::new();
            put_end(&mut out, id, 0, status);
            Event::Reply(out)
        };
        let bytes = [
            begin(7, 3),
            begin(1, 1),
            begin(2, 1),
            // Of a request that was refused.
            record(Kind::Params, 2, b"x"),
            record(Kind::AbortRequest, 2, b""),
            record(Kind::Params, 1, b""),
        ]
        .concat();
        let expected = [
            end(7, ProtocolStatus::UnknownRole),
            end(2, ProtocolStatus::CannotMultiplex),
            request(&[], false),
        ];
        assert_eq!(events(&bytes, 5).unwrap(), expected);
    }

    #[test]
    fn what_is_out_of_order_is_a_fault() {
        let body = [
            begin(1, 1),
            record(Kind::Params, 1, b""),
            record(Kind::Stdin, 1, b""),
        ]
        .concat();
        for (bytes, fault) in [
            ([begin(1, 1), begin(1, 1)].concat(), Fault::RequestId(1)),
            (
                [begin(1, 1), record(Kind::Stdin, 1, b"x")].concat(),
                Fault::Kind(5),
            ),
            (
                [begin(1, 1), record(Kind::Stdout, 1, b"x")].concat(),
                Fault::Kind(6),
            ),
            (
                [begin(1, 1), record(Kind::Params, 1, &[0; 257])].concat(),
                Fault::TooLarge,
            ),
            (record(Kind::GetValues, 0, &[0; 2000]), Fault::TooLarge),
            (
                [
                    begin(1, 1),
                    record(Kind::Params, 1, b"\x05"),
                    record(Kind::Params, 1, b""),
                ]
                .concat(),
                Fault::Pairs,
            ),
            (record(Kind::BeginRequest, 1, b"1234567"), Fault::Size),
            (
                [body.clone(), record(Kind::Stdin, 1, b"x")].concat(),
                Fault::AfterEndOfStream,
            ),
            (
                [body, record(Kind::Params, 1, b"x")].concat(),
                Fault::AfterEndOfStream,
            ),
        ] {
            for portion in [1, 3, bytes.len()] {
                assert_eq!(
                    events(&bytes, portion),
                    Err(fault),
                    "{bytes:?} by {portion}"
                );
            }
        }
    }

    #[test]
    fn what_still_comes_of_an_ended_request_is_ignored() {
        let mut requests = Requests::new(VALUES, 256);
        let mut start = Bytes::from([begin(1, 1), record(Kind::Params, 1, b"")].concat());
        assert_eq!(
            requests.next(&mut start).unwrap(),
            Some(request(&[], false))
        );
        requests.end_request();
        let rest = [record(Kind::Stdin, 1, b"late"), record(Kind::Stdin, 1, b"")].concat();
        let next = [begin(1, 1), record(Kind::Params, 1, b"")].concat();
        let mut input = Bytes::from([rest, next].concat());
        assert_eq!(
            requests.next(&mut input).unwrap(),
            Some(request(&[], false))
        );
    }

    proptest! {
        #[test]
        fn any_records_give_events_or_a_fault(
            records in prop::collection::vec((1..13_u8, 0..3_u16, 0..12_usize), 0..12),
            portion in 1..40_usize,
        ) {
            let mut out = Vec::new();
            for (kind, id, length) in records {
                let content = if kind == 1 { vec![0, 1, 0, 0, 0, 0, 0, 0] } else { vec![0; length] };
                out.extend(record(Kind::of(kind), id, &content));
            }
            prop_assert_eq!(events(&out, portion), events(&out, out.len().max(1)));
        }
    }
}
