//! A worker that could not look at its connections for a while does not hold that
//! against their clients: what came in time is answered, and what a client had left of
//! its time it has still.

use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::Duration;

use srv_tests::server::Server;

use crate::client::Client;
use crate::probe::{Stopped, group, pid, refused, until_group, worker};
use crate::serve::serve;

const CLIENTS: usize = 20;
/// Long enough for a slow machine to have all clients in their place.
const LIMIT: &str = "3s";
/// Longer than the limit.
const STALL: Duration = Duration::from_secs(4);

const HEAD: &str = "GET / HTTP/1.1\r\nHo";
const REST: &str = "st: a\r\n\r\n";

fn start(limits: &[&str]) -> Server {
    serve().workers(1).synthetic().flags(limits).start()
}

fn connect(server: &Server, sends: &str) -> Vec<Client> {
    let connect = |_| {
        let mut client = Client::connect(server.address());
        client.send(sends);
        client
    };
    let clients = (0..CLIENTS).map(connect).collect();
    until_group(server, "all are accepted", |group| {
        group.totals.active == CLIENTS as u64
    });
    clients
}

/// Stops the worker for longer than any limit; `meanwhile` the clients go on.
fn stall(server: &Server, meanwhile: impl FnOnce()) {
    let stopped = Stopped::new(pid(&worker(server, 0)));
    meanwhile();
    // Time itself is what is to pass.
    std::thread::sleep(STALL);
    drop(stopped);
}

fn assert_answered(server: &Server, clients: &mut [Client]) {
    for client in clients {
        let response = client.ended_or_response().expect("an answer");
        assert_eq!(response.status(), 200);
    }
    assert_eq!(refused(server, "timeout"), 0);
}

#[test]
fn requests_on_idle_connections() {
    let server = start(&["--idle-timeout", LIMIT]);
    let mut clients = connect(&server, &format!("{HEAD}{REST}"));
    assert_answered(&server, &mut clients);
    stall(&server, || {
        clients.iter_mut().for_each(|client| client.get("/"));
    });
    assert_answered(&server, &mut clients);
}

/// Of half of them the rest comes during the stall, of the others when it is over.
#[test]
fn headers_that_were_on_their_way() {
    let server = start(&["--header-timeout", LIMIT]);
    let mut clients = connect(&server, HEAD);
    let (during, after) = clients.split_at_mut(CLIENTS / 2);
    stall(&server, || {
        during.iter_mut().for_each(|client| client.send(REST));
    });
    after.iter_mut().for_each(|client| client.send(REST));
    assert_answered(&server, &mut clients);
}

#[test]
fn bodies_that_were_on_their_way() {
    let server = start(&["--read-timeout", LIMIT]);
    let head = "POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhell";
    let mut clients = connect(&server, head);
    until_group(&server, "the bodies are awaited", |group| {
        group.totals.running == CLIENTS as u64
    });
    stall(&server, || {
        clients.iter_mut().for_each(|client| client.send("o you"));
    });
    assert_answered(&server, &mut clients);
}

/// A request can block the worker, too.
#[test]
fn headers_that_waited_for_another_request() {
    let server = start(&["--header-timeout", LIMIT]);
    let mut clients = connect(&server, HEAD);
    let mut blocking = Client::connect(server.address());
    blocking.get(&format!("/work?sleep_us={}", STALL.as_micros()));
    until_group(&server, "the worker is blocked", |group| {
        group.totals.running == 1
    });
    clients.iter_mut().for_each(|client| client.send(REST));
    assert_answered(&server, &mut clients);
    assert_eq!(blocking.response().status(), 200);
}

/// They have taken all that there was, and wait for the worker.
#[test]
fn responses_that_were_on_their_way() {
    const BYTES: usize = 20_000_000;
    let server = start(&["--write-timeout", LIMIT]);
    let clients = connect(
        &server,
        &format!("GET /work?bytes={BYTES} HTTP/1.1\r\nHost: a\r\n\r\n"),
    );
    until_group(&server, "the responses are on their way", |group| {
        group.totals.running == CLIENTS as u64
    });
    let mut taken = Vec::new();
    stall(&server, || {
        taken = clients.iter().map(|client| take(client.stream())).collect();
    });
    // All at once: one that were not read for as long as the limit would rightly be cut.
    std::thread::scope(|scope| {
        for (client, taken) in clients.iter().zip(taken) {
            scope.spawn(move || {
                let mut left = client.stream().take((BYTES - taken) as u64);
                let left = std::io::copy(&mut left, &mut std::io::sink()).expect("the rest");
                assert_eq!(left as usize, BYTES - taken);
            });
        }
    });
    let refused = &group(&server).workers[0].refused;
    assert_eq!(refused.get("write_timeout").copied().unwrap_or(0), 0);
}

/// Reads all that has arrived.
fn take(mut stream: &TcpStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes).expect_err("it is not over");
    assert_eq!(ended.kind(), ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    bytes.len()
}
