//! Short plain-text answers: refusals and redirects.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response, StatusCode};

use crate::serve::site::body::Body;
use crate::serve::site::content_type;
use crate::serve::site::request_path::BadPath;

/// An answer of one line of text, with its length.
pub(in crate::serve) fn notice(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let text = text.into();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type::PLAIN);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    *response.body_mut() = Body::from(text);
    response
}

/// The answer 405, which names the allowed methods.
pub(super) fn method_not_allowed(allowed: &'static str) -> Response<Body> {
    let text = format!("405 Method Not Allowed: this takes {allowed}.\n");
    let mut response = notice(StatusCode::METHOD_NOT_ALLOWED, text);
    let allowed = HeaderValue::from_static(allowed);
    response.headers_mut().insert(ALLOW, allowed);
    response
}

/// The answer 204 to OPTIONS, which names the allowed methods.
pub(super) fn options(allowed: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let allowed = HeaderValue::from_static(allowed);
    response.headers_mut().insert(ALLOW, allowed);
    response
}

/// The answer 301, which redirects to a path on this server. `location` is already escaped.
pub(super) fn moved(location: HeaderValue) -> Response<Body> {
    let mut response = notice(
        StatusCode::MOVED_PERMANENTLY,
        "301 Moved Permanently: this is a folder; its address ends in a slash.\n",
    );
    response.headers_mut().insert(LOCATION, location);
    response
}

/// The answer 404.
pub(super) fn not_found() -> Response<Body> {
    notice(
        StatusCode::NOT_FOUND,
        "404 Not Found: there is no such file here.\n",
    )
}

/// The answer 503: the system could not answer.
pub(super) fn failed() -> Response<Body> {
    notice(
        StatusCode::SERVICE_UNAVAILABLE,
        "503 Service Unavailable: the server could not open this file just now.\n",
    )
}

/// The answer to a path that names nothing.
pub(super) fn refused_path(bad: BadPath) -> Response<Body> {
    match bad {
        BadPath::Nowhere => not_found(),
        BadPath::Malformed => notice(
            StatusCode::BAD_REQUEST,
            "400 Bad Request: the path is not well formed.\n",
        ),
    }
}
