//! Bounds on sizes and numbers: beyond them a client is told so, in a way that
//! it can read, and it is counted.

use srv_tests::server::Server;

use crate::client::{Client, Response, get};
use crate::probe::{group, refused, until_group};
use crate::serve::serve;

fn start(arguments: &[&str]) -> Server {
    serve().workers(1).synthetic().flags(arguments).start()
}

/// Sends all of it, whatever the server says meanwhile, then listens.
fn refusal(server: &Server, request: impl AsRef<[u8]>) -> Response {
    let mut client = Client::connect(server.address());
    client.send(request);
    let response = client
        .ended_or_response()
        .expect("the refusal arrives before the close");
    assert!(!response.head.keep_alive);
    client.assert_closed();
    response
}

#[test]
fn a_header_that_is_too_large() {
    let server = start(&["--header-bytes", "8KiB"]);
    let large = "x".repeat(16 << 10);
    let response = refusal(
        &server,
        format!("GET / HTTP/1.1\r\nHost: a\r\nLarge: {large}\r\n\r\n"),
    );
    assert_eq!(response.status(), 431);
    let many = "a: b\r\n".repeat(200);
    let response = refusal(&server, format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"));
    assert_eq!(response.status(), 431);
    assert_eq!(refused(&server, "header_too_large"), 2);
    // Just below the bound.
    let response = get(server.address(), &format!("/?{}", "x".repeat(7 << 10)));
    assert_eq!(response.status(), 200);
}

#[test]
fn a_uri_that_is_too_long() {
    let server = start(&["--header-bytes", "256KiB"]);
    let long = "x".repeat(100_000);
    let response = refusal(&server, format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(response.status(), 414);
    assert_eq!(refused(&server, "header_too_large"), 1);
}

#[test]
fn a_body_that_is_too_large() {
    let server = start(&["--body-bytes", "1KiB"]);
    let body = "x".repeat(512 << 10);
    let length = body.len();
    let head = format!("POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n");
    assert_eq!(refusal(&server, format!("{head}\r\n{body}")).status(), 413);
    // Asked beforehand, the server does not want it at all.
    assert_eq!(
        refusal(&server, format!("{head}Expect: 100-continue\r\n\r\n")).status(),
        413
    );
    let head = "POST /work HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n";
    let chunked = format!("{head}\r\n{length:x}\r\n{body}\r\n0\r\n\r\n");
    assert_eq!(refusal(&server, chunked).status(), 413);
    assert_eq!(refused(&server, "body_too_large"), 3);
    let mut client = Client::connect(server.address());
    client.send(format!(
        "POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: 1024\r\n\r\n{}",
        &body[..1024]
    ));
    assert_eq!(
        client.response().status(),
        200,
        "exactly as large as allowed"
    );
}

/// A client that goes on and on after its refusal does not keep its connection.
#[test]
fn a_refused_client_that_does_not_stop_is_left() {
    let server = start(&[]);
    let mut client = Client::connect(server.address());
    client.send("nonsense\r\n\r\n");
    assert_eq!(client.response().status(), 400);
    // It does not close; the server does not wait for ever.
    until_group(&server, "it is gone", |group| group.totals.active == 0);
    client.assert_closed();
}

#[test]
fn the_longest_idle_connection_makes_room() {
    let server = start(&["--connections", "2"]);
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(server.address());
        client.get("/");
        assert_eq!(client.response().status(), 200);
        clients.push(client);
    }
    // Now the second one has been idle for longer.
    clients[0].get("/");
    assert_eq!(clients[0].response().status(), 200);
    assert_eq!(get(server.address(), "/").status(), 200);
    clients.remove(1).assert_closed();
    clients[0].get("/");
    assert_eq!(clients[0].response().status(), 200);
    assert_eq!(refused(&server, "too_many_connections"), 0);
}

#[test]
fn too_many_connections_are_turned_away() {
    let server = start(&["--connections", "2"]);
    let mut busy: Vec<_> = (0..2).map(|_| Client::connect(server.address())).collect();
    busy.iter_mut()
        .for_each(|client| client.send("GET / HTTP/1.1\r\n"));
    until_group(&server, "both are in the middle of a request", |group| {
        group.totals.active == 2
    });
    let mut client = Client::connect(server.address());
    client.get("/");
    assert_eq!(client.response().status(), 503);
    assert_eq!(refused(&server, "too_many_connections"), 1);
    for client in &mut busy {
        client.send("Host: a\r\n\r\n");
        assert_eq!(client.response().status(), 200);
    }
    assert_eq!(group(&server).totals.active, 2);
    assert_eq!(get(server.address(), "/").status(), 200);
}
