//! What becomes of connections: long responses arrive whole, and nothing is
//! left of those that are over.

use std::io::Read as _;
use std::net::Shutdown;
use std::time::Duration;

use srv::measure::load::keep_alive::{KeepAlive, Opening};
use srv_tests::server::Server;

use crate::client::{Client, get};
use crate::probe::{open_files, pid, until_group, worker};
use crate::serve::serve;

fn start() -> Server {
    serve().workers(1).synthetic().start()
}

#[test]
fn a_large_response_arrives_as_it_is() {
    let server = start();
    let mut client = Client::connect(server.address());
    client.get("/work?bytes=20000003");
    let body = client.response().body;
    assert_eq!(body.len(), 20_000_003);
    let line = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+\n";
    assert!(body.chunks(64).all(|chunk| *chunk == line[..chunk.len()]));
    client.get("/");
    assert_eq!(client.response().status(), 200);
}

#[test]
fn a_large_file_arrives_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    // No two blocks alike.
    let content: Vec<u8> = (0..2_000_000u32)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_le_bytes())
        .collect();
    std::fs::write(folder.path().join("large"), &content).unwrap();
    let root = folder.path().to_str().unwrap();
    let server = serve().workers(2).root(root).start();
    let address = server.address();
    let responses = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| scope.spawn(move || get(address, "/large")))
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert!(responses.iter().all(|response| response.body == content));
}

#[test]
fn a_client_that_leaves_in_the_middle_leaves_nothing() {
    let server = start();
    let files = open_files(pid(&worker(&server, 0)));
    for nth in 0..20 {
        let mut client = Client::connect(server.address());
        client.get("/work?bytes=50000000");
        client.stream().read_exact(&mut [0; 1000]).unwrap();
        if nth % 2 == 0 {
            client.stream().shutdown(Shutdown::Both).unwrap();
        }
    }
    for rest in [
        "",
        "GET /work HTTP/1.1\r\n",
        "POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx",
    ] {
        Client::connect(server.address()).send(rest);
    }
    until_group(&server, "nothing is left", |group| {
        let totals = &group.totals;
        totals.active == 0 && totals.running == 0 && totals.waiting == 0
    });
    assert_eq!(open_files(pid(&worker(&server, 0))), files);
    assert_eq!(get(server.address(), "/").status(), 200);
}

#[test]
fn ten_thousand_connections_leave_nothing() {
    let server = start();
    let files = open_files(pid(&worker(&server, 0)));
    for nth in 0..9_000 {
        let mut client = Client::connect(server.address());
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        if nth % 3 > 0 {
            assert_eq!(client.response().status(), 200);
        }
        // Reset: 10,000 ports in TIME_WAIT would be missed by other tests.
        let socket = socket2::SockRef::from(client.stream());
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
    // And as many at once as this process may have files.
    let held = KeepAlive::open(server.address(), "/", 500, Opening::OneByOne).unwrap();
    assert!(open_files(pid(&worker(&server, 0))) >= files + 500);
    drop(held);
    let held = KeepAlive::open(server.address(), "/", 500, Opening::Burst).unwrap();
    drop(held);
    let group = until_group(&server, "all are closed", |group| {
        group.totals.active == 0 && group.totals.waiting == 0
    });
    assert!(group.totals.accepted >= 7_000, "{}", group.totals.accepted);
    assert_eq!(open_files(pid(&worker(&server, 0))), files);
}
