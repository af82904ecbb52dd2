//! Where a message ends: pipelining, bodies of either framing, and attempts to
//! have one request taken for two.

use srv_tests::server::Server;

use crate::client::{Client, get};
use crate::probe::{refused, until_group};
use crate::serve::serve;

fn start() -> Server {
    serve().workers(1).synthetic().worker_header().start()
}

const PIPELINE: &str = "GET /work?bytes=1 HTTP/1.1\r\nHost: a\r\n\r\n\
    POST /work?bytes=2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
    POST /work?bytes=3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
    5;name=value\r\nhello\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n\
    GET /missing HTTP/1.1\r\nHost: a\r\n\r\n\
    HEAD /work?bytes=7 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn assert_pipeline_answered(mut client: Client, how: &str) {
    for bytes in 1..=3 {
        let response = client.response();
        assert_eq!(
            (response.status(), response.body.len()),
            (200, bytes),
            "{how}"
        );
    }
    assert_eq!(client.response().status(), 404, "{how}");
    let response = client.response_to_head();
    assert_eq!(response.header("content-length"), Some("7"), "{how}");
    client.assert_closed();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = start();
    let mut client = Client::connect(server.address());
    client.send(PIPELINE);
    assert_pipeline_answered(client, "at once");
}

#[test]
fn it_does_not_matter_where_a_read_ends() {
    let server = start();
    for at in 1..PIPELINE.len() {
        let mut client = Client::connect(server.address());
        let (first, second) = PIPELINE.split_at(at);
        client.send(first);
        // The first part may have been read by now, or not.
        until_group(&server, "the worker waits for more", |group| {
            group.totals.active == 1
        });
        client.send(second);
        assert_pipeline_answered(client, &format!("split after {at} bytes"));
        until_group(&server, "it is closed", |group| group.totals.active == 0);
    }
}

#[test]
fn bytes_may_come_one_by_one() {
    let server = start();
    let mut client = Client::connect(server.address());
    for byte in PIPELINE.as_bytes() {
        client.send([*byte]);
    }
    assert_pipeline_answered(client, "byte by byte");
}

#[test]
fn many_requests_in_one_write() {
    let server = start();
    let mut client = Client::connect(server.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(500));
    for _ in 0..500 {
        assert_eq!(client.response().status(), 200);
    }
}

#[test]
fn a_connection_is_kept_unless_somebody_says_close() {
    let server = start();
    let ask = |request: &str| {
        let mut client = Client::connect(server.address());
        client.send(request);
        (client.response(), client)
    };
    let (response, mut client) = ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(response.head.keep_alive);
    client.get("/");
    assert_eq!(client.response().status(), 200);
    let (response, client) = ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(!response.head.keep_alive);
    client.assert_closed();
    let (response, client) = ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(response.status(), 200, "HTTP/1.0 needs no Host");
    client.assert_closed();
    let (response, mut client) = ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(response.header("connection"), Some("keep-alive"));
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    client.assert_closed();
}

/// A client that has said all it has to say still gets its answer.
#[test]
fn a_half_closed_connection_is_answered() {
    let server = start();
    let mut client = Client::connect(server.address());
    client.send("GET /work?bytes=200000 HTTP/1.1\r\nHost: a\r\n\r\n");
    client.stream().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.response().body.len(), 200_000);
    client.assert_closed();
}

#[test]
fn head_is_get_without_the_body() {
    let server = start();
    let mut client = Client::connect(server.address());
    client.get("/");
    let length = client.response().body.len().to_string();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        client.response_to_head().header("content-length"),
        Some(&*length)
    );
    client.get("/");
    assert_eq!(
        client.response().status(),
        200,
        "nothing of a body came between"
    );
}

#[test]
fn a_client_that_waits_for_100_is_told_to_continue() {
    let server = start();
    let mut client = Client::connect(server.address());
    client.send(
        "POST /work?bytes=3 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    );
    assert_eq!(client.response().status(), 100);
    client.send("hello");
    assert_eq!(client.response().body, b"012");
    client.get("/");
    assert_eq!(client.response().status(), 200);
}

/// The bytes after a refusal's request are never taken for another request.
#[test]
fn messages_that_could_be_read_in_two_ways_are_refused() {
    let server = start();
    let smuggled = "GET /work?bytes=9 HTTP/1.1\r\nHost: a\r\n\r\n";
    let heads = [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Content-Length : 5",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip",
        " Folded: line",
        "No colon",
        "Nul: \0",
        "Bare: \r carriage return",
        ": no name",
    ];
    for (nth, head) in heads.iter().enumerate() {
        let mut client = Client::connect(server.address());
        client.send(format!(
            "POST /work HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{smuggled}"
        ));
        let response = client
            .ended_or_response()
            .unwrap_or_else(|error| panic!("{head:?}: {error}"));
        assert_eq!(response.status(), 400, "{head:?}");
        assert!(!response.head.keep_alive, "{head:?}");
        client.assert_closed();
        assert_eq!(refused(&server, "malformed"), nth as u64 + 1, "{head:?}");
    }
}

/// RFC 9112, 6.1: either refused, or answered by the chunks and closed.
#[test]
fn two_framings_at_once_smuggle_nothing() {
    let server = start();
    let smuggled = "GET /work?bytes=9 HTTP/1.1\r\nHost: a\r\n\r\n";
    let body = format!("0\r\n\r\n{smuggled}");
    let length = body.len();
    for head in [
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"),
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"),
    ] {
        let mut client = Client::connect(server.address());
        client.send(format!(
            "POST /work?bytes=1 HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{body}"
        ));
        let response = client.response();
        assert!([200, 400].contains(&response.status()), "{head:?}");
        let rest = client.rest().expect("closed in order");
        assert!(
            rest.is_empty(),
            "{head:?}: {:?}",
            String::from_utf8_lossy(&rest)
        );
    }
}

#[test]
fn http_1_0_has_no_chunks() {
    let server = start();
    let mut client = Client::connect(server.address());
    client.send("POST /work HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(client.response().status(), 400);
    client.assert_closed();
}

#[test]
fn bad_chunks_are_refused() {
    let server = start();
    for (nth, body) in [
        "Z\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
    ]
    .iter()
    .enumerate()
    {
        let mut client = Client::connect(server.address());
        let head = "POST /work HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}{body}GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = client
            .ended_or_response()
            .unwrap_or_else(|error| panic!("{body:?}: {error}"));
        assert_eq!(response.status(), 400, "{body:?}");
        client.assert_closed();
        assert_eq!(refused(&server, "malformed"), nth as u64 + 1, "{body:?}");
    }
}

#[test]
fn a_request_has_one_host() {
    let server = start();
    for head in ["", "Host: a\r\nHost: a\r\n", "Host: a\r\nHost: b\r\n"] {
        let mut client = Client::connect(server.address());
        client.send(format!("GET / HTTP/1.1\r\n{head}\r\n"));
        assert_eq!(client.response().status(), 400, "{head:?}");
        client.assert_closed();
    }
    assert_eq!(refused(&server, "malformed"), 3);
}

#[test]
fn what_is_not_http_is_refused() {
    let server = start();
    for (nth, text) in [
        "hello\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/1.2\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / / HTTP/1.1\r\nHost: a\r\n\r\n",
        "G\0T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03",
    ]
    .iter()
    .enumerate()
    {
        let mut client = Client::connect(server.address());
        client.send(text);
        let response = client
            .ended_or_response()
            .unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(response.status(), 400, "{text:?}");
        client.assert_closed();
        assert_eq!(refused(&server, "malformed"), nth as u64 + 1, "{text:?}");
    }
    // The next client is served all the same.
    assert_eq!(get(server.address(), "/").status(), 200);
}

/// The preface of HTTP/2 starts like a request; it is none.
#[test]
fn the_preface_of_http_2_is_refused() {
    let server = start();
    let mut client = Client::connect(server.address());
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(client.response().status(), 505);
    client.assert_closed();
}

#[test]
fn methods_that_nobody_serves() {
    let server = start();
    let mut client = Client::connect(server.address());
    for (request, status) in [
        ("DELETE / HTTP/1.1", 405),
        ("POST / HTTP/1.1\r\nContent-Length: 0", 405),
        ("BREW / HTTP/1.1", 405),
        ("OPTIONS * HTTP/1.1", 204),
        ("GET http://a/ HTTP/1.1", 200),
    ] {
        client.send(format!("{request}\r\nHost: a\r\n\r\n"));
        assert_eq!(client.response().status(), status, "{request}");
    }
}
