//! The values of keys that sites and routes have: how each is written. Knows no table.

use std::fmt;
use std::str::FromStr;

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::pattern::SitePath;
use crate::values::{Bytes, Expected, by_name, expected};

/// Where `try-files` has the path of the request.
const PATH: &str = "{path}";

/// What is tried for a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Candidate {
    /// The path of the request between these texts.
    OfPath {
        /// What comes before the path.
        before: String,
        /// What comes after it.
        after: String,
    },
    /// This path.
    This(String),
    /// No file: this status.
    Status(u16),
}

impl Candidate {
    /// The path of the request itself.
    pub fn path() -> Self {
        Self::OfPath {
            before: String::new(),
            after: String::new(),
        }
    }
}

impl FromStr for Candidate {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        if let Some(status) = text.strip_prefix('=') {
            return match status.parse() {
                Ok(ErrorStatus(status)) => Ok(Self::Status(status)),
                Err(_) => expected("a status from 400 to 599 after the =, such as =404"),
            };
        }
        match text.split_once(PATH) {
            Some((before, after)) => {
                let is_prefix = before.is_empty() || before.parse::<SitePath>().is_ok();
                let bad_ends = [PATH, "/.", "\0"];
                let is_bad = bad_ends.iter().any(|bad| after.contains(bad));
                if !is_prefix || before.ends_with('/') || is_bad {
                    return expected("{path} once, such as {path}.html or /cache{path}/");
                }
                Ok(Self::OfPath {
                    before: before.into(),
                    after: after.into(),
                })
            }
            None => match text.parse() {
                Ok(SitePath(path)) => Ok(Self::This(path)),
                Err(_) => expected(
                    "{path}, a path such as /index.html, or a status such as =404 at the end",
                ),
            },
        }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfPath { before, after } => write!(f, "{before}{PATH}{after}"),
            Self::This(path) => f.write_str(path),
            Self::Status(status) => write!(f, "={status}"),
        }
    }
}

/// A status of an error.
pub(super) struct ErrorStatus(pub(super) u16);

impl FromStr for ErrorStatus {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text.parse() {
            Ok(status) if (400..600).contains(&status) => Ok(Self(status)),
            _ => expected("a status from 400 to 599"),
        }
    }
}

/// Which charset `Content-Type` names for a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Charset {
    /// UTF-8 if the text is UTF-8, otherwise none.
    Found,
    /// None.
    Off,
    /// Always this one.
    Named(String),
}

impl FromStr for Charset {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:+".contains(&byte);
        match text {
            "auto" => Ok(Self::Found),
            "off" => Ok(Self::Off),
            name if !name.is_empty() && name.bytes().all(is_token) => {
                Ok(Self::Named(name.to_owned()))
            }
            _ => expected("auto, off, or a charset such as utf-8"),
        }
    }
}

impl fmt::Display for Charset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Found => "auto",
            Self::Off => "off",
            Self::Named(name) => name,
        })
    }
}

/// A content coding of a file that lies beside the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Coding {
    /// Brotli (RFC 7932).
    Brotli,
    /// Zstandard (RFC 8878).
    Zstd,
    /// gzip (RFC 1952).
    Gzip,
}

impl Coding {
    /// As the file names it: the extension of the coded file.
    const NAMED: [(&str, Self); 3] = [
        ("br", Self::Brotli),
        ("zst", Self::Zstd),
        ("gz", Self::Gzip),
    ];

    /// What the name of a file in this coding ends in, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zst",
            Self::Gzip => "gz",
        }
    }

    /// The token of `Accept-Encoding` and `Content-Encoding`.
    pub fn token(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

impl FromStr for Coding {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        by_name(text, &Self::NAMED)
    }
}

/// A coding by its token.
pub(super) struct CodingToken(pub(super) Coding);

impl FromStr for CodingToken {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let by_token = Coding::NAMED.map(|(_, coding)| (coding.token(), coding));
        by_name(text, &by_token).map(Self)
    }
}

/// The size of a text that is compressed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TextBytes(pub(super) u64);

/// The largest [`TextBytes`].
const TEXT_BYTES_MAX: u64 = 1 << 20;

impl FromStr for TextBytes {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text.parse()? {
            Bytes::<0>(bytes) if bytes <= TEXT_BYTES_MAX => Ok(Self(bytes)),
            _ => expected("at most 1MiB, since a worker does nothing else meanwhile"),
        }
    }
}

/// What of a request's path follows the target of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeptPath {
    /// Nothing.
    Nothing,
    /// All of it.
    Whole,
    /// What comes after the prefix of the route.
    Rest,
}

impl KeptPath {
    const NAMED: [(&str, Self); 3] = [
        ("drop", Self::Nothing),
        ("whole", Self::Whole),
        ("rest", Self::Rest),
    ];

    /// As the file names it.
    pub fn name(self) -> &'static str {
        let named = Self::NAMED.iter().find(|(_, kept)| *kept == self);
        named.map_or("", |(name, _)| name)
    }
}

impl FromStr for KeptPath {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        by_name(text, &Self::NAMED)
    }
}

/// A change of a response's headers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeaderChange {
    /// The response does not have this header.
    Remove(String),
    /// The response has this header once, with this value.
    Set(String, String),
    /// The response has this header with this value, too.
    Add(String, String),
}

/// Headers that say how a message is framed or what its body is. srv writes them itself.
const OF_THE_MESSAGE: [&str; 10] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "date",
];

/// The name of a header that may be changed, in lower case.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct ChangeableHeader(pub(super) String);

impl FromStr for ChangeableHeader {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
            return expected("the name of a header, such as X-Frame-Options");
        };
        if OF_THE_MESSAGE.contains(&name.as_str()) {
            return expected("a header that does not describe the message itself");
        }
        Ok(Self(name.as_str().to_owned()))
    }
}

/// The value of a header.
pub(super) struct HeaderText(pub(super) String);

impl FromStr for HeaderText {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let is_ascii = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !is_ascii || text.trim() != text || HeaderValue::from_str(text).is_err() {
            return expected("visible ASCII without spaces at its ends");
        }
        Ok(Self(text.to_owned()))
    }
}

/// The target of a redirect.
pub(super) struct Target(pub(super) String);

impl FromStr for Target {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let after_scheme = ["http://", "https://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme));
        let has_host = |rest: &str| {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = match authority.rsplit_once(':') {
                Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
                _ => authority,
            };
            !host.is_empty() && !host.contains('@')
        };
        let is_url = after_scheme.is_some_and(has_host);
        let is_path = text.starts_with('/') && !text.starts_with("//");
        let is_visible = text
            .bytes()
            .all(|byte| (b'!'..=b'~').contains(&byte) && byte != b'\\');
        if !(is_url || is_path) || !is_visible {
            return expected(
                "a URL such as https://example.org/, or a path such as /new, escaped if need be",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_written_as_they_are_read() {
        for text in [
            "{path}",
            "{path}.html",
            "{path}/",
            "/c{path}.gz",
            "/index.html",
            "=404",
        ] {
            assert_eq!(text.parse::<Candidate>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "a",
            "=200",
            "=x",
            "{path}{path}",
            "../{path}",
            "{path}/../a",
            "/a/{path}",
        ] {
            assert!(bad.parse::<Candidate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_redirect_leads_to_a_url_or_a_path() {
        for good in [
            "https://example.org",
            "http://a/b?c",
            "http://[::1]:80/",
            "https://a:80?x",
            "/new",
            "/",
        ] {
            assert!(good.parse::<Target>().is_ok(), "{good}");
        }
        for bad in [
            "//evil",
            "new",
            "https://",
            "https:///x",
            "/a b",
            "https://:80",
            "https://?x",
            "https://a@b",
            "javascript:1",
            "/\\evil",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_of_the_message_are_not_changed() {
        for bad in ["Content-Length", "connection", "a b", "", "ü"] {
            assert!(bad.parse::<ChangeableHeader>().is_err(), "{bad}");
        }
        let name: ChangeableHeader = "X-Frame-Options".parse().ok().unwrap();
        assert_eq!(name.0, "x-frame-options");
        for bad in ["a\nb", " a", "ü", "a\0"] {
            assert!(bad.parse::<HeaderText>().is_err(), "{bad}");
        }
    }
}
