//! What a worker serves: the files of a folder or the welcome page, and synthetic work if that is
//! enabled. It turns one request into one response, and knows nothing of connections.
//!
//! **Everything here blocks the thread**, and a worker has only one: reading a file waits for the
//! disk unless the page cache has it, and `/work` waits on purpose. srv keeps small files in memory
//! and checks each of them at most once a second, so a response is at most that old.
//!
//! On purpose, srv does not list folders, follow links out of the root, or send multipart ranges.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use rustix::time::{ClockId, clock_gettime};

pub use self::body::Body;
use self::conditional::{Validators, tag_of};
pub(super) use self::docroot::DocRoot;
use self::docroot::Found;
pub(super) use self::file_cache::FileCache;
pub(super) use self::notice::notice;
use self::notice::{method_not_allowed, not_found, options, refused_path};
use self::paths::Paths;
pub(super) use self::ready::{Finish, rendered};
pub use self::ready::{PlainRequest, Ready};
use self::representation::{Content, Representation};
use self::request_path::is_hidden;
pub(super) use self::request_path::{RequestPath, decoded};

use crate::serve::config::Serving;
use crate::serve::config::sites::{Coding, Files};
use crate::serve::rate_limit::RateLimit;

mod accept_encoding;
mod beneath;
mod body;
mod byte_range;
mod compress;
mod conditional;
pub mod content_type;
mod docroot;
mod file_cache;
mod load;
mod lookup;
mod notice;
pub(super) mod paths;
mod ready;
mod representation;
mod request_path;
mod work;

const WELCOME: &str = include_str!("site/welcome.html");
const WORK_PATH: &str = "/work";
const FILE_METHODS: &str = "GET, HEAD, OPTIONS";
const WORK_METHODS: &str = "GET, HEAD, OPTIONS, POST";
const X_WORKER: HeaderName = HeaderName::from_static("x-worker");

/// Answers requests for one folder, on one thread.
#[derive(Debug)]
pub struct Site {
    pages: Pages,
    synthetic: bool,
    files: Files,
    /// The codings in which a file may be sent, the preferred one first.
    codings: Vec<Coding>,
    /// `Cache-Control` by the path of a file.
    cache_control: Paths<HeaderValue>,
    worker: Option<HeaderValue>,
    /// The header line for `worker`, if there is one.
    signature: Vec<u8>,
    /// What comes before the path in the cache's keys: sites share a cache, and each may serve the
    /// same file with other headers. Empty for the only site.
    key_prefix: String,
    /// Where the cache's key of a path is written, so that a request does not allocate it.
    scratch: RefCell<String>,
    /// Limits the log lines about files that srv could not open.
    failures: RefCell<RateLimit>,
    /// The time of a monotonic clock, which may be a coarse one. Tests set it themselves.
    clock: fn() -> Duration,
}

#[derive(Debug)]
enum Pages {
    Welcome(Box<Representation>),
    Folder(Rc<DocRoot>, Rc<RefCell<FileCache>>),
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IsThere {
    /// A regular file that this process may read.
    File,
    /// A folder.
    Folder,
    /// Neither.
    No,
}

/// An open folder with the files of it that are in memory. A copy is the same folder.
pub(super) type Folder = (Rc<DocRoot>, Rc<RefCell<FileCache>>);

impl Site {
    /// Serves the one site that `serving` describes outside of its `[[site]]` tables. It opens the
    /// root now, and never again. If `worker` is set, every response names it in an `X-Worker`
    /// header.
    ///
    /// # Errors
    /// srv cannot open the root, the root is another folder now, or the kernel cannot keep lookups
    /// inside it.
    pub fn new(serving: &Serving, worker: Option<u32>) -> anyhow::Result<Self> {
        let root = serving.root.as_ref().map(DocRoot::new).transpose()?;
        let folder = root.map(|root| (Rc::new(root), Rc::default()));
        Ok(Self::only(serving, folder, worker))
    }

    /// As [`new`](Self::new), with a root that is open already.
    pub(super) fn only(serving: &Serving, folder: Option<Folder>, worker: Option<u32>) -> Self {
        let files = Files {
            root: serving.root.clone(),
            dotfiles: serving.dotfiles,
            types: serving.types.clone(),
            ..Files::default()
        };
        let worker = worker.map(HeaderValue::from);
        let mut signature = Vec::new();
        if let Some(worker) = &worker {
            ready::add_line(&mut signature, X_WORKER.as_str(), worker.as_bytes());
        }
        Self {
            synthetic: serving.synthetic,
            worker,
            signature,
            ..Self::of(files, folder, String::new())
        }
    }

    /// One of several sites or routes. `key_prefix` is another for each.
    pub(super) fn of(files: Files, folder: Option<Folder>, key_prefix: String) -> Self {
        let pages = match folder {
            None => Pages::Welcome(Box::new(welcome())),
            Some((root, cache)) => Pages::Folder(root, cache),
        };
        let values = files.cache_control.iter();
        let values = values
            .filter_map(|(pattern, value)| Some((pattern, HeaderValue::from_str(value).ok()?)));
        Self {
            pages,
            synthetic: false,
            cache_control: Paths::new(values),
            codings: files.codings(),
            files,
            worker: None,
            signature: Vec::new(),
            key_prefix,
            scratch: RefCell::default(),
            failures: RefCell::default(),
            clock: coarse_clock,
        }
    }

    /// Answers a request. If it had a body, the caller has read or discarded it. This never
    /// panics. The answer to HEAD has no body, and its `Content-Length` is that of a GET.
    pub fn respond(&self, request: &Parts) -> Response<Body> {
        let mut response = self.route(request);
        if request.method == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        self.sign(response)
    }

    /// A refusal in plain text, for a message that never became a request which
    /// [`respond`](Self::respond) could answer.
    pub fn refuse(&self, status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
        self.sign(notice(status, text))
    }

    /// Whether a request for this path is for synthetic work, which is enabled.
    pub(super) fn is_work_path(&self, path: &str) -> bool {
        self.synthetic && path == WORK_PATH
    }

    /// The worker's name, if every response has it.
    pub(super) fn worker(&self) -> Option<&HeaderValue> {
        self.worker.as_ref()
    }

    /// The header that names the worker.
    pub(super) fn sign_headers(worker: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if let Some(worker) = worker {
            headers.insert(X_WORKER, worker.clone());
        }
    }

    fn sign(&self, mut response: Response<Body>) -> Response<Body> {
        Self::sign_headers(self.worker(), response.headers_mut());
        response
    }

    /// The time of the clock by which files are looked at again.
    pub(super) fn now(&self) -> Duration {
        (self.clock)()
    }

    /// What a decoded path leads to. Names that begin with a dot are not there, unless they are
    /// served.
    pub(super) fn is_there(&self, path: &[u8]) -> IsThere {
        let Pages::Folder(root, _) = &self.pages else {
            return IsThere::No;
        };
        let name = path.strip_prefix(b"/").unwrap_or(path);
        if !self.files.dotfiles && is_hidden(name) {
            return IsThere::No;
        }
        match root.open(if name.is_empty() { b"." } else { name }) {
            Ok(Found::File(..)) if !path.ends_with(b"/") => IsThere::File,
            Ok(Found::Folder) => IsThere::Folder,
            _ => IsThere::No,
        }
    }

    fn route(&self, request: &Parts) -> Response<Body> {
        if self.is_work_path(request.uri.path()) {
            return match request.method {
                Method::GET | Method::HEAD | Method::POST => work::answer(request.uri.query()),
                Method::OPTIONS => options(WORK_METHODS),
                _ => method_not_allowed(WORK_METHODS),
            };
        }
        match request.method {
            Method::GET | Method::HEAD => self.page(request),
            Method::OPTIONS => options(FILE_METHODS),
            _ => method_not_allowed(FILE_METHODS),
        }
    }

    fn page(&self, request: &Parts) -> Response<Body> {
        match &self.pages {
            Pages::Welcome(page) => match RequestPath::decode(request.uri.path()) {
                Ok(path) if path.file_name() == b"index.html" => page.answer(request),
                Ok(_) => not_found(),
                Err(bad) => refused_path(bad),
            },
            Pages::Folder(root, cache) => self.file(root, &mut cache.borrow_mut(), request),
        }
    }
}

fn welcome() -> Representation {
    let validators = Validators {
        etag: Some(tag_of(WELCOME.as_bytes())),
        modified_s: None,
    };
    let content = Content::Memory(Bytes::from_static(WELCOME.as_bytes()));
    Representation::new(content_type::HTML, validators, content)
}

fn coarse_clock() -> Duration {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[cfg(test)]
mod tests;
