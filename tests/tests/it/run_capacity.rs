//! `srv run --capacity`: a process whose event loop never blocks accepts only while it has a thread
//! for another request, and what never answers does not keep new connections waiting.

use std::net::SocketAddr;

use srv::control::status::WorkerStatus;
use srv::measure::baseline::launch::NO_BPF;
use srv::measure::load::keep_alive::{KeepAlive, Opening};

use crate::client::{Client, get};
use crate::gate;
use crate::probe::until;
use crate::unmodified::{Running, servers};

const PAGE: &str = "/index.html";
/// granian's threads for the application, of all processes together.
const THREADS: usize = 4;

fn sum(running: &Running, figure: fn(&WorkerStatus) -> u64) -> u64 {
    running.group().workers.iter().map(figure).sum()
}

fn in_service(running: &Running) -> u64 {
    sum(running, |worker| worker.running.into())
}

/// Connections on which the client has sent these bytes.
fn connections(address: SocketAddr, count: usize, bytes: &str) -> Vec<Client> {
    let connected = (0..count).map(|_| {
        let mut client = Client::connect(address);
        client.send(bytes);
        client
    });
    connected.collect()
}

#[test]
fn kept_and_silent_connections_do_not_count() {
    const KEPT: usize = 64;
    const SILENT: usize = 4 * THREADS;
    gate::needs!(root, "run granian": &servers::GRANIAN.installed());
    let running = servers::GRANIAN.run(&["--capacity", "1", NO_BPF]);
    let address = running.address();
    let kept = KeepAlive::open(address, PAGE, KEPT, Opening::OneByOne).unwrap();
    let silent = connections(address, SILENT, "");
    let more = KeepAlive::open(address, PAGE, KEPT, Opening::OneByOne).unwrap();
    until("no request is in service", || {
        (in_service(&running) == 0).then_some(())
    });
    let full = sum(&running, |worker| worker.full);
    assert!(
        full >= 2 * KEPT as u64,
        "each request fills a process: {full}"
    );
    assert_eq!(sum(&running, |worker| worker.overfull), 0);
    assert_eq!(
        sum(&running, |worker| worker.active.into()),
        (2 * KEPT + SILENT) as u64
    );
    drop((more, kept));
    for mut client in silent {
        client.get(PAGE);
        assert_eq!(client.response().status(), 200);
    }
}

/// Requests that never become complete count like any other, in each process.
#[test]
fn requests_that_never_end_do_not_keep_others_waiting() {
    gate::needs!(root, "run granian": &servers::GRANIAN.installed());
    let running = servers::GRANIAN.run(&["--capacity", "1", NO_BPF]);
    let address = running.address();
    let mut half = Vec::new();
    until("each process has as many as it may have", || {
        half.extend(connections(address, 1, "GET /index"));
        let workers = running.group().workers;
        workers
            .iter()
            .all(|worker| worker.running > 0)
            .then_some(())
    });
    for _ in 0..4 * THREADS {
        assert_eq!(get(address, PAGE).status(), 200);
    }
    assert!(sum(&running, |worker| worker.overfull) > 0);
    for mut client in half {
        client.send(".html HTTP/1.1\r\nHost: srv\r\n\r\n");
        assert_eq!(client.response().status(), 200);
    }
    until("no request is in service", || {
        (in_service(&running) == 0).then_some(())
    });
}
