//! Reads a file into a [`Representation`]: small ones into memory, of large ones the start that
//! tells their charset.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

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
