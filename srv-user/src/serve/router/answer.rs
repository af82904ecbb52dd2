//! How a route, or the rest of a site, answers: its handler, then its error pages, then its changes
//! of headers. Knows neither hosts nor other routes.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, LOCATION};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use percent_encoding::{CONTROLS, utf8_percent_encode};

use crate::serve::config::sites::{
    Fixed, Handler, HeaderChange, KeptPath, Pattern, Place, Redirect,
};
use crate::serve::site::{Body, Folder, RequestPath, Site, notice};

/// A route, or the rest of a site.
#[derive(Debug)]
pub(super) struct Answer {
    handler: Handler,
    /// The prefix of the route; empty if it has none.
    prefix: String,
    site: Site,
    error_pages: BTreeMap<u16, String>,
    changes: Vec<Change>,
}

/// A change of a response's headers, ready to be made.
#[derive(Debug)]
enum Change {
    Remove(HeaderName),
    Set(HeaderName, HeaderValue),
    Add(HeaderName, HeaderValue),
}

impl Answer {
    /// `number` is another one for each answer of a worker.
    pub(super) fn new(
        place: &Place,
        pattern: Option<&Pattern>,
        folder: Option<Folder>,
        number: usize,
    ) -> anyhow::Result<Self> {
        let changes = place.headers.iter().map(Change::new);
        Ok(Self {
            handler: place.handler.clone(),
            prefix: match pattern {
                Some(Pattern::Prefix(prefix)) => prefix.clone(),
                _ => String::new(),
            },
            site: Site::of(place.files.clone(), folder, number.to_string()),
            error_pages: place.error_pages.clone(),
            changes: changes.collect::<Result<_, _>>()?,
        })
    }

    /// Answers a request.
    pub(super) fn respond(&self, request: &Parts) -> Response<Body> {
        let (mut response, has_own_text) = match &self.handler {
            Handler::Files => (self.site.respond(request), false),
            // Every other answer than a refusal would be a tunnel (RFC 9110, 9.3.6).
            _ if request.method == Method::CONNECT => (self.site.respond(request), false),
            Handler::Redirect(redirect) => (self.redirect(redirect, request), true),
            Handler::Fixed(fixed) => (text(fixed), !fixed.body.is_empty()),
        };
        let page = self.error_pages.get(&response.status().as_u16());
        if let Some(page) = page.filter(|_| !has_own_text) {
            response = self.site.error_page(page, response);
        }
        for change in &self.changes {
            change.make(response.headers_mut());
        }
        response
    }

    fn redirect(&self, redirect: &Redirect, request: &Parts) -> Response<Body> {
        let mut location = redirect.to.clone();
        if redirect.path != KeptPath::Nothing {
            let Ok(path) = RequestPath::decode(request.uri.path()) else {
                return notice(
                    StatusCode::BAD_REQUEST,
                    "400 Bad Request: the path is not well formed.\n",
                );
            };
            // The path has no empty segments, so what follows the slash cannot be a host.
            let path = match redirect.path {
                KeptPath::Rest => path.after(&self.prefix),
                KeptPath::Whole | KeptPath::Nothing => path,
            };
            location.truncate(location.trim_end_matches('/').len());
            location.push_str(&path.escaped());
        }
        if let (true, Some(query)) = (redirect.query, request.uri.query()) {
            location.push('?');
            location.extend(utf8_percent_encode(query, CONTROLS));
        }
        let status = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND);
        let mut response = notice(status, format!("{status}: see the Location header.\n"));
        if let Ok(location) = HeaderValue::try_from(location) {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }
}

fn text(fixed: &Fixed) -> Response<Body> {
    let status = StatusCode::from_u16(fixed.status).unwrap_or(StatusCode::NOT_FOUND);
    if status == StatusCode::NO_CONTENT {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        return response;
    }
    if fixed.body.is_empty() && (status.is_client_error() || status.is_server_error()) {
        return notice(status, format!("{status}\n"));
    }
    let mut response = notice(status, Bytes::from(fixed.body.clone()));
    if let Ok(media) = HeaderValue::from_str(&fixed.media) {
        response.headers_mut().insert(CONTENT_TYPE, media);
    }
    response
}

impl Change {
    fn new(change: &HeaderChange) -> anyhow::Result<Self> {
        let name = |name: &String| HeaderName::from_bytes(name.as_bytes());
        Ok(match change {
            HeaderChange::Remove(header) => Self::Remove(name(header)?),
            HeaderChange::Set(header, value) => Self::Set(name(header)?, value.parse()?),
            HeaderChange::Add(header, value) => Self::Add(name(header)?, value.parse()?),
        })
    }

    fn make(&self, headers: &mut HeaderMap) {
        match self {
            Self::Remove(name) => {
                headers.remove(name);
            }
            Self::Set(name, value) => {
                headers.insert(name, value.clone());
            }
            Self::Add(name, value) => {
                headers.append(name, value.clone());
            }
        }
    }
}
