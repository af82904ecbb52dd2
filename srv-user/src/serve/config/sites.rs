//! The sites of a server: which hosts each has, what its routes are for, and how a path is answered.
//! `args` is what the file says, `settle` makes the settings of it. Nothing here answers a request;
//! that is `serve/sites.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::tls::Tls;
use super::{Root, Types};
use crate::values::{AccessLog, ApplicationAddr};
pub use access::{Access, Auth, Rate};
pub use fastcgi::FastCgi;
pub use host::{HOST_BYTES_MAX, HostPattern};
pub use pattern::Pattern;
#[cfg(test)]
pub(in crate::serve) use users::read as read_users;
pub use users::{PasswordHash, User};
pub use values::{Candidate, Charset, Coding, HeaderChange, KeptPath};

mod access;
pub mod args;
mod conflicts;
mod fastcgi;
mod host;
mod pattern;
pub(super) mod print;
pub(super) mod settle;
mod settle_access;
mod settle_answers;
mod settle_codings;
#[cfg(test)]
mod tests;
mod users;
mod values;

/// All sites; without any, the server has one, which the keys outside of `[[site]]` describe. A
/// copy costs nothing, since the master makes one for each worker at every event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sites(Arc<Vec<SiteSettings>>);

/// One `[[site]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteSettings {
    /// Its hosts.
    pub hosts: Vec<HostPattern>,
    /// Whether it answers requests for hosts that no site has.
    pub is_default: bool,
    /// The listeners where it answers, by their numbers in the order of the addresses. `None`: all.
    pub listeners: Option<BTreeSet<usize>>,
    /// Its certificate, if it has one of its own.
    pub tls: Option<Tls>,
    /// How paths that no route has are answered.
    pub place: Place,
    /// The routes, in the order of the file.
    pub routes: Vec<Route>,
}

/// One `[[site.route]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The paths that it is for.
    pub pattern: Pattern,
    /// How they are answered.
    pub place: Place,
}

/// How the paths of a route, or the rest of a site, are answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What answers.
    pub handler: Handler,
    /// Its files: those of the handler, if that is [`Handler::Files`], and of the error pages.
    pub files: Files,
    /// Which clients are answered.
    pub access: Access,
    /// The file that is sent with a status instead of the built-in text.
    pub error_pages: BTreeMap<u16, String>,
    /// Changes of each response, in this order.
    pub headers: Vec<HeaderChange>,
    /// Where its requests are logged.
    pub access_log: Option<AccessLog>,
}

/// What answers the requests of a route. A route has one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handler {
    /// The files of a folder.
    #[default]
    Files,
    /// A redirect.
    Redirect(Redirect),
    /// A status and a text.
    Fixed(Fixed),
    /// The scripts of an application.
    FastCgi(FastCgi),
}

/// How files are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// The folder.
    pub root: Option<Root>,
    /// What a folder is answered with: the first of these that there is.
    pub index: Vec<String>,
    /// What is tried for a path, in this order.
    pub candidates: Vec<Candidate>,
    /// Whether names that begin with a dot are served.
    pub dotfiles: bool,
    /// Media types by extension.
    pub types: Types,
    /// The charset of texts.
    pub charset: Charset,
    /// Codings of files that lie beside the files, the preferred one first.
    pub precompressed: Vec<Coding>,
    /// How texts are compressed that lie in their plain form alone.
    pub compress: Option<Compress>,
    /// `Cache-Control` by the path of the file.
    pub cache_control: Vec<(Pattern, String)>,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            root: None,
            index: vec!["index.html".into()],
            candidates: vec![Candidate::path()],
            dotfiles: false,
            types: Types::new(),
            charset: Charset::Found,
            precompressed: Vec::new(),
            compress: None,
            cache_control: Vec::new(),
        }
    }
}

/// How texts are compressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compress {
    /// The codings, the preferred one first.
    pub codings: Vec<Coding>,
    /// The smallest text that is compressed, bytes.
    pub min_bytes: u64,
    /// The largest one, bytes.
    pub max_bytes: u64,
    /// From 1 (fast) to 9 (small).
    pub level: u32,
}

/// A redirect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// Where to: a URL, or a path on this host.
    pub to: String,
    /// What of the request's path follows.
    pub path: KeptPath,
    /// Whether the request's query follows.
    pub query: bool,
}

/// A status and a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixed {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: String,
    /// Its media type.
    pub media: String,
}

impl Files {
    /// The codings in which a file may be sent, the preferred one first.
    pub fn codings(&self) -> Vec<Coding> {
        let mut codings = self.precompressed.clone();
        let others = self.compress.iter().flat_map(|compress| &compress.codings);
        for coding in others {
            if !codings.contains(coding) {
                codings.push(*coding);
            }
        }
        codings
    }
}

impl Sites {
    /// The sites, in the order of the file.
    pub fn list(&self) -> &[SiteSettings] {
        &self.0
    }

    /// Whether the file has no `[[site]]`.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a site answers at some of the listeners alone.
    pub fn refer_to_listeners(&self) -> bool {
        self.0.iter().any(|site| site.listeners.is_some())
    }

    /// The folders that are served, each once.
    pub fn roots(&self) -> BTreeSet<&Root> {
        let places = self.0.iter().flat_map(SiteSettings::places);
        places
            .filter_map(|place| place.files.root.as_ref())
            .collect()
    }

    /// Has sites with `old` have `new` in its place. Returns whether there is one.
    pub fn replace_tls(&mut self, old: &Tls, new: &Tls) -> bool {
        let has_old = |site: &SiteSettings| site.tls.as_ref() == Some(old);
        if !self.0.iter().any(has_old) {
            return false;
        }
        let sites = Arc::make_mut(&mut self.0).iter_mut();
        for site in sites.filter(|site| has_old(site)) {
            site.tls = Some(new.clone());
        }
        true
    }

    /// The applications that are asked, each once.
    pub fn applications(&self) -> BTreeSet<&ApplicationAddr> {
        let places = self.0.iter().flat_map(SiteSettings::places);
        let asked = places.filter_map(|place| match &place.handler {
            Handler::FastCgi(fastcgi) => Some(&fastcgi.to),
            _ => None,
        });
        asked.collect()
    }

    /// The name of this root means this folder now.
    pub fn move_root(&mut self, now: &Root) {
        let is_elsewhere = |root: &&Root| root.asked == now.asked && **root != *now;
        if !self.roots().iter().any(is_elsewhere) {
            return;
        }
        for site in Arc::make_mut(&mut self.0) {
            let routes = site.routes.iter_mut().map(|route| &mut route.place);
            for place in std::iter::once(&mut site.place).chain(routes) {
                if let Some(root) = &mut place.files.root
                    && root.asked == now.asked
                {
                    *root = now.clone();
                }
            }
        }
    }
}

impl Place {
    /// Whether what answers needs a folder, and there is none.
    fn lacks_root(&self) -> bool {
        let has_files = match &self.handler {
            Handler::Files => true,
            Handler::FastCgi(fastcgi) => fastcgi.has_scripts() || fastcgi.files,
            Handler::Redirect(_) | Handler::Fixed(_) => false,
        };
        has_files && self.files.root.is_none()
    }
}

impl From<Vec<SiteSettings>> for Sites {
    fn from(sites: Vec<SiteSettings>) -> Self {
        Self(Arc::new(sites))
    }
}

impl SiteSettings {
    /// Whether it answers the clients of this listener.
    pub fn answers_at(&self, listener: usize) -> bool {
        let listeners = self.listeners.as_ref();
        listeners.is_none_or(|listeners| listeners.contains(&listener))
    }

    /// How its paths are answered: first those that no route has, then each route.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        let routes = self.routes.iter().map(|route| &route.place);
        std::iter::once(&self.place).chain(routes)
    }
}
