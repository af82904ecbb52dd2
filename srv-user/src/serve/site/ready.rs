//! Answers that are ready: no look at the file system, no condition to judge. The server's
//! connections ask for one before they have hyper read a request.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use httparse::Header;

use super::{Pages, Site};
use crate::serve::site::accept_encoding::Wanted;
use crate::serve::site::request_path::RequestPath;
use crate::values::LogId;

/// The longest target that is looked at, bytes. hyper refuses those that are much longer.
const TARGET_BYTES_MAX: usize = 8 << 10;

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
    /// The log of the request.
    pub log: Option<LogId>,
}

/// An answer's header, from behind the version on, and its body.
pub(in crate::serve) type Parts = (Bytes, Bytes);

/// What is still to be done with an answer's headers before they are rendered. It is the same for
/// all answers of a [`Site`].
pub(in crate::serve) type Finish<'a> = &'a dyn Fn(&mut HeaderMap);

impl PlainRequest<'_> {
    /// The path and the query of the target. `None`: it has another form, or characters that hyper
    /// might refuse.
    pub(in crate::serve) fn path_and_query(&self) -> Option<(&str, Option<&str>)> {
        let is_plain = self.target.starts_with('/')
            && self.target.len() <= TARGET_BYTES_MAX
            && self.target.bytes().all(is_plain);
        is_plain.then(|| match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target, None),
        })
    }

    /// What the `Host` header says. A request of HTTP/1.0 may have none.
    pub(in crate::serve) fn host(&self) -> &[u8] {
        self.values("host").next().unwrap_or_default()
    }

    /// The values of this header.
    pub(in crate::serve) fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let of_name = move |header: &&Header<'_>| header.name.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .filter(of_name)
            .map(|header| header.value)
    }

    /// Whether it asks for all of a file, whatever version of it the client has.
    pub(super) fn is_unconditional(&self) -> bool {
        !self.headers.iter().any(|header| is_condition(header.name))
    }
}

/// Whether a target may have this byte in any place (RFC 3986, 3.3 and 3.4).
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%?".contains(&byte)
}

impl Site {
    /// The answer to a plain request, if it is ready: if it depends on the target alone, and no
    /// file has to be looked at. It is then what [`respond`](Self::respond) would answer. `None`
    /// says nothing about the request.
    pub fn ready(&self, request: &PlainRequest<'_>) -> Option<Ready<'_>> {
        let (path, _) = request.path_and_query()?;
        if self.is_work_path(path) {
            return None;
        }
        let (head, body) = self.ready_file(path, request, &|_| {})?;
        Some(Ready {
            head,
            signature: &self.signature,
            log: None,
            body: match request.is_head {
                true => Bytes::new(),
                false => body,
            },
        })
    }

    /// The answer with a file, if that is ready.
    pub(in crate::serve) fn ready_file(
        &self,
        path: &str,
        request: &PlainRequest<'_>,
        finish: Finish<'_>,
    ) -> Option<Parts> {
        if !request.is_unconditional() {
            return None;
        }
        match &self.pages {
            Pages::Welcome(page) if path == "/" => page.ready(finish),
            Pages::Welcome(_) => None,
            Pages::Folder(_, cache) => {
                let wanted = Wanted::of(request.values("accept-encoding"), &self.codings);
                let mut key = self.scratch.borrow_mut();
                self.write_key(&mut key, wanted, path);
                let mut cache = cache.borrow_mut();
                cache.fresh(&key, (self.clock)())?.ready(finish)
            }
        }
    }

    /// The answer with an error page instead of a text, if the page is ready.
    pub(in crate::serve) fn ready_error_page(
        &self,
        page: &str,
        status: StatusCode,
        finish: Finish<'_>,
    ) -> Option<Parts> {
        let Pages::Folder(_, cache) = &self.pages else {
            return None;
        };
        let key = self.key_of_this(Wanted::default(), &RequestPath::of_site(page));
        let mut cache = cache.borrow_mut();
        let page = cache.fresh(&key, (self.clock)())?;
        page.ready_as(status, finish)
    }
}

/// Whether a header line can make an answer another one than that to a request without it.
fn is_condition(name: &str) -> bool {
    matches!(name.as_bytes(), [b'i' | b'I', b'f' | b'F', b'-', ..])
        || name.eq_ignore_ascii_case("range")
}

/// The header of an answer as hyper writes it, from behind the version and without what hyper adds.
pub(in crate::serve) fn rendered(status: StatusCode, headers: &HeaderMap) -> Bytes {
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
    fn a_plain_target_is_one_that_hyper_takes() {
        for byte in (0..=u8::MAX).filter(|byte| is_plain(*byte)) {
            let target = format!("/a{0}b?c{0}", char::from(byte));
            let uri: http::Uri = target.parse().unwrap();
            let request = PlainRequest {
                is_head: false,
                target: &target,
                headers: &[],
            };
            assert_eq!(request.path_and_query(), Some((uri.path(), uri.query())));
        }
    }

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
