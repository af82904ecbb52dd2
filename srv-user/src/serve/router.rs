//! Which site and route answer a request. Everything is built when the worker starts, or takes over
//! new settings; a request costs a few lookups in hash tables, and for a server with one site none.
//! `hosts` finds the site, [`super::site::paths`] the route, and `answer` is what a route does.

mod access;
mod answer;
mod client;
mod hosts;
mod script;

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use anyhow::Context;
use bytes::Bytes;
use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use crate::serve::config::sites::{FastCgi, Handler, Place, SiteSettings};
use crate::serve::config::{Root, Serving};
use crate::serve::site::paths::Paths;
use crate::serve::site::{
    Body, DocRoot, FileCache, Folder, PlainRequest, Ready, Site, decoded, notice,
};
use crate::values::{AccessLog, LogId};
use access::Memory;
use answer::Answer;
pub use client::Client;
pub use hosts::{Hosts, by_listener};
pub use script::Script;

/// What a worker serves.
#[derive(Debug)]
pub struct Router {
    /// The only site, or, if there are several, what they have in common: synthetic work, refusals
    /// and the name of the worker.
    front: Site,
    /// `None`: there is one site, and it has no routes.
    table: Option<Table>,
    /// Where requests are logged that are no site's.
    log: Option<LogId>,
    /// Whether any are.
    logs: bool,
    /// The folders, which are open for as long as the worker lives.
    opened: Vec<(Root, Rc<DocRoot>)>,
}

/// Where a request leads: numbers in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The `[[site]]`.
    pub site: usize,
    /// The `[[site.route]]`; `None`: no route of the site has the path.
    pub route: Option<usize>,
}

#[derive(Debug)]
struct Table {
    /// By listener. The last one is for all listeners that no site refers to.
    hosts: Vec<Hosts>,
    asks_for_addresses: bool,
    /// For each site: the number of its certificate.
    certificates: Vec<u32>,
    /// The number of the certificate for other hosts.
    otherwise: u32,
    sites: Vec<Routes>,
    memory: Memory,
    /// Whether scripts of an application answer any path.
    has_scripts: bool,
}

/// One site: what its routes answer, and what answers the rest.
#[derive(Debug)]
struct Routes {
    rest: Answer,
    routes: Vec<Answer>,
    by_path: Paths<usize>,
}

impl Router {
    /// Serves what `serving` says. It opens the roots now, and never again. If `worker` is set,
    /// every response names it in an `X-Worker` header.
    ///
    /// # Errors
    /// srv cannot open a root, a root is another folder now, or the kernel cannot keep lookups
    /// inside it.
    pub fn new(serving: &Serving, worker: Option<u32>) -> anyhow::Result<Self> {
        let mut opened = Vec::new();
        for root in serving.roots() {
            opened.push((root.clone(), Rc::new(DocRoot::new(root)?)));
        }
        Self::with(opened, serving, worker)
    }

    /// Serves the same folders, without opening them again, by the other settings of `serving`.
    ///
    /// # Errors
    /// `serving` has a root that is not open.
    pub fn again(&self, serving: &Serving, worker: Option<u32>) -> anyhow::Result<Self> {
        Self::with(self.opened.clone(), serving, worker)
    }

    fn with(
        opened: Vec<(Root, Rc<DocRoot>)>,
        serving: &Serving,
        worker: Option<u32>,
    ) -> anyhow::Result<Self> {
        // One cache, so that its bound holds for all sites together.
        let cache: Rc<RefCell<FileCache>> = Rc::default();
        let folder = |root: &Option<Root>| -> anyhow::Result<Option<Folder>> {
            let Some(root) = root else {
                return Ok(None);
            };
            let found = opened.binary_search_by(|(known, _)| known.cmp(root));
            let found = found.ok().with_context(|| {
                format!(
                    "serve root {}: it was not open at the start",
                    root.path.display()
                )
            })?;
            Ok(Some((opened[found].1.clone(), cache.clone())))
        };
        let front = Site::only(serving, folder(&serving.root)?, worker);
        let table = match serving.sites.is_empty() {
            true => None,
            false => Some(Table::new(serving, &folder, front.worker())?),
        };
        Ok(Self {
            front,
            table,
            log: serving.access_log.as_ref().map(AccessLog::id),
            logs: !serving.access_logs().is_empty(),
            opened,
        })
    }

    /// The folders that are served.
    pub fn roots(&self) -> Vec<BorrowedFd<'_>> {
        self.opened.iter().map(|(_, root)| root.as_fd()).collect()
    }

    /// Answers a request. If it had a body, the caller has read or discarded it. This never
    /// panics. The answer to HEAD has no body, and its `Content-Length` is that of a GET.
    pub fn respond(&self, request: &Parts, client: Client) -> Response<Body> {
        let Some(table) = &self.table else {
            return self.front.respond(request);
        };
        if self.front.is_work_path(request.uri.path()) {
            return self.front.respond(request);
        }
        let mut response = match table.find_for(request, client) {
            Some(target) => {
                let answer = table.answer(target);
                answer.respond(request, client, &table.memory)
            }
            None => self.front.refuse(
                StatusCode::MISDIRECTED_REQUEST,
                "421 Misdirected Request: this server has no site for this host, or has it for TLS \
                 sessions with that host alone.\n",
            ),
        };
        if request.method == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        response
    }

    /// The answer to a plain request, if it is ready: then it is what [`respond`](Self::respond)
    /// would answer. `None` says nothing about the request.
    pub fn ready(&self, request: &PlainRequest<'_>, client: Client) -> Option<Ready<'_>> {
        let Some(table) = &self.table else {
            let ready = self.front.ready(request)?;
            return Some(Ready {
                log: self.log,
                ..ready
            });
        };
        let (path, query) = request.path_and_query()?;
        if self.front.is_work_path(path) {
            return None;
        }
        let target = table.find(request.host(), path, client)?;
        let answer = table.answer(target);
        answer.ready(request, path, query, client, &table.memory)
    }

    /// Whether requests are logged.
    pub fn logs(&self) -> bool {
        self.logs
    }

    /// Where those are logged that are no site's.
    pub fn log(&self) -> Option<LogId> {
        self.log
    }

    /// Where a request is logged, if it is.
    pub fn log_of(&self, request: &Parts, client: Client) -> Option<LogId> {
        let table = self.table.as_ref().filter(|_| self.logs);
        let Some(table) = table.filter(|_| !self.front.is_work_path(request.uri.path())) else {
            return self.log;
        };
        match table.find_for(request, client) {
            Some(target) => table.answer(target).log(),
            None => self.log,
        }
    }

    /// Whether the answer to a request may depend on the address of its client.
    pub fn asks_for_addresses(&self) -> bool {
        self.table
            .as_ref()
            .is_some_and(|table| table.asks_for_addresses)
    }

    /// The refusal of a request that `target` is for by the rules for clients, if they refuse it,
    /// for what answers in place of [`respond`](Self::respond), which applies them itself.
    pub fn refusal(
        &self,
        target: Target,
        request: &Parts,
        client: Client,
    ) -> Option<Response<Body>> {
        let table = self.table.as_ref()?;
        let answer = table.get(target)?;
        answer.refusal(request, client, &table.memory)
    }

    /// The user that a request is from, if the rules for clients of `target` demand a password and
    /// [`refusal`](Self::refusal) found it right.
    pub fn user(&self, target: Target, headers: &HeaderMap) -> Option<String> {
        self.at(target)?.user(headers)
    }

    /// The most bytes of the body of a request, if they are other ones than for the whole server.
    pub fn body_bytes_max(&self, request: &Parts, client: Client) -> Option<u64> {
        let table = self.table.as_ref()?;
        let answer = table.answer(table.find_for(request, client)?);
        answer.rules().body_bytes
    }

    /// The number of the certificate for a client that has named this host by SNI; empty: none.
    pub fn certificate(&self, listener: usize, host: &[u8]) -> u32 {
        let table = self.table.as_ref();
        table.map_or(0, |table| table.certificate(listener, host))
    }

    /// Which site and route answer a request. `None`: the server has one site without routes, or
    /// no site for the host.
    pub fn find(&self, request: &Parts, client: Client) -> Option<Target> {
        self.table.as_ref()?.find_for(request, client)
    }

    /// The script that answers a request, and the application that executes it. `None`: no script
    /// does, and [`respond`](Self::respond) answers.
    pub fn script(&self, request: &Parts, client: Client) -> Option<(Target, Rc<FastCgi>, Script)> {
        let table = self.table.as_ref().filter(|table| table.has_scripts)?;
        if self.front.is_work_path(request.uri.path()) {
            return None;
        }
        let target = table.find_for(request, client)?;
        let (fastcgi, script) = table.answer(target).script(request)?;
        Some((target, fastcgi, script))
    }

    /// What an application has answered to a request that `target` is for, as the client gets it.
    pub fn answered(&self, target: Target, response: Response<Body>) -> Response<Body> {
        match self.at(target) {
            Some(answer) => answer.answered(response),
            None => response,
        }
    }

    /// The answer for an application that has none.
    pub fn unanswered(&self, target: Target, status: StatusCode) -> Response<Body> {
        let text = format!("{status}: the application gave no answer.\n");
        match self.at(target) {
            Some(answer) => answer.refuse(notice(status, text)),
            None => self.front.refuse(status, text),
        }
    }

    /// The file that an application names instead of its own body: a path beneath the root of its
    /// route, as a client would ask for it.
    pub fn file(&self, target: Target, request: &Parts) -> Response<Body> {
        let answer = self.at(target);
        answer.map_or_else(
            || self.unanswered(target, StatusCode::BAD_GATEWAY),
            |answer| answer.file(request),
        )
    }

    fn at(&self, target: Target) -> Option<&Answer> {
        self.table.as_ref()?.get(target)
    }

    /// A refusal in plain text, for a message that never became a request which
    /// [`respond`](Self::respond) could answer.
    pub fn refuse(&self, status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
        self.front.refuse(status, text)
    }
}

impl Table {
    fn new(
        serving: &Serving,
        folder: &dyn Fn(&Option<Root>) -> anyhow::Result<Option<Folder>>,
        worker: Option<&HeaderValue>,
    ) -> anyhow::Result<Self> {
        let sites = serving.sites.list();
        let mut number = 0;
        let mut answer = |place: &Place, pattern| {
            number += 1;
            Answer::new(place, pattern, folder(&place.files.root)?, number, worker)
        };
        let mut table = Vec::new();
        for site in sites {
            let routes = site.routes.iter();
            let routes = routes.map(|route| answer(&route.place, Some(&route.pattern)));
            let routes = routes.collect::<Result<_, _>>()?;
            table.push(Routes {
                routes,
                rest: answer(&site.place, None)?,
                by_path: Paths::new(site.routes.iter().map(|route| &route.pattern).zip(0..)),
            });
        }
        let mut places = sites.iter().flat_map(SiteSettings::places);
        Ok(Self {
            hosts: hosts::by_listener(sites),
            asks_for_addresses: places.any(|place| place.access.asks_for_address()),
            certificates: serving.certificates().of_sites,
            otherwise: serving.certificates().otherwise,
            sites: table,
            memory: Memory::default(),
            has_scripts: sites
                .iter()
                .flat_map(SiteSettings::places)
                .any(|place| matches!(place.handler, Handler::FastCgi(_))),
        })
    }

    fn find_for(&self, request: &Parts, client: Client) -> Option<Target> {
        // The target counts more than the header (RFC 9112, 3.2.2).
        let host = match request.uri.authority() {
            Some(authority) => authority.host().as_bytes(),
            None => request
                .headers
                .get(HOST)
                .map_or(&b""[..], |host| host.as_bytes()),
        };
        self.find(host, request.uri.path(), client)
    }

    fn certificate(&self, listener: usize, host: &[u8]) -> u32 {
        let hosts = self.hosts.get(listener).or(self.hosts.last());
        let site = hosts.and_then(|hosts| hosts.find(host));
        let number = site.and_then(|site| self.certificates.get(site));
        number.copied().unwrap_or(self.otherwise)
    }

    /// `path` is that of the request's target, as it was sent.
    fn find(&self, host: &[u8], path: &str, client: Client) -> Option<Target> {
        let hosts = self.hosts.get(client.listener).or(self.hosts.last())?;
        let site = hosts.find(host)?;
        // What the client had to prove for one host does not hold for another (RFC 9110, 7.4).
        let is_other = |number| self.certificates.get(site) != Some(&number);
        if client.certificate.is_some_and(is_other) {
            return None;
        }
        let by_path = &self.sites[site].by_path;
        let route = match by_path.is_empty() {
            true => None,
            // What is no path, the site refuses.
            false => decoded(path)
                .ok()
                .and_then(|path| by_path.find(&path).copied()),
        };
        Some(Target { site, route })
    }

    fn get(&self, target: Target) -> Option<&Answer> {
        let site = self.sites.get(target.site)?;
        match target.route {
            None => Some(&site.rest),
            Some(route) => site.routes.get(route),
        }
    }

    fn answer(&self, target: Target) -> &Answer {
        let site = &self.sites[target.site];
        target.route.map_or(&site.rest, |route| &site.routes[route])
    }
}

#[cfg(test)]
mod tests;
