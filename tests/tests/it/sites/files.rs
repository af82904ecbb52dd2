//! How a site's files are found and described: index, try-files, error pages, headers, codings.

use super::{Sites, get_with};

#[test]
fn a_single_page_application() {
    let text = "workers = 1\n[[site]]\nroot = \"app\"\nfallback = \"/index.html\"\n\
        [site.cache-control]\n\"*.html\" = \"no-cache\"\n\
        \"/assets/*\" = \"public, max-age=31536000, immutable\"\n\
        [[site.route]]\nprefix = \"/assets/\"\ntry-files = [\"{path}\"]\n";
    let files = [
        ("app/index.html", "<p>app"),
        ("app/assets/a.js", "1;"),
        ("app/docs/x", "x"),
    ];
    let sites = Sites::start(text, &files);
    for _ in 0..2 {
        for path in ["/", "/users/7", "/docs", "/docs/", "/users/?q=1"] {
            let page = sites.get("any.test", path);
            assert_eq!(
                (page.status(), page.body),
                (200, b"<p>app".to_vec()),
                "{path}"
            );
        }
    }
    let page = sites.get("any.test", "/users/7");
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let asset = sites.get("any.test", "/assets/a.js");
    let forever = "public, max-age=31536000, immutable";
    assert_eq!(asset.header("cache-control"), Some(forever));
    assert_eq!(sites.get("any.test", "/assets/missing.js").status(), 404);
    assert_eq!(sites.get("any.test", "/.env").status(), 404);
    let tag = page.header("etag").unwrap();
    let target = sites.server.address();
    let same = get_with(
        target,
        "a",
        "/users/7",
        &format!("If-None-Match: {tag}\r\n"),
    );
    assert_eq!(
        (same.status(), same.header("cache-control")),
        (304, Some("no-cache"))
    );
}

#[test]
fn candidates_are_tried_in_their_order() {
    let text = "workers = 1\n[[site]]\nroot = \"www\"\nindex = [\"home.htm\", \"index.html\"]\n\
        try-files = [\"{path}\", \"{path}.html\", \"/cache{path}\", \"=410\"]\n\
        [[site.route]]\nprefix = \"/strict\"\ntry-files = [\"{path}\"]\ndotfiles = true\n";
    let files = [
        ("www/about.html", "about"),
        ("www/both", "plain"),
        ("www/both.html", "html"),
        ("www/cache/kept", "kept"),
        ("www/one/home.htm", "home"),
        ("www/two/index.html", "index"),
        ("www/strict/.dot", "dot"),
        ("www/.dot", "dot"),
    ];
    let sites = Sites::start(text, &files);
    for (path, status, body) in [
        ("/about", 200, "about"),
        ("/both", 200, "plain"),
        ("/kept", 200, "kept"),
        ("/one/", 200, "home"),
        ("/two/", 200, "index"),
        ("/missing", 410, "410 Gone\n"),
        ("/strict/.dot", 200, "dot"),
    ] {
        for _ in 0..2 {
            let page = sites.get("a", path);
            assert_eq!(
                (page.status(), &*page.body),
                (status, body.as_bytes()),
                "{path}"
            );
        }
    }
    assert_eq!(sites.get("a", "/.dot").status(), 404);
    assert_eq!(sites.get("a", "/strict/no").status(), 404);
    let folder = sites.get("a", "/one?q");
    assert_eq!(
        (folder.status(), folder.header("location")),
        (301, Some("/one/?q"))
    );
}

#[test]
fn error_pages_keep_their_status() {
    let text = "workers = 1\n[[site]]\nroot = \"www\"\n\
        error-pages = { 404 = \"/404.html\", 405 = \"/no.html\", 503 = \"/down.html\" }\n\
        [site.headers]\nsecurity = true\n\
        [[site.route]]\nprefix = \"/down\"\nrespond = { status = 503 }\n\
        headers = { set = { Retry-After = \"60\" } }\n";
    let files = [
        ("www/404.html", "<p>not here"),
        ("www/down.html", "<p>later"),
        ("www/a", "a"),
    ];
    let sites = Sites::start(text, &files);
    for _ in 0..2 {
        let missing = sites.get("a", "/missing");
        assert_eq!(
            (missing.status(), &*missing.body),
            (404, &b"<p>not here"[..])
        );
        assert_eq!(
            missing.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert_eq!(missing.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(missing.header("etag"), None);
        assert_eq!(missing.header("accept-ranges"), None);
        // What a client asks of the file does not hold for the error.
        let target = sites.server.address();
        let ranged = get_with(
            target,
            "a",
            "/missing",
            "Range: bytes=0-1\r\nIf-None-Match: *\r\n",
        );
        assert_eq!((ranged.status(), &*ranged.body), (404, &b"<p>not here"[..]));
    }
    let down = sites.get("a", "/down/x");
    assert_eq!((down.status(), &*down.body), (503, &b"<p>later"[..]));
    assert_eq!(down.header("retry-after"), Some("60"));
    assert_eq!(sites.get("a", "/404.html").status(), 200);
    let mut client = crate::client::Client::connect(sites.server.address());
    client.send("DELETE /a HTTP/1.1\r\nHost: a\r\n\r\n");
    let refused = client.response();
    assert_eq!(refused.status(), 405, "without its page, the text stays");
    assert_eq!(refused.header("allow"), Some("GET, HEAD, OPTIONS"));
}

#[test]
fn files_in_a_coding_that_the_client_takes() {
    let text = "workers = 1\n[[site]]\nroot = \"www\"\nprecompressed = [\"br\", \"zst\", \"gz\"]\n";
    let files = [
        ("www/a.css", "p { color: red }"),
        ("www/a.css.br", "brotli"),
        ("www/a.css.gz", "gzip!!"),
        ("www/b.css", "plain"),
        ("www/only.css.gz", "alone"),
    ];
    let sites = Sites::start(text, &files);
    let target = sites.server.address();
    let get = |path: &str, lines: &str| get_with(target, "a", path, lines);
    let mut tags = Vec::new();
    for (accepted, coding, body) in [
        ("gzip, br", Some("br"), "brotli"),
        ("gzip, br;q=0.5", Some("gzip"), "gzip!!"),
        ("zstd", None, "p { color: red }"),
        ("br;q=0", None, "p { color: red }"),
    ] {
        for _ in 0..2 {
            let page = get("/a.css", &format!("Accept-Encoding: {accepted}\r\n"));
            assert_eq!(
                (page.header("content-encoding"), &*page.body),
                (coding, body.as_bytes())
            );
            assert_eq!(page.header("content-type"), Some("text/css; charset=utf-8"));
            assert_eq!(page.header("vary"), Some("accept-encoding"));
            tags.push(page.header("etag").unwrap().to_owned());
        }
    }
    tags.dedup();
    assert_eq!(tags.len(), 3, "a tag for each coding: {tags:?}");
    let part = get("/a.css", "Accept-Encoding: br\r\nRange: bytes=1-3\r\n");
    assert_eq!((part.status(), &*part.body), (206, &b"rot"[..]));
    assert_eq!(part.header("content-range"), Some("bytes 1-3/6"));
    let lines = format!("Accept-Encoding: br\r\nIf-None-Match: {}\r\n", tags[0]);
    let same = get("/a.css", &lines);
    assert_eq!(
        (same.status(), same.header("vary")),
        (304, Some("accept-encoding"))
    );
    let other = get("/a.css", &format!("If-None-Match: {}\r\n", tags[0]));
    assert_eq!(other.status(), 200, "the tag is that of another coding");
    let plain = get("/b.css", "Accept-Encoding: br, gzip\r\n");
    assert_eq!(
        (plain.header("content-encoding"), &*plain.body),
        (None, &b"plain"[..])
    );
    assert_eq!(plain.header("vary"), Some("accept-encoding"));
    assert_eq!(get("/only.css", "Accept-Encoding: gzip\r\n").status(), 404);
}

#[test]
fn types_and_charset_by_site_and_route() {
    let text = "workers = 1\n[types]\nfoo = \"text/x-foo\"\n\
        [[site]]\nroot = \"www\"\ntypes = { bar = \"text/x-bar\" }\n\
        [[site.route]]\nprefix = \"/old\"\ncharset = \"iso-8859-1\"\ntypes = { bar = \"a/b\" }\n\
        [[site.route]]\nprefix = \"/none\"\ncharset = \"off\"\n";
    let files = [
        ("www/a.foo", "x"),
        ("www/a.bar", "x"),
        ("www/a.txt", "x"),
        ("www/old/a.txt", "x"),
        ("www/old/a.bar", "x"),
        ("www/none/a.txt", "x"),
    ];
    let sites = Sites::start(text, &files);
    for (path, media) in [
        ("/a.foo", "text/x-foo"),
        ("/a.bar", "text/x-bar"),
        ("/a.txt", "text/plain; charset=utf-8"),
        ("/old/a.txt", "text/plain; charset=iso-8859-1"),
        ("/old/a.bar", "a/b"),
        ("/none/a.txt", "text/plain"),
    ] {
        assert_eq!(
            sites.get("a", path).header("content-type"),
            Some(media),
            "{path}"
        );
    }
}
