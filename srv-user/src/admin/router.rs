//! What is at which path.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::events::Events;
use super::health::readiness;
use super::listener::Origin;
use super::metrics::{Balance, Format, encode};
use super::names::is_local;
use super::page::{CONTENT_SECURITY_POLICY, PAGE};
use super::source::Source;
use super::switching;

/// What answers are made of.
pub(super) struct Site {
    /// The server's state.
    pub(super) source: Arc<Source>,
    /// How evenly connections were shared of late.
    pub(super) balance: RefCell<Balance>,
    /// The state, as it changes.
    pub(super) events: Events,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Answer = Response<Body>;

/// The answer to a request. `watches` is set once the client watches events.
///
/// # Errors
/// There is always an answer.
pub(super) async fn answer<B>(
    request: Request<B>,
    origin: Origin,
    site: &Site,
    watches: &Cell<bool>,
) -> Result<Answer, Infallible>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let is_head = *request.method() == Method::HEAD;
    let is_read = is_head || *request.method() == Method::GET;
    let source = &site.source;
    let mut answer = match request.uri().path() {
        _ if !is_host_of(origin, &request) => text(
            StatusCode::MISDIRECTED_REQUEST,
            "This address answers only to its IP address or to localhost.\n",
        ),
        "/policy" if *request.method() == Method::POST => {
            let (status, said) = switching::switch(request, origin, source).await;
            text(status, said)
        }
        "/policy" if !is_read => not_allowed("GET, HEAD, POST"),
        "/" | "/metrics" | "/status" | "/livez" | "/readyz" | "/events" if !is_read => {
            not_allowed("GET, HEAD")
        }
        "/" => page(),
        "/metrics" => metrics(request.headers(), site).await,
        "/policy" => json(switching::choice(origin, source).await),
        "/status" => json(status(source).await),
        "/livez" => lives(source).await,
        "/readyz" => is_ready(source).await,
        "/events" => events(is_head, &site.events, watches),
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

/// Whether a request to the loopback address means this process, and not another site. A browser
/// always sends the name.
fn is_host_of<B>(origin: Origin, request: &Request<B>) -> bool {
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    origin != Origin::Loopback || host.is_none_or(is_local)
}

fn page() -> Answer {
    let mut answer = whole(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    let policy = HeaderValue::from_static(CONTENT_SECURITY_POLICY);
    { answer.headers_mut() }.insert(header::CONTENT_SECURITY_POLICY, policy);
    answer
}

async fn status(source: &Source) -> anyhow::Result<String> {
    Ok(source.snapshot().await?.to_json()?.to_string())
}

fn json(text_of_it: anyhow::Result<String>) -> Answer {
    match text_of_it {
        Ok(json) => whole(StatusCode::OK, "application/json", format!("{json}\n")),
        Err(error) => text(StatusCode::BAD_GATEWAY, format!("{error:#}\n")),
    }
}

async fn metrics(headers: &HeaderMap, site: &Site) -> Answer {
    let snapshot = match site.source.snapshot().await {
        Ok(snapshot) => snapshot,
        Err(error) => return text(StatusCode::BAD_GATEWAY, format!("{error:#}\n")),
    };
    let accept = headers.get(header::ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    let format = Format::accepted(accept.unwrap_or_default());
    let balance = site.balance.borrow_mut().since(Instant::now(), &snapshot);
    match encode(&snapshot, &balance, format) {
        Ok(metrics) => whole(StatusCode::OK, format.media_type(), metrics),
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

fn not_allowed(allowed: &'static str) -> Answer {
    let why = format!("Only {allowed} is answered here.\n");
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, why);
    { answer.headers_mut() }.insert(header::ALLOW, HeaderValue::from_static(allowed));
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
            let request = Request::get("/").header(header::HOST, host);
            is_host_of(origin, &request.body(()).unwrap())
        };
        assert!(is_taken(Origin::Loopback, "127.0.0.1:9000"));
        assert!(!is_taken(Origin::Loopback, "evil.test:9000"));
        for origin in [Origin::Network, Origin::Unix] {
            assert!(is_taken(origin, "evil.test:9000"));
        }
    }
}
