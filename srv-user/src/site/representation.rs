//! One version of one file (or built-in page), ready to be sent: whole, in part, or not at all
//! because the client has it. Knows nothing of paths, folders or caches.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, LAST_MODIFIED,
    RANGE,
};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};

use crate::site::body::Body;
use crate::site::byte_range::ByteRange;
use crate::site::conditional::{self, Validators, Verdict};
use crate::site::notice::notice;

/// A version of a file, with the headers of a full response made ready.
#[derive(Debug)]
pub struct Representation {
    headers: HeaderMap,
    validators: Validators,
    content: Content,
}

/// Where the bytes are.
#[derive(Debug)]
pub enum Content {
    /// Here.
    Memory(Bytes),
    /// In a file, so many bytes of it.
    File(Arc<File>, u64),
}

impl Representation {
    /// Prepares the headers.
    pub fn new(content_type: HeaderValue, validators: Validators, content: Content) -> Self {
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(content.length()));
        headers.insert(ETAG, validators.etag.clone());
        if let Some(modified_s) = validators.modified_s {
            headers.insert(LAST_MODIFIED, conditional::format_date(modified_s));
        }
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        Self {
            headers,
            validators,
            content,
        }
    }

    /// Answers a GET; also a HEAD, whose caller drops the body.
    pub fn answer(&self, request: &Parts) -> Response<Body> {
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
        // Range means nothing to any other method (RFC 9110, 14.2).
        if request.method != Method::GET
            || !request.headers.contains_key(RANGE)
            || !conditional::range_counts(&request.headers, &self.validators)
        {
            return self.whole();
        }
        match ByteRange::requested(&request.headers, self.content.length()) {
            ByteRange::Whole => self.whole(),
            ByteRange::Part { start, length } => self.part(start, length),
            ByteRange::Unsatisfiable => self.unsatisfiable(),
        }
    }

    /// Whether sending it takes no file.
    pub fn is_in_memory(&self) -> bool {
        matches!(self.content, Content::Memory(_))
    }

    fn whole(&self) -> Response<Body> {
        self.respond(StatusCode::OK, 0, self.content.length())
    }

    fn part(&self, start: u64, length: u64) -> Response<Body> {
        let mut response = self.respond(StatusCode::PARTIAL_CONTENT, start, length);
        let total = self.content.length();
        let range = format!("bytes {start}-{}/{total}", start + length - 1);
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(CONTENT_RANGE, ascii(range));
        response
    }

    fn unsatisfiable(&self) -> Response<Body> {
        let total = self.content.length();
        let text = format!("416 Range Not Satisfiable: the file has {total} bytes.\n");
        let mut response = notice(StatusCode::RANGE_NOT_SATISFIABLE, text);
        let range = ascii(format!("bytes */{total}"));
        response.headers_mut().insert(CONTENT_RANGE, range);
        response
    }

    fn not_modified(&self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        for name in [ETAG, LAST_MODIFIED] {
            if let Some(value) = self.headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        response
    }

    fn respond(&self, status: StatusCode, start: u64, length: u64) -> Response<Body> {
        let mut response = Response::new(self.content.part(start, length));
        *response.status_mut() = status;
        *response.headers_mut() = self.headers.clone();
        response
    }
}

impl Content {
    fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, length) => *length,
        }
    }

    fn part(&self, start: u64, length: u64) -> Body {
        match self {
            Self::Memory(bytes) => {
                Body::from(bytes.slice(start as usize..(start + length) as usize))
            }
            Self::File(file, _) => Body::file(file.clone(), start, length),
        }
    }
}

fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits and ASCII punctuation")
}
