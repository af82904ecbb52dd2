//! Compresses a text that lies in its plain form alone. The worker does nothing else meanwhile, so
//! only texts within bounds are compressed, and the cache keeps what came out for as long as the
//! file stays the same version. These functions know no files.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::serve::config::sites::{Coding, Compress};

/// How many bytes back a coder looks for repetitions, as a power of two. A larger window than the
/// text is of no use, and costs time to clear.
const WINDOW_BITS: i32 = 18;

/// The media types that are texts although they do not begin with `text/`.
const TEXTS: [&str; 8] = [
    "application/javascript",
    "application/json",
    "application/manifest+json",
    "application/wasm",
    "application/xml",
    "application/yaml",
    "image/svg+xml",
    "image/x-icon",
];

/// Whether a file of this type and size is compressed.
pub(super) fn is_meant(settings: &Compress, media: &str, size_bytes: u64) -> bool {
    let essence = media.split(';').next().unwrap_or_default().trim_end();
    let is_text = essence.starts_with("text/")
        || TEXTS.contains(&essence)
        || essence.ends_with("+xml")
        || essence.ends_with("+json");
    is_text && (settings.min_bytes..=settings.max_bytes).contains(&size_bytes)
}

/// The text in this coding. `None`: that would be no smaller.
pub(super) fn compressed(coding: Coding, level: u32, text: &[u8]) -> Option<Bytes> {
    let compressed = match coding {
        Coding::Gzip => gzip(level, text),
        Coding::Brotli => Some(brotli(level, text)),
        Coding::Zstd => zstd::bulk::compress(text, level as i32).ok(),
    };
    let compressed = compressed.filter(|compressed| compressed.len() < text.len())?;
    Some(compressed.into())
}

fn gzip(level: u32, text: &[u8]) -> Option<Vec<u8>> {
    let room = Vec::with_capacity(text.len() / 2);
    let mut encoder = GzEncoder::new(room, Compression::new(level));
    encoder.write_all(text).ok()?;
    encoder.finish().ok()
}

fn brotli(level: u32, text: &[u8]) -> Vec<u8> {
    let settings = brotli::enc::BrotliEncoderParams {
        quality: level as i32,
        lgwin: WINDOW_BITS,
        size_hint: text.len(),
        ..Default::default()
    };
    let mut compressed = Vec::with_capacity(text.len() / 2);
    {
        let mut encoder = brotli::CompressorWriter::with_params(&mut compressed, 4096, &settings);
        // A vector takes all.
        let _ = encoder.write_all(text);
    }
    compressed
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    const CODINGS: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

    fn decompressed(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        let mut reader: Box<dyn Read + '_> = match coding {
            Coding::Gzip => Box::new(GzDecoder::new(bytes)),
            Coding::Brotli => Box::new(brotli::Decompressor::new(bytes, 4096)),
            Coding::Zstd => Box::new(zstd::stream::Decoder::new(bytes).unwrap()),
        };
        reader.read_to_end(&mut text).unwrap();
        text
    }

    /// Lines of a source file, and others that repeat less.
    fn text(bytes: usize) -> Vec<u8> {
        let mut text = Vec::new();
        let mut nth: u32 = 1;
        while text.len() < bytes {
            nth = nth.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            text.extend_from_slice(format!("let value_{nth:x} = {};\n", nth >> 20).as_bytes());
        }
        text.truncate(bytes);
        text
    }

    #[test]
    fn what_is_compressed_is_the_same_text() {
        for coding in CODINGS {
            for level in 1..=9 {
                let text = text(20_000);
                let compressed = compressed(coding, level, &text).unwrap();
                assert!(compressed.len() < text.len() / 2, "{coding:?} {level}");
                assert_eq!(
                    decompressed(coding, &compressed),
                    text,
                    "{coding:?} {level}"
                );
                // The same on every worker, so that the tag is.
                let again = super::compressed(coding, level, &text);
                assert_eq!(again, Some(compressed));
            }
        }
    }

    #[test]
    fn what_would_not_be_smaller_is_not_compressed() {
        let noise: Vec<u8> = (0..100u32)
            .map(|nth| (nth.wrapping_mul(nth).wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for coding in CODINGS {
            assert_eq!(compressed(coding, 5, b""), None, "{coding:?}");
            assert_eq!(compressed(coding, 5, b"a"), None, "{coding:?}");
            assert_eq!(compressed(coding, 5, &noise), None, "{coding:?}");
        }
    }

    #[test]
    fn texts_of_some_sizes_are_meant() {
        let settings = Compress {
            codings: CODINGS.to_vec(),
            min_bytes: 10,
            max_bytes: 20,
            level: 5,
        };
        for (media, size_bytes, expected) in [
            ("text/html", 10, true),
            ("text/css; charset=utf-8", 20, true),
            ("application/json", 15, true),
            ("image/svg+xml", 15, true),
            ("application/ld+json", 15, true),
            ("text/html", 9, false),
            ("text/html", 21, false),
            ("image/png", 15, false),
            ("application/octet-stream", 15, false),
        ] {
            assert_eq!(
                is_meant(&settings, media, size_bytes),
                expected,
                "{media} {size_bytes}"
            );
        }
    }
}
