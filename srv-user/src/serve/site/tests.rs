//! The site as a client sees it, with folders that each test makes.

mod paths;
mod types;

use super::*;

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use http::Request;
use http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED,
    LOCATION,
};
use http_body::Body as _;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::serve::config::Root;
use crate::serve::site::beneath::Opener;
use crate::serve::site::file_cache::FRESH_FOR;

const SECRET: &str = "the secret outside";
const PAGE: &str = "<p>index</p>";

thread_local! {
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Moves the clock, so that the files in the cache are not fresh any more.
fn pass_time() {
    NOW.set(NOW.get() + FRESH_FOR);
}

/// A folder `root` that the site serves, beside a folder with a secret that it must not serve.
struct Fixture {
    outer: TempDir,
    site: Site,
}

impl Fixture {
    fn new() -> Self {
        Self::by(Opener::here())
    }

    /// A fixture whose files are opened by this system call.
    fn by(opener: Opener) -> Self {
        let outer = TempDir::new().unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir_all(root.join("folder/empty")).unwrap();
        std::fs::create_dir(outer.path().join("outside")).unwrap();
        std::fs::write(outer.path().join("outside/secret"), SECRET).unwrap();
        std::fs::write(root.join("index.html"), PAGE).unwrap();
        std::fs::write(root.join("folder/index.html"), "<p>folder</p>").unwrap();
        std::fs::write(root.join("digits.txt"), "0123456789").unwrap();
        let mut site = site(Some(&root), false, None);
        let docroot = DocRoot::with(&Root::find(&root).unwrap(), opener).unwrap();
        site.pages = Pages::Folder(Rc::new(docroot), Rc::default());
        Self { outer, site }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.outer.path().join("root").join(name)
    }

    /// Writes a file with an older date, so that it has settled and its date is usable.
    fn write_old(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path(name), content).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let file = File::options().write(true).open(self.path(name)).unwrap();
        file.set_modified(time).unwrap();
    }

    fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[])
    }

    fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        ask(&self.site, method, target, headers)
    }
}

struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: HeaderName) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

fn site(root: Option<&Path>, synthetic: bool, worker: Option<u32>) -> Site {
    let serving = Serving {
        root: root.map(|root| Root::find(root).unwrap()),
        synthetic,
        ..Serving::default()
    };
    let site = Site::new(&serving, worker).unwrap();
    let clock = || NOW.get();
    Site { clock, ..site }
}

fn ask(site: &Site, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let (response, body) = site.respond(&parts).into_parts();
    let body = body.collect().unwrap();
    let answer = Answer {
        status: response.status.as_u16(),
        headers: response.headers,
        body,
    };
    match (method, answer.status) {
        (_, 204 | 304) => {
            assert!(answer.body.is_empty() && !answer.headers.contains_key(CONTENT_LENGTH));
        }
        ("HEAD", _) => {
            assert!(answer.body.is_empty() && answer.headers.contains_key(CONTENT_LENGTH));
        }
        _ if answer.headers.contains_key(CONTENT_LENGTH) => {
            assert_eq!(answer.header(CONTENT_LENGTH), answer.body.len().to_string());
        }
        _ => assert_eq!(answer.status, 200, "only a file can lack its length"),
    }
    answer
}

#[test]
fn serves_files_and_indexes() {
    let fixture = Fixture::new();
    let page = fixture.get("/");
    assert_eq!((page.status, &page.body[..]), (200, PAGE.as_bytes()));
    assert_eq!(page.header(CONTENT_TYPE), "text/html; charset=utf-8");
    assert_eq!(page.header(ACCEPT_RANGES), "bytes");
    assert!(page.header(ETAG).starts_with('"') && page.header(ETAG).ends_with('"'));
    assert!(page.header(LAST_MODIFIED).ends_with(" GMT"));
    assert_eq!(fixture.get("/index.html").body, PAGE.as_bytes());
    assert_eq!(fixture.get("/folder/").body, b"<p>folder</p>");
    assert_eq!(fixture.get("/?query").body, PAGE.as_bytes());
    assert_eq!(fixture.get("/%64igits.txt").body, b"0123456789");
    assert_eq!(fixture.get("//digits.txt").body, b"0123456789");
}

#[test]
fn absolute_targets_name_the_same_files() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.get("http://any.example/digits.txt").body,
        b"0123456789"
    );
    assert_eq!(fixture.get("http://any.example").body, PAGE.as_bytes());
}

#[test]
fn missing_files_are_404() {
    let fixture = Fixture::new();
    for target in [
        "/absent",
        "/folder/absent",
        "/digits.txt/",
        "/digits.txt/x",
        "/folder/empty/",
        "/index.html/index.html",
        "/work",
        "/work?bytes=1",
    ] {
        let answer = fixture.get(target);
        assert_eq!(answer.status, 404, "{target}");
        assert_eq!(answer.header(CONTENT_TYPE), "text/plain; charset=utf-8");
    }
    std::fs::create_dir(fixture.path("folder/empty/index.html")).unwrap();
    assert_eq!(fixture.get("/folder/empty/").status, 404);
}

#[test]
fn bad_paths_are_400() {
    let fixture = Fixture::new();
    for target in ["/%", "/%zz", "/digits.txt%00", "*"] {
        assert_eq!(fixture.get(target).status, 400, "{target}");
    }
}

#[test]
fn folders_redirect_to_their_slash() {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.path("a b")).unwrap();
    std::fs::create_dir(fixture.path("host.example")).unwrap();
    std::fs::create_dir(fixture.path("\\host.example")).unwrap();
    for (target, location) in [
        ("/folder", "/folder/"),
        ("/folder?a=1&b=%20?", "/folder/?a=1&b=%20?"),
        ("/folder/empty", "/folder/empty/"),
        ("/a%20b", "/a%20b/"),
        ("//host.example", "/host.example/"),
        ("/\\host.example", "/%5Chost.example/"),
        ("http://any.example//host.example", "/host.example/"),
        ("/folder?é", "/folder/?%C3%A9"),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = fixture.ask(method, target, &[]);
            assert_eq!(answer.status, 301, "{target}");
            assert_eq!(answer.header(LOCATION), location, "{target}");
        }
    }
}

#[test]
fn only_get_and_head() {
    let fixture = Fixture::new();
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW"] {
        let answer = fixture.ask(method, "/", &[]);
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header(ALLOW), "GET, HEAD, OPTIONS");
    }
    assert_eq!(fixture.ask("CONNECT", "any.example:80", &[]).status, 405);
    for target in ["/", "*", "/absent"] {
        let answer = fixture.ask("OPTIONS", target, &[]);
        assert_eq!(answer.status, 204);
        assert_eq!(answer.header(ALLOW), "GET, HEAD, OPTIONS");
    }
}

#[test]
fn head_says_what_get_would() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("large"), vec![b'x'; 100_000]).unwrap();
    for target in ["/", "/digits.txt", "/large", "/absent", "/folder", "/%zz"] {
        let get = fixture.get(target);
        let head = fixture.ask("HEAD", target, &[]);
        assert_eq!(
            (head.status, head.headers),
            (get.status, get.headers),
            "{target}"
        );
    }
}

#[test]
fn ranges() {
    let fixture = Fixture::new();
    fixture.write_old(
        "large",
        &(0..200_000u32).map(|n| n as u8).collect::<Vec<_>>(),
    );
    let range = |target: &str, range: &str| fixture.ask("GET", target, &[("range", range)]);
    let part = range("/digits.txt", "bytes=2-4");
    assert_eq!((part.status, &part.body[..]), (206, &b"234"[..]));
    assert_eq!(part.header(CONTENT_RANGE), "bytes 2-4/10");
    assert_eq!(part.header(ETAG), fixture.get("/digits.txt").header(ETAG));
    assert_eq!(part.header(CONTENT_TYPE), "text/plain; charset=utf-8");
    let end = range("/large", "bytes=-70000");
    assert_eq!((end.status, end.body.len()), (206, 70_000));
    assert_eq!(end.header(CONTENT_RANGE), "bytes 130000-199999/200000");
    assert_eq!(end.body[0], 130_000u32 as u8);
    let outside = range("/digits.txt", "bytes=10-");
    assert_eq!(outside.status, 416);
    assert_eq!(outside.header(CONTENT_RANGE), "bytes */10");
    for ignored in ["bytes=0-1,3-4", "bytes=5-2", "lines=1-2"] {
        assert_eq!(range("/digits.txt", ignored).status, 200, "{ignored}");
    }
    let head = fixture.ask("HEAD", "/digits.txt", &[("range", "bytes=2-4")]);
    assert_eq!((head.status, head.header(CONTENT_LENGTH)), (200, "10"));
}

#[test]
fn conditions() {
    let fixture = Fixture::new();
    for (name, size) in [("small", 10), ("large", 100_000)] {
        fixture.write_old(name, &vec![b'x'; size]);
        let target = format!("/{name}");
        let ask = |headers: &[(&str, &str)]| fixture.ask("GET", &target, headers);
        let whole = ask(&[]);
        let [tag, date] = [ETAG, LAST_MODIFIED].map(|name| whole.header(name));
        assert_eq!(date, "Sun, 06 Nov 1994 08:49:37 GMT");
        let kept = ask(&[("if-none-match", tag)]);
        assert_eq!((kept.status, kept.header(ETAG)), (304, tag));
        assert_eq!(kept.header(LAST_MODIFIED), date);
        assert_eq!(ask(&[("if-modified-since", date)]).status, 304);
        assert_eq!(ask(&[("if-match", "\"other\"")]).status, 412);
        assert_eq!(
            ask(&[("if-none-match", "\"other\""), ("if-modified-since", date)]).status,
            200
        );
        let range = ("range", "bytes=0-0");
        assert_eq!(ask(&[range, ("if-none-match", tag)]).status, 304);
        assert_eq!(ask(&[range, ("if-match", "\"other\"")]).status, 412);
        for (validator, status) in [(tag, 206), (date, 206), ("\"other\"", 200)] {
            assert_eq!(
                ask(&[range, ("if-range", validator)]).status,
                status,
                "{validator}"
            );
        }
        let outside = ("range", "bytes=1000000-");
        assert_eq!(ask(&[outside, ("if-range", "\"other\"")]).status, 200);
        assert_eq!(ask(&[outside, ("if-range", tag)]).status, 416);
        let head = fixture.ask("HEAD", &target, &[("if-none-match", tag)]);
        assert_eq!(head.status, 304);
    }
}

#[test]
fn changes_are_seen_once_time_has_passed() {
    let fixture = Fixture::new();
    fixture.write_old("f", b"one");
    let first = fixture.get("/f");
    assert_eq!(first.body, b"one");
    fixture.write_old("f", b"two");
    assert_eq!(fixture.get("/f").body, b"one", "kept for a second");
    pass_time();
    // Size, time of modification and inode are the same: only the time of change differs.
    assert_eq!(fixture.get("/f").body, b"two");
    std::fs::remove_file(fixture.path("f")).unwrap();
    assert_eq!(fixture.get("/f").body, b"two");
    pass_time();
    assert_eq!(fixture.get("/f").status, 404);
    fixture.write_old("f", b"three");
    assert_eq!(
        fixture.get("/f").body,
        b"three",
        "absence is not remembered"
    );
    std::fs::remove_file(fixture.path("f")).unwrap();
    std::fs::create_dir(fixture.path("f")).unwrap();
    pass_time();
    assert_eq!(fixture.get("/f").status, 301);
}

/// This package's own manifest is old enough that its stamp proves its version.
#[test]
fn unchanged_files_are_not_read_again() {
    let site = site(Some(Path::new(env!("CARGO_MANIFEST_DIR"))), false, None);
    let (parts, ()) = Request::get("/Cargo.toml").body(()).unwrap().into_parts();
    let address = || {
        let mut body = site.respond(&parts).into_body();
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(&mut body).poll_frame(&mut context) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap().as_ptr(),
            other => panic!("the manifest is in memory: {other:?}"),
        }
    };
    let first = address();
    pass_time();
    assert_eq!(address(), first, "the very same memory");
}

#[test]
fn only_one_spelling_of_a_path_is_kept() {
    let fixture = Fixture::new();
    let Pages::Folder(_, cache) = &fixture.site.pages else {
        panic!("the fixture has a root");
    };
    fixture.write_old("large", &[b'x'; 100_000]);
    for target in [
        "/%69ndex.html",
        "//index.html",
        "/index.html?1",
        "/index.html?2",
        "/large",
    ] {
        assert_eq!(fixture.get(target).status, 200);
    }
    let mut cache = cache.borrow_mut();
    for path in ["/%69ndex.html", "//index.html", "/large"] {
        assert!(cache.fresh(path, NOW.get()).is_none(), "{path}");
    }
    assert!(cache.fresh("/index.html", NOW.get()).is_some());
}

#[test]
fn empty_files() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("empty"), "").unwrap();
    assert_eq!(fixture.get("/empty").status, 200);
    let range = |value| fixture.ask("GET", "/empty", &[("range", value)]);
    assert_eq!(range("bytes=0-").header(CONTENT_RANGE), "bytes */0");
    assert_eq!(range("bytes=-1").status, 200);
}

#[test]
fn welcome_page() {
    let site = site(None, false, None);
    let page = ask(&site, "GET", "/", &[]);
    let text = String::from_utf8(page.body.clone()).unwrap();
    assert!(text.contains("srv status") && text.contains("srv serve --root DIR"));
    assert!(
        !text.contains("http://") && !text.contains("https://"),
        "it is self-contained"
    );
    assert_eq!(ask(&site, "GET", "/index.html", &[]).body, page.body);
    let kept = ask(&site, "GET", "/", &[("if-none-match", page.header(ETAG))]);
    assert_eq!(kept.status, 304);
    assert_eq!(ask(&site, "GET", "/else", &[]).status, 404);
    assert_eq!(ask(&site, "GET", "/work?bytes=1", &[]).status, 404);
    assert_eq!(ask(&site, "POST", "/", &[]).status, 405);
}

#[test]
fn work_where_enabled() {
    let fixture = Fixture::new();
    let site = site(Some(&fixture.path("")), true, None);
    for method in ["GET", "POST"] {
        let answer = ask(
            &site,
            method,
            "/work?sleep_us=1&spin_us=1&bytes=100000",
            &[],
        );
        assert_eq!((answer.status, answer.body.len()), (200, 100_000));
    }
    let head = ask(&site, "HEAD", "/work?bytes=1000000000", &[]);
    assert_eq!(head.header(CONTENT_LENGTH), "1000000000");
    assert!(ask(&site, "GET", "/work", &[]).body.is_empty());
    assert_eq!(ask(&site, "GET", "/work?sleep_us=soon", &[]).status, 400);
    assert_eq!(
        ask(&site, "PUT", "/work", &[]).header(ALLOW),
        "GET, HEAD, OPTIONS, POST"
    );
    assert_eq!(ask(&site, "GET", "/digits.txt", &[]).body, b"0123456789");
    assert_eq!(ask(&site, "GET", "/work/", &[]).status, 404);
}

#[test]
fn a_file_named_work_is_a_file() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("work"), "a file").unwrap();
    assert_eq!(fixture.get("/work?bytes=3").body, b"a file");
}

#[test]
fn every_response_names_the_worker() {
    let fixture = Fixture::new();
    let site = site(Some(&fixture.path("")), true, Some(7));
    for (method, target) in [
        ("GET", "/"),
        ("GET", "/"),
        ("HEAD", "/"),
        ("GET", "/absent"),
        ("GET", "/folder"),
        ("PUT", "/"),
        ("OPTIONS", "*"),
        ("GET", "/work"),
        ("GET", "/work?x"),
        ("GET", "/%"),
    ] {
        assert_eq!(
            ask(&site, method, target, &[]).header(X_WORKER),
            "7",
            "{method} {target}"
        );
    }
    let refusal = site.refuse(StatusCode::PAYLOAD_TOO_LARGE, "413\n");
    assert_eq!(refusal.headers()[X_WORKER], "7");
    assert_eq!(fixture.get("/").header(X_WORKER), "");
}
