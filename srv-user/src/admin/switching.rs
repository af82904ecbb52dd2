//! The one change that a client can ask for: to switch the policy, as `srv policy` does. Only over the
//! Unix socket, to which only the server's user can connect. A browser reaches it through ssh, and may
//! have pages of other sites open: those cannot send JSON to it, or else say where they come from.

use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{self, HeaderMap};
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::listener::Origin;
use super::names::is_local;
use super::source::{Snapshot, Source};
use crate::control::Reply;
use crate::values::{PolicyName, policies, reported::Reported};

/// The longest order.
const ORDER_BYTES_MAX: usize = 1024;

/// A client's order.
#[derive(Deserialize)]
struct Order {
    policy: Reported<PolicyName>,
}

/// What can be ordered, as JSON: the names of the policies, and whether this client may switch.
///
/// # Errors
/// The server does not answer.
pub(super) async fn choice(origin: Origin, source: &Source) -> anyhow::Result<String> {
    let names = match &*source.snapshot().await? {
        Snapshot::Server(_) => policies::all(),
        Snapshot::Attached(_) => policies::of_attached(),
    };
    let choice = json!({ "policies": names, "may_switch": origin == Origin::Unix });
    Ok(choice.to_string())
}

/// Switches, and says what the server said.
pub(super) async fn switch<B>(
    request: Request<B>,
    origin: Origin,
    source: &Source,
) -> (StatusCode, String)
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if let Err(refusal) = may_switch(origin, request.headers()) {
        return refusal;
    }
    let bytes = match Limited::new(request.into_body(), ORDER_BYTES_MAX)
        .collect()
        .await
    {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return (
                StatusCode::BAD_REQUEST,
                format!("read the order: {error}\n"),
            );
        }
    };
    let order: Order = match serde_json::from_slice(&bytes) {
        Ok(order) => order,
        Err(error) => {
            let why = format!("read the order: {error}; right is {{\"policy\": \"least\"}}\n");
            return (StatusCode::BAD_REQUEST, why);
        }
    };
    match source.switch(order.policy).await {
        Ok(Reply::Done(said)) => (StatusCode::OK, format!("{said}\n")),
        Ok(Reply::Refused(why)) => (StatusCode::CONFLICT, format!("{why}\n")),
        Ok(other) => (
            StatusCode::BAD_GATEWAY,
            format!("asked to switch, got {other:?}\n"),
        ),
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}\n")),
    }
}

fn may_switch(origin: Origin, headers: &HeaderMap) -> Result<(), (StatusCode, String)> {
    let value = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if origin != Origin::Unix {
        let why = "The policy is switched over the Unix socket, or by `srv policy`.\n";
        return Err((StatusCode::FORBIDDEN, why.into()));
    }
    if let Some(from) = headers.get(header::ORIGIN) {
        let host = from.to_str().ok().and_then(|from| from.split_once("://"));
        if !host.is_some_and(|(_, host)| is_local(host)) {
            let why = "A page of another site cannot switch the policy.\n";
            return Err((StatusCode::FORBIDDEN, why.into()));
        }
    }
    // A page of another site may send other types without asking.
    if value(header::CONTENT_TYPE) != Some("application/json") {
        let why = "An order is application/json.\n";
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, why.into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(origin: Origin, fields: &[(&'static str, &str)]) -> Option<u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, value.parse().unwrap());
        }
        may_switch(origin, &headers)
            .err()
            .map(|(status, _)| status.as_u16())
    }

    #[test]
    fn only_the_unix_socket_switches_and_no_page_of_another_site() {
        let json = ("content-type", "application/json");
        assert_eq!(refused(Origin::Unix, &[json]), None);
        assert_eq!(
            refused(Origin::Unix, &[json, ("origin", "http://localhost:9000")]),
            None
        );
        assert_eq!(refused(Origin::Loopback, &[json]), Some(403));
        assert_eq!(refused(Origin::Network, &[json]), Some(403));
        for other in [
            "http://evil.test",
            "http://evil.test:9000",
            "null",
            "file://",
        ] {
            assert_eq!(
                refused(Origin::Unix, &[json, ("origin", other)]),
                Some(403),
                "{other}"
            );
        }
        assert_eq!(
            refused(Origin::Unix, &[("content-type", "text/plain")]),
            Some(415)
        );
        assert_eq!(refused(Origin::Unix, &[]), Some(415));
    }
}
