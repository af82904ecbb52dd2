//! Which part of a request's path is the script, and which is `PATH_INFO`: byte by byte, on segments
//! as a whole. Knows no file system: what is a script here must still be found beneath the root, as a
//! regular file.
//!
//! What went wrong elsewhere: `/picture.jpg/x.php` ran the picture, since PHP looked for a shorter
//! path that exists (`cgi.fix_pathinfo`). A line feed in the path left `PATH_INFO` empty, since a regular
//! expression stopped at it (CVE-2019-11043). A path was searched in lower case and cut at the position
//! found there, although lower case can have another length (`Ⱥ`; GHSA-g966-83w7-6w38).

/// The two parts of a path. Together they are the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScriptPath<'a> {
    /// `SCRIPT_NAME`: empty, or it begins with a slash and ends without.
    pub script: &'a [u8],
    /// `PATH_INFO`: empty, or it begins with a slash.
    pub info: &'a [u8],
}

impl<'a> ScriptPath<'a> {
    /// The script is the first segment that ends in `suffix` (`.php`), with something before it.
    /// `path` is decoded. `None`: the path has no such script.
    pub fn by_suffix(path: &'a [u8], suffix: &[u8]) -> Option<Self> {
        let ends = segment_ends(path)?;
        let is_script = |end: &usize| {
            let start = path[..*end].iter().rposition(|byte| *byte == b'/');
            let name = &path[start.map_or(0, |slash| slash + 1)..*end];
            !suffix.is_empty() && name.len() > suffix.len() && name.ends_with(suffix)
        };
        ends.into_iter()
            .find(is_script)
            .and_then(|end| Self::cut(path, end))
    }

    /// The script is the segment after `folder` (`/cgi-bin/`, with or without its last slash).
    /// `None`: the path is not beneath it, or is the folder itself.
    pub fn in_folder(path: &'a [u8], folder: &[u8]) -> Option<Self> {
        let folder = folder.strip_suffix(b"/").unwrap_or(folder);
        let is_beneath = path.starts_with(folder) && path.get(folder.len()) == Some(&b'/');
        if !is_beneath {
            return None;
        }
        let ends = segment_ends(path)?;
        let end = ends.into_iter().find(|end| *end > folder.len() + 1)?;
        Self::cut(path, end)
    }

    /// One program answers for all that is beneath `prefix` (`/git`, with or without a last slash):
    /// `SCRIPT_NAME` is the prefix. `None`: the path is not beneath it.
    pub fn beneath(path: &'a [u8], prefix: &[u8]) -> Option<Self> {
        let prefix = prefix.strip_suffix(b"/").unwrap_or(prefix);
        segment_ends(path)?;
        let info = path.strip_prefix(prefix)?;
        (info.is_empty() || info[0] == b'/').then(|| Self {
            script: &path[..prefix.len()],
            info,
        })
    }

    fn cut(path: &'a [u8], end: usize) -> Option<Self> {
        let (script, info) = path.split_at(end);
        // `/a//b.php`: the kernel would find the file, and the route would not.
        (!script.windows(2).any(|two| two == b"//")).then_some(Self { script, info })
    }
}

/// Where the segments of a path end. `None` if it does not begin with a slash, has control characters,
/// or has dot segments, which are resolved before a route is found.
fn segment_ends(path: &[u8]) -> Option<Vec<usize>> {
    let inner = path.strip_prefix(b"/")?;
    if path.iter().any(u8::is_ascii_control) {
        return None;
    }
    let mut ends = Vec::new();
    let mut end = 0;
    for segment in inner.split(|byte| *byte == b'/') {
        if matches!(segment, b"." | b"..") {
            return None;
        }
        end += 1 + segment.len();
        ends.push(end);
    }
    Some(ends)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Split = fn(&'static str, &str) -> Option<(&'static str, &'static str)>;

    fn text(path: Option<ScriptPath<'static>>) -> Option<(&'static str, &'static str)> {
        let text = |part| std::str::from_utf8(part).unwrap();
        path.map(|path| (text(path.script), text(path.info)))
    }

    const BY_SUFFIX: Split =
        |path, suffix| text(ScriptPath::by_suffix(path.as_bytes(), suffix.as_bytes()));
    const IN_FOLDER: Split =
        |path, folder| text(ScriptPath::in_folder(path.as_bytes(), folder.as_bytes()));
    const BENEATH: Split =
        |path, prefix| text(ScriptPath::beneath(path.as_bytes(), prefix.as_bytes()));

    #[test]
    fn the_first_segment_with_the_suffix_is_the_script() {
        for (path, script, info) in [
            ("/a.php", "/a.php", ""),
            ("/a.php/", "/a.php", "/"),
            ("/a.php/b", "/a.php", "/b"),
            ("/d/a.php/b/c", "/d/a.php", "/b/c"),
            ("/x.php/y.php/z", "/x.php", "/y.php/z"),
            ("/x.php.php/z", "/x.php.php", "/z"),
            ("/x.jpg.php", "/x.jpg.php", ""),
            ("/d.phpx/a.php", "/d.phpx/a.php", ""),
            ("/a.php//b", "/a.php", "//b"),
            ("/é.php/ü", "/é.php", "/ü"),
        ] {
            assert_eq!(BY_SUFFIX(path, ".php"), Some((script, info)), "{path}");
        }
    }

    #[test]
    fn nothing_like_the_suffix_is_a_script() {
        for path in [
            "",
            "/",
            "a.php",
            "/a.php.jpg",
            "/a.phpx/",
            "/a.phpx/b",
            "/A.PHP",
            "/a.pHp/b",
            "/aphp",
            "/.php",
            "/d/.php/x",
            "/a.php ",
            "/a.php.",
            "/a.ph\u{ff50}",
            "//a.php",
            "/d//a.php",
            // Escapes are the router's: here they are text.
            "/a.php%00.jpg",
            "/a.php%2fb",
            "/a%2ephp",
        ] {
            assert_eq!(BY_SUFFIX(path, ".php"), None, "{path}");
        }
        assert_eq!(BY_SUFFIX("/a.php", ""), None);
    }

    /// nginx with `\.php$` passed the whole path on, and PHP found the picture. Here the script is
    /// the last segment, which is beneath no regular file.
    #[test]
    fn a_picture_is_no_script() {
        let path = "/uploads/picture.jpg/x.php";
        assert_eq!(BY_SUFFIX(path, ".php"), Some((path, "")));
        assert_eq!(BY_SUFFIX("/uploads/picture.jpg", ".php"), None);
    }

    /// CVE-2019-11043: `^(.+?\.php)(/.*)$` matches no path with a line feed.
    #[test]
    fn control_characters_are_in_no_path_of_a_script() {
        for path in [
            "/a.php/\n",
            "/a.php/b\nc",
            "/a\n.php",
            "/a.php\n",
            "/a.php\r/b",
            "/a.php\0",
            "/a.php\0.jpg",
            "/a.php/\0",
            "/\u{7f}a.php",
        ] {
            assert_eq!(BY_SUFFIX(path, ".php"), None, "{path:?}");
            assert_eq!(BENEATH(path, "/"), None, "{path:?}");
            assert_eq!(IN_FOLDER(path, "/"), None, "{path:?}");
        }
    }

    /// GHSA-g966-83w7-6w38: two bytes of `Ⱥ` are three in lower case, and the cut moved.
    #[test]
    fn no_letter_changes_its_length() {
        let path = "/ȺȺȺȺshell.php.txt.php";
        assert_eq!(BY_SUFFIX(path, ".php"), Some((path, "")));
        assert_eq!(BY_SUFFIX("/ȺȺȺȺ.txt/x.php.txt", ".php"), None);
        // U+212A is a k, and U+0130 an i, in lower case.
        assert_eq!(BY_SUFFIX("/a.\u{212a}", ".k"), None);
        assert_eq!(BY_SUFFIX("/a.cg\u{130}", ".cgi"), None);
    }

    #[test]
    fn dot_segments_are_in_no_path_of_a_script() {
        for path in [
            "/../a.php",
            "/d/./a.php",
            "/a.php/..",
            "/a.php/../b",
            "/a.php/.",
        ] {
            assert_eq!(BY_SUFFIX(path, ".php"), None, "{path}");
            assert_eq!(BENEATH(path, "/"), None, "{path}");
        }
        assert_eq!(
            BY_SUFFIX("/..a/b.php/...", ".php"),
            Some(("/..a/b.php", "/..."))
        );
    }

    #[test]
    fn a_folder_has_scripts() {
        for folder in ["/cgi-bin/", "/cgi-bin"] {
            for (path, expected) in [
                ("/cgi-bin/a", Some(("/cgi-bin/a", ""))),
                ("/cgi-bin/a/", Some(("/cgi-bin/a", "/"))),
                ("/cgi-bin/a/b/c", Some(("/cgi-bin/a", "/b/c"))),
                ("/cgi-bin/", None),
                ("/cgi-bin", None),
                ("/cgi-binary/a", None),
                ("/cgi-bin//a", None),
                ("/CGI-BIN/a", None),
                ("/x/cgi-bin/a", None),
            ] {
                assert_eq!(IN_FOLDER(path, folder), expected, "{path}");
            }
        }
        assert_eq!(IN_FOLDER("/a/b", "/"), Some(("/a", "/b")));
    }

    #[test]
    fn a_program_answers_beneath_its_prefix() {
        for prefix in ["/git", "/git/"] {
            for (path, expected) in [
                ("/git", Some(("/git", ""))),
                ("/git/", Some(("/git", "/"))),
                ("/git/a.git/info/refs", Some(("/git", "/a.git/info/refs"))),
                ("/gitweb", None),
                ("/", None),
            ] {
                assert_eq!(BENEATH(path, prefix), expected, "{path}");
            }
        }
        assert_eq!(BENEATH("/a/b", "/"), Some(("", "/a/b")));
    }

    proptest! {
        #[test]
        fn the_parts_are_the_path(path in "(/|a|\\.php|\\.|P|Ⱥ|\n|\0|%00){0,12}") {
            let bytes = path.as_bytes();
            for found in [
                ScriptPath::by_suffix(bytes, b".php"),
                ScriptPath::in_folder(bytes, b"/a"),
                ScriptPath::beneath(bytes, b"/a"),
            ].into_iter().flatten() {
                prop_assert_eq!([found.script, found.info].concat(), bytes);
                prop_assert!(found.script.starts_with(b"/") && !found.script.ends_with(b"/"));
                prop_assert!(found.info.is_empty() || found.info.starts_with(b"/"));
                prop_assert!(!bytes.iter().any(u8::is_ascii_control));
            }
        }

        #[test]
        fn any_bytes_are_a_path_or_none(path in prop::collection::vec(any::<u8>(), 0..60), suffix in prop::collection::vec(any::<u8>(), 0..3)) {
            if let Some(found) = ScriptPath::by_suffix(&path, &suffix) {
                prop_assert!(found.script.ends_with(&suffix));
            }
        }
    }
}
