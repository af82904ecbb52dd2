//! Converts the path of a request to the name of a file below the root, and back. These functions
//! are pure and access no file system. `docroot` judges what a name may lead to (symbolic links).

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};

/// The characters that browsers escape in a path, and the escape character itself.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'}');

/// A decoded request path: relative, without `.`, `..`, NUL or empty segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::serve) struct RequestPath {
    /// The segments, joined by `/`. This is empty for the root itself.
    relative: Vec<u8>,
    /// Whether the path means a folder: it ends in a slash, or is the root.
    folder: bool,
}

/// Why a request path names nothing.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::serve) enum BadPath {
    /// It is not a path: it has no leading slash, an incomplete escape, or a NUL.
    Malformed,
    /// It leads above the root, or has a segment that cannot be a file's name, because it contains
    /// a slash.
    Nowhere,
}

impl RequestPath {
    /// Decodes a raw request path once (`%252e` is the three characters `%2e`). It resolves dot
    /// segments (RFC 3986, 5.2.4), escaped or not. If one leads above the root, it refuses the path.
    pub(in crate::serve) fn decode(raw: &str) -> Result<Self, BadPath> {
        let inner = raw.strip_prefix('/').ok_or(BadPath::Malformed)?;
        if !raw.split('%').skip(1).all(starts_with_two_hex_digits) {
            return Err(BadPath::Malformed);
        }
        let mut relative = Vec::with_capacity(inner.len());
        let mut ends_in_dots = false;
        for segment in inner.split('/').filter(|segment| !segment.is_empty()) {
            let end = relative.len();
            if end > 0 {
                relative.push(b'/');
            }
            let start = relative.len();
            relative.extend(percent_decode_str(segment));
            check_name(&relative[start..])?;
            ends_in_dots = match &relative[start..] {
                b"." => {
                    relative.truncate(end);
                    true
                }
                b".." if end == 0 => return Err(BadPath::Nowhere),
                b".." => {
                    let slash = relative[..end].iter().rposition(|byte| *byte == b'/');
                    relative.truncate(slash.unwrap_or(0));
                    true
                }
                _ => false,
            };
        }
        let folder = relative.is_empty() || inner.ends_with('/') || ends_in_dots;
        Ok(Self { relative, folder })
    }

    /// The file to open, relative to the root. For a folder, that is its `index.html`.
    pub(super) fn file_name(&self) -> Vec<u8> {
        let mut name = self.relative.clone();
        if self.folder {
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(b"index.html");
        }
        name
    }

    /// A path of the configuration, which is decoded.
    pub(super) fn of_site(path: &str) -> Self {
        let relative = path.trim_matches('/').as_bytes().to_vec();
        Self {
            folder: path.ends_with('/'),
            relative,
        }
    }

    /// This path between two texts. If the second ends in a slash, that is a folder.
    pub(super) fn between(&self, before: &str, after: &str) -> Self {
        let before = before.trim_start_matches('/').as_bytes();
        let slash: &[u8] = match before.is_empty() || self.relative.is_empty() {
            true => b"",
            false => b"/",
        };
        let name = after.trim_end_matches('/').as_bytes();
        let relative = [before, slash, &self.relative, name].concat();
        Self {
            folder: relative.is_empty()
                || after.ends_with('/')
                || (after.is_empty() && self.folder),
            relative,
        }
    }

    /// What comes after a prefix of this path.
    pub(in crate::serve) fn after(&self, prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/').as_bytes();
        let rest = self.relative.strip_prefix(prefix).unwrap_or(&self.relative);
        let relative = rest.strip_prefix(b"/").unwrap_or(rest).to_vec();
        Self {
            folder: self.folder || relative.is_empty(),
            relative,
        }
    }

    /// The name, relative to the root.
    pub(super) fn relative(&self) -> &[u8] {
        &self.relative
    }

    /// The name of a file in this folder, relative to the root.
    pub(super) fn beneath(&self, file: &str) -> Vec<u8> {
        match self.relative.is_empty() {
            true => file.as_bytes().to_vec(),
            false => [&self.relative, &b"/"[..], file.as_bytes()].concat(),
        }
    }

    /// Whether the name is that of a private file.
    pub(super) fn is_hidden(&self) -> bool {
        is_hidden(&self.relative)
    }

    /// Whether the path means a folder.
    pub(super) fn is_folder(&self) -> bool {
        self.folder
    }

    /// The path with a slash at its end, escaped anew. It has exactly one slash at its start, so a
    /// client cannot take it as a `Location` for the address of another host (`//host/`).
    pub(super) fn as_folder(&self) -> String {
        let mut text = self.escaped();
        if !text.ends_with('/') {
            text.push('/');
        }
        text
    }

    /// Whether `raw` spells this path as browsers do. There is only one such spelling.
    pub(super) fn is_spelled(&self, raw: &str) -> bool {
        self.escaped() == raw
    }

    /// The spelling that browsers use.
    pub(in crate::serve) fn escaped(&self) -> String {
        let mut text = String::with_capacity(self.relative.len() + 2);
        text.push('/');
        text.extend(percent_encode(&self.relative, ESCAPED));
        if self.folder && !self.relative.is_empty() {
            text.push('/');
        }
        text
    }
}

/// The path as routes are compared with: decoded, without empty and dot segments, with a slash at its
/// end if it means a folder. Most paths are spelled like that and are not copied.
///
/// # Errors
/// The path names nothing.
pub(in crate::serve) fn decoded(raw: &str) -> Result<Cow<'_, [u8]>, BadPath> {
    let is_plain =
        raw.starts_with('/') && !raw.contains('%') && !raw.contains("//") && !raw.contains("/.");
    if is_plain {
        return Ok(Cow::Borrowed(raw.as_bytes()));
    }
    let path = RequestPath::decode(raw)?;
    let mut decoded = Vec::with_capacity(path.relative.len() + 2);
    decoded.push(b'/');
    decoded.extend_from_slice(&path.relative);
    if path.folder && !path.relative.is_empty() {
        decoded.push(b'/');
    }
    Ok(Cow::Owned(decoded))
}

/// Whether a segment of a name begins with a dot, as names of private files do. The exception is
/// `.well-known` (RFC 8615) at the root.
pub(super) fn is_hidden(relative: &[u8]) -> bool {
    let mut segments = relative.split(|byte| *byte == b'/').enumerate();
    segments
        .any(|(nth, segment)| segment.starts_with(b".") && !(nth == 0 && segment == b".well-known"))
}

fn starts_with_two_hex_digits(after_percent: &str) -> bool {
    let digits = after_percent.as_bytes();
    digits.len() >= 2 && digits[..2].iter().all(u8::is_ascii_hexdigit)
}

fn check_name(name: &[u8]) -> Result<(), BadPath> {
    if name.contains(&0) {
        Err(BadPath::Malformed)
    } else if name.contains(&b'/') {
        Err(BadPath::Nowhere)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(raw: &str) -> String {
        let path = RequestPath::decode(raw).unwrap_or_else(|bad| panic!("{raw}: {bad:?}"));
        String::from_utf8(path.file_name()).unwrap()
    }

    #[test]
    fn names_files_and_indexes() {
        assert_eq!(name("/"), "index.html");
        assert_eq!(name("//"), "index.html");
        assert_eq!(name("/a.txt"), "a.txt");
        assert_eq!(name("/a/b/"), "a/b/index.html");
        assert_eq!(name("//a///b"), "a/b");
        assert_eq!(name("/a%20b/%C3%A9"), "a b/é");
        assert_eq!(name("/..a/b../..."), "..a/b../...");
        assert_eq!(name("/a%5c..%5cb"), "a\\..\\b");
    }

    #[test]
    fn routes_see_one_spelling_of_each_path() {
        for (raw, path) in [
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("//a///b", "/a/b"),
            ("/%61dmin/", "/admin/"),
            ("/x/../a", "/a"),
            ("/x/..", "/"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/.well-known/x", "/.well-known/x"),
        ] {
            assert_eq!(decoded(raw).unwrap(), path.as_bytes(), "{raw}");
        }
        for bad in ["", "*", "a", "/../a", "/%2e%2e/", "/%", "/a%00", "/a%2fb"] {
            assert!(decoded(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn decodes_once() {
        assert_eq!(name("/%252e%252e/%252f"), "%2e%2e/%2f");
    }

    #[test]
    fn dot_segments_are_resolved() {
        for (raw, resolved) in [
            ("/./a", "a"),
            ("/a/.", "a/index.html"),
            ("/a/./b", "a/b"),
            ("/a/%2e/b", "a/b"),
            ("/a/../b", "b"),
            ("/a/%2E%2e/b", "b"),
            ("/a/b/../c", "a/c"),
            ("/a/b/..", "a/index.html"),
            ("/a/b/../", "a/index.html"),
            ("/a/..", "index.html"),
            ("/.", "index.html"),
            ("/a//../b", "b"),
        ] {
            assert_eq!(name(raw), resolved, "{raw}");
            assert!(!RequestPath::decode(raw).unwrap().is_spelled(raw), "{raw}");
        }
    }

    #[test]
    fn dotfiles_are_hidden() {
        let is_hidden = |raw: &str| RequestPath::decode(raw).unwrap().is_hidden();
        for raw in [
            "/.git/config",
            "/a/.env",
            "/a/.b/",
            "/%2ehtaccess",
            "/...",
            "/.well-known/.secret",
            "/a/.well-known/x",
            "/.well-known-2",
        ] {
            assert!(is_hidden(raw), "{raw}");
        }
        for raw in [
            "/",
            "/a.b",
            "/./a",
            "/a/../b",
            "/.well-known/acme-challenge/x",
        ] {
            assert!(!is_hidden(raw), "{raw}");
        }
    }

    #[test]
    fn refuses_ways_out() {
        for raw in [
            "/..",
            "/../x",
            "/a/../../x",
            "/a/b/../../../x/y",
            "/./..",
            "/%2e%2e/x",
            "/.%2E/x",
            "/a%2fb",
            "/..%2fx",
            "/%2Fetc/passwd",
        ] {
            assert_eq!(RequestPath::decode(raw), Err(BadPath::Nowhere), "{raw}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_path() {
        for raw in [
            "", "*", "a", "/%", "/%4", "/%zz", "/a%4", "/%é", "/a%00b", "/%%30%30",
        ] {
            assert_eq!(RequestPath::decode(raw), Err(BadPath::Malformed), "{raw}");
        }
    }

    #[test]
    fn has_one_spelling() {
        let spelled = |raw: &str| RequestPath::decode(raw).unwrap().is_spelled(raw);
        for raw in [
            "/",
            "/a",
            "/a/",
            "/a%20b(1)'~:@!",
            "/%C3%A9",
            "/100%25",
            "/%5C",
        ] {
            assert!(spelled(raw), "{raw}");
        }
        for raw in ["//", "//a", "/a//", "/%61", "/%c3%a9", "/é", "/\\"] {
            assert!(!spelled(raw), "{raw}");
        }
    }

    #[test]
    fn redirects_stay_on_this_host() {
        let to = |raw: &str| RequestPath::decode(raw).unwrap().as_folder();
        assert_eq!(to("/a"), "/a/");
        assert_eq!(to("//host.example"), "/host.example/");
        assert_eq!(to("/\\host.example"), "/%5Chost.example/");
        assert_eq!(to("/a%0d%0aSet-Cookie:x"), "/a%0D%0ASet-Cookie:x/");
    }

    proptest! {
        #[test]
        fn decoded_paths_are_tame(raw in "/(%2e|%2f|%5c|%00|%25|[./a%é]){0,12}") {
            if let Ok(path) = RequestPath::decode(&raw) {
                let name = path.file_name();
                prop_assert!(!name.starts_with(b"/") && !name.contains(&0));
                let is_tame = |segment: &[u8]| !matches!(segment, b"" | b"." | b"..");
                prop_assert!(name.split(|byte| *byte == b'/').all(is_tame));
                let again = RequestPath::decode(&path.escaped()).unwrap();
                prop_assert_eq!(&again, &path);
                prop_assert!(again.is_spelled(&path.escaped()));
            }
        }
    }
}
