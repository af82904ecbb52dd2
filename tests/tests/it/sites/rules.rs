//! Which route answers, redirects, changes of headers, and how a bad file is refused.

use std::fs;
use std::process::Command;

use srv_tests::server::binary;

use super::Sites;

#[test]
fn exact_comes_before_prefix_and_prefix_before_suffix() {
    let route = |key: &str, text: &str| {
        format!(
            "[[site.route]]\n{key} = \"{text}\"\nrespond = {{ status = 200, body = \"{text}\" }}\n"
        )
    };
    let text = ["workers = 1\n[[site]]\nroot = \"www\"\n".to_owned()]
        .into_iter()
        .chain([
            route("suffix", ".php"),
            route("suffix", "a.php"),
            route("prefix", "/api"),
            route("prefix", "/api/v1"),
            route("exact", "/api/v1/x"),
            route("exact", "/x.php"),
        ])
        .collect::<String>();
    let sites = Sites::start(&text, &[("www/index.html", "rest")]);
    for (path, route) in [
        ("/", "rest"),
        ("/x.php", "/x.php"),
        ("/y.php", ".php"),
        ("/d/aa.php", "a.php"),
        ("/api", "/api"),
        ("/api/y.php", "/api"),
        ("/api/v1/y", "/api/v1"),
        ("/api/v1/x", "/api/v1/x"),
        ("/%61pi/v1/x", "/api/v1/x"),
        ("//api/./v1/z/../x", "/api/v1/x"),
        ("/apis/../api/v2?a.php", "/api"),
    ] {
        let said = sites.get("a", path);
        assert_eq!(String::from_utf8_lossy(&said.body), route, "{path}");
    }
    assert_eq!(sites.get("a", "/apis").status(), 404);
    assert_eq!(sites.get("a", "/%zz").status(), 400);
}

#[test]
fn redirects_keep_what_they_are_told_to() {
    let text = "workers = 1\n[[site]]\nhosts = [\"www.a.test\"]\n\
        redirect = { to = \"https://a.test\", path = \"whole\", status = 308 }\n\
        [[site]]\nroot = \"www\"\n\
        [[site.route]]\nprefix = \"/old/\"\nredirect = { to = \"/new/\", path = \"rest\" }\n\
        [[site.route]]\nexact = \"/feed\"\nredirect = { to = \"/feed.xml\", query = false, status = 302 }\n\
        [[site.route]]\nprefix = \"/out/\"\nredirect = { to = \"/\", path = \"rest\" }\n";
    let sites = Sites::start(text, &[("www/index.html", "")]);
    for (host, path, status, location) in [
        (
            "www.a.test",
            "/x/y%20z?q=1",
            308,
            "https://a.test/x/y%20z?q=1",
        ),
        ("www.a.test", "/", 308, "https://a.test/"),
        ("a.test", "/old/x/y?q", 301, "/new/x/y?q"),
        ("a.test", "/old/", 301, "/new/"),
        ("a.test", "/feed?q", 302, "/feed.xml"),
        // Not to another host.
        ("a.test", "/out//evil.test/", 301, "/evil.test/"),
        ("a.test", "/out/%5cevil.test", 301, "/%5Cevil.test"),
    ] {
        let moved = sites.get(host, path);
        assert_eq!(
            (moved.status(), moved.header("location")),
            (status, Some(location)),
            "{path}"
        );
    }
}

#[test]
fn headers_are_set_added_and_removed() {
    let text = "workers = 1\n[[site]]\nroot = \"www\"\n\
        [site.headers]\nsecurity = true\nset = { X-Frame-Options = \"DENY\" }\n\
        add = { Link = \"</a.css>; rel=preload\" }\nremove = [\"Last-Modified\"]\n\
        [[site.route]]\nprefix = \"/b\"\n\
        headers = { add = { Link = \"</b.css>; rel=preload\" }, remove = [\"Referrer-Policy\"] }\n";
    let sites = Sites::start(text, &[("www/a", "a"), ("www/b", "b")]);
    let page = sites.get("a", "/a");
    assert_eq!(page.header("x-frame-options"), Some("DENY"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(
        page.header("referrer-policy"),
        Some("strict-origin-when-cross-origin")
    );
    assert_eq!(page.header("last-modified"), None);
    let page = sites.get("a", "/b");
    let links = page
        .text
        .lines()
        .filter(|line| line.starts_with("link:"))
        .count();
    assert_eq!((links, page.header("referrer-policy")), (2, None));
}

/// What `srv ARGUMENTS` says, and its exit code.
fn srv(arguments: &[&str]) -> (String, Option<i32>) {
    let output = Command::new(binary().unwrap()).args(arguments).output();
    let output = output.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        String::from_utf8_lossy(&said).into_owned(),
        output.status.code(),
    )
}

#[test]
fn a_file_is_checked_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("srv.toml");
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        srv(&["check", "--config", file.to_str().unwrap()])
    };
    let (said, code) = check("[[site]]\nhosts = [\"a.test\"]\nroot = \".\"\n");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("srv.toml: the file is valid, sites: 1"),
        "{said}"
    );
    for (text, why) in [
        (
            "[[site]]\nhosts = [\"a.test:80\"]\n",
            "srv.toml:2:10: found `a.test:80`",
        ),
        ("[[site]]\nroot = \"missing\"\n", "srv.toml:2:8: found `"),
        (
            "[[site]]\nroot = \".\"\n\nrot = 1\n",
            "srv.toml:4:1: unknown key `rot`",
        ),
        ("[[site]\n", "srv.toml:1:"),
    ] {
        let (said, code) = check(text);
        assert!(code == Some(1) && said.contains(why), "{text}: {said}");
    }
    let (said, code) = srv(&["check", "--config", "/missing.toml"]);
    assert!(code == Some(1) && said.contains("/missing.toml"), "{said}");
    assert_eq!(srv(&["check"]).1, Some(2));
}

#[test]
fn what_holds_is_printed_as_a_file_that_means_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("srv.toml");
    fs::write(
        &file,
        "workers = 3\n[[site]]\nroot = \".\"\nfallback = \"/a\"\n",
    )
    .unwrap();
    let print = |flags: &[&str]| {
        let config = [
            "serve",
            "--print-config",
            "--config",
            file.to_str().unwrap(),
        ];
        srv(&[&config[..], flags].concat())
    };
    let (printed, code) = print(&["--workers", "2"]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("workers = 2\n"), "a flag wins: {printed}");
    assert!(
        printed.contains("try-files = [\"{path}\", \"/a\"]"),
        "{printed}"
    );
    fs::write(&file, &printed).unwrap();
    assert_eq!(print(&[]), (printed, Some(0)));
}
