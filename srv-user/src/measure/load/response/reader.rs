//! Reads one response, in whatever pieces it comes.

use std::mem;

use anyhow::{Result, ensure};

use super::body::Body;
use super::{Framing, Head, parse};

/// Longest head, interim responses included, bytes. curl has this limit, too.
const HEAD_BYTES_MAX: usize = 300 << 10;

/// One response in progress.
#[derive(Debug, Default)]
pub struct Reader {
    is_bodiless: bool,
    /// What came of a head that was incomplete.
    partial: Vec<u8>,
    answer: Option<(Head, Body)>,
}

impl Reader {
    /// For the response to a request. `is_bodiless`: that was a HEAD, whose
    /// response has no body whatever its head says.
    pub fn new(is_bodiless: bool) -> Self {
        Self {
            is_bodiless,
            ..Self::default()
        }
    }

    /// Takes the next bytes; the head once the response is complete. If there were
    /// bytes beyond its end, the head says that the connection is not to be kept.
    ///
    /// # Errors
    /// It is not an HTTP/1 response.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Head>> {
        if let Some((head, body)) = &mut self.answer {
            return Ok(ended(*head, body.take(bytes)?));
        }
        if self.partial.is_empty() {
            return self.scan(bytes);
        }
        let mut whole = mem::take(&mut self.partial);
        whole.extend_from_slice(bytes);
        self.scan(&whole)
    }

    /// The connection ended; the head if that completes the response.
    pub fn end(&self) -> Option<Head> {
        match self.answer {
            Some((head, Body::Connection)) => Some(head),
            _ => None,
        }
    }

    /// Goes past interim responses to the response proper.
    fn scan(&mut self, mut bytes: &[u8]) -> Result<Option<Head>> {
        loop {
            let Some(mut head) = parse(bytes)? else {
                ensure!(
                    bytes.len() <= HEAD_BYTES_MAX,
                    "the head is longer than {HEAD_BYTES_MAX} bytes"
                );
                self.partial = bytes.to_vec();
                return Ok(None);
            };
            bytes = &bytes[head.head_bytes..];
            if head.is_interim() {
                continue;
            }
            if self.is_bodiless {
                head.framing = Framing::Length(0);
            }
            head.keep_alive &= head.framing != Framing::Connection;
            let mut body = Body::of(head.framing);
            let end = body.take(bytes)?;
            self.answer = Some((head, body));
            return Ok(ended(head, end));
        }
    }
}

fn ended(mut head: Head, surplus: Option<usize>) -> Option<Head> {
    head.keep_alive &= surplus == Some(0);
    surplus.map(|_| head)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERIM: &str = "HTTP/1.1 100 Continue\r\n\r\n\
        HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n\
        HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";

    #[test]
    fn the_response_after_interim_ones_is_read_however_it_is_cut() {
        for cut in 0..INTERIM.len() {
            let mut reader = Reader::new(false);
            let (before, after) = INTERIM.as_bytes().split_at(cut);
            assert_eq!(reader.feed(before).unwrap(), None, "cut at {cut}");
            let head = reader.feed(after).unwrap().expect("complete");
            assert_eq!((head.status, head.keep_alive), (201, true), "cut at {cut}");
        }
    }

    #[test]
    fn what_follows_a_response_costs_its_connection() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
        let mut reader = Reader::new(false);
        assert_eq!(reader.feed(text).unwrap(), None);
        let head = reader.feed(b"ok!").unwrap().expect("complete");
        assert!(!head.keep_alive);
        // The same response to a HEAD is complete without a body.
        let head = Reader::new(true).feed(text).unwrap().expect("complete");
        assert!(head.keep_alive);
    }

    #[test]
    fn the_end_completes_only_a_body_that_it_ends() {
        let mut reader = Reader::new(false);
        assert_eq!(reader.end(), None);
        assert_eq!(reader.feed(b"HTTP/1.1 200 OK\r\n\r\nbo").unwrap(), None);
        assert_eq!(reader.feed(b"dy").unwrap(), None);
        assert_eq!(reader.end().map(|head| head.status), Some(200));
        let mut reader = Reader::new(false);
        let cut = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n";
        assert_eq!(reader.feed(cut).unwrap(), None);
        assert_eq!(reader.end(), None);
    }

    #[test]
    fn a_head_without_end_is_refused() {
        let mut reader = Reader::new(false);
        let fields = "X: y\r\n".repeat(HEAD_BYTES_MAX / 6 + 1);
        assert!(
            reader
                .feed(format!("HTTP/1.1 200 OK\r\n{fields}").as_bytes())
                .is_err()
        );
    }
}
