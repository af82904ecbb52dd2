//! Clients that take too long. The limits are short here, what is awaited is
//! the server's reaction, and nothing is said about when it comes.

use std::io::{self, Read as _};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use srv_tests::server::Server;

use crate::client::Client;
use crate::probe::{group, refused, until, until_group};
use crate::serve::serve;

const SHORT: &str = "300ms";

fn start(limit: &str) -> Server {
    serve().workers(1).synthetic().with(limit, SHORT).start()
}

fn assert_timed_out(server: &Server, mut client: Client) {
    let response = client.response();
    assert_eq!(response.status(), 408);
    assert!(!response.head.keep_alive);
    client.assert_closed();
    assert_eq!(refused(server, "timeout"), 1);
    until_group(server, "nothing is left of it", |group| {
        group.totals.active == 0 && group.totals.running == 0
    });
}

#[test]
fn a_header_that_stops() {
    let server = start("--header-timeout");
    let mut client = Client::connect(server.address());
    client.send("GET / HTTP/1.1\r\nHo");
    assert_timed_out(&server, client);
}

#[test]
fn a_second_header_that_stops() {
    let server = start("--header-timeout");
    let mut client = Client::connect(server.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT");
    assert_eq!(client.response().status(), 200);
    assert_timed_out(&server, client);
}

/// A byte now and then does not extend the time.
#[test]
fn a_header_that_trickles() {
    let server = start("--header-timeout");
    let mut client = Client::connect(server.address());
    client.send("GET / HTTP/1.1\r\nTrickle: ");
    client
        .stream()
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    until("the server has enough", || {
        client.send("x");
        let peeked = client.stream().peek(&mut [0]);
        peeked.is_ok().then_some(())
    });
    client
        .stream()
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    assert_timed_out(&server, client);
}

/// No answer to what was no request: it could be taken for that to the first one.
#[test]
fn a_connection_without_a_word() {
    for word in ["", "\r\n", "\r\n\r\n\r\n"] {
        let server = start("--header-timeout");
        let mut client = Client::connect(server.address());
        client.send(word);
        client.assert_closed();
        assert_eq!(refused(&server, "timeout"), 0, "it is no fault");
        until_group(&server, "nothing is left of it", |group| {
            group.totals.active == 0
        });
    }
}

/// Some clients send an empty line after a request, others much later.
#[test]
fn an_empty_line_after_a_request() {
    for word in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n", "\r\n"] {
        let server = serve()
            .workers(1)
            .with("--header-timeout", SHORT)
            .with("--idle-timeout", SHORT)
            .start();
        let mut client = Client::connect(server.address());
        client.get("/");
        assert_eq!(client.response().status(), 200);
        client.send(word);
        if word.starts_with("GET") {
            assert_eq!(client.response().status(), 200);
        }
        client.assert_closed();
        assert_eq!(refused(&server, "timeout"), 0);
    }
}

#[test]
fn a_body_that_stops() {
    let server = start("--read-timeout");
    let mut client = Client::connect(server.address());
    client.send("POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhell");
    assert_timed_out(&server, client);
}

#[test]
fn a_chunked_body_that_stops() {
    let server = start("--read-timeout");
    let mut client = Client::connect(server.address());
    client.send("POST /work HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhell");
    assert_timed_out(&server, client);
}

/// What counts is the time between two reads, not the whole.
#[test]
fn a_body_that_goes_on_is_waited_for() {
    let server = start("--read-timeout");
    let mut client = Client::connect(server.address());
    client.send("POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\n");
    client
        .stream()
        .set_read_timeout(Some(Duration::from_millis(30)))
        .unwrap();
    for _ in 0..29 {
        client.send("x");
        client.stream().peek(&mut [0]).expect_err("no answer yet");
    }
    client
        .stream()
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    client.send("x");
    assert_eq!(client.response().status(), 200);
    assert_eq!(refused(&server, "timeout"), 0);
}

#[test]
fn an_idle_connection_is_closed() {
    let server = start("--idle-timeout");
    let mut client = Client::connect(server.address());
    client.get("/");
    assert_eq!(client.response().status(), 200);
    client.assert_closed();
    assert_eq!(refused(&server, "timeout"), 0, "idling is no fault");
}

/// What the client has of the response must not look like all of it.
#[test]
fn a_response_that_nobody_reads() {
    let server = start("--write-timeout");
    let mut client = Client::connect(server.address());
    client.get("/work?bytes=100000000");
    until_group(&server, "the server gives up", |group| {
        group.workers[0].refused.get("write_timeout") == Some(&1)
    });
    let error = client
        .ended_or_response()
        .expect_err("the response is incomplete");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    until_group(&server, "nothing is left of it", |group| {
        group.totals.active == 0 && group.totals.running == 0
    });
}

/// What counts is what the client takes, not how often the socket becomes writable:
/// its buffer holds more than this client takes in the time allowed.
#[test]
fn a_response_that_is_read_slowly_and_steadily() {
    let server = serve()
        .workers(1)
        .synthetic()
        .with("--write-timeout", "3s")
        .start();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(&server.address().into()).unwrap();
    let mut client = Client::over(socket.into());
    client.get("/work?bytes=100000000");
    // Three times as long as the limit.
    for _ in 0..180 {
        let mut stream = client.stream();
        stream.read_exact(&mut [0; 4 << 10]).expect("it goes on");
        std::thread::sleep(Duration::from_millis(50));
    }
    let refused = &group(&server).workers[0].refused;
    assert_eq!(refused.get("write_timeout").copied().unwrap_or(0), 0);
}
