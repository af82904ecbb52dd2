//! Answers that are ready: no look at the file system, no condition to judge. The server's
//! connections ask for one before they have hyper read a request.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use httparse::Header;

/// A GET or HEAD without a body.
pub struct PlainRequest<'a> {
    /// Whether it is a HEAD, whose answer has no body.
    pub is_head: bool,
    /// Its target, as it was sent.
    pub target: &'a str,
    /// All of its header lines.
    pub headers: &'a [Header<'a>],
}

/// The answer to a [`PlainRequest`].
pub struct Ready<'a> {
    /// The status and the header lines, as they follow the version.
    pub head: Bytes,
    /// The header lines of every answer of this site.
    pub signature: &'a [u8],
    /// The body.
    pub body: Bytes,
}

impl PlainRequest<'_> {
    /// Whether it asks for all of a file, whatever version of it the client has.
    pub(super) fn is_unconditional(&self) -> bool {
        !self.headers.iter().any(|header| is_condition(header.name))
    }
}

/// Whether a header line can make an answer another one than that to a request without it.
fn is_condition(name: &str) -> bool {
    matches!(name.as_bytes(), [b'i' | b'I', b'f' | b'F', b'-', ..])
        || name.eq_ignore_ascii_case("range")
}

/// The header of an answer as hyper writes it, from behind the version and without what hyper adds.
pub(super) fn rendered(status: StatusCode, headers: &HeaderMap) -> Bytes {
    let mut head = Vec::with_capacity(32 * (1 + headers.len()));
    let reason = status.canonical_reason().unwrap_or("<none>");
    head.extend_from_slice(format!(" {} {reason}\r\n", status.as_str()).as_bytes());
    for (name, value) in headers {
        add_line(&mut head, name.as_str(), value.as_bytes());
    }
    head.into()
}

/// Adds a header line.
pub(super) fn add_line(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_known_by_their_names() {
        for name in [
            "If-Match",
            "if-none-match",
            "If-Modified-Since",
            "IF-UNMODIFIED-SINCE",
            "If-Range",
            "Range",
            "range",
        ] {
            assert!(is_condition(name), "{name}");
        }
        for name in ["Accept", "Ranges", "Accept-Ranges", "I", "Iffy", "Host"] {
            assert!(!is_condition(name), "{name}");
        }
    }
}
