//! What HTTP says of requests that are complete, and yet not to be served as they are.

use srv_tests::server::Server;

use crate::client::{Client, Response};
use crate::probe::refused;
use crate::serve::serve;

fn start() -> Server {
    serve().workers(1).synthetic().start()
}

/// What must not be answered: it belongs to the message before it.
const SMUGGLED: &str = "GET /work?bytes=9 HTTP/1.2\r\nHost: a\r\n\r\n";

/// The one answer, after which the server closes.
#[track_caller]
fn refusal(server: &Server, request: &str) -> Response {
    let mut client = Client::connect(server.address());
    client.send(request);
    let response = client.ended_or_response();
    let response = response.unwrap_or_else(|error| panic!("{request:?}: {error}"));
    assert!(!response.head.keep_alive, "{request:?}");
    client.assert_closed();
    response
}

#[test]
fn a_host_that_is_none_is_refused() {
    let server = start();
    let bad = [
        "a b", "a/b", "a@b", "a,b", "[::1", "a:80:80", "<script>", "a:b", "::1", "a%zz",
    ];
    for (nth, host) in bad.iter().enumerate() {
        for version in ["1.1", "1.0"] {
            let request = format!("GET / HTTP/{version}\r\nHost: {host}\r\n\r\n{SMUGGLED}");
            assert_eq!(refusal(&server, &request).status(), 400, "{host}");
        }
        assert_eq!(
            refused(&server, "malformed"),
            2 * (nth as u64 + 1),
            "{host}"
        );
    }
    let mut client = Client::connect(server.address());
    for host in ["", "a", "a:80", "127.0.0.1:8080", "[::1]:80", "a.example:"] {
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.response().status(), 200, "{host}");
    }
}

#[test]
fn transfer_codings_that_are_not_known_are_not_implemented() {
    let server = start();
    let post = |coding: &str| {
        format!("POST /work HTTP/1.1\r\nHost: a\r\n{coding}\r\n\r\n0\r\n\r\n{SMUGGLED}")
    };
    for coding in [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ] {
        assert_eq!(refusal(&server, &post(coding)).status(), 501, "{coding}");
    }
    // Where chunked is not the last one nothing says where the body ends (RFC 9112, 6.3).
    for coding in [
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: identity",
    ] {
        assert_eq!(refusal(&server, &post(coding)).status(), 400, "{coding}");
    }
    let mut client = Client::connect(server.address());
    for coding in ["chunked", "CHUNKED", " chunked "] {
        let body = "Transfer-Encoding:";
        client.send(format!(
            "POST /work HTTP/1.1\r\nHost: a\r\n{body}{coding}\r\n\r\n0\r\n\r\n"
        ));
        assert_eq!(client.response().status(), 200, "{coding}");
    }
}

#[test]
fn later_minor_versions_are_answered_as_1_1() {
    let server = start();
    let mut client = Client::connect(server.address());
    client.send("GET /work?bytes=1 HTTP/1.2\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status(), response.body.len()), (200, 1));
    assert!(response.text.starts_with("HTTP/1.1 "), "{}", response.text);
    // Several at once, between others, and in pieces.
    for bytes in 1..=9 {
        let minor = bytes % 4;
        let minor = if minor == 0 { 1 } else { minor };
        let post = "Content-Length: 2\r\n\r\nok";
        client.send(format!(
            "POST /work?bytes={bytes} HTTP/1.{minor}\r\nHost: a\r\n{post}"
        ));
    }
    for bytes in 1..=9 {
        let response = client.response();
        assert_eq!((response.status(), response.body.len()), (200, bytes));
    }
    for piece in ["GET / HT", "TP/1.", "3\r", "\nHost: ", "a\r\n\r\n"] {
        client.send(piece);
    }
    assert_eq!(client.response().status(), 200);
    assert_eq!(refused(&server, "malformed"), 0);
    // The rules of HTTP/1.1 hold.
    assert_eq!(refusal(&server, "GET / HTTP/1.2\r\n\r\n").status(), 400);
}

#[test]
fn other_versions_are_not_supported() {
    let server = start();
    for version in ["2.0", "3.0", "0.9"] {
        let request = format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n{SMUGGLED}");
        assert_eq!(refusal(&server, &request).status(), 505, "{version}");
    }
    // Behind requests that are answered.
    let mut client = Client::connect(server.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/2.0\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    assert_eq!(client.response().status(), 505);
    client.assert_closed();
}

#[test]
fn what_is_too_long_is_named() {
    let server = start();
    let long = "x".repeat(20_000);
    let target = format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(refusal(&server, &target).status(), 414);
    let header = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n");
    assert_eq!(refusal(&server, &header).status(), 431);
    assert_eq!(refused(&server, "header_too_large"), 2);
}

/// As `srv serve --help` says.
#[test]
fn a_hundred_header_lines_are_accepted() {
    let server = start();
    let with = |lines: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "a: b\r\n".repeat(lines)
        )
    };
    let mut client = Client::connect(server.address());
    client.send(with(99));
    assert_eq!(client.response().status(), 200);
    assert_eq!(refusal(&server, &with(100)).status(), 431);
}

#[test]
fn dot_segments_lead_to_the_same_page() {
    let server = start();
    let mut client = Client::connect(server.address());
    for path in ["/./", "/.", "/a/..", "/a/../index.html"] {
        client.get(path);
        assert_eq!(client.response().status(), 200, "{path}");
    }
    client.get("/../index.html");
    assert_eq!(client.response().status(), 404);
}
