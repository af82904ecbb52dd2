//! Messages that hyper could not read as a request: which answer each gets, or how srv reads it
//! all the same. hyper's own answers do not distinguish a target that is too long from a header
//! that is too long, or a version of HTTP that must be read as HTTP/1.1 from one that must not.
//! These functions are pure.

use bytes::Bytes;
use hyper::Error;

/// The longest target that hyper reads, bytes. It does not depend on the limit of the header.
const TARGET_BYTES_MAX: usize = 65_534;

/// What srv does with such a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unparsed {
    /// It gives hyper these bytes instead. They mean the same, and hyper can read them.
    Rewritten(Bytes),
    /// It answers with these bytes, and closes the connection.
    Refused(&'static [u8]),
}

impl Unparsed {
    /// Judges `read`, which begins with the message that hyper gave up for `error`.
    pub(super) fn judge(error: &Error, read: &Bytes) -> Self {
        if error.is_parse_too_large() {
            return Self::Refused(too_large(read));
        }
        // After any other error, hyper may have taken the header from the buffer already: what is
        // left could be the next message. hyper names this error by its text only; if hyper
        // changes the text, the answer becomes 400.
        match error.is_parse_version_h2() || error.to_string() == "invalid HTTP version parsed" {
            true => version(read),
            false => Self::Refused(BAD_REQUEST),
        }
    }
}

/// Judges a message by its version. srv reads a later minor version of HTTP/1 as the highest one
/// that it understands, HTTP/1.1 (RFC 9110, 2.5).
fn version(read: &Bytes) -> Unparsed {
    const MINOR: &[u8] = b"HTTP/1.";
    let (line, from) = request_line(read);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let start = line.iter().rposition(|byte| *byte == b' ');
    let start = start.map_or(line.len(), |space| space + 1);
    match &line[start..] {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => {
            let mut bytes = read[from..].to_vec();
            bytes[start + MINOR.len()] = b'1';
            Unparsed::Rewritten(bytes.into())
        }
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if *major != b'1' && major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Unparsed::Refused(VERSION_NOT_SUPPORTED)
        }
        _ => Unparsed::Refused(BAD_REQUEST),
    }
}

/// The answer to a message that is too long. If the target has no end, or is longer than hyper
/// reads, the target is too long; otherwise the header is.
fn too_large(read: &Bytes) -> &'static [u8] {
    let (line, _) = request_line(read);
    let mut words = line.split(|byte| *byte == b' ').skip(1);
    match (words.next(), words.next()) {
        (Some(target), Some(_)) if target.len() <= TARGET_BYTES_MAX => HEADER_TOO_LARGE,
        (Some(_), _) => URI_TOO_LONG,
        (None, _) => HEADER_TOO_LARGE,
    }
}

/// The first line that is not empty, without its line feed, and where it begins.
fn request_line(read: &[u8]) -> (&[u8], usize) {
    let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let from = read.iter().position(|byte| !is_end(byte));
    let from = from.unwrap_or(read.len());
    let rest = &read[from..];
    let length = rest.iter().position(|byte| *byte == b'\n');
    (&rest[..length.unwrap_or(rest.len())], from)
}

macro_rules! refusal {
    ($status:literal) => {
        concat!(
            "HTTP/1.1 ",
            $status,
            "\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        )
        .as_bytes()
    };
}

pub(super) const BAD_REQUEST: &[u8] = refusal!("400 Bad Request");
const URI_TOO_LONG: &[u8] = refusal!("414 URI Too Long");
const HEADER_TOO_LARGE: &[u8] = refusal!("431 Request Header Fields Too Large");
const VERSION_NOT_SUPPORTED: &[u8] = refusal!("505 HTTP Version Not Supported");

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &'static str) -> Unparsed {
        version(&Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn later_minor_versions_are_read_as_1_1() {
        for (text, rewritten) in [
            (
                "GET / HTTP/1.2\r\nHost: a\r\n\r\nGET /",
                "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /",
            ),
            ("\r\n\nGET / HTTP/1.9\r\n", "GET / HTTP/1.1\r\n"),
            ("GET / HTTP/1.3\n", "GET / HTTP/1.1\n"),
        ] {
            let rewritten = Bytes::from_static(rewritten.as_bytes());
            assert_eq!(judged(text), Unparsed::Rewritten(rewritten), "{text}");
        }
    }

    #[test]
    fn other_versions_are_named_and_what_is_none_is_malformed() {
        for text in [
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "GET / HTTP/0.9\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            assert_eq!(
                judged(text),
                Unparsed::Refused(VERSION_NOT_SUPPORTED),
                "{text}"
            );
        }
        for text in [
            "GET /\r\n",
            "",
            "GET / HTTP/1.a\r\n",
            "GET / HTTP/12.1\r\n",
            "GET / http/1.2\r\n",
            "GET / HTTP/1.1 \r\nHTTP/1.2",
        ] {
            assert_eq!(judged(text), Unparsed::Refused(BAD_REQUEST), "{text}");
        }
    }

    #[test]
    fn the_part_that_is_too_long_is_named() {
        let long = "x".repeat(TARGET_BYTES_MAX + 1);
        let refused = |text: String| too_large(&Bytes::from(text));
        assert_eq!(refused(format!("GET /{long}")), URI_TOO_LONG);
        assert_eq!(refused(format!("GET /{long} HTTP/1.1\r\n")), URI_TOO_LONG);
        assert_eq!(
            refused(format!("GET / HTTP/1.1\r\nX: {long}")),
            HEADER_TOO_LARGE
        );
        assert_eq!(refused(long), HEADER_TOO_LARGE);
    }
}
