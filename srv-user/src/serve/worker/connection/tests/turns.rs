//! A connection's work in one turn is bounded, even if it could do more.

use std::net::{TcpListener, TcpStream};

use socket2::SockRef;

use super::*;

/// As [`crate::serve::worker::turn`] has it, and the chunk or the head in which it is reached.
const TURN_BYTES: u64 = (256 + 64 + 1) << 10;
const TURN_REQUESTS: u64 = 16;

/// Both ends of a connection; it can hold more than a turn's bytes.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // The kernel gives as much as net.core.rmem_max and wmem_max allow, twice 208 KiB at least.
    let listening = SockRef::from(&listener);
    listening.set_recv_buffer_size(1 << 20).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    SockRef::from(&client)
        .set_send_buffer_size(1 << 20)
        .unwrap();
    let (server, _) = listener.accept().unwrap();
    server.set_nonblocking(true).unwrap();
    (client, server)
}

fn writable() -> Readiness {
    Readiness {
        readable: false,
        ..readable(false)
    }
}

/// How much each turn moves, until `is_done`.
fn turns(
    connection: &mut Connection,
    driver: &Driver,
    moved: impl Fn(&Connection) -> u64,
    is_done: impl Fn(&Connection) -> bool,
) -> Vec<u64> {
    let mut turns = Vec::new();
    let mut progress = Progress::Open;
    let mut ready = readable(false);
    while !is_done(connection) {
        let before = moved(connection);
        progress = match progress {
            Progress::Yielded => connection.resume(driver, 1),
            Progress::Open => connection.drive(driver, ready, 1),
            Progress::Closed => panic!("it is closed after {turns:?}"),
        };
        turns.push(moved(connection) - before);
        assert!(
            turns.len() > 1 || progress == Progress::Yielded,
            "{turns:?}"
        );
        let blocked = connection.socket.write_blocked.get();
        ready = if blocked { writable() } else { readable(false) };
    }
    turns
}

#[test]
fn a_download_has_turns() {
    const BODY_BYTES: u64 = 5_000_000;
    let driver = driver();
    let (mut client, server) = pair();
    let mut connection = Connection::accepted(incoming(server), &driver, 1);
    let request = format!("GET /work?bytes={BODY_BYTES} HTTP/1.1\r\nHost: a\r\n\r\n");
    client.write_all(request.as_bytes()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| std::io::copy(&mut client, &mut std::io::sink()).unwrap());
        let turns = turns(
            &mut connection,
            &driver,
            |connection| connection.socket.bytes_out.get(),
            |connection| connection.socket.bytes_out.get() > BODY_BYTES,
        );
        assert!(turns.iter().all(|bytes| *bytes <= TURN_BYTES), "{turns:?}");
        drop(connection);
    });
}

#[test]
fn an_upload_has_turns() {
    const BODY_BYTES: u64 = 1 << 20;
    let driver = driver();
    let (mut client, server) = pair();
    let mut connection = Connection::accepted(incoming(server), &driver, 1);
    let request = format!(
        "POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY_BYTES}\r\n\r\n{}",
        "x".repeat(BODY_BYTES as usize)
    );
    // Before the first turn, the connection is full, so the speed of the other thread does not
    // matter.
    client.set_nonblocking(true).unwrap();
    let mut rest = request.as_bytes();
    while !rest.is_empty()
        && let Ok(count) = client.write(rest)
    {
        rest = &rest[count..];
    }
    client.set_nonblocking(false).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| client.write_all(rest).unwrap());
        let turns = turns(
            &mut connection,
            &driver,
            |connection| connection.socket.bytes_in.get(),
            |connection| connection.socket.bytes_out.get() > 0,
        );
        assert!(turns.iter().all(|bytes| *bytes <= TURN_BYTES), "{turns:?}");
    });
}

#[test]
fn pipelined_requests_have_turns() {
    const REQUESTS: u64 = 200;
    let driver = driver();
    let (mut client, server) = pair();
    let mut connection = Connection::accepted(incoming(server), &driver, 1);
    let request = "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n";
    let requests = request.repeat(REQUESTS as usize);
    client.write_all(requests.as_bytes()).unwrap();
    let served = || driver.published().memory().slots[0].load.served.get();
    let turns = turns(
        &mut connection,
        &driver,
        |_| served(),
        |_| served() == REQUESTS,
    );
    assert!(
        turns.iter().all(|requests| *requests <= TURN_REQUESTS),
        "{turns:?}"
    );
}
