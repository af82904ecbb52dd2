//! From the tables of the file to the settings of the sites: what routes inherit, and what
//! contradicts what within one table. An error names file, line and column, what was found there,
//! and what was expected. [`super::conflicts`] has what sites and routes do to one another.

mod fastcgi;
mod handler;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use toml::Spanned;

use super::args::access_log::AccessLogSwitch;
use super::args::{HeaderArgs, PlaceArgs, RouteArgs, SiteArgs, Text, TlsArgs};
use super::conflicts;
use super::pattern::{Glob, PathSuffix, Pattern, SitePath};
use super::values::{Candidate, ChangeableHeader, ErrorStatus, HeaderChange, HeaderText};
use super::{Files, Handler, Place, Route, SiteSettings, Sites};
use crate::serve::config::identity::Identity;
use crate::serve::config::keys::Places;
use crate::serve::config::root::Root;
use crate::serve::config::tls::{Clients, Tls};
use crate::values::{AccessLog, AccessLogFormat, Expected, FileType, ListenAddr};

/// The most bytes of all sites together. They go to each worker in one message.
const SITES_BYTES_MAX: usize = 16 << 20;

/// The most changes of headers in one response. No client takes many more header lines, and from
/// 32768 on the table of a response's headers is full.
const HEADER_CHANGES_MAX: usize = 100;

/// The headers that `security = true` sets: a browser does not guess media types, other sites do
/// not frame these pages, and they learn no path from a referrer.
const SECURITY: [(&str, &str); 3] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "SAMEORIGIN"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
];

/// What the sites are made with.
pub(in crate::serve::config) struct Settling<'a> {
    /// Where the file has its keys.
    pub places: &'a Places,
    /// Is called with each path before it is accessed.
    pub note: &'a dyn Fn(&Path),
    /// The names and addresses of the listeners.
    pub listeners: Vec<(Option<String>, SocketAddr)>,
    /// What holds for a site that says nothing else.
    pub base: Files,
    /// Where its requests are logged.
    pub access_log: Option<AccessLog>,
    /// How those of a site with a log of its own are.
    pub access_log_format: AccessLogFormat,
}

impl Settling<'_> {
    /// The settings of all sites.
    ///
    /// # Errors
    /// A value is wrong, or two contradict each other.
    pub(in crate::serve::config) fn settle(&self, args: &[Spanned<SiteArgs>]) -> Result<Sites> {
        let sites = args.iter().map(|args| self.site(args));
        let sites: Vec<SiteSettings> = sites.collect::<Result<_>>()?;
        conflicts::check(self.places, args, &sites, self.listeners.len())?;
        let bytes = serde_json::to_vec(&sites)
            .context("encode the sites")?
            .len();
        ensure!(
            bytes <= SITES_BYTES_MAX,
            "{}: the sites have {bytes} bytes as a message to a worker, which may have \
             {SITES_BYTES_MAX} at most: name fewer",
            self.places.of("site"),
        );
        Ok(Sites::from(sites))
    }

    fn site(&self, args: &Spanned<SiteArgs>) -> Result<SiteSettings> {
        let at = args.span().start;
        let args = args.as_ref();
        let mut hosts = Vec::new();
        for host in args.hosts.iter().flat_map(|hosts| hosts.as_ref()) {
            hosts.push(self.parsed(host)?);
        }
        if let Some(list) = args.hosts.as_ref().filter(|_| hosts.is_empty()) {
            bail!(
                "{}: found an empty list, expected a host; a site without hosts leaves the key out",
                self.places.at(list.span().start)
            );
        }
        let is_default = args.default.as_ref().map(|default| *default.as_ref());
        if let (Some(false), Some(default), true) = (is_default, &args.default, hosts.is_empty()) {
            bail!(
                "{}: found default = false in a site without hosts, which no request would reach; \
                 expected hosts, or no such key",
                self.places.at(default.span().start)
            );
        }
        let base = Place {
            files: self.base.clone(),
            access_log: self.access_log.clone(),
            ..Place::default()
        };
        let place = self.place(&args.place(), base, None)?;
        let routes = args.route.iter().map(|route| self.route(route, &place));
        let routes = routes.collect::<Result<Vec<_>>>()?;
        ensure!(
            !place.lacks_root(),
            "{}: found a site without an answer for the paths that no route has, expected root, \
             redirect or respond (fastcgi needs the root of its scripts)",
            self.places.at(at)
        );
        Ok(SiteSettings {
            tls: args
                .tls
                .as_ref()
                .map(|tls| self.tls(tls.as_ref()))
                .transpose()?,
            is_default: is_default.unwrap_or(hosts.is_empty()),
            listeners: args
                .listen
                .as_ref()
                .map(|list| self.listeners(list))
                .transpose()?,
            hosts,
            place,
            routes,
        })
    }

    /// The numbers of the listeners that a site names.
    fn listeners(&self, list: &Spanned<Vec<Text>>) -> Result<BTreeSet<usize>> {
        let mut numbers = BTreeSet::new();
        for text in list.as_ref() {
            let asked = text.as_ref();
            let address = asked.parse().ok().map(|ListenAddr(address)| address);
            let is_meant = |(name, own): &(Option<String>, SocketAddr)| {
                name.as_ref() == Some(asked) || (Some(*own) == address && own.port() != 0)
            };
            let Some(number) = self.listeners.iter().position(is_meant) else {
                let known = self.listeners.iter();
                let known = known
                    .map(|(name, address)| name.clone().unwrap_or_else(|| address.to_string()));
                bail!(
                    "{}: found `{text}`, expected a listener: one of {}",
                    self.places.at(text.span().start),
                    known.collect::<Vec<_>>().join(", ")
                );
            };
            if !numbers.insert(number) {
                bail!(
                    "{}: found `{text}`, a listener that is in the list already, expected each once",
                    self.places.at(text.span().start)
                );
            }
        }
        if numbers.is_empty() {
            bail!(
                "{}: found an empty list, expected a listener; a site that answers on all leaves \
                 the key out",
                self.places.at(list.span().start)
            );
        }
        Ok(numbers)
    }

    fn tls(&self, args: &TlsArgs) -> Result<Tls> {
        let (certificate, key) = (args.certificate.as_ref(), args.key.as_ref());
        (self.note)(certificate);
        let identity = Identity::read(certificate, key);
        let identity = identity.with_context(|| self.places.at(args.certificate.span().start))?;
        let is_required = match &args.client_certificate {
            None => true,
            Some(text) if args.client_ca.is_none() => bail!(
                "{}: found client-certificate = \"{text}\", expected client-ca beside it, with the \
                 authorities of the clients",
                self.places.at(text.span().start)
            ),
            Some(text) => match text.as_ref().as_str() {
                "required" => true,
                "optional" => false,
                other => bail!(
                    "{}: found `{other}`, expected required or optional",
                    self.places.at(text.span().start)
                ),
            },
        };
        let clients = args.client_ca.as_ref().map(|file| {
            (self.note)(file.as_ref());
            let clients = Clients::read(file.as_ref(), is_required);
            clients.with_context(|| self.places.at(file.span().start))
        });
        Ok(Tls {
            identity,
            clients: clients.transpose()?,
        })
    }

    fn route(&self, args: &Spanned<RouteArgs>, site: &Place) -> Result<Route> {
        let at = args.span().start;
        let args = args.as_ref();
        let pattern = match (&args.exact, &args.prefix, &args.suffix) {
            (Some(path), None, None) => {
                let SitePath(path) = self.parsed(path)?;
                Pattern::Exact(path)
            }
            (None, Some(path), None) => {
                let SitePath(path) = self.parsed(path)?;
                Pattern::Prefix(path)
            }
            (None, None, Some(end)) => {
                let PathSuffix(end) = self.parsed(end)?;
                Pattern::Suffix(end)
            }
            _ => bail!(
                "{}: found a route with {} of exact, prefix and suffix, expected one of the three",
                self.places.at(at),
                match [&args.exact, &args.prefix, &args.suffix]
                    .iter()
                    .flat_map(|key| *key)
                    .count()
                {
                    0 => "none",
                    _ => "more than one",
                }
            ),
        };
        let base = Place {
            handler: Handler::Files,
            ..site.clone()
        };
        let place = self.place(&args.place(), base, Some(&pattern))?;
        ensure!(
            !place.lacks_root(),
            "{}: found a route without an answer, expected root, redirect or respond (its site has \
             no root, which files and the scripts of fastcgi need)",
            self.places.at(at)
        );
        Ok(Route { pattern, place })
    }

    fn access_log(&self, args: &Spanned<AccessLogSwitch>) -> Result<Option<AccessLog>> {
        let AccessLogSwitch::To(to) = args.as_ref() else {
            return Ok(None);
        };
        let log = AccessLog::settle(to.clone(), self.access_log_format);
        let log = log.with_context(|| self.places.at(args.span().start))?;
        Ok(Some(log))
    }

    /// What `args` make of `base`.
    fn place(&self, args: &PlaceArgs<'_>, base: Place, of: Option<&Pattern>) -> Result<Place> {
        let mut place = Place {
            files: self.files(args, base.files)?,
            ..base
        };
        place.access = self.access(args, place.access)?;
        if let Some(log) = args.access_log {
            place.access_log = self.access_log(log)?;
        }
        for (status, path) in args.error_pages.into_iter().flatten() {
            let ErrorStatus(status) = self.parsed(status)?;
            let SitePath(path) = self.parsed(path)?;
            place.error_pages.insert(status, path);
        }
        if let Some(headers) = args.headers {
            place.headers.extend(self.headers(headers)?);
            let names = headers.remove.iter().chain(headers.set.keys());
            let last = names.chain(headers.add.keys()).last();
            if let Some(last) = last.filter(|_| place.headers.len() > HEADER_CHANGES_MAX) {
                bail!(
                    "{}: found `{last}` as the last of {} changes of headers, with those of the \
                     site, expected {HEADER_CHANGES_MAX} at most",
                    self.places.at(last.span().start),
                    place.headers.len()
                );
            }
        }
        if let Some(handler) = self.handler(args, of)? {
            place.handler = handler;
        }
        self.ensure_no_script_is_sent(args, &place)?;
        Ok(place)
    }

    fn files(&self, args: &PlaceArgs<'_>, base: Files) -> Result<Files> {
        let mut files = base;
        if let Some(root) = args.root {
            files.root = Some(self.root(root)?);
        }
        if let Some(index) = args.index {
            files.index = Vec::new();
            for name in index.as_ref() {
                files.index.push(self.index(name)?);
            }
        }
        if let Some(candidates) = self.candidates(args)? {
            files.candidates = candidates;
        }
        files.dotfiles = args.dotfiles.copied().unwrap_or(files.dotfiles);
        for (extension, name) in args.types.into_iter().flatten() {
            let file_type = FileType::new(extension.as_ref(), name.as_ref());
            let file_type = file_type.map_err(|expected| {
                let place = self.places.at(name.span().start);
                anyhow!("{place}: found `{extension} = {name}`, {expected}")
            })?;
            files.types.insert(file_type.extension, file_type.name);
        }
        if let Some(charset) = args.charset {
            files.charset = self.parsed(charset)?;
        }
        if let Some(codings) = args.precompressed {
            files.precompressed = self.codings(codings, |text| self.parsed(text))?;
        }
        if let Some(compress) = args.compress {
            files.compress = Some(self.compress(compress)?);
        }
        if let Some(values) = args.cache_control {
            let mut by_pattern = BTreeMap::new();
            for (glob, value) in values {
                let (Glob(pattern), HeaderText(value)) = (self.parsed(glob)?, self.parsed(value)?);
                if by_pattern.insert(pattern, value).is_some() {
                    bail!(
                        "{}: found `{glob}`, which is here by another spelling, expected it once",
                        self.places.at(glob.span().start)
                    );
                }
            }
            files.cache_control = by_pattern.into_iter().collect();
        }
        Ok(files)
    }

    fn root(&self, root: &Spanned<std::path::PathBuf>) -> Result<Root> {
        let path = root.as_ref();
        (self.note)(path);
        Root::find(path).with_context(|| {
            let place = self.places.at(root.span().start);
            format!("{place}: found `{}`, expected a folder", path.display())
        })
    }

    fn index(&self, name: &Text) -> Result<String> {
        let text: &str = name.as_ref();
        if text.is_empty() || text.contains(['/', '\0']) || [".", ".."].contains(&text) {
            bail!(
                "{}: found `{text}`, expected the name of a file, such as index.html",
                self.places.at(name.span().start)
            );
        }
        Ok(text.to_owned())
    }

    /// `try-files` and `fallback`.
    fn candidates(&self, args: &PlaceArgs<'_>) -> Result<Option<Vec<Candidate>>> {
        match (args.try_files, args.fallback) {
            (None, None) => Ok(None),
            (Some(_), Some(fallback)) => bail!(
                "{}: found fallback beside try-files, expected one of the two: fallback = \"/x\" \
                 is the same as try-files = [\"{{path}}\", \"/x\"]",
                self.places.at(fallback.span().start)
            ),
            (None, Some(fallback)) => {
                let SitePath(path) = self.parsed(fallback)?;
                Ok(Some(vec![Candidate::path(), Candidate::This(path)]))
            }
            (Some(list), None) => {
                let mut candidates = Vec::new();
                for (nth, text) in list.as_ref().iter().enumerate() {
                    let candidate = self.parsed(text)?;
                    let is_last = nth + 1 == list.as_ref().len();
                    if matches!(candidate, Candidate::Status(_)) && !is_last {
                        bail!(
                            "{}: found `{text}` before others, expected a status at the end alone",
                            self.places.at(text.span().start)
                        );
                    }
                    candidates.push(candidate);
                }
                if candidates.is_empty() {
                    bail!(
                        "{}: found an empty list, expected what to try, such as {{path}}",
                        self.places.at(list.span().start)
                    );
                }
                Ok(Some(candidates))
            }
        }
    }

    /// In the order in which they are made: what is removed, set and added.
    fn headers(&self, args: &HeaderArgs) -> Result<Vec<HeaderChange>> {
        let mut changes = Vec::new();
        let mut once = BTreeSet::new();
        let mut is_first = |text: &Text, header: &String, table: &str| {
            ensure!(
                once.insert(header.clone()),
                "{}: found `{text}` in {table}, expected it once: it is in remove or set already, or \
                 here by another spelling",
                self.places.at(text.span().start)
            );
            Ok(())
        };
        for name in &args.remove {
            let ChangeableHeader(header) = self.parsed(name)?;
            is_first(name, &header, "remove")?;
            changes.push(HeaderChange::Remove(header));
        }
        let mut set = BTreeMap::new();
        for (name, value) in &args.set {
            let (ChangeableHeader(header), HeaderText(value)) =
                (self.parsed(name)?, self.parsed(value)?);
            is_first(name, &header, "set")?;
            set.insert(header, value);
        }
        let security = SECURITY.iter().filter(|_| args.security);
        for (name, value) in security {
            if once.insert((*name).to_owned()) {
                set.insert((*name).to_owned(), (*value).to_owned());
            }
        }
        let sets = set.into_iter();
        changes.extend(sets.map(|(header, value)| HeaderChange::Set(header, value)));
        let mut add = BTreeMap::new();
        for (name, value) in &args.add {
            let (ChangeableHeader(header), HeaderText(value)) =
                (self.parsed(name)?, self.parsed(value)?);
            if add.insert(header, value).is_some() {
                bail!(
                    "{}: found `{name}`, which is here by another spelling, expected it once",
                    self.places.at(name.span().start)
                );
            }
        }
        let adds = add.into_iter();
        changes.extend(adds.map(|(header, value)| HeaderChange::Add(header, value)));
        Ok(changes)
    }

    pub(super) fn parsed<T: FromStr<Err = Expected>>(&self, text: &Text) -> Result<T> {
        let parsed = text.as_ref().parse();
        parsed.map_err(|expected| {
            let place = self.places.at(text.span().start);
            anyhow!("{place}: found `{text}`, {expected}")
        })
    }
}
