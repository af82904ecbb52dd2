//! Reads as much of an HTTP/1.1 response's head as a measurement needs, at a
//! price that does not disturb it. Pure: knows no socket. Not a client for the
//! world: a chunked body is refused, since no measured handler sends one.

use anyhow::{Context as _, Result, bail};

/// What a response's head said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// Length of the head, bytes.
    pub head_bytes: usize,
    /// Length of the body, bytes; `None`: it ends with the connection.
    pub body_bytes: Option<u64>,
    /// `X-Worker`: the slot of the worker that answered.
    pub worker: Option<u16>,
    /// Whether the connection may carry another request.
    pub keep_alive: bool,
}

/// Parses the head at the start of `bytes`; `None` while it is incomplete.
///
/// # Errors
/// It is no HTTP/1 response, or one of those that are not supported here.
pub fn parse(bytes: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = response.parse(bytes)? else {
        return Ok(None);
    };
    let mut head = Head {
        status: response.code.context("no status code")?,
        head_bytes,
        body_bytes: None,
        worker: None,
        keep_alive: response.version == Some(1),
    };
    for header in response.headers.iter() {
        head.note(header)?;
    }
    if matches!(head.status, 100..=199 | 204 | 304) {
        head.body_bytes = Some(0);
    }
    head.keep_alive &= head.body_bytes.is_some();
    Ok(Some(head))
}

impl Head {
    fn note(&mut self, header: &httparse::Header<'_>) -> Result<()> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            self.body_bytes = Some(number(header)?);
        } else if is("x-worker") {
            self.worker = Some(number(header)?);
        } else if is("connection") {
            self.keep_alive &= !header.value.eq_ignore_ascii_case(b"close");
        } else if is("transfer-encoding") {
            bail!("transfer codings are not supported by the load generator");
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(header: &httparse::Header<'_>) -> Result<T> {
    std::str::from_utf8(header.value)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .with_context(|| format!("header {} is not a number", header.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nX-Worker: 7\r\ncontent-length: 3\r\n\r\nok\n";

    #[test]
    fn a_head_is_read_once_complete() {
        let head = Head {
            status: 200,
            head_bytes: OK.len() - 3,
            body_bytes: Some(3),
            worker: Some(7),
            keep_alive: true,
        };
        for end in 0..head.head_bytes {
            assert_eq!(parse(&OK[..end]).unwrap(), None, "after {end} bytes");
        }
        assert_eq!(parse(OK).unwrap(), Some(head));
    }

    #[test]
    fn who_closes_is_understood() {
        let keep_alive = |text: &str| parse(text.as_bytes()).unwrap().unwrap().keep_alive;
        assert!(keep_alive("HTTP/1.1 204 No Content\r\n\r\n"));
        assert!(!keep_alive(
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ));
        assert!(!keep_alive("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"));
        assert!(!keep_alive("HTTP/1.1 200 OK\r\n\r\n"));
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for text in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX-Worker: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
