//! What a worker serves: the files of a folder or the welcome page, and synthetic work if that is
//! enabled. It turns one request into one response, and knows nothing of connections.
//!
//! **Everything here blocks the thread**, and a worker has only one: reading a file waits for the
//! disk unless the page cache has it, and `/work` waits on purpose. srv keeps small files in memory
//! and checks each of them at most once a second, so a response is at most that old.
//!
//! On purpose, srv does not list folders, follow links out of the root, compress, or send
//! multipart ranges.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use percent_encoding::{CONTROLS, utf8_percent_encode};
use rustix::time::{ClockId, clock_gettime};

pub use self::body::Body;
use self::conditional::{Validators, tag_of};
use self::content_type::MediaType;
use self::docroot::{DocRoot, Found, Refusal, Stamp, Start};
use self::file_cache::{FileCache, LARGEST_FILE_BYTES};
use self::notice::{method_not_allowed, moved, notice, options};
use self::representation::{Content, Representation};
use self::request_path::{BadPath, RequestPath};
use crate::serve::config::Types;

use crate::serve::config::Serving;
use crate::serve::rate_limit::RateLimit;

mod beneath;
mod body;
mod byte_range;
mod conditional;
pub mod content_type;
mod docroot;
mod file_cache;
mod notice;
mod representation;
mod request_path;
mod work;

const WELCOME: &str = include_str!("site/welcome.html");
/// How much of a large text srv reads to find its charset, bytes. It does so at each request.
const TELLING_BYTES: u64 = 4 << 10;
const WORK_PATH: &str = "/work";
const FILE_METHODS: &str = "GET, HEAD, OPTIONS";
const WORK_METHODS: &str = "GET, HEAD, OPTIONS, POST";
const X_WORKER: HeaderName = HeaderName::from_static("x-worker");

/// Answers requests, on one thread.
#[derive(Debug)]
pub struct Site {
    pages: Pages,
    synthetic: bool,
    rules: Rules,
    worker: Option<HeaderValue>,
    /// Limits the log lines about files that srv could not open.
    failures: RefCell<RateLimit>,
    /// The time of a monotonic clock, which may be a coarse one. Tests set it themselves.
    clock: fn() -> Duration,
}

/// The settings for a folder's files.
#[derive(Debug)]
struct Rules {
    /// Whether srv serves files whose names begin with a dot.
    dotfiles: bool,
    types: Types,
}

impl Rules {
    fn of(serving: &Serving) -> Self {
        Self {
            dotfiles: serving.dotfiles,
            types: serving.types.clone(),
        }
    }
}

#[derive(Debug)]
enum Pages {
    Welcome(Representation),
    Folder(DocRoot, RefCell<FileCache>),
}

impl Site {
    /// Serves what `serving` says. It opens the root now, and never again. If `worker` is set, every
    /// response names it in an `X-Worker` header.
    ///
    /// # Errors
    /// srv cannot open the root, the root is another folder now, or the kernel cannot keep lookups
    /// inside it.
    pub fn new(serving: &Serving, worker: Option<u32>) -> anyhow::Result<Self> {
        let pages = match &serving.root {
            None => Pages::Welcome(welcome()),
            Some(root) => Pages::Folder(DocRoot::new(root)?, RefCell::new(FileCache::new())),
        };
        Ok(Self {
            pages,
            synthetic: serving.synthetic,
            rules: Rules::of(serving),
            worker: worker.map(HeaderValue::from),
            failures: RefCell::default(),
            clock: coarse_clock,
        })
    }

    /// Serves the same folder, without opening it again, with the other settings of `serving`.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn again(&self, serving: &Serving, worker: Option<u32>) -> anyhow::Result<Self> {
        let pages = match &self.pages {
            Pages::Welcome(_) => Pages::Welcome(welcome()),
            Pages::Folder(root, _) => {
                let root = root
                    .try_clone()
                    .context("duplicate the root's descriptor")?;
                Pages::Folder(root, RefCell::new(FileCache::new()))
            }
        };
        Ok(Self {
            pages,
            synthetic: serving.synthetic,
            rules: Rules::of(serving),
            worker: worker.map(HeaderValue::from),
            failures: RefCell::default(),
            clock: self.clock,
        })
    }

    /// The folder that the site serves.
    pub fn root(&self) -> Option<BorrowedFd<'_>> {
        match &self.pages {
            Pages::Welcome(_) => None,
            Pages::Folder(root, _) => Some(root.as_fd()),
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

    fn sign(&self, mut response: Response<Body>) -> Response<Body> {
        if let Some(worker) = &self.worker {
            response.headers_mut().insert(X_WORKER, worker.clone());
        }
        response
    }

    fn route(&self, request: &Parts) -> Response<Body> {
        if self.synthetic && request.uri.path() == WORK_PATH {
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
            Pages::Folder(root, cache) => {
                let now = (self.clock)();
                let mut cache = cache.borrow_mut();
                match cache.fresh(request.uri.path(), now) {
                    Some(kept) => kept.answer(request),
                    None => self.look_up(root, &mut cache, now, request),
                }
            }
        }
    }

    /// Goes to the file system, and brings the cache up to date with what is there.
    fn look_up(
        &self,
        root: &DocRoot,
        cache: &mut FileCache,
        now: Duration,
        request: &Parts,
    ) -> Response<Body> {
        let raw = request.uri.path();
        let path = match RequestPath::decode(raw) {
            Ok(path) => path,
            Err(bad) => return refused_path(bad),
        };
        if path.is_hidden() && !self.rules.dotfiles {
            return not_found();
        }
        let name = path.file_name();
        match root.open(&name) {
            Ok(Found::File(file, stamp)) => {
                if let Some(kept) = cache.renewed(raw, &stamp, now) {
                    return kept.answer(request);
                }
                cache.remove(raw);
                let settled = stamp.is_settled(SystemTime::now());
                let loaded = match load(file, &stamp, &MediaType::of(&name, &self.rules.types)) {
                    Ok(loaded) => loaded,
                    Err(error) => return self.refused(Refusal::Failed(error), raw, now),
                };
                let response = loaded.answer(request);
                // The cache keeps only one spelling of each path, so that a client cannot fill it
                // with other spellings.
                if let Some(bytes) = loaded.memory_bytes()
                    && path.is_spelled(raw)
                {
                    // If a file's size is not that of its content, it can change without any sign.
                    let settled = settled && bytes as u64 == stamp.size_bytes();
                    cache.insert(raw, loaded, stamp, settled, now);
                }
                response
            }
            other => {
                cache.remove(raw);
                match other {
                    Err(refusal) => self.refused(refusal, raw, now),
                    _ if path.is_folder() => not_found(),
                    _ => to_folder(&path, request.uri.query()),
                }
            }
        }
    }

    fn refused(&self, refusal: Refusal, raw: &str, now: Duration) -> Response<Body> {
        match refusal {
            Refusal::Missing => not_found(),
            Refusal::Forbidden => notice(
                StatusCode::FORBIDDEN,
                "403 Forbidden: the server may not read this file.\n",
            ),
            Refusal::Failed(error) => {
                let now_ns = now.as_nanos() as u64;
                if let Some(count) = self.failures.borrow_mut().happened(now_ns) {
                    tracing::warn!(count, "open file for {raw:?}: {error}");
                }
                notice(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "503 Service Unavailable: the server could not open this file just now.\n",
                )
            }
        }
    }
}

/// Reads a small file into memory. If the file is large, or changes meanwhile, the response sends it
/// from disk; an error then ends the response while it is under way.
fn load(file: File, stamp: &Stamp, media: &MediaType) -> io::Result<Representation> {
    let is_large = stamp.size_bytes() > LARGEST_FILE_BYTES;
    let start = match (is_large && stamp.is_size_sure(), media.is_open_text()) {
        (true, false) => Start::More(Bytes::new()),
        (true, true) => docroot::read_start(&file, stamp, TELLING_BYTES)?,
        (false, _) => docroot::read_start(&file, stamp, LARGEST_FILE_BYTES)?,
    };
    let now = SystemTime::now();
    let mut validators = Validators {
        etag: Some(stamp.tag(now)),
        modified_s: stamp.modified_s(now),
    };
    let file = Arc::new(file);
    let (content_type, content) = match start {
        Start::Whole(bytes) => {
            if bytes.len() as u64 != stamp.size_bytes() {
                validators.modified_s = None;
            }
            validators.etag = Some(tag_of(&bytes));
            (media.of_content(&bytes), Content::Memory(bytes))
        }
        Start::More(bytes) if is_large => {
            let content = Content::File(file, stamp.size_bytes());
            (media.of_start(&bytes), content)
        }
        // There is more than the file's size says, so the size is not that of the content.
        Start::More(bytes) => {
            validators = Validators {
                etag: None,
                modified_s: None,
            };
            (media.of_start(&bytes), Content::ToEnd(file))
        }
        Start::Changing => {
            let content = Content::File(file, stamp.size_bytes());
            (media.of_start(b""), content)
        }
    };
    let loaded = Representation::new(content_type, validators, content);
    Ok(loaded.encoded(media.encoding.clone()))
}

fn to_folder(path: &RequestPath, query: Option<&str>) -> Response<Body> {
    let mut location = path.as_folder();
    if let Some(query) = query {
        location.push('?');
        location.extend(utf8_percent_encode(query, CONTROLS));
    }
    let location = HeaderValue::try_from(location).expect("escaped, hence visible ASCII");
    moved(location)
}

fn refused_path(bad: BadPath) -> Response<Body> {
    match bad {
        BadPath::Nowhere => not_found(),
        BadPath::Malformed => notice(
            StatusCode::BAD_REQUEST,
            "400 Bad Request: the path is not well formed.\n",
        ),
    }
}

fn not_found() -> Response<Body> {
    notice(
        StatusCode::NOT_FOUND,
        "404 Not Found: there is no such file here.\n",
    )
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
