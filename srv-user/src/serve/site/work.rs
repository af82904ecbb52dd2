//! Synthetic work for measurements: `/work` sleeps, spins and sends as much as its query says.

use std::time::{Duration, Instant};

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};

use crate::serve::site::body::Body;
use crate::serve::site::content_type;
use crate::serve::site::notice::notice;

/// The longest sleep and the longest spin, µs.
const LONGEST_US: u64 = 60_000_000;
/// The largest body, bytes.
const LARGEST_BYTES: u64 = 1 << 30;

/// What one request asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Work {
    sleep_us: Option<u64>,
    spin_us: Option<u64>,
    bytes: Option<u64>,
}

/// Does the work on this thread, and then answers. If the query is malformed, the answer is 400.
pub(super) fn answer(query: Option<&str>) -> Response<Body> {
    match Work::parse(query.unwrap_or_default()) {
        Ok(work) => {
            std::thread::sleep(Duration::from_micros(work.sleep_us.unwrap_or(0)));
            spin(Duration::from_micros(work.spin_us.unwrap_or(0)));
            body(work.bytes.unwrap_or(0))
        }
        Err(complaint) => notice(
            StatusCode::BAD_REQUEST,
            format!("400 Bad Request: {complaint}.\n"),
        ),
    }
}

impl Work {
    fn parse(query: &str) -> Result<Self, String> {
        let mut work = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (field, most) = match key {
                "sleep_us" => (&mut work.sleep_us, LONGEST_US),
                "spin_us" => (&mut work.spin_us, LONGEST_US),
                "bytes" => (&mut work.bytes, LARGEST_BYTES),
                _ => {
                    return Err(format!(
                        "/work knows sleep_us, spin_us and bytes, not {key:?}"
                    ));
                }
            };
            if field.is_some() {
                return Err(format!("{key} is given twice"));
            }
            *field = Some(number(key, value, most)?);
        }
        Ok(work)
    }
}

fn number(key: &str, value: &str, most: u64) -> Result<u64, String> {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(number) if is_number && number <= most => Ok(number),
        _ => Err(format!(
            "{key} takes a whole number from 0 to {most}, not {value:?}"
        )),
    }
}

fn spin(time: Duration) {
    if time.is_zero() {
        return;
    }
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn body(bytes: u64) -> Response<Body> {
    let mut response = Response::new(Body::pattern(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type::PLAIN);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_combine() {
        let all = Work::parse("sleep_us=1&spin_us=2&bytes=3").unwrap();
        let expected = Work {
            sleep_us: Some(1),
            spin_us: Some(2),
            bytes: Some(3),
        };
        assert_eq!(all, expected);
        assert_eq!(Work::parse("").unwrap(), Work::default());
        let most = "sleep_us=60000000&spin_us=60000000&bytes=1073741824";
        assert!(Work::parse(most).is_ok());
    }

    #[test]
    fn complaints_name_the_key() {
        for (query, key) in [
            ("bytes", "bytes"),
            ("bytes=", "bytes"),
            ("bytes=-1", "bytes"),
            ("bytes=+1", "bytes"),
            ("bytes=1.5", "bytes"),
            ("bytes=%31", "bytes"),
            ("bytes=1073741825", "bytes"),
            ("sleep_us=60000001", "sleep_us"),
            ("spin_us=60000001", "spin_us"),
            ("spin_us=99999999999999999999999", "spin_us"),
            ("sleep_us=1&sleep_us=1", "sleep_us"),
            ("sleep=1", "\"sleep\""),
            ("bytes=1&x=2", "\"x\""),
        ] {
            let complaint = Work::parse(query).unwrap_err();
            assert!(complaint.contains(key), "{query}: {complaint}");
        }
    }

    #[test]
    fn work_takes_at_least_its_time() {
        let start = Instant::now();
        assert_eq!(answer(Some("sleep_us=2000&spin_us=3000")).status(), 200);
        assert!(start.elapsed() >= Duration::from_millis(5));
    }

    #[test]
    fn bodies_are_not_held_in_memory() {
        let response = answer(Some("bytes=1073741824"));
        assert_eq!(response.headers()[CONTENT_LENGTH], "1073741824");
        assert_eq!(response.body().remaining(), Some(1 << 30));
    }

    #[test]
    fn bad_queries_are_refused() {
        let response = answer(Some("bytes=lots"));
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    }
}
