//! Short plain-text answers: refusals and redirects.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response, StatusCode};

use crate::serve::site::body::Body;
use crate::serve::site::content_type;

/// An answer of one line of text, its length stated.
pub(super) fn notice(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let text = text.into();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type::PLAIN);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    *response.body_mut() = Body::from(text);
    response
}

/// 405, with what is allowed instead.
pub(super) fn method_not_allowed(allowed: &'static str) -> Response<Body> {
    let text = format!("405 Method Not Allowed: this takes {allowed}.\n");
    let mut response = notice(StatusCode::METHOD_NOT_ALLOWED, text);
    let allowed = HeaderValue::from_static(allowed);
    response.headers_mut().insert(ALLOW, allowed);
    response
}

/// 204 to OPTIONS: what is allowed.
pub(super) fn options(allowed: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let allowed = HeaderValue::from_static(allowed);
    response.headers_mut().insert(ALLOW, allowed);
    response
}

/// 301 to a path on this server, already escaped.
pub(super) fn moved(location: HeaderValue) -> Response<Body> {
    let mut response = notice(
        StatusCode::MOVED_PERMANENTLY,
        "301 Moved Permanently: this is a folder; its address ends in a slash.\n",
    );
    response.headers_mut().insert(LOCATION, location);
    response
}
