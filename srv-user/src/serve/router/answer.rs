//! How a route, or the rest of a site, answers: whether the client may have an answer, its handler, then its error pages, then its changes
//! of headers. Knows neither hosts nor other routes.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, LOCATION};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use percent_encoding::{CONTROLS, utf8_percent_encode};

use super::Client;
use super::access::{Access, Memory};
use super::script::{self, Found, KnownScripts, Lookup, Script};
use crate::serve::config::Root;
use crate::serve::config::sites::{
    Access as Rules, FastCgi, Fixed, Handler, HeaderChange, KeptPath, Pattern, Place, Redirect,
};
use crate::serve::site::{
    Body, Finish, Folder, PlainRequest, Ready, RequestPath, Site, notice, rendered,
};
use crate::values::{AccessLog, LogId};

/// A route, or the rest of a site.
#[derive(Debug)]
pub(super) struct Answer {
    handler: Handler,
    /// The application of the handler, if it has one, for the requests that are on their way.
    application: Option<Rc<FastCgi>>,
    known_scripts: KnownScripts,
    /// The prefix of the route; empty if it has none.
    prefix: String,
    site: Site,
    /// The folder of its files and scripts.
    root: Option<Root>,
    error_pages: BTreeMap<u16, String>,
    changes: Vec<Change>,
    access: Access,
    /// Where its requests are logged.
    log: Option<LogId>,
    /// The worker's name, if every response has it.
    worker: Option<HeaderValue>,
    /// The rendered answer, if it is the same for every path without a query.
    ready: Option<(Bytes, Bytes)>,
}

/// A change of a response's headers, ready to be made.
#[derive(Debug)]
enum Change {
    Remove(HeaderName),
    Set(HeaderName, HeaderValue),
    Add(HeaderName, HeaderValue),
}

impl Answer {
    /// `number` is another one for each answer of a worker. If `worker` is set, every response
    /// names it.
    pub(super) fn new(
        place: &Place,
        pattern: Option<&Pattern>,
        folder: Option<Folder>,
        number: usize,
        worker: Option<&HeaderValue>,
    ) -> anyhow::Result<Self> {
        let changes = place.headers.iter().map(Change::new);
        let mut answer = Self {
            handler: place.handler.clone(),
            application: match &place.handler {
                Handler::FastCgi(fastcgi) => Some(Rc::new(fastcgi.clone())),
                _ => None,
            },
            known_scripts: KnownScripts::default(),
            prefix: match pattern {
                Some(Pattern::Prefix(prefix)) => prefix.clone(),
                _ => String::new(),
            },
            site: Site::of(place.files.clone(), folder, number.to_string()),
            root: place.files.root.clone(),
            error_pages: place.error_pages.clone(),
            changes: changes.collect::<Result<_, _>>()?,
            access: Access::new(&place.access, number)?,
            log: place.access_log.as_ref().map(AccessLog::id),
            worker: worker.cloned(),
            ready: None,
        };
        answer.ready = match &answer.handler {
            Handler::Files | Handler::FastCgi(_) => None,
            Handler::Redirect(to) if to.path != KeptPath::Nothing => None,
            Handler::Redirect(to) => answer.rendered(redirect(to, "", "/", None)),
            Handler::Fixed(fixed) => answer.rendered(text(fixed)),
        };
        Ok(answer)
    }

    /// Where its requests are logged.
    pub(super) fn log(&self) -> Option<LogId> {
        self.log
    }

    /// Which clients are answered.
    pub(super) fn rules(&self) -> &Rules {
        self.access.rules()
    }

    /// Answers a request.
    pub(super) fn respond(
        &self,
        request: &Parts,
        client: Client,
        memory: &Memory,
    ) -> Response<Body> {
        if let Some(refusal) = self.refusal(request, client, memory) {
            return refusal;
        }
        let response = self.handle(request);
        let has_own_text = self.has_own_text();
        self.complete(response, has_own_text)
    }

    /// The refusal of a request by the rules for clients, if they refuse it.
    pub(super) fn refusal(
        &self,
        request: &Parts,
        client: Client,
        memory: &Memory,
    ) -> Option<Response<Body>> {
        let refusal = self.access.refusal(memory, client, &request.headers)?;
        Some(self.complete(refusal, false))
    }

    /// The user that a request is from, if it needed a password and was not refused.
    pub(super) fn user(&self, headers: &HeaderMap) -> Option<String> {
        self.access.user(headers)
    }

    /// With its error page, unless it has a text of its own, and with the changes of headers.
    fn complete(&self, mut response: Response<Body>, has_own_text: bool) -> Response<Body> {
        let page = self.error_pages.get(&response.status().as_u16());
        if let Some(page) = page.filter(|_| !has_own_text) {
            response = self.site.error_page(page, response);
        }
        self.finish(response.headers_mut());
        response
    }

    fn handle(&self, request: &Parts) -> Response<Body> {
        match &self.handler {
            Handler::Files => self.site.respond(request),
            // Every other answer than a refusal would be a tunnel (RFC 9110, 9.3.6).
            _ if request.method == Method::CONNECT => self.site.respond(request),
            Handler::Redirect(to) => {
                let (path, query) = (request.uri.path(), request.uri.query());
                redirect(to, &self.prefix, path, query)
            }
            Handler::Fixed(fixed) => text(fixed),
            Handler::FastCgi(fastcgi) => self.without_script(fastcgi, request),
        }
    }

    /// What an application has answered, as the client gets it.
    pub(super) fn answered(&self, mut response: Response<Body>) -> Response<Body> {
        self.finish(response.headers_mut());
        response
    }

    /// As the client gets it if an application has not answered.
    pub(super) fn refuse(&self, response: Response<Body>) -> Response<Body> {
        self.complete(response, false)
    }

    /// A file of the root, for an application that names it.
    pub(super) fn file(&self, request: &Parts) -> Response<Body> {
        self.refuse(self.site.respond(request))
    }

    /// The script that answers a request, if one does.
    pub(super) fn script(&self, request: &Parts) -> Option<(Rc<FastCgi>, Script)> {
        let fastcgi = self.application.as_ref()?;
        match script::find(&self.lookup(fastcgi), request) {
            Found::Script(script) => Some((fastcgi.clone(), script)),
            Found::Files | Found::Nothing => None,
        }
    }

    fn lookup<'a>(&'a self, fastcgi: &'a FastCgi) -> Lookup<'a> {
        Lookup {
            fastcgi,
            root: self.root.as_ref(),
            site: &self.site,
            known: &self.known_scripts,
            prefix: &self.prefix,
        }
    }

    fn without_script(&self, fastcgi: &FastCgi, request: &Parts) -> Response<Body> {
        match script::find(&self.lookup(fastcgi), request) {
            Found::Files => self.site.respond(request),
            _ => notice(
                StatusCode::NOT_FOUND,
                "404 Not Found: there is no such file here.\n",
            ),
        }
    }

    /// The answer to a plain request, if it is ready.
    pub(super) fn ready(
        &self,
        request: &PlainRequest<'_>,
        path: &str,
        query: Option<&str>,
        client: Client,
        memory: &Memory,
    ) -> Option<Ready<'_>> {
        if !self.access.is_open_at_once(memory, client, request) {
            return None;
        }
        let finish: Finish<'_> = &|headers| self.finish(headers);
        let (head, body) = match &self.handler {
            Handler::Files => self.site.ready_file(path, request, finish)?,
            Handler::FastCgi(_) => return None,
            Handler::Redirect(to) => match &self.ready {
                Some(ready) if query.is_none() || !to.query => ready.clone(),
                _ => self.rendered(redirect(to, &self.prefix, path, query))?,
            },
            Handler::Fixed(fixed) => {
                let status = status_of(fixed);
                let page = self.error_pages.get(&status.as_u16());
                match page.filter(|_| !self.has_own_text()) {
                    Some(page) => self.site.ready_error_page(page, status, finish)?,
                    None => self.ready.clone()?,
                }
            }
        };
        self.access.count(memory, client);
        Some(Ready {
            head,
            signature: &[],
            log: self.log,
            body: match request.is_head {
                true => Bytes::new(),
                false => body,
            },
        })
    }

    /// Whether its answers keep their text, instead of that of an error page.
    fn has_own_text(&self) -> bool {
        match &self.handler {
            Handler::Files | Handler::FastCgi(_) => false,
            Handler::Redirect(_) => true,
            Handler::Fixed(fixed) => !fixed.body.is_empty(),
        }
    }

    /// What is done with the headers of every response.
    fn finish(&self, headers: &mut HeaderMap) {
        for change in &self.changes {
            change.make(headers);
        }
        Site::sign_headers(self.worker.as_ref(), headers);
    }

    /// A text as a header and a body. An empty one has none: hyper puts its length elsewhere.
    fn rendered(&self, mut response: Response<Body>) -> Option<(Bytes, Bytes)> {
        self.finish(response.headers_mut());
        let head = rendered(response.status(), response.headers());
        let body = response.into_body().in_memory()?;
        (!body.is_empty()).then_some((head, body))
    }
}

/// The answer to a path that `prefix` is the route of.
fn redirect(redirect: &Redirect, prefix: &str, path: &str, query: Option<&str>) -> Response<Body> {
    let mut location = redirect.to.clone();
    if redirect.path != KeptPath::Nothing {
        let Ok(path) = RequestPath::decode(path) else {
            return notice(
                StatusCode::BAD_REQUEST,
                "400 Bad Request: the path is not well formed.\n",
            );
        };
        // The path has no empty segments, so what follows the slash cannot be a host.
        let path = match redirect.path {
            KeptPath::Rest => path.after(prefix),
            KeptPath::Whole | KeptPath::Nothing => path,
        };
        location.truncate(location.trim_end_matches('/').len());
        location.push_str(&path.escaped());
    }
    if let (true, Some(query)) = (redirect.query, query) {
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

fn status_of(fixed: &Fixed) -> StatusCode {
    StatusCode::from_u16(fixed.status).unwrap_or(StatusCode::NOT_FOUND)
}

fn text(fixed: &Fixed) -> Response<Body> {
    let status = status_of(fixed);
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
