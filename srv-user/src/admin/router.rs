//! What is at which path. Nothing here changes anything.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::events::Events;
use super::health::readiness;
use super::listener::Origin;
use super::source::Source;

/// The page.
const PAGE: &str = include_str!("page.html");
/// The page asks this process and no other; no other page may contain it.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src \
                           'unsafe-inline'; img-src data:; connect-src 'self'; form-action \
                           'none'; frame-ancestors 'none'; base-uri 'none'";

/// What answers are made of.
pub(super) struct Site {
    /// The server's state.
    pub(super) source: Arc<Source>,
    /// The same, as it changes.
    pub(super) events: Events,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Answer = Response<Body>;

/// The answer to a request. `watches` is set once the client watches events.
///
/// # Errors
/// There is always an answer.
pub(super) async fn answer<B>(
    request: &Request<B>,
    origin: Origin,
    site: &Site,
    watches: &Cell<bool>,
) -> Result<Answer, Infallible> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut answer = match request.uri().path() {
        _ if !is_host_of(origin, request) => text(
            StatusCode::MISDIRECTED_REQUEST,
            "This address answers only to its IP address or to localhost.\n",
        ),
        "/" | "/status" | "/livez" | "/readyz" | "/events" if !is_read => not_allowed(),
        "/" => page(),
        "/status" => status(&site.source).await,
        "/livez" => lives(&site.source).await,
        "/readyz" => is_ready(&site.source).await,
        "/events" => events(request.method() == Method::HEAD, &site.events, watches),
        _ => text(StatusCode::NOT_FOUND, "There is nothing at this path.\n"),
    };
    let headers = answer.headers_mut();
    let mut set = |name: HeaderName, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::CACHE_CONTROL, "no-store");
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    );
    Ok(answer)
}

/// Whether a request means this process. A page of another site can make its own name lead to the
/// loopback address, and would then read what is here. It cannot make the browser send another
/// name.
fn is_host_of<B>(origin: Origin, request: &Request<B>) -> bool {
    if origin != Origin::Loopback {
        return true;
    }
    let host = request.headers().get(header::HOST);
    let Some(host) = host.and_then(|host| host.to_str().ok()) else {
        // A browser always sends it.
        return true;
    };
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

fn page() -> Answer {
    let mut answer = whole(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    let policy = HeaderValue::from_static(PAGE_POLICY);
    { answer.headers_mut() }.insert(header::CONTENT_SECURITY_POLICY, policy);
    answer
}

async fn status(source: &Source) -> Answer {
    let snapshot = match source.snapshot().await {
        Ok(snapshot) => snapshot,
        Err(error) => return text(StatusCode::BAD_GATEWAY, format!("{error:#}\n")),
    };
    match snapshot.to_json() {
        Ok(status) => whole(StatusCode::OK, "application/json", format!("{status}\n")),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// Whether the server's event loop runs.
async fn lives(source: &Source) -> Answer {
    match source.snapshot().await {
        Ok(_) => text(StatusCode::OK, "The server lives.\n"),
        Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")),
    }
}

async fn is_ready(source: &Source) -> Answer {
    let snapshot = source.snapshot().await;
    let why_not = match &snapshot {
        Ok(snapshot) => readiness(snapshot).err(),
        Err(error) => Some(format!("{error:#}")),
    };
    match why_not {
        None => text(StatusCode::OK, "The server is ready.\n"),
        Some(why) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {why}\n"),
        ),
    }
}

fn events(is_head: bool, events: &Events, watches: &Cell<bool>) -> Answer {
    let body = match is_head {
        true => Empty::new().boxed_unsync(),
        false => match events.watch() {
            Some(events) => {
                watches.set(true);
                StreamBody::new(events).boxed_unsync()
            }
            None => {
                let why = "Too many clients watch the events: close one.\n";
                return text(StatusCode::SERVICE_UNAVAILABLE, why);
            }
        },
    };
    typed(StatusCode::OK, "text/event-stream", body)
}

fn not_allowed() -> Answer {
    let mut answer = text(
        StatusCode::METHOD_NOT_ALLOWED,
        "Only GET and HEAD are answered here.\n",
    );
    { answer.headers_mut() }.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    answer
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    whole(status, "text/plain; charset=utf-8", text)
}

fn whole(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    typed(status, media_type, Full::new(body.into()).boxed_unsync())
}

fn typed(status: StatusCode, media_type: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let media_type = HeaderValue::from_static(media_type);
    { answer.headers_mut() }.insert(header::CONTENT_TYPE, media_type);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_the_loopback_address_other_names_are_refused() {
        let is_taken = |origin, host: &str| {
            let request = Request::get("/")
                .header(header::HOST, host)
                .body(())
                .unwrap();
            is_host_of(origin, &request)
        };
        for host in [
            "127.0.0.1:9000",
            "[::1]:9000",
            "[::1]",
            "localhost",
            "LOCALHOST:80",
        ] {
            assert!(is_taken(Origin::Loopback, host), "{host}");
        }
        for host in [
            "evil.test",
            "evil.test:9000",
            "localhost.evil.test",
            "1.2.3.4.evil.test",
        ] {
            assert!(!is_taken(Origin::Loopback, host), "{host}");
            assert!(is_taken(Origin::Network, host), "{host}");
            assert!(is_taken(Origin::Unix, host), "{host}");
        }
    }
}
