//! The `Range` header (RFC 9110, 14): one range of bytes, or none. These functions are pure.

use http::header::{HeaderMap, RANGE};

/// The part of a representation that a `Range` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteRange {
    /// All of it. There is no header, or one that a server may ignore (another unit, several
    /// ranges, or not well formed).
    Whole,
    /// `length` bytes from `start`. They lie within the representation, and there is at least one.
    Part {
        /// First byte, counted from 0.
        start: u64,
        /// Number of bytes.
        length: u64,
    },
    /// The range lies wholly outside; the answer is 416.
    Unsatisfiable,
}

impl ByteRange {
    /// Reads the header for a representation of `total` bytes.
    pub(super) fn requested(headers: &HeaderMap, total: u64) -> Self {
        let mut lines = headers.get_all(RANGE).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return Self::Whole;
        };
        line.to_str()
            .ok()
            .and_then(|text| parse(text, total))
            .unwrap_or(Self::Whole)
    }
}

/// Reads the header's text. `None`: srv ignores the header.
fn parse(text: &str, total: u64) -> Option<ByteRange> {
    let (unit, range) = text.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim_matches([' ', '\t']).split_once('-')?;
    if first.is_empty() {
        return suffix(number(last)?, total);
    }
    let start = number(first)?;
    let last = match last {
        "" => u64::MAX,
        digits => number(digits)?,
    };
    if last < start {
        return None;
    }
    if start >= total {
        return Some(ByteRange::Unsatisfiable);
    }
    let length = last.min(total - 1) - start + 1;
    Some(ByteRange::Part { start, length })
}

/// The last `count` bytes. If the representation is empty, the range is satisfiable and empty, but
/// `Content-Range` cannot express that, so the answer is the whole.
fn suffix(count: u64, total: u64) -> Option<ByteRange> {
    match (count, total) {
        (0, _) => Some(ByteRange::Unsatisfiable),
        (_, 0) => None,
        _ => {
            let length = count.min(total);
            let start = total - length;
            Some(ByteRange::Part { start, length })
        }
    }
}

/// Reads digits only. If the number does not fit, it becomes `u64::MAX`, which is beyond the end of
/// every file, too.
fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::ByteRange::{Part, Unsatisfiable, Whole};
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn requested(text: &str, total: u64) -> ByteRange {
        let headers = [(RANGE, HeaderValue::from_str(text).unwrap())];
        ByteRange::requested(&headers.into_iter().collect(), total)
    }

    #[test]
    fn parts() {
        for (text, start, length) in [
            ("bytes=0-0", 0, 1),
            ("bytes=2-5", 2, 4),
            ("bytes=2-", 2, 8),
            ("bytes=9-", 9, 1),
            ("bytes=0-999", 0, 10),
            ("bytes=-3", 7, 3),
            ("bytes=-999", 0, 10),
            ("Bytes= 1-2 ", 1, 2),
            ("bytes=1-99999999999999999999999", 1, 9),
        ] {
            assert_eq!(requested(text, 10), Part { start, length }, "{text}");
        }
    }

    #[test]
    fn outside() {
        for text in [
            "bytes=10-",
            "bytes=10-20",
            "bytes=-0",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(requested(text, 10), Unsatisfiable, "{text}");
        }
        assert_eq!(requested("bytes=0-", 0), Unsatisfiable);
        assert_eq!(requested("bytes=-1", 0), Whole);
    }

    #[test]
    fn ignored() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-2",
            "bytes=a-b",
            "bytes=0-1,3-4",
            "bytes=0-1,",
            "items=0-1",
            "bytes=+1-2",
            "bytes=0x1-2",
            "bytes=1 - 2",
            "bytes=--1",
            "bytes =0-1",
        ] {
            assert_eq!(requested(text, 10), Whole, "{text}");
        }
        assert_eq!(ByteRange::requested(&HeaderMap::new(), 10), Whole);
    }

    #[test]
    fn several_lines_are_ignored() {
        let mut headers = HeaderMap::new();
        headers.append(RANGE, HeaderValue::from_static("bytes=0-1"));
        headers.append(RANGE, HeaderValue::from_static("bytes=2-3"));
        assert_eq!(ByteRange::requested(&headers, 10), Whole);
    }

    proptest! {
        #[test]
        fn parts_lie_within(text in "bytes=[0-9]{0,20}-[0-9]{0,20}", total: u64) {
            if let Part { start, length } = requested(&text, total) {
                prop_assert!(length >= 1);
                prop_assert!(start.checked_add(length).is_some_and(|end| end <= total));
            }
        }
    }
}
