//! What a response says about a file beside its content: type, charset, tag and size.

use http::header::CONTENT_ENCODING;

use super::*;

#[test]
fn texts_are_said_to_be_in_the_charset_that_they_are_in() {
    let fixture = Fixture::new();
    let latin1 = b"<p>\xe4</p>".as_slice();
    let long = |start: &str| [start.as_bytes(), &vec![b'x'; 100_000]].concat();
    for (name, content, expected) in [
        (
            "utf-8.html",
            "<p>ä</p>".as_bytes(),
            "text/html; charset=utf-8",
        ),
        ("latin-1.html", latin1, "text/html"),
        ("latin-1.txt", latin1, "text/plain"),
        (
            "feed.xml",
            b"<?xml version='1.0' encoding='iso-8859-1'?>",
            "text/xml",
        ),
        ("long.html", &long("ä"), "text/html; charset=utf-8"),
        ("long-ascii.html", &long(""), "text/html"),
    ] {
        std::fs::write(fixture.path(name), content).unwrap();
        let answer = fixture.get(&format!("/{name}"));
        assert_eq!(answer.header(CONTENT_TYPE), expected, "{name}");
        assert_eq!(answer.body, content, "{name}");
    }
}

#[test]
fn a_compressed_picture_says_so() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("logo.svgz"), b"\x1f\x8b").unwrap();
    let picture = fixture.get("/logo.svgz");
    assert_eq!(picture.header(CONTENT_TYPE), "image/svg+xml");
    assert_eq!(picture.header(CONTENT_ENCODING), "gzip");
    assert_eq!(fixture.get("/digits.txt").header(CONTENT_ENCODING), "");
}

#[test]
fn types_can_be_said() {
    let mut fixture = Fixture::new();
    fixture.site.files.types.insert("txt".into(), "a/b".into());
    assert_eq!(fixture.get("/digits.txt").header(CONTENT_TYPE), "a/b");
}

/// If two machines have the same files, they have the same tags, even if inodes and times differ.
#[test]
fn replicas_agree_on_tags() {
    let [one, two] = [Fixture::new(), Fixture::new()];
    two.write_old("digits.txt", b"0123456789");
    for fixture in [&one, &two] {
        fixture.write_old("large", &[b'x'; 100_000]);
    }
    for target in ["/digits.txt", "/large"] {
        let tag = one.get(target).header(ETAG).to_owned();
        assert_eq!(tag, two.get(target).header(ETAG), "{target}");
        assert!(tag.starts_with('"'), "{target}: {tag}");
    }
    // Size and time are the same: only the content differs.
    two.write_old("digits.txt", b"9876543210");
    pass_time();
    let [tag, other] =
        [&one, &two].map(|fixture| fixture.get("/digits.txt").header(ETAG).to_owned());
    assert_ne!(tag, other);
}

#[test]
fn a_large_file_that_was_just_written_has_a_weak_tag() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("large"), vec![b'x'; 100_000]).unwrap();
    let file = File::options()
        .write(true)
        .open(fixture.path("large"))
        .unwrap();
    // The file looks as if it were written now, even if the test takes long to ask for it.
    file.set_modified(SystemTime::now() + Duration::from_secs(3600))
        .unwrap();
    let answer = fixture.get("/large");
    assert!(
        answer.header(ETAG).starts_with("W/\""),
        "{}",
        answer.header(ETAG)
    );
    let tag = answer.header(ETAG);
    assert_eq!(
        fixture
            .ask("GET", "/large", &[("if-none-match", tag)])
            .status,
        304
    );
    let range = [("range", "bytes=0-0"), ("if-range", tag)];
    assert_eq!(
        fixture.ask("GET", "/large", &range).status,
        200,
        "not the same for sure"
    );
}

/// procfs reports a size of 0 bytes, and sysfs one page, even if the content has another size.
#[test]
fn files_whose_size_is_no_size() {
    let kernel = site(Some(Path::new("/proc/sys/kernel")), false, None);
    let answer = ask(&kernel, "GET", "/ostype", &[]);
    assert_eq!((answer.status, &*answer.body), (200, &b"Linux\n"[..]));
    assert_eq!(answer.header(LAST_MODIFIED), "");
    let kept = ask(
        &kernel,
        "GET",
        "/ostype",
        &[("if-none-match", answer.header(ETAG))],
    );
    assert_eq!(kept.status, 304);
    let cpu = Path::new("/sys/devices/system/cpu");
    let online = std::fs::read(cpu.join("online")).unwrap();
    assert!(std::fs::metadata(cpu.join("online")).unwrap().len() > online.len() as u64);
    assert_eq!(
        ask(&site(Some(cpu), false, None), "GET", "/online", &[]).body,
        online
    );
}

/// The content is larger than what srv keeps in memory. The answer ends where the file ends.
#[test]
fn a_large_file_whose_size_is_no_size() {
    let proc = site(Some(Path::new("/proc")), false, None);
    let symbols = ask(&proc, "GET", "/kallsyms", &[]);
    assert_eq!(symbols.status, 200);
    assert!(symbols.body.len() > 100_000, "{} bytes", symbols.body.len());
    for absent in [CONTENT_LENGTH, ACCEPT_RANGES, ETAG, LAST_MODIFIED] {
        assert!(!symbols.headers.contains_key(&absent), "{absent}");
    }
    let part = ask(&proc, "GET", "/kallsyms", &[("range", "bytes=0-0")]);
    assert_eq!(part.status, 200);
}
