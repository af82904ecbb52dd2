//! Which clients a site answers: by address, by rate, by password and by the size of a body. Each
//! rule is asked of plain requests, which are answered without hyper, and of others.

use std::net::{IpAddr, Ipv4Addr};

use super::*;

/// A header line that makes a request one for hyper.
const BY_HYPER: &str = "Connection: x\r\n";
const FILE: [(&str, &str); 2] = [("www/index.html", "page"), ("www/401.html", "who are you")];

/// Of the password `secret`.
const USERS: &str = "a:$2y$04$Te3J32w/XMDSlBKMJSRZ0uC.awqR.8P12EQkkquU71sonERqe/mQC\n";
const RIGHT: &str = "Authorization: Basic YTpzZWNyZXQ=\r\n";
const WRONG: &str = "Authorization: Basic YTpTZWNyZXQ=\r\n";

#[test]
fn addresses_are_allowed_and_denied() {
    let text = "workers = 1\n[[site]]\nroot = \"www\"\nallow = [\"127.0.0.0/30\", \"::1\"]\n\
                deny = [\"127.0.0.2\"]\n";
    let sites = Sites::start(text, &FILE);
    let target = sites.server.address();
    for lines in ["", BY_HYPER, ""] {
        for (last, status) in [(1, 200), (2, 403), (3, 200), (4, 403)] {
            let from = IpAddr::from(Ipv4Addr::new(127, 0, 0, last));
            let mut client = Client::connect_from(from, target);
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
            assert_eq!(client.response().status(), status, "{from}");
        }
    }
}

#[test]
fn a_client_that_asks_too_often_waits() {
    let text = "workers = 1\n[[site]]\nroot = \"www\"\nrate = { per-second = 1, burst = 5 }\n\
                [[site.route]]\nprefix = \"/free\"\nrespond = { status = 200, body = \"x\" }\n\
                rate = { per-second = 1000000 }\n";
    let sites = Sites::start(text, &FILE);
    let mut client = Client::connect(sites.server.address());
    let mut ask = |path: &str, lines: &str| {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
        client.response()
    };
    let asked = (0..30).map(|nth| ask("/", ["", BY_HYPER][nth % 2]));
    let (answered, refused): (Vec<_>, Vec<_>) =
        asked.partition(|response| response.status() == 200);
    // More than the burst only if a second has passed.
    assert!((5..15).contains(&answered.len()), "{}", answered.len());
    for response in refused {
        assert_eq!(response.status(), 429);
        assert_eq!(response.header("retry-after"), Some("1"));
    }
    assert_eq!(ask("/free", "").status(), 200);
}

#[test]
fn a_password_opens_a_site() {
    let rule = "auth = { realm = \"the realm\", users = \"users\" }\n";
    let text = format!(
        "workers = 1\n[[site]]\nroot = \"www\"\n{rule}error-pages = {{ 401 = \"/401.html\" }}\n\
         [[site.route]]\nexact = \"/open\"\nauth = false\nrespond = {{ status = 204 }}\n"
    );
    let files = [FILE[0], FILE[1], ("users", USERS)];
    let sites = Sites::start(&text, &files);
    let target = sites.server.address();
    for lines in ["", BY_HYPER] {
        for _ in 0..3 {
            let none = get_with(target, "a", "/", lines);
            assert_eq!((none.status(), &none.body[..]), (401, &b"who are you"[..]));
            let challenge = "Basic realm=\"the realm\", charset=\"UTF-8\"";
            assert_eq!(none.header("www-authenticate"), Some(challenge));
            let right = get_with(target, "a", "/", &format!("{RIGHT}{lines}"));
            assert_eq!(right.body, b"page");
            assert_eq!(get_with(target, "a", "/open", lines).status(), 204);
        }
    }
    // From now on the password is another one.
    sites.write("users", &format!("b{}", USERS.strip_prefix('a').unwrap()));
    let (said, succeeded) = sites.reload(&text);
    assert!(succeeded, "{said}");
    assert_eq!(get_with(target, "a", "/", RIGHT).status(), 401);
    // Five wrong ones, and then one a second.
    let statuses = (0..50).map(|_| get_with(target, "a", "/", WRONG).status());
    let statuses: Vec<u16> = statuses.collect();
    let waits = statuses.iter().filter(|status| **status == 429).count();
    let wrongs = statuses.iter().filter(|status| **status == 401).count();
    assert!(waits > 0 && waits + wrongs == 50, "{statuses:?}");
    // A broken file is refused, and the old users stay.
    sites.write("users", "b:plain\n");
    let (said, succeeded) = sites.reload(&text);
    assert!(
        !succeeded && said.contains("line 1: found a password"),
        "{said}"
    );
    assert!(!said.contains("plain"), "{said}");
}

#[test]
fn a_site_has_its_own_bound_for_bodies() {
    let text = "workers = 1\n[[site]]\nroot = \"www\"\nlimits = { body-bytes = 3 }\n\
                [[site.route]]\nprefix = \"/more\"\nlimits = { body-bytes = \"2MiB\" }\n";
    let sites = Sites::start(text, &FILE);
    let post = |path: &str, bytes: usize| {
        let body = "x".repeat(bytes);
        let mut client = Client::connect(sites.server.address());
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n{body}"
        ));
        client.response().status()
    };
    assert_eq!(post("/", 3), 405);
    assert_eq!(post("/", 4), 413);
    // More than the whole server takes.
    assert_eq!(post("/more", (1 << 20) + 1), 405);
}
