//! How a site finds the file for a request: in the cache, or by trying its candidates
//! (`try-files`) and index files in the folder, and, for a file, whether it lies there in a coding
//! that the client takes.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::time::{Duration, SystemTime};

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, VARY};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use percent_encoding::{CONTROLS, utf8_percent_encode};

use super::{Pages, Site};
use crate::serve::config::sites::{Candidate, Coding};
use crate::serve::site::accept_encoding::Wanted;
use crate::serve::site::body::Body;
use crate::serve::site::content_type::MediaType;
use crate::serve::site::docroot::{DocRoot, Found, Refusal, Stamp};
use crate::serve::site::file_cache::FileCache;
use crate::serve::site::load::load;
use crate::serve::site::notice::{failed, moved, not_found, notice, refused_path};
use crate::serve::site::representation::Representation;
use crate::serve::site::request_path::RequestPath;

/// One lookup: where it looks, when, what the client takes, and how a file is answered.
struct Lookup<'a> {
    root: &'a DocRoot,
    cache: &'a mut FileCache,
    now: Duration,
    wanted: Wanted,
    answer: &'a dyn Fn(&Representation) -> Response<Body>,
}

/// A name to try.
struct Name<'a> {
    /// Relative to the root.
    path: &'a RequestPath,
    /// The cache's key.
    key: &'a str,
    /// Whether the cache may keep it under that key. It keeps one spelling of each path alone, so
    /// that a client cannot fill it with other spellings.
    is_kept: bool,
}

/// What a name led to.
enum Tried {
    /// A response.
    Answered(Response<Body>),
    /// A folder, and the name does not end in a slash.
    Folder,
    /// No file.
    Missing,
}

impl Site {
    /// Answers a GET or HEAD from the folder.
    pub(super) fn file(
        &self,
        root: &DocRoot,
        cache: &mut FileCache,
        request: &Parts,
    ) -> Response<Body> {
        let raw = request.uri.path();
        let wanted = Wanted::of_headers(&request.headers, &self.files.precompressed);
        let key = self.key(wanted, raw);
        let now = (self.clock)();
        if let Some(kept) = cache.fresh(&key, now) {
            return kept.answer(request);
        }
        let path = match RequestPath::decode(raw) {
            Ok(path) => path,
            Err(bad) => return refused_path(bad),
        };
        if path.is_hidden() && !self.files.dotfiles {
            return not_found();
        }
        let mut lookup = Lookup {
            root,
            cache,
            now,
            wanted,
            answer: &|kept| kept.answer(request),
        };
        let response = self.try_all(&mut lookup, &path, &key, request);
        response.unwrap_or_else(|| {
            cache.remove(&key);
            not_found()
        })
    }

    /// Answers with a page instead of the built-in text of `response`, which keeps its status. If
    /// there is no such page, the text stays.
    pub(in crate::serve) fn error_page(
        &self,
        page: &str,
        response: Response<Body>,
    ) -> Response<Body> {
        let Pages::Folder(root, cache) = &self.pages else {
            return response;
        };
        let path = RequestPath::of_site(page);
        let key = self.key_of_this(Wanted::default(), &path);
        let name = Name {
            path: &path,
            key: &key,
            is_kept: true,
        };
        let status = response.status();
        let mut lookup = Lookup {
            root,
            cache: &mut cache.borrow_mut(),
            now: (self.clock)(),
            wanted: Wanted::default(),
            answer: &|kept| kept.whole_as(status),
        };
        match self.try_name(&mut lookup, &name) {
            Tried::Answered(mut paged) if paged.status() == status => {
                for (name, value) in response.headers() {
                    if ![CONTENT_TYPE, CONTENT_LENGTH].contains(name) {
                        paged.headers_mut().insert(name, value.clone());
                    }
                }
                paged
            }
            _ => response,
        }
    }

    /// The cache's key of a path.
    fn key(&self, wanted: Wanted, path: &str) -> String {
        let mut key = String::new();
        self.write_key(&mut key, wanted, path);
        key
    }

    /// The same in place of what is in `key`.
    pub(super) fn write_key(&self, key: &mut String, wanted: Wanted, path: &str) {
        key.clear();
        key.push_str(&self.key_prefix);
        // The first bytes of the codings' names are different ones.
        wanted
            .codings()
            .for_each(|coding| key.push_str(&coding.token()[..1]));
        key.push_str(path);
    }

    /// The cache's key of a file that the settings name. A request for the same path has another
    /// one: it may be hidden, or lead to another file.
    pub(super) fn key_of_this(&self, wanted: Wanted, path: &RequestPath) -> String {
        format!("={}", self.key(wanted, &path.escaped()))
    }

    /// The response for the first candidate that leads to one.
    fn try_all(
        &self,
        lookup: &mut Lookup<'_>,
        path: &RequestPath,
        key: &str,
        request: &Parts,
    ) -> Option<Response<Body>> {
        let is_kept = path.is_spelled(request.uri.path());
        for candidate in &self.files.candidates {
            let is_path = *candidate == Candidate::path();
            let tried = match candidate {
                Candidate::Status(status) => {
                    let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::NOT_FOUND);
                    return Some(notice(status, format!("{status}\n")));
                }
                Candidate::OfPath { before, after } => {
                    let path = match is_path {
                        true => Cow::Borrowed(path),
                        false => Cow::Owned(path.between(before, after)),
                    };
                    let path = &*path;
                    // It may have a dot where the path of the request has none.
                    if path.is_hidden() && !self.files.dotfiles {
                        continue;
                    }
                    self.try_name(lookup, &Name { path, key, is_kept })
                }
                Candidate::This(this) => {
                    let path = RequestPath::of_site(this);
                    let key = self.key_of_this(lookup.wanted, &path);
                    if let Some(kept) = lookup.cache.fresh(&key, lookup.now) {
                        return Some((lookup.answer)(kept));
                    }
                    let name = Name {
                        path: &path,
                        key: &key,
                        is_kept: true,
                    };
                    self.try_name(lookup, &name)
                }
            };
            match tried {
                Tried::Answered(response) => return Some(response),
                Tried::Folder if is_path && self.is_to_be_entered(lookup, path) => {
                    return Some(to_folder(path, request.uri.query()));
                }
                Tried::Folder | Tried::Missing => {}
            }
        }
        None
    }

    /// Whether a request for a folder without a slash at its end is redirected there: always, if
    /// nothing else would answer it, and otherwise if the folder has a page.
    fn is_to_be_entered(&self, lookup: &Lookup<'_>, path: &RequestPath) -> bool {
        let has = |index: &String| {
            let found = lookup.root.open(&path.beneath(index));
            matches!(found, Ok(Found::File(..)))
        };
        self.files.candidates.len() == 1 || self.files.index.iter().any(has)
    }

    fn try_name(&self, lookup: &mut Lookup<'_>, name: &Name<'_>) -> Tried {
        if !name.path.is_folder() {
            return self.try_file(lookup, name, name.path.relative());
        }
        for index in &self.files.index {
            let tried = self.try_file(lookup, name, &name.path.beneath(index));
            if let Tried::Answered(response) = tried {
                return Tried::Answered(response);
            }
        }
        Tried::Missing
    }

    /// Goes to the file system, and brings the cache up to date with what is there.
    fn try_file(&self, lookup: &mut Lookup<'_>, name: &Name<'_>, file_name: &[u8]) -> Tried {
        let (file, stamp) = match lookup.root.open(file_name) {
            Ok(Found::File(file, stamp)) => (file, stamp),
            Ok(Found::Folder) => return Tried::Folder,
            Err(Refusal::Missing) => return Tried::Missing,
            Err(refusal) => {
                lookup.cache.remove(name.key);
                return Tried::Answered(self.refused(refusal, name.key, lookup.now));
            }
        };
        let mut media = MediaType::of(file_name, &self.files.types, &self.files.charset);
        let coded = match media.encoding {
            // It is coded already.
            Some(_) => None,
            None => self.coded(lookup, file_name),
        };
        let current = coded.as_ref().map_or(&stamp, |(_, _, stamp)| stamp);
        if let Some(kept) = lookup.cache.renewed(name.key, current, lookup.now) {
            return Tried::Answered((lookup.answer)(kept));
        }
        lookup.cache.remove(name.key);
        let (loaded, stamp) = match self.load(file, stamp, coded, &mut media, file_name) {
            Ok(loaded) => loaded,
            Err(error) => {
                let refused = self.refused(Refusal::Failed(error), name.key, lookup.now);
                return Tried::Answered(refused);
            }
        };
        let settled = stamp.is_settled(SystemTime::now());
        let response = (lookup.answer)(&loaded);
        if let Some(bytes) = loaded.memory_bytes()
            && name.is_kept
        {
            // If a file's size is not that of its content, it can change without any sign.
            let settled = settled && bytes as u64 == stamp.size_bytes();
            lookup
                .cache
                .insert(name.key, loaded, stamp, settled, lookup.now);
        }
        Tried::Answered(response)
    }

    /// The file in the best coding that the client takes and that lies beside it.
    fn coded(&self, lookup: &Lookup<'_>, file_name: &[u8]) -> Option<(Coding, File, Stamp)> {
        lookup.wanted.codings().find_map(|coding| {
            let extension = coding.extension().as_bytes();
            let coded = [file_name, b".", extension].concat();
            match lookup.root.open(&coded) {
                Ok(Found::File(file, stamp)) => Some((coding, file, stamp)),
                _ => None,
            }
        })
    }

    /// Loads the file in the coding, if there is one, with the headers that the settings have for it.
    fn load(
        &self,
        file: File,
        stamp: Stamp,
        coded: Option<(Coding, File, Stamp)>,
        media: &mut MediaType,
        file_name: &[u8],
    ) -> io::Result<(Representation, Stamp)> {
        let mut loaded = load(file, &stamp, media)?;
        let mut loaded_stamp = stamp;
        if let Some((coding, file, stamp)) = coded {
            // Only the text itself shows its charset.
            let content_type = loaded.header(&CONTENT_TYPE);
            media.encoding = Some(HeaderValue::from_static(coding.token()));
            loaded = load(file, &stamp, media)?.with(CONTENT_TYPE, content_type);
            loaded_stamp = stamp;
        }
        let vary = (!self.files.precompressed.is_empty())
            .then(|| HeaderValue::from_static("accept-encoding"));
        let path = [b"/", file_name].concat();
        let cache_control = self.cache_control.find(&path).cloned();
        let loaded = loaded.with(VARY, vary).with(CACHE_CONTROL, cache_control);
        Ok((loaded, loaded_stamp))
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
                failed()
            }
        }
    }
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
