//! Conditional requests (RFC 9110, 13): validators and the precedence of preconditions. These
//! functions are pure, except that `If-Range` needs the wall clock.

use std::hash::{DefaultHasher, Hasher};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use http::header::{
    HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE,
};

/// The values that identify a version of a representation.
#[derive(Clone, Debug)]
pub(super) struct Validators {
    /// An entity tag with its quotes, weak (`W/`) or strong. `None`: nothing distinguishes one
    /// version from the next.
    pub etag: Option<HeaderValue>,
    /// When it changed last, seconds since 1970. `None`: that is unknown, or not in the past.
    pub modified_s: Option<u64>,
}

/// The result of the preconditions of a GET or HEAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Serve the representation.
    Proceed,
    /// Answer 304: the client has this version.
    NotModified,
    /// Answer 412: the client wants another version, or none.
    Failed,
}

/// Judges the preconditions in the order of RFC 9110, 13.2.2. If a date is not well formed, its
/// condition is ignored. If a list of tags is not well formed, its condition does not match.
pub(super) fn evaluate(headers: &HeaderMap, current: &Validators) -> Verdict {
    if headers.contains_key(IF_MATCH) {
        if !any_tag(headers, &IF_MATCH, current, Comparison::Strong) {
            return Verdict::Failed;
        }
    } else if changed_since(headers, &IF_UNMODIFIED_SINCE, current) == Some(true) {
        return Verdict::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if any_tag(headers, &IF_NONE_MATCH, current, Comparison::Weak) {
            return Verdict::NotModified;
        }
    } else if changed_since(headers, &IF_MODIFIED_SINCE, current) == Some(false) {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// Whether a `Range` counts. If there is an `If-Range`, it must name exactly this version. A date
/// does so only after the second that it names is over: until then, the file could change again
/// and keep the same date (RFC 9110, 8.8.2.2 and 13.1.5).
pub(super) fn range_counts(headers: &HeaderMap, current: &Validators) -> bool {
    if !headers.contains_key(IF_RANGE) {
        return true;
    }
    let Some(line) = single(headers, &IF_RANGE) else {
        return false;
    };
    if line.starts_with('"') {
        return current.etag.as_ref().is_some_and(|etag| line == etag);
    }
    let asked = parse_date_s(line);
    asked.is_some() && asked == current.modified_s && asked < unix_s(SystemTime::now())
}

/// A strong tag of content that srv has read as a whole. It is a hash, so every replica has the same
/// tag, and it does not depend on times. SipHash with fixed keys gives the same hash in every
/// process of one build.
pub(super) fn tag_of(content: &[u8]) -> HeaderValue {
    let mut hasher = DefaultHasher::new();
    hasher.write(content);
    let tag = format!("\"{:016x}\"", hasher.finish());
    HeaderValue::try_from(tag).expect("hexadecimal digits")
}

/// Seconds since 1970, rounded down. `None`: the time is before 1970.
pub(super) fn unix_s(time: SystemTime) -> Option<u64> {
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// An HTTP date. It cannot express the year 10000 and later.
pub(super) fn format_date(unix_s: u64) -> HeaderValue {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix_s));
    HeaderValue::from_str(&date).expect("dates are visible ASCII")
}

fn parse_date_s(text: &str) -> Option<u64> {
    unix_s(httpdate::parse_http_date(text).ok()?)
}

/// Whether the version changed after the date in this header. `None`: the condition has no effect
/// (there is no header, no date or nothing to compare with it, or the header has several lines).
fn changed_since(headers: &HeaderMap, name: &HeaderName, current: &Validators) -> Option<bool> {
    let since_s = parse_date_s(single(headers, name)?)?;
    Some(current.modified_s? > since_s)
}

/// The text of a header that has exactly one line.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => line.to_str().ok(),
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Comparison {
    Strong,
    Weak,
}

fn any_tag(
    headers: &HeaderMap,
    name: &HeaderName,
    current: &Validators,
    comparison: Comparison,
) -> bool {
    let ours = current.etag.as_ref().map(HeaderValue::as_bytes);
    let mut lines = headers.get_all(name).iter();
    lines.any(|line| has_tag(line.as_bytes(), ours, comparison))
}

/// Whether a list of entity tags (or `*`) matches `ours`. It reads the list up to the first part
/// that is not well formed.
fn has_tag(list: &[u8], ours: Option<&[u8]>, comparison: Comparison) -> bool {
    if list.trim_ascii() == b"*" {
        return true;
    }
    let Some(ours) = ours else {
        return false;
    };
    let is_ours_weak = ours.starts_with(b"W/");
    let ours = ours.strip_prefix(b"W/").unwrap_or(ours);
    let mut rest = list;
    loop {
        while let [b' ' | b'\t' | b',', after @ ..] = rest {
            rest = after;
        }
        let weak = rest.starts_with(b"W/");
        if weak {
            rest = &rest[2..];
        }
        let Some(length) = quoted_length(rest) else {
            return false;
        };
        let (tag, after) = rest.split_at(length);
        let is_weak = weak || is_ours_weak;
        if tag == ours && !(is_weak && comparison == Comparison::Strong) {
            return true;
        }
        rest = after;
    }
}

/// How many bytes a quoted tag has, with both quotes.
fn quoted_length(text: &[u8]) -> Option<usize> {
    let inner = text.strip_prefix(b"\"")?;
    Some(inner.iter().position(|byte| *byte == b'"')? + 2)
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Failed, NotModified, Proceed};
    use super::*;

    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const EXACT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn current() -> Validators {
        Validators {
            etag: Some(HeaderValue::from_static("\"v1\"")),
            modified_s: Some(784_111_777),
        }
    }

    fn headers(lines: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[track_caller]
    fn check(expected: Verdict, lines: &[(HeaderName, &'static str)]) {
        assert_eq!(evaluate(&headers(lines), &current()), expected, "{lines:?}");
    }

    #[test]
    fn dates_round_trip() {
        assert_eq!(format_date(784_111_777), EXACT);
        assert_eq!(parse_date_s(EXACT), current().modified_s);
        assert_eq!(
            parse_date_s("Sunday, 06-Nov-94 08:49:37 GMT"),
            current().modified_s
        );
        assert_eq!(
            parse_date_s("Sun Nov  6 08:49:37 1994"),
            current().modified_s
        );
    }

    #[test]
    fn none_match() {
        for list in [
            "*",
            " * ",
            "\"v1\"",
            "W/\"v1\"",
            "\"v0\", \"v1\"",
            ",, W/\"v0\",\"v1\"",
            "\"a,b\",\"v1\"",
        ] {
            check(NotModified, &[(IF_NONE_MATCH, list)]);
        }
        for list in [
            "",
            "\"v0\"",
            "v1",
            "\"v1",
            "w/\"v1\"",
            "\"V1\"",
            "junk \"v1\"",
            "\"*\"",
        ] {
            check(Proceed, &[(IF_NONE_MATCH, list)]);
        }
        check(
            NotModified,
            &[(IF_NONE_MATCH, "\"v0\""), (IF_NONE_MATCH, "\"v1\"")],
        );
    }

    #[test]
    fn match_is_strong() {
        for list in ["*", "\"v1\"", "\"v0\", \"v1\""] {
            check(Proceed, &[(IF_MATCH, list)]);
        }
        for list in ["", "\"v0\"", "W/\"v1\"", "v1"] {
            check(Failed, &[(IF_MATCH, list)]);
        }
    }

    #[test]
    fn dates() {
        check(Proceed, &[(IF_MODIFIED_SINCE, BEFORE)]);
        check(NotModified, &[(IF_MODIFIED_SINCE, EXACT)]);
        check(NotModified, &[(IF_MODIFIED_SINCE, AFTER)]);
        check(Failed, &[(IF_UNMODIFIED_SINCE, BEFORE)]);
        check(Proceed, &[(IF_UNMODIFIED_SINCE, EXACT)]);
        check(Proceed, &[(IF_UNMODIFIED_SINCE, AFTER)]);
    }

    #[test]
    fn bad_dates_say_nothing() {
        for date in [
            "",
            "yesterday",
            "784111777",
            "Sun, 06 Nov 1494 08:49:37 GMT",
        ] {
            check(Proceed, &[(IF_MODIFIED_SINCE, date)]);
            check(Proceed, &[(IF_UNMODIFIED_SINCE, date)]);
        }
        check(
            Proceed,
            &[(IF_MODIFIED_SINCE, AFTER), (IF_MODIFIED_SINCE, AFTER)],
        );
    }

    #[test]
    fn precedence() {
        // If there are a tag and a date, the tag decides.
        check(
            Proceed,
            &[(IF_NONE_MATCH, "\"v0\""), (IF_MODIFIED_SINCE, AFTER)],
        );
        check(
            NotModified,
            &[(IF_NONE_MATCH, "\"v1\""), (IF_MODIFIED_SINCE, BEFORE)],
        );
        check(
            Proceed,
            &[(IF_MATCH, "\"v1\""), (IF_UNMODIFIED_SINCE, BEFORE)],
        );
        check(
            Failed,
            &[(IF_MATCH, "\"v0\""), (IF_UNMODIFIED_SINCE, AFTER)],
        );
        // If a precondition fails, the condition of a cache does not count.
        check(Failed, &[(IF_MATCH, "\"v0\""), (IF_NONE_MATCH, "\"v1\"")]);
        check(
            Failed,
            &[(IF_UNMODIFIED_SINCE, BEFORE), (IF_NONE_MATCH, "\"v1\"")],
        );
        // If the precondition holds, the condition of a cache decides.
        check(
            NotModified,
            &[(IF_MATCH, "\"v1\""), (IF_NONE_MATCH, "\"v1\"")],
        );
        check(NotModified, &[(IF_MATCH, "*"), (IF_MODIFIED_SINCE, EXACT)]);
    }

    #[test]
    fn without_a_date_only_tags_count() {
        let undated = Validators {
            modified_s: None,
            ..current()
        };
        for line in [(IF_MODIFIED_SINCE, AFTER), (IF_UNMODIFIED_SINCE, BEFORE)] {
            assert_eq!(evaluate(&headers(&[line]), &undated), Proceed);
        }
        assert!(!range_counts(&headers(&[(IF_RANGE, EXACT)]), &undated));
    }

    #[test]
    fn if_range() {
        let counts = |lines: &[_]| range_counts(&headers(lines), &current());
        assert!(counts(&[]));
        assert!(counts(&[(IF_RANGE, "\"v1\"")]));
        assert!(counts(&[(IF_RANGE, EXACT)]));
        for value in ["\"v0\"", "W/\"v1\"", BEFORE, AFTER, "*", ""] {
            assert!(!counts(&[(IF_RANGE, value)]), "{value}");
        }
        assert!(!counts(&[(IF_RANGE, "\"v1\""), (IF_RANGE, "\"v1\"")]));
    }

    #[test]
    fn a_weak_tag_is_enough_for_caches_only() {
        let weak = Validators {
            etag: Some(HeaderValue::from_static("W/\"v1\"")),
            ..current()
        };
        for list in ["\"v1\"", "W/\"v1\"", "*"] {
            let asked = headers(&[(IF_NONE_MATCH, list)]);
            assert_eq!(evaluate(&asked, &weak), NotModified, "{list}");
        }
        for list in ["\"v1\"", "W/\"v1\""] {
            let asked = headers(&[(IF_MATCH, list)]);
            assert_eq!(evaluate(&asked, &weak), Failed, "{list}");
            assert!(
                !range_counts(&headers(&[(IF_RANGE, list)]), &weak),
                "{list}"
            );
        }
    }

    #[test]
    fn without_a_tag_no_tag_matches() {
        let untagged = Validators {
            etag: None,
            ..current()
        };
        let verdict = |lines: &[_]| evaluate(&headers(lines), &untagged);
        assert_eq!(verdict(&[(IF_NONE_MATCH, "\"v1\"")]), Proceed);
        assert_eq!(verdict(&[(IF_NONE_MATCH, "*")]), NotModified);
        assert_eq!(verdict(&[(IF_MATCH, "\"v1\"")]), Failed);
        assert!(!range_counts(&headers(&[(IF_RANGE, "\"v1\"")]), &untagged));
    }

    #[test]
    fn if_range_distrusts_the_present_second() {
        let now_s = unix_s(SystemTime::now()).unwrap() + 1;
        let fresh = Validators {
            modified_s: Some(now_s),
            ..current()
        };
        let mut headers = HeaderMap::new();
        headers.insert(IF_RANGE, format_date(now_s));
        assert!(!range_counts(&headers, &fresh));
    }
}
