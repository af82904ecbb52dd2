//! Finds the media type of a file by its name, and the charset of a text by its content.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use http::HeaderValue;

use crate::serve::config::Types;
use crate::serve::config::sites::Charset;

/// The media types that browsers expect where `mime_guess` has an older or rarer one.
const BROWSERS: [(&str, &str); 11] = [
    // HTTP Live Streaming (RFC 8216, 10); to a browser `.ts` is a segment, never TypeScript.
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("ts", "video/mp2t"),
    ("m4a", "audio/mp4"),
    ("m4s", "video/iso.segment"),
    // RFC 9239. A browser does not run a module of another type.
    ("cjs", "text/javascript"),
    ("mjs", "text/javascript"),
    ("map", "application/json"),
    ("md", "text/markdown"),
    ("tgz", "application/gzip"),
    // RFC 9512.
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
];

/// The media type that follows from a file's name.
#[derive(Debug, PartialEq, Eq)]
pub struct MediaType {
    /// The name of the type. It has no charset, unless the configuration names one.
    name: String,
    /// `Content-Encoding`.
    pub encoding: Option<HeaderValue>,
    /// Whether it is a text that does not say itself which charset it has.
    is_open_text: bool,
    /// The charset of such a text.
    charset: Charset,
}

impl MediaType {
    /// Judges a file name by its extension alone: first by `types`, then by what browsers expect,
    /// then by what is registered. An unknown extension means `application/octet-stream`.
    pub fn of(name: &[u8], types: &Types, charset: &Charset) -> Self {
        let extension = Path::new(OsStr::from_bytes(name)).extension();
        let extension = extension.and_then(OsStr::to_str).unwrap_or_default();
        let extension = extension.to_ascii_lowercase();
        // A compressed SVG is an SVG with a content encoding (SVG 2, appendix I).
        let encoding = (extension == "svgz").then(|| HeaderValue::from_static("gzip"));
        if let Some(configured) = types.get(&extension) {
            return Self {
                name: configured.clone(),
                encoding,
                is_open_text: false,
                charset: Charset::Off,
            };
        }
        let wanted = BROWSERS.iter().find(|(known, _)| *known == extension);
        let name = match wanted {
            Some((_, name)) => name,
            None => mime_guess::from_ext(&extension)
                .first_raw()
                .unwrap_or("application/octet-stream"),
        };
        // XML names its charset in its first line, and the header would overrule that.
        let is_xml = name == "text/xml" || name.ends_with("+xml");
        Self {
            name: name.to_owned(),
            encoding,
            is_open_text: name.starts_with("text/") && !is_xml,
            charset: charset.clone(),
        }
    }

    /// The name of the type.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether [`of_content`](Self::of_content) looks at the content.
    pub fn is_open_text(&self) -> bool {
        self.is_open_text && self.charset == Charset::Found
    }

    /// The `Content-Type` of a file with this whole content. If a text is UTF-8, the header says so.
    /// For any other text it names no charset: the text may name its own, and the header would
    /// overrule that.
    pub fn of_content(&self, content: &[u8]) -> HeaderValue {
        self.with_charset(self.is_open_text && std::str::from_utf8(content).is_ok())
    }

    /// As [`of_content`](Self::of_content), for a file that begins with these bytes. Only characters
    /// beyond ASCII prove the charset of the rest.
    pub fn of_start(&self, start: &[u8]) -> HeaderValue {
        let is_utf8 = match std::str::from_utf8(start) {
            Ok(_) => true,
            // The last character is incomplete, because the bytes end within it.
            Err(error) => error.error_len().is_none(),
        };
        self.with_charset(self.is_open_text && is_utf8 && !start.is_ascii())
    }

    fn with_charset(&self, is_utf8: bool) -> HeaderValue {
        let is_utf8 = is_utf8 && self.charset == Charset::Found;
        if let (true, Charset::Named(charset)) = (self.is_open_text, &self.charset) {
            let value = HeaderValue::try_from(format!("{}; charset={charset}", self.name));
            return value.expect("media types and charsets are visible ASCII");
        }
        let value = match (is_utf8, self.name.as_str()) {
            (true, "text/html") => return HTML,
            (true, name) => HeaderValue::try_from(format!("{name}; charset=utf-8")),
            (false, name) => HeaderValue::from_str(name),
        };
        value.expect("media types are visible ASCII")
    }
}

/// The type of an HTML page.
pub const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
/// The type of a plain text.
pub const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> MediaType {
        MediaType::of(name.as_bytes(), &Types::new(), &Charset::Found)
    }

    #[test]
    fn types_by_extension() {
        for (name, expected) in [
            ("index.html", "text/html; charset=utf-8"),
            ("a/b.css", "text/css; charset=utf-8"),
            ("app.JS", "text/javascript; charset=utf-8"),
            ("app.mjs", "text/javascript; charset=utf-8"),
            ("notes.txt", "text/plain; charset=utf-8"),
            ("feed.xml", "text/xml"),
            ("page.xhtml", "application/xhtml+xml"),
            ("data.json", "application/json"),
            ("logo.svg", "image/svg+xml"),
            ("x.tar.gz", "application/gzip"),
            ("module.wasm", "application/wasm"),
            ("live.m3u8", "application/vnd.apple.mpegurl"),
            ("segment.ts", "video/mp2t"),
            ("README", "application/octet-stream"),
            (".html", "application/octet-stream"),
        ] {
            assert_eq!(of(name).of_content(b"ASCII"), expected, "{name}");
        }
    }

    #[test]
    fn every_type_of_the_table_is_a_header() {
        for (extension, expected) in BROWSERS {
            let name = format!("a.{extension}");
            assert_eq!(of(&name).of_content(b"\xff"), expected);
        }
    }

    #[test]
    fn a_compressed_picture_is_encoded() {
        let svgz = of("logo.svgz");
        assert_eq!(svgz.of_content(b"\x1f\x8b"), "image/svg+xml");
        assert_eq!(svgz.encoding.unwrap(), "gzip");
        assert_eq!(of("logo.svg").encoding, None);
        assert_eq!(of("logs.gz").encoding, None, "the archive itself is meant");
    }

    #[test]
    fn only_what_is_utf_8_is_said_to_be() {
        let page = of("page.html");
        assert_eq!(page.of_content("ä".as_bytes()), "text/html; charset=utf-8");
        assert_eq!(page.of_content(b"\xe4 in Latin-1"), "text/html");
        assert_eq!(page.of_start("so ä and \u{20ac}".as_bytes()), HTML);
        assert_eq!(page.of_start(b"so \xc3\xa4 and \xe2\x82"), HTML);
        assert_eq!(page.of_start(b"ASCII up to here"), "text/html");
        assert_eq!(page.of_start(b"\xe4 in Latin-1"), "text/html");
        assert_eq!(of("feed.xml").of_content("ä".as_bytes()), "text/xml");
        assert_eq!(of("a.png").of_content(b"PNG"), "image/png");
    }

    #[test]
    fn the_configuration_has_the_first_word() {
        let types = [("txt", "text/plain; charset=iso-8859-1"), ("svgz", "a/b")];
        let types = types.map(|(extension, name)| (extension.to_owned(), name.to_owned()));
        let types = Types::from(types);
        let text = MediaType::of(b"notes.TXT", &types, &Charset::Found);
        assert_eq!(text.of_content(b"x"), "text/plain; charset=iso-8859-1");
        let picture = MediaType::of(b"logo.svgz", &types, &Charset::Found);
        assert_eq!(picture.of_content(b"x"), "a/b");
        assert_eq!(
            picture.encoding.unwrap(),
            "gzip",
            "the bytes are what they are"
        );
    }

    #[test]
    fn names_need_not_be_text() {
        let picture = MediaType::of(b"\xff\xfe.png", &Types::new(), &Charset::Found);
        assert_eq!(picture.of_content(b""), "image/png");
    }
}
