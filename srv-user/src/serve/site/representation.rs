//! One version of one file (or of a built-in page). It answers requests with the whole, with a part,
//! or, if the client has this version, without content. This module knows no paths, folders or
//! caches.

use std::cell::{OnceCell, RefCell};
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, HeaderMap, LAST_MODIFIED, RANGE, VARY,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::serve::site::body::Body;
use crate::serve::site::byte_range::ByteRange;
use crate::serve::site::conditional::{self, Validators, Verdict};
use crate::serve::site::notice::notice;
use crate::serve::site::ready;

/// A version of a file, with the prepared headers of a full response.
#[derive(Debug)]
pub(super) struct Representation {
    headers: HeaderMap,
    validators: Validators,
    content: Content,
    /// The header of a full response, rendered when it is first needed.
    head: OnceCell<Bytes>,
    /// The same as the text of an error, by status.
    error_heads: RefCell<Vec<(StatusCode, Bytes)>>,
}

/// Where the bytes are.
#[derive(Debug)]
pub(super) enum Content {
    /// In memory.
    Memory(Bytes),
    /// In a file, of which this many bytes belong to this version.
    File(Arc<File>, u64),
    /// In a file whose length is known only when its end is reached.
    ToEnd(Arc<File>),
}

impl Representation {
    /// Prepares the headers.
    pub(super) fn new(content_type: HeaderValue, validators: Validators, content: Content) -> Self {
        let mut headers = HeaderMap::with_capacity(7);
        headers.insert(CONTENT_TYPE, content_type);
        if let Some(etag) = &validators.etag {
            headers.insert(ETAG, etag.clone());
        }
        if let Some(modified_s) = validators.modified_s {
            headers.insert(LAST_MODIFIED, conditional::format_date(modified_s));
        }
        if let Some(length) = content.length() {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        Self {
            headers,
            validators,
            content,
            head: OnceCell::new(),
            error_heads: RefCell::default(),
        }
    }

    /// Adds the header that names the content's encoding.
    pub(super) fn encoded(mut self, encoding: Option<HeaderValue>) -> Self {
        if let Some(encoding) = encoding {
            self.headers.insert(CONTENT_ENCODING, encoding);
        }
        self
    }

    /// Adds or replaces a header of the full response, if there is a value.
    pub(super) fn with(mut self, name: HeaderName, value: Option<HeaderValue>) -> Self {
        if let Some(value) = value {
            self.headers.insert(name, value);
        }
        self
    }

    /// A header of the full response.
    pub(super) fn header(&self, name: &HeaderName) -> Option<HeaderValue> {
        self.headers.get(name).cloned()
    }

    /// The whole as the text of an error. The validators are the file's, not the error's.
    pub(super) fn whole_as(&self, status: StatusCode) -> Response<Body> {
        let mut response = self.respond(status, self.content.whole());
        for name in [ETAG, LAST_MODIFIED, ACCEPT_RANGES, CACHE_CONTROL] {
            response.headers_mut().remove(name);
        }
        response
    }

    /// Answers a GET. It also answers a HEAD; the caller then drops the body.
    pub(super) fn answer(&self, request: &Parts) -> Response<Body> {
        match conditional::evaluate(&request.headers, &self.validators) {
            Verdict::Proceed => {}
            Verdict::NotModified => return self.not_modified(),
            Verdict::Failed => {
                return notice(
                    StatusCode::PRECONDITION_FAILED,
                    "412 Precondition Failed: the file is another version than was asked for.\n",
                );
            }
        }
        // For any other method, Range has no meaning (RFC 9110, 14.2).
        let is_asked = request.method == Method::GET
            && request.headers.contains_key(RANGE)
            && conditional::range_counts(&request.headers, &self.validators);
        let (true, Some(total)) = (is_asked, self.content.length()) else {
            return self.whole();
        };
        match ByteRange::requested(&request.headers, total) {
            ByteRange::Whole => self.whole(),
            ByteRange::Part { start, length } => self.part(start, length, total),
            ByteRange::Unsatisfiable => unsatisfiable(total),
        }
    }

    /// The rendered header and the body of a full response, if the content is in memory. There is
    /// none for an empty file: hyper puts the length of an empty body elsewhere.
    pub(super) fn ready(&self, finish: ready::Finish<'_>) -> Option<ready::Parts> {
        let body = self.content.in_memory()?;
        let rendered = || {
            let mut headers = self.headers.clone();
            finish(&mut headers);
            ready::rendered(StatusCode::OK, &headers)
        };
        Some((self.head.get_or_init(rendered).clone(), body.clone()))
    }

    /// The same as the text of an error.
    pub(super) fn ready_as(
        &self,
        status: StatusCode,
        finish: ready::Finish<'_>,
    ) -> Option<ready::Parts> {
        let body = self.content.in_memory()?;
        let mut heads = self.error_heads.borrow_mut();
        if let Some((_, head)) = heads.iter().find(|(known, _)| *known == status) {
            return Some((head.clone(), body.clone()));
        }
        let mut response = self.whole_as(status);
        finish(response.headers_mut());
        let head = ready::rendered(status, response.headers());
        heads.push((status, head.clone()));
        Some((head, body.clone()))
    }

    /// The size of the content, bytes, if it is in memory.
    pub(super) fn memory_bytes(&self) -> Option<usize> {
        match &self.content {
            Content::Memory(bytes) => Some(bytes.len()),
            Content::File(..) | Content::ToEnd(_) => None,
        }
    }

    fn whole(&self) -> Response<Body> {
        self.respond(StatusCode::OK, self.content.whole())
    }

    fn part(&self, start: u64, length: u64, total: u64) -> Response<Body> {
        let part = self.content.part(start, length);
        let mut response = self.respond(StatusCode::PARTIAL_CONTENT, part);
        let range = format!("bytes {start}-{}/{total}", start + length - 1);
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(CONTENT_RANGE, ascii(range));
        response
    }

    fn not_modified(&self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        for name in [ETAG, LAST_MODIFIED, CACHE_CONTROL, VARY] {
            if let Some(value) = self.headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        response
    }

    fn respond(&self, status: StatusCode, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = self.headers.clone();
        response
    }
}

impl Content {
    /// All of it, if it is in memory and not empty.
    fn in_memory(&self) -> Option<&Bytes> {
        match self {
            Self::Memory(bytes) if !bytes.is_empty() => Some(bytes),
            Self::Memory(_) | Self::File(..) | Self::ToEnd(_) => None,
        }
    }

    fn length(&self) -> Option<u64> {
        match self {
            Self::Memory(bytes) => Some(bytes.len() as u64),
            Self::File(_, length) => Some(*length),
            Self::ToEnd(_) => None,
        }
    }

    fn whole(&self) -> Body {
        match self {
            Self::Memory(bytes) => Body::from(bytes.clone()),
            Self::File(file, length) => Body::file(file.clone(), 0, *length),
            Self::ToEnd(file) => Body::to_end(file.clone()),
        }
    }

    fn part(&self, start: u64, length: u64) -> Body {
        match self {
            Self::Memory(bytes) => {
                Body::from(bytes.slice(start as usize..(start + length) as usize))
            }
            Self::File(file, _) | Self::ToEnd(file) => Body::file(file.clone(), start, length),
        }
    }
}

fn unsatisfiable(total: u64) -> Response<Body> {
    let text = format!("416 Range Not Satisfiable: the file has {total} bytes.\n");
    let mut response = notice(StatusCode::RANGE_NOT_SATISFIABLE, text);
    let range = ascii(format!("bytes */{total}"));
    response.headers_mut().insert(CONTENT_RANGE, range);
    response
}

fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits and ASCII punctuation")
}
