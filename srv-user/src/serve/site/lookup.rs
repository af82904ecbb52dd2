//! How a site finds the file for a request: in the cache, or by trying its candidates
//! (`try-files`) and index files in the folder, and, for a file, whether it lies there in a coding
//! that the client takes, or is to be compressed.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::time::{Duration, SystemTime};

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, VARY};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use percent_encoding::{CONTROLS, utf8_percent_encode};

use super::{Pages, Site};
use crate::serve::config::sites::{Candidate, Coding, Compress};
use crate::serve::site::accept_encoding::Wanted;
use crate::serve::site::body::Body;
use crate::serve::site::compress;
use crate::serve::site::content_type::MediaType;
use crate::serve::site::docroot::{DocRoot, Found, Refusal, Stamp};
use crate::serve::site::file_cache::FileCache;
use crate::serve::site::load::{load, load_compressed};
use crate::serve::site::notice::{failed, moved, not_found, notice, refused_path};
use crate::serve::site::representation::Representation;
use crate::serve::site::request_path::RequestPath;
use srv_steer::monotonic_ns;

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

/// In which form a file is sent.
enum Form {
    /// As it is.
    Plain,
    /// By what lies beside it.
    Beside(Coding, File, Stamp),
    /// Compressed.
    Compressed(Coding),
}

/// A file that was loaded.
struct Loaded {
    representation: Representation,
    /// That of the file that was read.
    stamp: Stamp,
    /// Whether the stamp will prove that the file is the same version, and this its form.
    is_sure: bool,
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
        let wanted = Wanted::of_headers(&request.headers, &self.codings);
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
        let form = match media.encoding {
            // It is coded already.
            Some(_) => Form::Plain,
            None => self.form(lookup, name, file_name, &media, &stamp),
        };
        let current = match &form {
            Form::Beside(_, _, stamp) => stamp,
            Form::Plain | Form::Compressed(_) => &stamp,
        };
        if let Some(kept) = lookup.cache.renewed(name.key, current, lookup.now) {
            return Tried::Answered((lookup.answer)(kept));
        }
        lookup.cache.remove(name.key);
        let loaded = match self.load(lookup, (file, stamp), form, &mut media, file_name) {
            Ok(loaded) => loaded,
            Err(error) => {
                let refused = self.refused(Refusal::Failed(error), name.key, lookup.now);
                return Tried::Answered(refused);
            }
        };
        let Loaded {
            representation,
            stamp,
            is_sure,
        } = loaded;
        let settled = is_sure && stamp.is_settled(SystemTime::now());
        let response = (lookup.answer)(&representation);
        if representation.memory_bytes().is_some() && name.is_kept {
            lookup
                .cache
                .insert(name.key, representation, stamp, settled, lookup.now);
        }
        Tried::Answered(response)
    }

    /// The form of a file for this client. What lies beside it comes first: it costs no time. Only
    /// what the cache keeps is compressed, so that other spellings of a path cost none.
    fn form(
        &self,
        lookup: &Lookup<'_>,
        name: &Name<'_>,
        file_name: &[u8],
        media: &MediaType,
        stamp: &Stamp,
    ) -> Form {
        if let Some((coding, file, stamp)) = self.coded(lookup, file_name) {
            return Form::Beside(coding, file, stamp);
        }
        let compress = self.compress_for(media, stamp).filter(|_| name.is_kept);
        let coding = compress.and_then(|compress| {
            let mut wanted = lookup.wanted.codings();
            wanted.find(|coding| compress.codings.contains(coding))
        });
        coding.map_or(Form::Plain, Form::Compressed)
    }

    /// How this file is compressed, if it is.
    fn compress_for(&self, media: &MediaType, stamp: &Stamp) -> Option<&Compress> {
        let settings = self.files.compress.as_ref()?;
        let is_meant = stamp.is_size_sure()
            && media.encoding.is_none()
            && compress::is_meant(settings, media.name(), stamp.size_bytes());
        is_meant.then_some(settings)
    }

    /// The file in the best coding that the client takes and that lies beside it.
    fn coded(&self, lookup: &Lookup<'_>, file_name: &[u8]) -> Option<(Coding, File, Stamp)> {
        let mut codings = lookup.wanted.codings();
        codings.find_map(|coding| {
            if !self.files.precompressed.contains(&coding) {
                return None;
            }
            let extension = coding.extension().as_bytes();
            let coded = [file_name, b".", extension].concat();
            match lookup.root.open(&coded) {
                Ok(Found::File(file, stamp)) => Some((coding, file, stamp)),
                _ => None,
            }
        })
    }

    /// Loads the file in this form, with the headers that the settings have for it.
    fn load(
        &self,
        lookup: &mut Lookup<'_>,
        (file, stamp): (File, Stamp),
        form: Form,
        media: &mut MediaType,
        file_name: &[u8],
    ) -> io::Result<Loaded> {
        let compress = self.compress_for(media, &stamp);
        let varies = compress.is_some() || !self.files.precompressed.is_empty();
        let mut loaded = match (form, compress) {
            (Form::Beside(coding, beside, beside_stamp), _) => {
                // Only the text itself shows its charset.
                let content_type = load(file, &stamp, media)?.header(&CONTENT_TYPE);
                media.encoding = Some(HeaderValue::from_static(coding.token()));
                let loaded = Loaded::of(load(beside, &beside_stamp, media)?, beside_stamp);
                loaded.map(|coded| coded.with(CONTENT_TYPE, content_type))
            }
            (Form::Compressed(coding), Some(settings)) => {
                match compress_in_time(lookup, &file, &stamp, media, coding, settings)? {
                    Some(representation) => Loaded {
                        representation,
                        stamp,
                        is_sure: true,
                    },
                    None => Loaded {
                        representation: load(file, &stamp, media)?,
                        stamp,
                        is_sure: false,
                    },
                }
            }
            (Form::Plain | Form::Compressed(_), _) => Loaded::of(load(file, &stamp, media)?, stamp),
        };
        let vary = varies.then(|| HeaderValue::from_static("accept-encoding"));
        let path = [b"/", file_name].concat();
        let cache_control = self.cache_control.find(&path).cloned();
        loaded = loaded.map(|loaded| loaded.with(VARY, vary).with(CACHE_CONTROL, cache_control));
        Ok(loaded)
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

impl Loaded {
    fn of(representation: Representation, stamp: Stamp) -> Self {
        // If a file's size is not that of its content, it can change without any sign.
        let bytes = representation.memory_bytes();
        Self {
            is_sure: bytes.is_some_and(|bytes| bytes as u64 == stamp.size_bytes()),
            representation,
            stamp,
        }
    }

    fn map(self, change: impl FnOnce(Representation) -> Representation) -> Self {
        Self {
            representation: change(self.representation),
            ..self
        }
    }
}

/// Compresses a text, unless the time for that is used up.
fn compress_in_time(
    lookup: &mut Lookup<'_>,
    file: &File,
    stamp: &Stamp,
    media: &MediaType,
    coding: Coding,
    settings: &Compress,
) -> io::Result<Option<Representation>> {
    let begun_ns = monotonic_ns();
    if lookup.cache.compressing.wait_ns(begun_ns) > 0 {
        return Ok(None);
    }
    let loaded = load_compressed(file, stamp, media, coding, settings);
    let took_ns = monotonic_ns().saturating_sub(begun_ns);
    lookup.cache.compressing.spend(begun_ns, took_ns);
    loaded
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
