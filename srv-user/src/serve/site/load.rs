//! Reads a file into a [`Representation`]: small ones into memory, of large ones the start that
//! tells their charset, and texts that are to be compressed.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderValue;

use crate::serve::config::sites::{Coding, Compress};
use crate::serve::site::compress::compressed;
use crate::serve::site::conditional::{Validators, tag_of};
use crate::serve::site::content_type::MediaType;
use crate::serve::site::docroot::{self, Stamp, Start};
use crate::serve::site::file_cache::LARGEST_FILE_BYTES;
use crate::serve::site::representation::{Content, Representation};

/// How much of a large text srv reads to find its charset, bytes. It does so at each request.
const TELLING_BYTES: u64 = 4 << 10;

/// Reads a small file into memory. If the file is large, or changes meanwhile, the response sends it
/// from disk; an error then ends the response while it is under way.
pub(super) fn load(file: File, stamp: &Stamp, media: &MediaType) -> io::Result<Representation> {
    let is_large = stamp.size_bytes() > LARGEST_FILE_BYTES;
    let start = match (is_large && stamp.is_size_sure(), media.is_open_text()) {
        (true, false) => Start::More(Bytes::new()),
        (true, true) => docroot::read_start(&file, stamp, TELLING_BYTES)?,
        (false, _) => docroot::read_start(&file, stamp, LARGEST_FILE_BYTES)?,
    };
    let now = SystemTime::now();
    let mut validators = Validators {
        etag: Some(stamp.tag(now, media.encoding.as_ref())),
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

/// Reads a text into memory and compresses it; if it would be no smaller, it stays as it is. `None`:
/// the file changes meanwhile.
pub(super) fn load_compressed(
    file: &File,
    stamp: &Stamp,
    media: &MediaType,
    coding: Coding,
    settings: &Compress,
) -> io::Result<Option<Representation>> {
    let start = docroot::read_start(file, stamp, settings.max_bytes)?;
    let Start::Whole(text) = start else {
        return Ok(None);
    };
    if text.len() as u64 != stamp.size_bytes() {
        return Ok(None);
    }
    let content_type = media.of_content(&text);
    let compressed = compressed(coding, settings.level, &text);
    let encoding = compressed
        .is_some()
        .then(|| HeaderValue::from_static(coding.token()));
    let content = compressed.unwrap_or(text);
    let validators = Validators {
        etag: Some(tag_of(&content)),
        modified_s: stamp.modified_s(SystemTime::now()),
    };
    let loaded = Representation::new(content_type, validators, Content::Memory(content));
    Ok(Some(loaded.encoded(encoding)))
}
