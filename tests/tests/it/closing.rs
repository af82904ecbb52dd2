//! A close never takes an answer with it, although the client has sent, or goes on
//! sending, what srv does not read as requests: RFC 9112, 9.6.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use procfs::net::TcpState;
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use srv_tests::server::Server;

use crate::client::{Client, get};
use crate::gate;
use crate::probe::{group, refused, signal, sockets_beside, until, until_group};
use crate::serve::serve;

/// More than one read of srv's.
const MORE_BYTES: usize = 20_000;
const BODY_BYTES: usize = 200_000;

fn start(arguments: &[&str]) -> Server {
    serve().workers(1).synthetic().flags(arguments).start()
}

/// Most of the answer is still at the server when it closes.
fn connect_with_small_buffer(target: SocketAddr) -> Client {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(32 << 10).unwrap();
    socket.connect(&target.into()).unwrap();
    Client::over(socket.into())
}

/// A last request and what a client should not send after it.
fn last(request: &str) -> String {
    let next = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut text = format!("{request}{}", next.repeat(MORE_BYTES / next.len() + 1));
    text.truncate(request.len() + MORE_BYTES);
    text
}

fn assert_whole_and_closed(mut client: Client, what: &str) {
    let response = client
        .ended_or_response()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(response.status(), 200, "{what}");
    assert_eq!(response.body.len(), BODY_BYTES, "{what}");
    assert!(!response.head.keep_alive, "{what}");
    client.assert_closed();
}

#[test]
fn after_a_last_request() {
    let server = start(&[]);
    for request in [
        "GET /work?bytes=200000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /work?bytes=200000 HTTP/1.0\r\n\r\n",
        "POST /work?bytes=200000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
         Content-Length: 5\r\n\r\nhello",
    ] {
        let mut client = connect_with_small_buffer(server.address());
        client.send(last(request));
        until_group(&server, "it is answered", |group| {
            group.totals.running == 0 && group.totals.active == 1
        });
        assert_whole_and_closed(client, request);
        until_group(&server, "nothing is left of it", |group| {
            group.totals.active == 0
        });
    }
}

/// The worker leaves: the response that it has begun arrives whole, whatever else waits.
#[test]
fn when_a_worker_leaves() {
    let mut server = start(&[]);
    let mut client = connect_with_small_buffer(server.address());
    let request = format!("GET /work?bytes={BODY_BYTES} HTTP/1.1\r\nHost: a\r\n\r\n");
    client.send(request.repeat(MORE_BYTES / request.len()));
    until_group(&server, "one is on its way", |group| {
        group.totals.running == 1
    });
    signal(server.pid(), Signal::TERM);
    server.child().await_line("stopping").unwrap();
    loop {
        let response = client.ended_or_response().expect("what was begun is whole");
        assert_eq!(response.body.len(), BODY_BYTES);
        // Between responses nothing is lost, and the last of them need not know.
        let mut next = [0];
        if client.stream().peek(&mut next).expect("no reset") == 0 {
            break;
        }
    }
}

#[test]
fn of_one_that_is_turned_away() {
    let server = start(&["--connections", "1"]);
    let mut busy = Client::connect(server.address());
    busy.send("GET / HTTP/1.1\r\n");
    until_group(&server, "it is in the middle of a request", |group| {
        group.totals.active == 1
    });
    for _ in 0..5 {
        let mut client = Client::connect(server.address());
        client.send(last("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        // It has all that the client sends for it not to be a reset.
        assert_eq!(client.response().status(), 503);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.assert_closed();
    }
    assert_eq!(refused(&server, "too_many_connections"), 5);
    busy.send("Host: a\r\n\r\n");
    assert_eq!(busy.response().status(), 200);
}

/// Many at once, more than are listened to: their connections do not count, nor stay.
#[test]
fn of_many_that_are_turned_away() {
    let server = start(&["--connections", "1"]);
    let mut busy = Client::connect(server.address());
    busy.send("GET / HTTP/1.1\r\n");
    until_group(&server, "it is in the middle of a request", |group| {
        group.totals.active == 1
    });
    let mut clients: Vec<_> = (0..40).map(|_| Client::connect(server.address())).collect();
    for client in &mut clients {
        assert_eq!(client.response().status(), 503);
    }
    assert_eq!(group(&server).totals.active, 1);
    drop(clients);
    busy.send("Host: a\r\n\r\n");
    assert_eq!(busy.response().status(), 200);
    assert_eq!(get(server.address(), "/").status(), 200);
}

/// The client sends all of a body that was refused, however long, and then listens.
#[test]
fn after_the_refusal_of_a_long_body() {
    const BYTES: usize = 40 << 20;
    let server = start(&[]);
    let mut client = Client::connect(server.address());
    client.send(format!(
        "POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n"
    ));
    let chunk = vec![b'x'; 64 << 10];
    for nth in 0..BYTES / chunk.len() {
        let sent = client.stream().write_all(&chunk);
        sent.unwrap_or_else(|error| panic!("after {nth} chunks: {error}"));
    }
    assert_eq!(client.response().status(), 413);
    client.assert_closed();
    assert_eq!(refused(&server, "body_too_large"), 1);
}

/// As above, as a library does it that knows no early answers.
#[test]
fn python_sees_the_refusal_of_a_long_body() {
    let python = Command::new("python3").arg("--version").output();
    gate::needs!("run python3": &python);
    let server = start(&[]);
    let script = "import http.client, sys\n\
        c = http.client.HTTPConnection(sys.argv[1], timeout=60)\n\
        c.request('POST', '/work', b'x' * (20 << 20))\n\
        print(c.getresponse().status)\n";
    let address = server.address().to_string();
    let output = Command::new("python3")
        .args(["-c", script, &address])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), "413", "{output:?}");
}

/// One that never stops is left after a while, whatever it sends.
#[test]
fn a_refused_client_that_sends_slowly_is_listened_to() {
    let server = start(&[]);
    let mut client = Client::connect(server.address());
    client.send("POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: 90000000\r\n\r\n");
    // Longer than srv is patient with one that is silent.
    for _ in 0..65 {
        client.send("more");
        sleep(Duration::from_millis(100));
    }
    assert_eq!(client.response().status(), 413);
    client.assert_closed();
}

/// What crosses the close of an idle connection that has not received all of its last
/// answer does not destroy that answer.
#[test]
fn of_an_idle_connection_with_an_answer_on_its_way() {
    let server = start(&["--idle-timeout", "300ms"]);
    let mut client = connect_with_small_buffer(server.address());
    client.get(&format!("/work?bytes={BODY_BYTES}"));
    until_group(&server, "it is answered", |group| group.totals.running == 0);
    // Its idle time passes.
    let (ours, theirs) = (client.stream().local_addr().unwrap(), server.address());
    until("srv has closed its side", || {
        let sockets = sockets_beside(&server);
        let found = sockets
            .into_iter()
            .find(|socket| socket.local_address == theirs && socket.remote_address == ours);
        found.filter(|socket| socket.state == TcpState::FinWait1)
    });
    client.get("/");
    let response = client.ended_or_response().expect("the answer is whole");
    assert_eq!(response.body.len(), BODY_BYTES);
    client.assert_closed();
}
