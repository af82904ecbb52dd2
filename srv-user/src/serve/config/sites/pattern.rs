//! Which paths a route, or a value by pattern, is for, as the file names them. The matching itself
//! is in `serve/sites/paths.rs`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::values::{Expected, expected};

/// Which paths are meant. Paths are decoded: without escapes, empty segments and dot segments.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Pattern {
    /// This path alone.
    Exact(String),
    /// A path with all that is beneath it. If it ends in a slash: what is beneath it alone.
    Prefix(String),
    /// The paths whose last segment ends in this.
    Suffix(String),
}

impl Pattern {
    /// The text that paths are compared with.
    pub fn text(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) => text,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "exact = \"{text}\""),
            Self::Prefix(text) => write!(f, "prefix = \"{text}\""),
            Self::Suffix(text) => write!(f, "suffix = \"{text}\""),
        }
    }
}

/// A path from the root of a site, such as `/index.html`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SitePath(pub(super) String);

impl FromStr for SitePath {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let Some(rest) = text.strip_prefix('/') else {
            return expected("a path that begins with a slash, such as /index.html");
        };
        if rest.contains('\0') {
            return expected("a path without a NUL");
        }
        if rest.contains('?') {
            return expected("a path without a query, since the query of a request does not count");
        }
        if has_escape(rest) {
            return expected("a decoded path, such as /a b and not /a%20b");
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let is_plain = |segment: &str| !["", ".", ".."].contains(&segment);
        if text != "/" && !rest.split('/').all(is_plain) {
            return expected("a path without empty segments, . and .., since no request has those");
        }
        Ok(Self(text.to_owned()))
    }
}

/// Whether a text has an escape. A path that is to have a percent sign has none of these behind it.
fn has_escape(text: &str) -> bool {
    let mut behind = text.split('%').skip(1);
    behind.any(|behind| {
        let digits = behind.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// What the last segment of a path ends in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathSuffix(pub(super) String);

impl FromStr for PathSuffix {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        if text.is_empty() || text.contains(['/', '\0', '*']) {
            return expected("the end of a file's name, such as .php");
        }
        Ok(Self(text.to_owned()))
    }
}

/// A key of a table by pattern: `/exact`, `/beneath/*`, `*.suffix` or `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Glob(pub(super) Pattern);

impl FromStr for Glob {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let what = "a pattern: a path such as /index.html, /assets/* for all that is beneath a \
                    folder, *.css for the end of a name, or * for all";
        if text == "*" {
            return Ok(Self(Pattern::Prefix("/".into())));
        }
        let pattern = match (text.strip_prefix('*'), text.strip_suffix("/*")) {
            (Some(suffix), _) => suffix.parse().map(|PathSuffix(it)| Pattern::Suffix(it)),
            (None, Some(folder)) if !folder.contains('*') => format!("{folder}/")
                .parse()
                .map(|SitePath(it)| Pattern::Prefix(it)),
            (None, None) if !text.contains('*') => {
                text.parse().map(|SitePath(it)| Pattern::Exact(it))
            }
            _ => return expected(what),
        };
        pattern.or_else(|_| expected(what)).map(Self)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Pattern::Exact(path) => f.write_str(path),
            Pattern::Prefix(folder) if folder == "/" => f.write_str("*"),
            Pattern::Prefix(folder) => write!(f, "{folder}*"),
            Pattern::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_as_requests_have_them() {
        for good in ["/", "/a", "/a/", "/a b/ü.html", "/.well-known/"] {
            assert_eq!(good.parse(), Ok(SitePath(good.into())));
        }
        for bad in ["", "a", "//", "/a//b", "/a/../b", "/./", "/a/."] {
            bad.parse::<SitePath>().expect_err(bad);
        }
    }

    #[test]
    fn globs_are_written_as_they_are_read() {
        for (text, pattern) in [
            ("/a.html", Pattern::Exact("/a.html".into())),
            ("/a/*", Pattern::Prefix("/a/".into())),
            ("*.css", Pattern::Suffix(".css".into())),
            ("*", Pattern::Prefix("/".into())),
        ] {
            let glob: Glob = text.parse().unwrap();
            assert_eq!(glob.0, pattern);
            assert_eq!(glob.to_string(), text);
        }
        for bad in ["", "a", "/a*", "/*/a", "*/a", "**", "/a/*b", "/*/*"] {
            bad.parse::<Glob>().expect_err(bad);
        }
        assert_eq!("/*".parse(), Ok(Glob(Pattern::Prefix("/".into()))));
    }
}
