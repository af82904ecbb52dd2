//! The header of a CGI response (RFC 3875, section 6): from a script's bytes to a status and headers
//! that can go to a client. What the header leaves out, nginx's defaults fill in. Knows neither records
//! nor what becomes of the body.

use std::fmt;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{StatusCode, Uri};

/// How many fields a header may have: more than any application sends, and far less than what
/// `HeaderMap` can hold.
const FIELDS: usize = 256;

/// Fields about the connection with the client, which is the server's (RFC 9110, 7.6.1).
const CONNECTION_FIELDS: [&str; 4] = ["keep-alive", "proxy-connection", "te", "proxy"];

/// A header that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// A document, or a redirect that the client follows; the body follows.
    Document(Document),
    /// A redirect that the server follows: the answer is that to a GET of this path and query
    /// (section 6.2.2). It begins with one slash. The body is dropped.
    LocalRedirect(Uri),
}

/// What a document has before its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// 200 to 999. Without `Status` it is 302 beside a `Location`, otherwise 200.
    pub status: StatusCode,
    /// Without `Status` and what is about the connection.
    pub headers: HeaderMap,
    /// The length of the body, if the script says it. It stands in `headers`, too.
    pub content_length: Option<u64>,
}

/// Why a header is refused. The client should see status 502.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadHead {
    /// The header is longer than its bound.
    TooLarge,
    /// The header has too many fields.
    TooManyFields,
    /// A status line as of HTTP: the script writes its own header (`nph-`).
    NonParsed,
    /// A line without a name and a colon, or one that continues the line before.
    Line,
    /// A name that is no token.
    Name,
    /// The value of this field has control characters.
    Value(HeaderName),
    /// This field occurs twice, and its two values contradict each other.
    Twice(&'static str),
    /// `Status` is not a number from 200 to 999.
    Status,
    /// `Content-Length` is no number.
    ContentLength,
    /// `Location` is neither a URL nor a path.
    Location,
    /// The script ended before its header did.
    Incomplete,
}

impl fmt::Display for BadHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("the header exceeds its bound"),
            Self::TooManyFields => write!(f, "the header has more than {FIELDS} fields"),
            Self::NonParsed => {
                f.write_str("the header begins with an HTTP status line: write `Status: …` instead")
            }
            Self::Line => f.write_str("a line of the header is not `Name: value`"),
            Self::Name => f.write_str("a line of the header has an invalid name"),
            Self::Value(name) => write!(f, "the value of {name} has control characters"),
            Self::Twice(name) => write!(f, "the header has {name} twice"),
            Self::Status => f.write_str("Status is not a number from 200 to 999"),
            Self::ContentLength => f.write_str("Content-Length is not a number"),
            Self::Location => f.write_str("Location is neither a URL nor a path"),
            Self::Incomplete => f.write_str("the output ended within the header"),
        }
    }
}

impl std::error::Error for BadHead {}

/// Reads a header in whatever portions its bytes arrive.
#[derive(Debug)]
pub struct HeadReader {
    bound: usize,
    read: Vec<u8>,
    /// Where the line begins that is not complete.
    line: usize,
}

impl HeadReader {
    /// A header of at most `bound` bytes, with its empty line.
    pub const fn new(bound: usize) -> Self {
        Self {
            bound,
            read: Vec::new(),
            line: 0,
        }
    }

    /// Takes more of a script's output. Once the header is complete: what it says, and what of
    /// `more` belongs to the body.
    ///
    /// # Errors
    /// The header is not valid, or too long. Then the reader is not to be used any more.
    pub fn push(&mut self, mut more: Bytes) -> Result<Option<(Head, Bytes)>, BadHead> {
        if self.read.is_empty() {
            // Most often all of it comes at once, and needs no copy.
            if let Some((lines, end)) = whole(&more[..more.len().min(self.bound)]) {
                let head = parse(&more[..lines])?;
                return Ok(Some((head, more.split_off(end))));
            }
        }
        let before = self.read.len();
        let room = self.bound.saturating_sub(before);
        self.read.extend_from_slice(&more[..more.len().min(room)]);
        let mut searched = before;
        while let Some(length) = self.read[searched..].iter().position(|byte| *byte == b'\n') {
            let end = searched + length;
            if without_cr(&self.read[self.line..end]).is_empty() {
                let body = more.split_off(end + 1 - before);
                return Ok(Some((parse(&self.read[..self.line])?, body)));
            }
            searched = end + 1;
            self.line = searched;
        }
        match more.len() > room {
            true => Err(BadHead::TooLarge),
            false => Ok(None),
        }
    }

    /// What is wrong if the output ends now.
    pub fn end(&self) -> BadHead {
        // Most often the script's own message instead of a header.
        self.read[..self.line]
            .split(|byte| *byte == b'\n')
            .map(without_cr)
            .find(|line| !line.is_empty() && !line.contains(&b':'))
            .map_or(BadHead::Incomplete, |_| BadHead::Line)
    }
}

/// If a header is complete: where its lines end, and where the body begins.
fn whole(output: &[u8]) -> Option<(usize, usize)> {
    let mut line = 0;
    loop {
        let length = output[line..].iter().position(|byte| *byte == b'\n')?;
        let end = line + length;
        if without_cr(&output[line..end]).is_empty() {
            return Some((line, end + 1));
        }
        line = end + 1;
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Parses the lines of a header, each with its line feed, without the empty one.
fn parse(lines: &[u8]) -> Result<Head, BadHead> {
    let mut status = None;
    let mut headers = HeaderMap::new();
    let mut fields = 0;
    for line in lines.split(|byte| *byte == b'\n').map(without_cr) {
        if line.is_empty() {
            // After the last line feed.
            continue;
        }
        fields += 1;
        if fields > FIELDS {
            return Err(BadHead::TooManyFields);
        }
        if fields == 1 && line.starts_with(b"HTTP/") {
            return Err(BadHead::NonParsed);
        }
        let (name, value) = field(line)?;
        if name == "status" {
            if status.replace(parse_status(value)?).is_some() {
                return Err(BadHead::Twice("Status"));
            }
            continue;
        }
        let value = HeaderValue::from_bytes(value).map_err(|_| BadHead::Value(name.clone()))?;
        put(&mut headers, name, value)?;
    }
    finish(status, headers)
}

/// A line's name and value.
fn field(line: &[u8]) -> Result<(HeaderName, &[u8]), BadHead> {
    let colon = line.iter().position(|byte| *byte == b':');
    let Some(colon) = colon.filter(|_| !line[0].is_ascii_whitespace()) else {
        return Err(BadHead::Line);
    };
    let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| BadHead::Name)?;
    Ok((name, line[colon + 1..].trim_ascii()))
}

/// "200", "404 Not Found": the text goes to no client.
fn parse_status(value: &[u8]) -> Result<StatusCode, BadHead> {
    let (number, rest) = value.split_at_checked(3).ok_or(BadHead::Status)?;
    let status = StatusCode::from_bytes(number).map_err(|_| BadHead::Status)?;
    let ends = rest.first().is_none_or(u8::is_ascii_whitespace);
    // Informational responses are the server's.
    match ends && !status.is_informational() {
        true => Ok(status),
        false => Err(BadHead::Status),
    }
}

/// Adds a field, unless it is about the connection.
fn put(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) -> Result<(), BadHead> {
    let is_about_connection = [CONNECTION, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(&name)
        || CONNECTION_FIELDS.contains(&name.as_str());
    if is_about_connection {
        return Ok(());
    }
    // One that counts and one that is ignored would let two readers see two documents.
    for (once, text) in [
        (CONTENT_LENGTH, "Content-Length"),
        (CONTENT_TYPE, "Content-Type"),
        (LOCATION, "Location"),
    ] {
        if name == once && headers.get(&once).is_some_and(|before| *before != value) {
            return Err(BadHead::Twice(text));
        }
        if name == once {
            headers.insert(once, value);
            return Ok(());
        }
    }
    headers
        .try_append(name, value)
        .map_err(|_| BadHead::TooManyFields)?;
    Ok(())
}

fn finish(status: Option<StatusCode>, headers: HeaderMap) -> Result<Head, BadHead> {
    let content_length = headers.get(CONTENT_LENGTH).map(parse_length).transpose()?;
    let Some(location) = headers.get(LOCATION) else {
        return Ok(Head::Document(Document {
            status: status.unwrap_or(StatusCode::OK),
            headers,
            content_length,
        }));
    };
    let location = location.as_bytes();
    if location.is_empty() {
        return Err(BadHead::Location);
    }
    // Clients read `//host/path` as the address of another host. With a status, the script
    // addresses the client.
    let is_local = status.is_none() && location[0] == b'/' && !location.starts_with(b"//");
    if is_local {
        let target = Uri::try_from(location).map_err(|_| BadHead::Location)?;
        return Ok(Head::LocalRedirect(target));
    }
    Ok(Head::Document(Document {
        status: status.unwrap_or(StatusCode::FOUND),
        headers,
        content_length,
    }))
}

/// Digits alone: `u64::from_str` would take a plus sign.
fn parse_length(value: &HeaderValue) -> Result<u64, BadHead> {
    let text = value.to_str().map_err(|_| BadHead::ContentLength)?;
    match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().map_err(|_| BadHead::ContentLength),
        false => Err(BadHead::ContentLength),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUND: usize = 1024;

    fn read(output: &[u8], portion: usize) -> Result<Option<(Head, Vec<u8>)>, BadHead> {
        let mut reader = HeadReader::new(BOUND);
        let mut portions = output.chunks(portion);
        while let Some(portion) = portions.next() {
            if let Some((head, body)) = reader.push(Bytes::copy_from_slice(portion))? {
                let rest = portions.map(<[u8]>::to_vec);
                let body = std::iter::once(body.to_vec()).chain(rest).flatten();
                return Ok(Some((head, body.collect())));
            }
        }
        Ok(None)
    }

    fn document(output: &str) -> Document {
        match read(output.as_bytes(), usize::MAX) {
            Ok(Some((Head::Document(document), _))) => document,
            other => panic!("{output:?} became {other:?}"),
        }
    }

    fn refusal(output: &[u8]) -> BadHead {
        match read(output, usize::MAX) {
            Err(bad) => bad,
            other => panic!("{output:?} became {other:?}"),
        }
    }

    #[test]
    fn lines_end_in_lf_or_crlf() {
        for output in [
            "Content-Type: text/plain\nX-A:  b \n\nbody",
            "Content-Type: text/plain\r\nX-A: b\r\n\r\nbody",
            "content-type:text/plain\r\nx-a:\tb\n\nbody",
        ] {
            for portion in 1..=output.len() {
                let (head, body) = read(output.as_bytes(), portion).unwrap().unwrap();
                let Head::Document(document) = head else {
                    panic!("{head:?}");
                };
                assert_eq!(document.status, 200);
                assert_eq!(document.headers["content-type"], "text/plain");
                assert_eq!(document.headers["x-a"], "b");
                assert_eq!(body, b"body", "{output:?} by {portion}");
            }
        }
    }

    #[test]
    fn a_status_needs_no_text_and_nothing_else_is_needed() {
        for (output, status) in [
            ("Status: 404 Not Found\n\n", 404),
            ("Status: 404\n\n", 404),
            ("status:  204\t\n\n", 204),
            ("X-A: b\n\n", 200),
            ("\n", 200),
            ("\r\nbody", 200),
        ] {
            assert_eq!(document(output).status, status, "{output:?}");
        }
        for value in [
            "",
            "40",
            "4040",
            "abc",
            "100 Continue",
            "101",
            "099",
            "404Not",
            "-20",
        ] {
            let output = format!("Status: {value}\n\n");
            assert_eq!(refusal(output.as_bytes()), BadHead::Status, "{value}");
        }
    }

    #[test]
    fn redirects_are_the_servers_or_the_clients() {
        let local = |output: &str| match read(output.as_bytes(), usize::MAX) {
            Ok(Some((Head::LocalRedirect(target), _))) => target.to_string(),
            other => panic!("{output:?} became {other:?}"),
        };
        assert_eq!(local("Location: /a/b?c=d\n\n"), "/a/b?c=d");
        for (output, status) in [
            ("Location: https://example.org/\n\n", 302),
            ("Location: //example.org/\n\n", 302),
            ("Status: 303\nLocation: /a\n\n", 303),
            (
                "Location: https://example.org/\nStatus: 201 Created\n\n",
                201,
            ),
            ("Location: other\n\n", 302),
        ] {
            let document = document(output);
            assert_eq!(document.status, status, "{output:?}");
            assert!(document.headers.contains_key("location"), "{output:?}");
        }
        for output in [
            "Location:\n\n",
            "Location: /a b\n\n",
            "Location: /\u{e9}\u{7f}\n\n",
        ] {
            let refused = refusal(output.as_bytes());
            assert!(
                matches!(refused, BadHead::Location | BadHead::Value(_)),
                "{output:?}"
            );
        }
    }

    #[test]
    fn a_response_cannot_be_split() {
        for output in [
            &b"X-A: b\rSet-Cookie: c\n\n"[..],
            b"X-A: b\r\rSet-Cookie: c\n\n",
            b"X-A: b\0c\n\n",
            b"X-A: b\x0bc\n\n",
        ] {
            assert_eq!(
                refusal(output),
                BadHead::Value(HeaderName::from_static("x-a"))
            );
        }
        for output in [
            &b"X A: b\n\n"[..],
            b"X-A : b\n\n",
            b": b\n\n",
            b"X\rA: b\n\n",
            b"X-\xc3\xa9: b\n\n",
        ] {
            assert_eq!(refusal(output), BadHead::Name, "{output:?}");
        }
        for output in [
            &b"X-A: b\n c: d\n\n"[..],
            b"X-A: b\n\tc\n\n",
            b"<html>\n\n",
            b" X-A: b\n\n",
            b"\r\r\n\r\n\r\n",
        ] {
            assert_eq!(refusal(output), BadHead::Line, "{output:?}");
        }
        assert_eq!(refusal(b"HTTP/1.1 200 OK\r\n\r\n"), BadHead::NonParsed);
    }

    #[test]
    fn what_is_about_the_connection_is_the_servers() {
        let document = document(
            "Connection: X-A, close\nTransfer-Encoding: chunked\nKeep-Alive: 1\nUpgrade: h2c\n\
             Trailer: x\nTE: trailers\nProxy-Connection: close\nX-A: b\n\n",
        );
        assert_eq!(document.headers.len(), 1, "{document:?}");
        assert_eq!(document.headers["x-a"], "b");
    }

    #[test]
    fn a_length_is_one_number() {
        let said = document("Content-Length: 012\nContent-Length: 012\n\n");
        assert_eq!(said.content_length, Some(12));
        assert_eq!(said.headers.get_all("content-length").iter().count(), 1);
        for value in ["-1", "+1", "1,1", "0x1", "99999999999999999999", "1 1"] {
            let output = format!("Content-Length: {value}\n\n");
            assert_eq!(
                refusal(output.as_bytes()),
                BadHead::ContentLength,
                "{value}"
            );
        }
        for (output, name) in [
            ("Content-Length: 1\nContent-Length: 2\n\n", "Content-Length"),
            ("Content-Type: a/b\nContent-Type: c/d\n\n", "Content-Type"),
            ("Location: a:b\nLocation: c:d\n\n", "Location"),
            ("Status: 200\nStatus: 200\n\n", "Status"),
        ] {
            assert_eq!(refusal(output.as_bytes()), BadHead::Twice(name), "{output}");
        }
        let cookies = document("Set-Cookie: a\nSet-Cookie: b\n\n");
        assert_eq!(cookies.headers.get_all("set-cookie").iter().count(), 2);
    }

    #[test]
    fn a_header_is_bounded() {
        let fits = format!("X-A: {}\n\n", "b".repeat(BOUND - 7));
        assert_eq!(fits.len(), BOUND);
        let longer = format!("X-A: {}\n\n", "b".repeat(BOUND - 6));
        let endless = "x".repeat(4 * BOUND);
        for portion in [1, 7, BOUND, usize::MAX] {
            assert!(
                read(fits.as_bytes(), portion).unwrap().is_some(),
                "{portion}"
            );
            for output in [&longer, &endless] {
                assert_eq!(
                    read(output.as_bytes(), portion),
                    Err(BadHead::TooLarge),
                    "{portion}"
                );
            }
        }
        let many = "A:\n".repeat(FIELDS + 1) + "\n";
        assert_eq!(refusal(many.as_bytes()), BadHead::TooManyFields);
        // The body is not the header.
        let output = format!("A: b\n\n{endless}");
        assert!(read(output.as_bytes(), 100).unwrap().is_some());
    }

    #[test]
    fn an_output_may_end_within_its_header() {
        for (output, bad) in [
            ("", BadHead::Incomplete),
            ("Content-Type: text/plain\n", BadHead::Incomplete),
            ("sh: 1: not found\nreally\n", BadHead::Line),
        ] {
            let mut reader = HeadReader::new(BOUND);
            assert_eq!(reader.push(output.into()), Ok(None));
            assert_eq!(reader.end(), bad, "{output:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_header_or_a_refusal(
            output in "(Status|Location|X-A|HTTP/|:|: |200|/|\r|\n|\r\n|\n\n|a|é|\0| ){0,20}",
            portion in 1..30_usize,
        ) {
            let whole = read(output.as_bytes(), usize::MAX);
            prop_assert_eq!(read(output.as_bytes(), portion), whole.clone());
            if let Ok(Some((Head::Document(document), _))) = whole {
                for value in document.headers.values() {
                    prop_assert!(!value.as_bytes().iter().any(|byte| b"\r\n\0".contains(byte)));
                }
            }
        }
    }
}
