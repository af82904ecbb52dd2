//! Reads HTTP/1.1 responses for a measurement, at a price that does not disturb
//! it. Pure: knows no socket. It accepts what curl accepts, since the answers of
//! any server are to be measured: interim responses, chunked bodies, any number
//! of header fields. httparse reads the heads, `body` finds the end.

mod body;
mod reader;

use std::mem::MaybeUninit;

use anyhow::{Context as _, Result};
use srv_common::layout::MAX_WORKERS;

pub use reader::Reader;

/// Header fields that are parsed without an allocation.
const FIELDS: usize = 64;

/// What a response's head said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// Length of the head, bytes.
    pub head_bytes: usize,
    /// How the end of the body is told.
    pub framing: Framing,
    /// `X-Worker`: the slot of the srv worker that answered. `None` also if a
    /// server that is not srv uses this field for something else.
    pub worker: Option<u16>,
    /// Whether the server lets the connection carry another request; [`Reader`]
    /// also looks at how the response ended.
    pub keep_alive: bool,
}

/// How the end of a body is told (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By its length, bytes. Also for a response that cannot have a body: 0.
    Length(u64),
    /// By an empty chunk.
    Chunked,
    /// By the end of the connection.
    Connection,
}

/// Parses the head at the start of `bytes`; `None` while it is incomplete.
///
/// # Errors
/// It is not the head of an HTTP/1 response.
pub fn parse(bytes: &[u8]) -> Result<Option<Head>> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    match parse_with(bytes, &mut fields) {
        Err(error) if error.downcast_ref() == Some(&httparse::Error::TooManyHeaders) => {
            // A field has a line at least, so this many are enough.
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
            parse_with(bytes, &mut vec![MaybeUninit::uninit(); lines + 1])
        }
        parsed => parsed,
    }
}

fn parse_with<'b>(
    bytes: &'b [u8],
    fields: &mut [MaybeUninit<httparse::Header<'b>>],
) -> Result<Option<Head>> {
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .allow_multiple_spaces_in_response_status_delimiters(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .parse_response_with_uninit_headers(&mut response, bytes, fields)?;
    match parsed {
        httparse::Status::Complete(head_bytes) => Head::of(head_bytes, &response).map(Some),
        httparse::Status::Partial => Ok(None),
    }
}

impl Head {
    fn of(head_bytes: usize, response: &httparse::Response<'_, '_>) -> Result<Self> {
        let mut head = Self {
            status: response.code.context("there is no status code")?,
            head_bytes,
            framing: Framing::Connection,
            worker: None,
            keep_alive: response.version == Some(1),
        };
        for field in response.headers.iter() {
            head.note(field)?;
        }
        if matches!(head.status, 100..=199 | 204 | 304) {
            head.framing = Framing::Length(0);
        }
        // What follows is another protocol.
        head.keep_alive &= head.status != 101;
        Ok(head)
    }

    /// Whether the response proper is still to come.
    pub fn is_interim(&self) -> bool {
        matches!(self.status, 100 | 102..=199)
    }

    /// Length of the body, bytes, if the head says it.
    pub fn body_bytes(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(bytes) => Some(bytes),
            Framing::Chunked | Framing::Connection => None,
        }
    }

    fn note(&mut self, field: &httparse::Header<'_>) -> Result<()> {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            // A transfer coding overrides the length (RFC 9112, section 6.3).
            if self.framing != Framing::Chunked {
                self.framing = Framing::Length(length(field.value)?);
            }
        } else if is("transfer-encoding") {
            if elements(field.value).any(|coding| coding.eq_ignore_ascii_case(b"chunked")) {
                self.framing = Framing::Chunked;
            }
        } else if is("connection") {
            for option in elements(field.value) {
                if option.eq_ignore_ascii_case(b"close") {
                    self.keep_alive = false;
                } else if option.eq_ignore_ascii_case(b"keep-alive") {
                    self.keep_alive = true;
                }
            }
        } else if is("x-worker") {
            let slot = std::str::from_utf8(field.value).unwrap_or_default().trim();
            let slot = slot.parse().ok();
            self.worker = slot.filter(|slot| usize::from(*slot) < MAX_WORKERS);
        }
        Ok(())
    }
}

/// The elements of a comma-separated list.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// The number at the start of a `Content-Length`. As with curl, what follows
/// the digits does not matter (`5, 5` is one length, said twice).
fn length(value: &[u8]) -> Result<u64> {
    let value = value.trim_ascii();
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit());
    let digits = &value[..digits.count()];
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok())
        .with_context(|| {
            let value = String::from_utf8_lossy(value);
            format!("Content-Length `{value}` is not a length")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nX-Worker: 7\r\ncontent-length: 3\r\n\r\nok\n";

    fn head(text: &str) -> Head {
        parse(text.as_bytes()).unwrap().expect("a whole head")
    }

    #[test]
    fn a_head_is_read_once_complete() {
        let head = Head {
            status: 200,
            head_bytes: OK.len() - 3,
            framing: Framing::Length(3),
            worker: Some(7),
            keep_alive: true,
        };
        for end in 0..head.head_bytes {
            assert_eq!(parse(&OK[..end]).unwrap(), None, "after {end} bytes");
        }
        assert_eq!(parse(OK).unwrap(), Some(head));
    }

    #[test]
    fn the_side_that_closes_is_understood() {
        for (text, keep_alive) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: TE, Close\r\n\r\n",
                false,
            ),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n\r\n",
                true,
            ),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", false),
        ] {
            assert_eq!(head(text).keep_alive, keep_alive, "{text}");
        }
    }

    #[test]
    fn the_framing_is_that_of_the_rfc() {
        for (fields, framing) in [
            ("", Framing::Connection),
            ("Content-Length: 5, 5\r\n", Framing::Length(5)),
            (
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                Framing::Chunked,
            ),
            (
                "Transfer-Encoding: gzip, Chunked\r\nContent-Length: 5\r\n",
                Framing::Chunked,
            ),
            ("Transfer-Encoding: identity\r\n", Framing::Connection),
        ] {
            let head = head(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
            assert_eq!(head.framing, framing, "{fields}");
        }
    }

    #[test]
    fn any_number_of_fields_is_read() {
        for count in [FIELDS - 1, FIELDS, FIELDS + 1, 1000] {
            let fields = "X: y\r\n".repeat(count);
            let head = head(&format!(
                "HTTP/1.1 200 OK\r\n{fields}Content-Length: 9\r\n\r\n"
            ));
            assert_eq!(head.framing, Framing::Length(9), "{count} fields");
        }
    }

    #[test]
    fn a_strangers_x_worker_is_not_a_slot() {
        for value in ["web-1", "-1", "", "256", "70000"] {
            let head = head(&format!("HTTP/1.1 200 OK\r\nX-Worker: {value}\r\n\r\n"));
            assert_eq!(head.worker, None, "{value}");
        }
    }

    #[test]
    fn what_is_not_a_response_is_refused() {
        for text in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
