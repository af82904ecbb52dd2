//! Finds what is configured for a path: an exact path before a prefix, a prefix before a suffix,
//! and the longest of its kind. The cost depends on how many lengths the patterns have, not on how
//! many patterns there are, and not on the length of the path.

use std::collections::{BTreeMap, HashMap};

use crate::serve::config::sites::Pattern;

/// Values by pattern.
#[derive(Debug)]
pub(in crate::serve) struct Paths<T> {
    exact: HashMap<Box<[u8]>, T>,
    prefixes: ByLength<T>,
    suffixes: ByLength<T>,
}

/// Texts of each length, the longest first.
type ByLength<T> = Vec<(usize, HashMap<Box<[u8]>, T>)>;

impl<T> Paths<T> {
    /// If a pattern is there twice, the last one holds.
    pub(in crate::serve) fn new<'a>(values: impl IntoIterator<Item = (&'a Pattern, T)>) -> Self {
        let mut exact = HashMap::new();
        let [mut prefixes, mut suffixes] = [BTreeMap::new(), BTreeMap::new()];
        for (pattern, value) in values {
            let text = pattern.text().as_bytes();
            let same_length = match pattern {
                Pattern::Exact(_) => &mut exact,
                Pattern::Prefix(_) => prefixes.entry(text.len()).or_insert_with(HashMap::new),
                Pattern::Suffix(_) => suffixes.entry(text.len()).or_insert_with(HashMap::new),
            };
            same_length.insert(text.into(), value);
        }
        Self {
            exact,
            prefixes: prefixes.into_iter().rev().collect(),
            suffixes: suffixes.into_iter().rev().collect(),
        }
    }

    /// Whether there is no pattern.
    pub(in crate::serve) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty() && self.suffixes.is_empty()
    }

    /// The value for a path, which is decoded and begins with a slash.
    pub(in crate::serve) fn find(&self, path: &[u8]) -> Option<&T> {
        if let Some(value) = self.exact.get(path) {
            return Some(value);
        }
        let by_prefix = self.prefixes.iter().find_map(|(length, values)| {
            let prefix = path.get(..*length)?;
            let ends_segment =
                prefix.ends_with(b"/") || matches!(path.get(*length), None | Some(b'/'));
            values.get(prefix).filter(|_| ends_segment)
        });
        by_prefix.or_else(|| {
            let segment = path.iter().rposition(|byte| *byte == b'/');
            let segment = &path[segment.map_or(0, |slash| slash + 1)..];
            self.suffixes.iter().find_map(|(length, values)| {
                let start = segment.len().checked_sub(*length)?;
                values.get(&segment[start..])
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by going through all patterns.
    fn slowly(patterns: &[Pattern], path: &str) -> Option<usize> {
        let rank = |pattern: &Pattern| match pattern {
            Pattern::Exact(exact) => (path == exact).then_some((2, exact.len())),
            Pattern::Prefix(prefix) => {
                let rest = path.strip_prefix(prefix.as_str())?;
                let fits = rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/');
                fits.then_some((1, prefix.len()))
            }
            Pattern::Suffix(suffix) => {
                let name = path.rsplit('/').next()?;
                name.ends_with(suffix.as_str()).then_some((0, suffix.len()))
            }
        };
        let ranked = patterns.iter().enumerate();
        let ranked = ranked.filter_map(|(nth, pattern)| Some((rank(pattern)?, nth)));
        ranked.max().map(|(_, nth)| nth)
    }

    fn pattern() -> impl Strategy<Value = Pattern> {
        let path = "(/[ab.]{0,2}){1,3}/?";
        prop_oneof![
            path.prop_map(Pattern::Exact),
            path.prop_map(Pattern::Prefix),
            "[ab.]{1,3}".prop_map(Pattern::Suffix),
        ]
    }

    #[test]
    fn the_lookup_finds_what_a_search_of_all_patterns_finds() {
        let patterns = proptest::collection::vec(pattern(), 0..12);
        proptest!(|(patterns in patterns, paths in proptest::collection::vec("(/[ab.]{0,3}){1,4}/?", 8))| {
            let paths_by = Paths::new(patterns.iter().zip(0..));
            prop_assert_eq!(paths_by.is_empty(), patterns.is_empty());
            for path in paths {
                let found = paths_by.find(path.as_bytes()).copied();
                prop_assert_eq!(found, slowly(&patterns, &path), "{} {:?}", path, patterns);
            }
        });
    }

    #[test]
    fn prefixes_end_with_a_segment() {
        let patterns = [
            Pattern::Prefix("/api".into()),
            Pattern::Prefix("/img/".into()),
        ];
        let paths = Paths::new(patterns.iter().zip(0..));
        for (path, found) in [
            ("/api", Some(0)),
            ("/api/", Some(0)),
            ("/api/v1", Some(0)),
            ("/apis", None),
            ("/img", None),
            ("/img/", Some(1)),
            ("/img/a", Some(1)),
            ("/", None),
        ] {
            assert_eq!(paths.find(path.as_bytes()).copied(), found, "{path}");
        }
    }
}
