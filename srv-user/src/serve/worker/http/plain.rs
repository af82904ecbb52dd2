//! Requests that can be answered without hyper: a GET or HEAD without a body and without anything
//! that asks for more than an answer. The parser is hyper's, with hyper's settings; what this
//! module does not know is hyper's. These functions are pure.

use std::mem::MaybeUninit;

use httparse::{Header, Request, Status};

use super::host;

/// The most header lines of a plain request. hyper reads up to 100.
const HEADERS_MAX: usize = 32;

/// A request, and how its connection goes on.
#[derive(Debug)]
pub(super) struct Plain<'a, 'h> {
    /// Whether it is a HEAD.
    pub(super) is_head: bool,
    /// Its target, as it was sent.
    pub(super) target: &'a str,
    pub(super) headers: &'h [Header<'a>],
    pub(super) is_http_11: bool,
    /// Whether the connection goes on after the answer.
    pub(super) keeps_alive: bool,
    /// Its length, with empty lines before it.
    pub(super) bytes: usize,
}

/// Room for the header lines of a request.
pub(super) struct Room<'a>([MaybeUninit<Header<'a>>; HEADERS_MAX]);

impl Room<'_> {
    pub(super) fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; HEADERS_MAX])
    }
}

impl<'a, 'h> Plain<'a, 'h> {
    /// The first request in `read`, if it is complete and plain.
    pub(super) fn parse(read: &'a [u8], room: &'h mut Room<'a>) -> Option<Self> {
        let mut request = Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(read, &mut room.0);
        let Ok(Status::Complete(bytes)) = parsed else {
            return None;
        };
        let is_head = match request.method? {
            "GET" => false,
            "HEAD" => true,
            _ => return None,
        };
        let is_http_11 = request.version? == 1;
        let target = request.path?;
        let headers: &'h [Header<'a>] = request.headers;
        let mut has_host = false;
        let mut says = None;
        for header in headers {
            match Meaning::of(header.name) {
                Meaning::None => {}
                Meaning::Host if !has_host && host::is_valid(header.value) => has_host = true,
                Meaning::Connection if says.is_none() => says = Some(header.value),
                // hyper refuses it, or it asks for more.
                _ => return None,
            }
        }
        if is_http_11 && !has_host {
            return None;
        }
        let keeps_alive = match says {
            None => is_http_11,
            Some(value) if value.eq_ignore_ascii_case(b"close") => false,
            Some(value) if value.eq_ignore_ascii_case(b"keep-alive") => true,
            Some(_) => return None,
        };
        Some(Self {
            is_head,
            target,
            headers,
            is_http_11,
            keeps_alive,
            bytes,
        })
    }
}

/// What a header line means to a connection.
enum Meaning {
    /// Nothing.
    None,
    Host,
    Connection,
    /// A body, or a change of protocol.
    More,
}

impl Meaning {
    fn of(name: &str) -> Self {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        // Few names have one of these lengths.
        match name.len() {
            4 if is("host") => Self::Host,
            10 if is("connection") => Self::Connection,
            6 if is("expect") => Self::More,
            7 if is("upgrade") => Self::More,
            14 if is("content-length") => Self::More,
            17 if is("transfer-encoding") => Self::More,
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(read: &str) -> Option<(bool, String, bool, usize)> {
        let mut room = Room::new();
        let plain = Plain::parse(read.as_bytes(), &mut room)?;
        let target = plain.target.to_owned();
        Some((plain.is_head, target, plain.keeps_alive, plain.bytes))
    }

    #[test]
    fn plain_requests_are_read() {
        for (request, is_head, keeps_alive) in [
            ("GET /a HTTP/1.1\r\nHost: a\r\n\r\n", false, true),
            ("HEAD /a HTTP/1.1\r\nhost:a:80\r\nX: y\r\n\r\n", true, true),
            (
                "\r\nGET /a HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n",
                false,
                false,
            ),
            ("GET /a HTTP/1.0\n\n", false, false),
            (
                "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
                false,
                true,
            ),
        ] {
            let expected = (is_head, "/a".to_owned(), keeps_alive, request.len());
            assert_eq!(parse(request), Some(expected.clone()), "{request}");
            let more = format!("{request}GET /");
            assert_eq!(parse(&more), Some(expected), "{more}");
        }
    }

    #[test]
    fn all_else_is_left_to_hyper() {
        for request in [
            "",
            "GET /a HTTP/1.1\r\nHost: a\r\n",
            "GET /a HTTP/1.2\r\nHost: a\r\n\r\n",
            "get /a HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a HTTP/1.1\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET /a HTTP/1.0\r\nHost: a,b\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close, upgrade\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nConnection: close\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n",
        ] {
            assert_eq!(parse(request), None, "{request}");
        }
        let many = format!(
            "GET /a HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "X: y\r\n".repeat(HEADERS_MAX)
        );
        assert_eq!(parse(&many), None);
    }
}
