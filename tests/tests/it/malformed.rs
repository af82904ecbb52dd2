//! Malformed requests by the ten thousand: each is refused, and nothing is left
//! of them, no file and no memory.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::Pid;
use srv_tests::server::Server;
use srv_tests::usage::Tree;

use crate::client::get;
use crate::probe::{group, open_files, stress, until_group};
use crate::serve::serve;

/// What is sent, and how it is refused; `None`: the client leaves in the middle.
const KINDS: [(&str, Option<u16>); 20] = [
    ("hello\r\n\r\n", Some(400)),
    ("GET /\r\n\r\n", Some(400)),
    ("GET / HTTP/1.2\r\n\r\n", Some(400)),
    ("G\0T / HTTP/1.1\r\nHost: a\r\n\r\n", Some(400)),
    ("\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03", Some(400)),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(505)),
    ("GET / HTTP/1.1\r\n\r\n", Some(400)),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Some(400)),
    ("GET / HTTP/1.1\r\nHost: a\r\n: no name\r\n\r\n", Some(400)),
    ("GET / HTTP/1.1\r\nHost: a\r\nNul: \0\r\n\r\n", Some(400)),
    (
        "POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        Some(400),
    ),
    (
        "POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        Some(400),
    ),
    (
        "POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        Some(400),
    ),
    (
        "POST /work HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        Some(400),
    ),
    (
        "POST /work HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZ\r\n",
        Some(400),
    ),
    (
        "POST /work HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
        Some(400),
    ),
    (
        "POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n",
        Some(413),
    ),
    ("LARGE", Some(431)),
    ("GET / HTTP/1.1\r\nHost: a\r\nHalf: a he", None),
    (
        "GET /work?bytes=100000 HTTP/1.1\r\nHost: a\r\n\r\nGET",
        None,
    ),
];
const CLIENTS: usize = 4;

#[test]
fn malformed_requests_leave_nothing() {
    let server = serve().workers(2).synthetic().start();
    let target = server.address();
    // Until everything is there that is needed once, and the heap has met its peaks.
    send(target, 10_000);
    let before = held(&server);
    let count = stress(20_000, 100_000);
    send(target, count);
    let after = held(&server);
    assert_eq!(after.files, before.files);
    let grown = after.anonymous_bytes as i64 - before.anonymous_bytes as i64;
    println!(
        "{count} malformed requests: {grown} bytes more, of {}",
        before.anonymous_bytes
    );
    // Half of what a leak of 16 bytes a request would be.
    assert!(
        grown < 8 * count as i64,
        "{grown} bytes more after {count} requests"
    );
    let workers = group(&server).workers;
    assert!(
        workers.iter().all(|worker| worker.starts == 1),
        "nobody died"
    );
    let refused: u64 = workers
        .iter()
        .flat_map(|worker| worker.refused.values())
        .sum();
    let of_20 = KINDS.iter().filter(|(_, status)| status.is_some()).count();
    assert_eq!(refused as usize, (10_000 + count) / KINDS.len() * of_20);
    assert_eq!(get(target, "/").status(), 200);
}

/// What a server's processes hold while nobody is connected.
struct Held {
    /// By worker.
    files: BTreeMap<i32, usize>,
    anonymous_bytes: u64,
}

fn held(server: &Server) -> Held {
    until_group(server, "nobody is connected", |group| {
        group.totals.active == 0 && group.totals.waiting == 0
    });
    let tree = Tree::of(server.pid()).unwrap();
    let files = |pid: Pid| (pid.as_raw_nonzero().get(), open_files(pid));
    // The master answers nobody but who asked just now, and may not have hung up.
    let workers = tree.pids().filter(|pid| *pid != server.pid());
    Held {
        files: workers.map(files).collect(),
        anonymous_bytes: tree.memory().unwrap().anonymous_bytes,
    }
}

fn send(target: SocketAddr, count: usize) {
    let client = |first: usize| {
        for nth in (first..count).step_by(CLIENTS) {
            let (request, status) = KINDS[nth % KINDS.len()];
            refusal(target, request, status);
        }
    };
    std::thread::scope(|scope| {
        for first in 0..CLIENTS {
            scope.spawn(move || client(first));
        }
    });
}

fn refusal(target: SocketAddr, request: &str, status: Option<u16>) {
    let mut stream = TcpStream::connect(target).unwrap();
    // Reset: that many ports in TIME_WAIT would be missed by other tests.
    let socket = socket2::SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    match request {
        "LARGE" => {
            let header = "x".repeat(20 << 10);
            write!(
                stream,
                "GET / HTTP/1.1\r\nHost: a\r\nLarge: {header}\r\n\r\n"
            )
            .unwrap();
        }
        request => stream.write_all(request.as_bytes()).unwrap(),
    }
    let Some(status) = status else {
        stream.shutdown(Shutdown::Write).unwrap();
        return;
    };
    let mut said = [0; 12];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(said[9..], *status.to_string().as_bytes(), "{request:?}");
}
