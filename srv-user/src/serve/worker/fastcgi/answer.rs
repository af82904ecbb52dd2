//! What the client gets of an application's answer: its body as it comes, or a file that the
//! application names instead of it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LANGUAGE, CONTENT_TYPE, EXPIRES, HeaderMap,
    HeaderName, SET_COOKIE,
};
use http_body::{Frame, SizeHint};
use percent_encoding::percent_encode;

use super::conversation::Conversation;
use crate::serve::site::Body;

/// Headers by which an application names a file: a path as a client would ask for it, or the path
/// of the file itself.
const BY_PATH: HeaderName = HeaderName::from_static("x-accel-redirect");
const BY_FILE: HeaderName = HeaderName::from_static("x-sendfile");

/// What of an application's header stays if it names a file.
const KEPT: [HeaderName; 6] = [
    CACHE_CONTROL,
    CONTENT_DISPOSITION,
    CONTENT_LANGUAGE,
    CONTENT_TYPE,
    EXPIRES,
    SET_COOKIE,
];

/// The body of an application's answer.
pub(super) struct AnswerBody {
    conversation: Conversation,
    /// What came with the header.
    first: Bytes,
    /// How much is to come, if that is known.
    left: Option<u64>,
    has_ended: bool,
}

impl AnswerBody {
    /// `first` came with the header. If nothing follows it, its length is that of the body, unless
    /// `is_head`: the answer to a HEAD has none, whatever the length.
    pub(super) fn new(mut conversation: Conversation, first: Bytes, is_head: bool) -> Self {
        let is_whole = conversation.has_ended() && !first.is_empty() && !is_head;
        Self {
            left: is_whole.then_some(first.len() as u64),
            conversation,
            first,
            has_ended: false,
        }
    }

    /// The application says how much is to come.
    pub(super) fn of_length(mut self, length: Option<u64>) -> Self {
        self.left = length.or(self.left);
        self
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.first))));
        }
        match ready!(self.conversation.poll_event(cx)) {
            Ok(bytes) => Poll::Ready(Ok(bytes)),
            Err(failure) => Poll::Ready(Err(io::Error::other(failure.to_string()))),
        }
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let bytes = ready!(self.poll_bytes(cx)).inspect_err(|_| self.has_ended = true)?;
        let Some(mut bytes) = bytes else {
            self.has_ended = true;
            let is_short = self.left.is_some_and(|left| left > 0);
            // The connection is then reset, so that the client takes no part for the whole.
            return Poll::Ready(is_short.then(|| Err(io::ErrorKind::UnexpectedEof.into())));
        };
        if let Some(left) = &mut self.left {
            bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= bytes.len() as u64;
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// The file that an application names instead of a body, as the path by which a client would ask for
/// it. A file outside of `root` leads to no file.
pub(super) fn file_to_send(headers: &mut HeaderMap, root: &[u8]) -> Option<String> {
    let by_file = headers.remove(BY_FILE);
    if let Some(path) = headers.remove(BY_PATH) {
        return Some(String::from_utf8_lossy(path.as_bytes()).into_owned());
    }
    let file = by_file?;
    let beneath = file.as_bytes().strip_prefix(root);
    let beneath = beneath.filter(|rest| rest.starts_with(b"/"));
    let escaped = percent_encode(
        beneath.unwrap_or(b"/../"),
        percent_encoding::NON_ALPHANUMERIC,
    );
    Some(escaped.to_string().replace("%2F", "/"))
}

/// Says of a file what the application says of it.
pub(super) fn keep_headers(response: &mut Response<Body>, mut said: HeaderMap) {
    let headers = response.headers_mut();
    for name in KEPT {
        if said.contains_key(&name) {
            headers.remove(&name);
        }
        if let http::header::Entry::Occupied(entry) = said.entry(&name) {
            let (_, values) = entry.remove_entry_mult();
            for value in values {
                headers.append(&name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(name: HeaderName, value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        let file = file_to_send(&mut headers, b"/srv/www");
        assert!(headers.is_empty(), "no client learns of it");
        file
    }

    #[test]
    fn a_file_is_named_by_its_path_in_the_root() {
        let named = |name, value| sent(name, value).unwrap();
        assert_eq!(named(BY_PATH, "/files/a.pdf"), "/files/a.pdf");
        assert_eq!(named(BY_FILE, "/srv/www/a b%2.pdf"), "/a%20b%252%2Epdf");
        for outside in ["/etc/passwd", "/srv/www2/a", "/srv/www", "a"] {
            assert_eq!(named(BY_FILE, outside), "/%2E%2E/", "{outside}");
        }
        let mut others = HeaderMap::new();
        others.insert(CONTENT_TYPE, "a/b".parse().unwrap());
        assert_eq!(file_to_send(&mut others, b"/srv/www"), None);
    }
}
