//! Requests are answered alike, whether hyper reads them or not: the same bytes, the same end of
//! the connection, the same deadlines, the same counters.

use std::path::Path;

use httpdate::parse_http_date;
use socket2::SockRef;

use super::*;
use crate::serve::config::args::ServeArgs;
use crate::serve::config::{Root, settings};

/// Requests that are answered at once, and some that look like it.
const AT_ONCE: [&str; 14] = [
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a.txt HTTP/1.1\r\nHost: a:80\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n",
    "HEAD /a.txt HTTP/1.1\r\nhost:a\r\n\r\n",
    "GET /a.txt HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "GET /a.txt HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    "GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n",
    "HEAD /large.bin HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
    "GET /a.txt?b HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /empty.txt HTTP/1.1\r\nHost: a\r\n\r\n",
    "HEAD /empty.txt HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET //a.txt HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://a/a.txt HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a.txt HTTP/1.1\r\nHost: a\r\nIf-Modified-Since: Sun, 06 Nov 2094 08:49:37 GMT\r\n\r\n",
    "GET /a.txt HTTP/1.1\r\nHost: a\r\nRange: bytes=1-3\r\n\r\n",
];

/// A part of `/large.bin`.
const LARGE: &str = "a line of sixty bytes, many of which make up a large file...\n";

/// The same as the last of their connection.
const LAST: [&str; 4] = [
    "GET /a.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "HEAD /large.bin HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n",
    "GET /large.bin HTTP/1.0\r\n\r\n",
    "GET /a.txt HTTP/1.0\r\nHost: a\r\nConnection: close, x\r\n\r\n",
];

/// Sites and routes of every kind.
const SITES: &str = r#"
synthetic = true

[[site]]
hosts = ["a", "*.a"]
root = "."
precompressed = ["br", "gz"]
error-pages = { 403 = "/a.txt", 404 = "/index.html" }
cache-control = { "*.txt" = "no-cache" }
[site.headers]
security = true
remove = ["etag"]
add = { X-Worker = "of the site", Link = "</a>" }

[[site.route]]
exact = "/denied"
respond = { status = 403 }

[[site.route]]
prefix = "/text"
respond = { status = 299, body = "fixed", type = "text/html" }
headers = { set = { Link = "</b>", Content-Type = "text/css" }, add = { Link = "</c>" } }

[[site.route]]
prefix = "/far"
allow = ["192.0.2.0/24"]

[[site.route]]
prefix = "/private"
auth = { realm = "r", users = "users" }
respond = { status = 200, body = "private" }

[[site.route]]
prefix = "/rated"
rate = { per-second = 1, burst = 1000000 }
respond = { status = 200, body = "rated" }

[[site.route]]
exact = "/nothing"
respond = { status = 200 }

[[site.route]]
prefix = "/old/"
redirect = { to = "/new/", path = "rest", status = 308 }

[[site.route]]
suffix = ".php"
redirect = { to = "https://b.test/x", query = false }

[[site]]
hosts = ["b"]
root = "."
fallback = "/a.txt"
compress = { min-bytes = 100 }
headers = { set = { X-Worker = "hidden" } }

[[site]]
default = true
hosts = ["default"]
redirect = { to = "https://c.test", path = "whole" }
"#;

/// Requests to [`SITES`], and whether the second of the kind is answered at once.
const TO_SITES: [(&str, bool); 31] = [
    ("GET /a.txt HTTP/1.1\r\nHost: a\r\n\r\n", true),
    ("GET /a.txt?v=1 HTTP/1.1\r\nHost: x.a:80\r\n\r\n", true),
    ("HEAD / HTTP/1.1\r\nHost: A.\r\n\r\n", true),
    (
        "GET /a.txt HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip, br\r\n\r\n",
        true,
    ),
    (
        "GET /a.txt HTTP/1.1\r\nHost: a\r\nAccept-Encoding: br;q=0\r\nAccept-Encoding: gzip\r\n\r\n",
        true,
    ),
    (
        "GET /large.bin HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n",
        true,
    ),
    ("GET /denied HTTP/1.1\r\nHost: a\r\n\r\n", true),
    (
        "HEAD /denied?x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        true,
    ),
    (
        "GET /text/x HTTP/1.1\r\nHost: a\r\nIf-None-Match: *\r\n\r\n",
        true,
    ),
    ("GET //%74ext HTTP/1.1\r\nHost: a\r\n\r\n", true),
    (
        "GET /old/x/../y%20z?q=%41 HTTP/1.1\r\nHost: a\r\n\r\n",
        true,
    ),
    ("GET /x.php?q HTTP/1.1\r\nHost: a\r\n\r\n", true),
    ("GET /a.txt HTTP/1.1\r\nHost: b\r\n\r\n", true),
    ("GET / HTTP/1.1\r\nHost: default\r\n\r\n", true),
    ("HEAD /%2e%2e/x?y HTTP/1.1\r\nHost: z\r\n\r\n", true),
    ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
    (
        "GET /text.css HTTP/1.1\r\nHost: b\r\nAccept-Encoding: br;q=0.5, gzip\r\n\r\n",
        true,
    ),
    (RIGHT, true),
    ("GET /rated HTTP/1.1\r\nHost: a\r\n\r\n", true),
    ("GET /private HTTP/1.1\r\nHost: a\r\n\r\n", false),
    ("GET /far/a.txt HTTP/1.1\r\nHost: a\r\n\r\n", false),
    ("GET /other HTTP/1.1\r\nHost: b\r\n\r\n", false),
    ("GET /missing HTTP/1.1\r\nHost: a\r\n\r\n", false),
    ("GET /empty.txt HTTP/1.1\r\nHost: a\r\n\r\n", false),
    ("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", false),
    ("GET /work HTTP/1.1\r\nHost: a\r\n\r\n", false),
    ("GET http://b/a.txt HTTP/1.1\r\nHost: a\r\n\r\n", false),
    (
        "GET /a.txt HTTP/1.1\r\nHost: a\r\nRange: bytes=1-3\r\n\r\n",
        false,
    ),
    ("GET /text\" HTTP/1.1\r\nHost: a\r\n\r\n", false),
    ("GET /x.php#f HTTP/1.1\r\nHost: a\r\n\r\n", false),
    ("OPTIONS /text HTTP/1.1\r\nHost: a\r\n\r\n", false),
];

/// With the password `secret`.
const RIGHT: &str = "GET /private HTTP/1.1\r\nHost: a\r\nAuthorization: Basic YTpzZWNyZXQ=\r\n\r\n";
const USERS: &str = "a:$2y$04$Te3J32w/XMDSlBKMJSRZ0uC.awqR.8P12EQkkquU71sonERqe/mQC";

fn any_request_to_sites() -> impl Strategy<Value = Bytes> {
    let known = TO_SITES.map(|(request, _)| request.as_bytes());
    // After wrong passwords, the time decides how a right one is answered.
    let others = known.into_iter().filter(|known| *known != RIGHT.as_bytes());
    prop_oneof![
        3 => select(known.to_vec()).prop_map(Bytes::from_static),
        2 => mutated(others),
    ]
}

fn any_request() -> impl Strategy<Value = Bytes> {
    let known = AT_ONCE.into_iter().chain(LAST).map(str::as_bytes);
    let others = REQUESTS.map(|(request, _)| request).into_iter();
    let all: Vec<_> = known
        .clone()
        .chain(others.chain(OTHERS).map(str::as_bytes))
        .collect();
    prop_oneof![
        3 => select(AT_ONCE.to_vec()).prop_map(|request| Bytes::from_static(request.as_bytes())),
        1 => select(known.collect::<Vec<_>>()).prop_map(Bytes::from_static),
        2 => mutated(all),
    ]
}

/// What can be seen of a connection: its deadline, whether it may be closed to make room, and how
/// many bytes it has read and written.
type Look = (u64, Option<(bool, u64)>, u64, u64);

/// What became of a connection.
#[derive(Debug, PartialEq)]
struct Course {
    /// After each piece that the client sent; `None` if it had ended.
    looks: Vec<Option<Look>>,
    received: String,
    /// How many requests were served, and how many refused, by reason.
    served: u64,
    refused: Vec<u64>,
    running: u32,
    ended: Classes,
}

fn driver_for(serving: &Serving, answers_at_once: bool) -> Driver {
    let mut driver = driver_of(serving, Some(7));
    driver.answers_at_once = answers_at_once;
    driver
}

/// A server with one site.
fn one_site(root: &Path) -> Serving {
    Serving {
        root: Some(Root::find(root).unwrap()),
        ..Serving::default()
    }
}

/// A server with several.
fn sites(root: &Path) -> Serving {
    let file = root.join("srv.toml");
    std::fs::write(&file, SITES).unwrap();
    std::fs::write(root.join("users"), USERS).unwrap();
    let flags = ServeArgs {
        config: Some(file),
        ..ServeArgs::default()
    };
    settings(&flags).unwrap().serving
}

fn course(driver: &Driver, pieces: &[&[u8]], is_narrow: bool, end: End) -> Course {
    let counters = || {
        let slot = &driver.published().memory().slots[0];
        let refused: Vec<u64> = slot.figures.refused.0.iter().map(|n| n.get()).collect();
        (slot.load.served.get(), refused, ended(driver))
    };
    let before = counters();
    let mut client = Client::connect(driver);
    if is_narrow {
        let connection = client.connection.as_ref().unwrap();
        // The kernel gives its smallest, a few KiB.
        let socket = SockRef::from(&connection.socket.fd);
        socket.set_send_buffer_size(1).unwrap();
    }
    let mut looks = Vec::new();
    for piece in pieces {
        client.now_ns += 1000;
        client.send(piece);
        looks.push(client.connection.as_ref().map(|connection| {
            let socket = &connection.socket;
            let moved = (socket.bytes_in.get(), socket.bytes_out.get());
            let deadline_ns = connection.deadline_ns();
            (deadline_ns, connection.dispensable(), moved.0, moved.1)
        }));
    }
    client.leave(end);
    assert!(client.connection.is_none(), "it goes on");
    let after = counters();
    let refused = after.1.iter().zip(&before.1);
    Course {
        looks,
        received: without_dates(&client.received),
        served: after.0 - before.0,
        refused: refused.map(|(after, before)| after - before).collect(),
        running: driver.published().running(),
        ended: std::array::from_fn(|class| after.2[class] - before.2[class]),
    }
}

/// The second may pass between the two answers.
fn without_dates(received: &[u8]) -> String {
    const NAME: &str = "\r\ndate: ";
    const DATE_BYTES: usize = 29;
    // A body may be no UTF-8.
    let text: String = received.iter().copied().map(char::from).collect();
    let mut parts = text.split(NAME);
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (date, rest) = part.split_at(DATE_BYTES.min(part.len()));
        assert!(parse_http_date(date).is_ok(), "{date}");
        masked.extend([NAME, "DATE", rest]);
    }
    // For the sake of the message of a failed test.
    masked.replace(LARGE, "LARGE")
}

/// A folder with the files that the requests name.
fn folder() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("index.html", "<p>index"),
        ("a.txt", "a text\n"),
        ("text.css", &"p { color: black }\n".repeat(99)),
        ("a.txt.br", "br of it"),
        ("a.txt.gz", "gz of it"),
        ("empty.txt", ""),
        ("large.bin", &LARGE.repeat(1000)),
    ] {
        std::fs::write(root.path().join(name), content).unwrap();
    }
    root
}

/// Answers the same bytes in both ways.
fn assert_alike(serving: &Serving, request: impl Strategy<Value = Bytes>) {
    let at_once = driver_for(serving, true);
    let by_hyper = driver_for(serving, false);
    let requests = prop::collection::vec(request, 1..8);
    let cuts = prop::collection::vec(any::<Index>(), 0..4);
    let input = (requests, cuts, any::<bool>(), ends());
    proptest!(config(), |((requests, cuts, is_narrow, end) in input)| {
        let bytes = requests.concat();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
        let expected = course(&by_hyper, &pieces, is_narrow, end);
        let found = course(&at_once, &pieces, is_narrow, end);
        prop_assert_eq!(found, expected);
    });
    assert_eq!(by_hyper.at_once.answered(), 0);
    assert_ne!(at_once.at_once.answered(), 0);
}

#[test]
fn any_bytes_are_answered_alike_by_hyper_and_without() {
    let root = folder();
    assert_alike(&one_site(root.path()), any_request());
}

#[test]
fn so_are_they_by_sites_and_routes() {
    let root = folder();
    assert_alike(&sites(root.path()), any_request_to_sites());
}

/// Whether `request` is answered at once when the cache has what it needs.
fn is_at_once(driver: &Driver, request: &str) -> bool {
    // The first one brings the file into the cache.
    for _ in 0..2 {
        driver.at_once.forget_answered();
        course(driver, &[request.as_bytes()], false, End::Closes);
    }
    driver.at_once.answered() == 1
}

#[test]
fn plain_requests_for_cached_files_are_answered_at_once() {
    let root = folder();
    let driver = driver_for(&one_site(root.path()), true);
    for (nth, request) in AT_ONCE.into_iter().chain(LAST).enumerate() {
        let expected = nth < 8 || (14..17).contains(&nth);
        assert_eq!(is_at_once(&driver, request), expected, "{request}");
    }
}

#[test]
fn so_are_those_for_what_sites_and_routes_have_ready() {
    let root = folder();
    let driver = driver_for(&sites(root.path()), true);
    for (request, expected) in TO_SITES {
        assert_eq!(is_at_once(&driver, request), expected, "{request}");
    }
}
