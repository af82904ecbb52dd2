//! File names to media types.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use http::HeaderValue;

/// The `Content-Type` for a file of this name, judged by its extension alone. Text is said to be
/// UTF-8; what is not known is `application/octet-stream`.
pub fn of(name: &[u8]) -> HeaderValue {
    let guess = mime_guess::from_path(Path::new(OsStr::from_bytes(name)));
    match guess.first_raw() {
        None => HeaderValue::from_static("application/octet-stream"),
        Some("text/html") => HTML,
        Some(text) if text.starts_with("text/") => {
            HeaderValue::from_str(&format!("{text}; charset=utf-8"))
                .expect("media types are visible ASCII")
        }
        Some(other) => HeaderValue::from_static(other),
    }
}

/// An HTML page's type.
pub const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
/// A plain text's type.
pub const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

#[cfg(test)]
mod tests {
    #[test]
    fn types_by_extension() {
        for (name, expected) in [
            ("index.html", "text/html; charset=utf-8"),
            ("a/b.css", "text/css; charset=utf-8"),
            ("app.JS", "text/javascript; charset=utf-8"),
            ("notes.txt", "text/plain; charset=utf-8"),
            ("data.json", "application/json"),
            ("logo.svg", "image/svg+xml"),
            ("x.tar.gz", "application/gzip"),
            ("module.wasm", "application/wasm"),
            ("README", "application/octet-stream"),
            (".html", "application/octet-stream"),
        ] {
            assert_eq!(super::of(name.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn names_need_not_be_text() {
        assert_eq!(super::of(b"\xff\xfe.png"), "image/png");
    }
}
