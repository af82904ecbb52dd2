//! The path with a delay: it delays, loses nothing, and leaves nothing behind.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use srv::measure::arrivals::{Service, poisson};
use srv::measure::delay_line::DelayLine;

use crate::gate;
use crate::loaded::of_sleepers;
use crate::probe::until;
use crate::serve::serve;

const RTT: Duration = Duration::from_millis(40);

fn open() -> Option<DelayLine> {
    let line = DelayLine::new(RTT).map_err(|error| format!("{error:#}"));
    let (line, outcome) = match line {
        Ok(line) => (Some(line), Ok(())),
        Err(why) => (None, Err(why)),
    };
    gate::can("delay packets", outcome)
        .then_some(line)
        .flatten()
}

#[test]
fn a_connect_takes_a_round_trip() {
    let Some(line) = open() else { return };
    let listener = TcpListener::bind((line.server_address(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    for _ in 0..5 {
        let took = line.client(|| {
            let begin = Instant::now();
            TcpStream::connect(address).unwrap();
            begin.elapsed()
        });
        assert!(took >= RTT, "{took:?}");
        // A retransmitted SYN would come a second later.
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[test]
fn packets_stay_in_order() {
    let Some(line) = open() else { return };
    const PACKETS: u32 = 100;
    let socket = UdpSocket::bind((line.server_address(), 0)).unwrap();
    let address = socket.local_addr().unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let begin = Instant::now();
    line.client(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for nth in 0..PACKETS {
            socket.send_to(&nth.to_ne_bytes(), address).unwrap();
        }
    });
    for nth in 0..PACKETS {
        let mut bytes = [0; 4];
        socket.recv(&mut bytes).unwrap();
        assert_eq!(u32::from_ne_bytes(bytes), nth);
    }
    assert!(begin.elapsed() >= RTT / 2);
}

/// As fast as they come in the scenario that this is for.
#[test]
fn five_hundred_connections_lose_nothing() {
    let Some(line) = open() else { return };
    let listen = format!("{}:0", line.server_address());
    let server = serve().listen(&listen).workers(2).synthetic().start();
    let load = of_sleepers(server.address());
    let draws = poisson(1, 3_700.0, Duration::from_millis(140), Service::Fixed(0));
    assert!(draws.len() > 450);
    let run = line.client(|| load.run(&draws)).unwrap();
    assert_eq!(run.lost(), 0, "{:?}", run.first_error);
    let fastest = run.records.iter().map(|record| record.latency_ns()).min();
    // The handshake, then the request.
    assert!(Duration::from_nanos(fastest.unwrap()) >= 2 * RTT);
    assert_eq!(line.dropped().unwrap(), 0);
    assert!(line.cpu_time().unwrap() > Duration::ZERO);
}

#[test]
fn two_lines_do_not_meet() {
    let (Some(one), Some(other)) = (open(), open()) else {
        return;
    };
    assert_ne!(one.server_address(), other.server_address());
}

#[test]
fn nothing_is_left_behind() {
    let Some(line) = open() else { return };
    let namespace = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let clients = line.client(namespace);
    assert_ne!(clients, namespace());
    assert!(is_in_use(&clients));
    let address = line.server_address();
    drop(line);
    // A closed device is taken down at once, its addresses with it.
    let gone = TcpListener::bind((address, 0)).unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::AddrNotAvailable);
    // A child that was forked meanwhile may hold a copy until it executes.
    until("the namespace is gone", || {
        (!is_in_use(&clients)).then_some(())
    });
}

/// Whether a thread of this process is in the namespace, or has it open.
fn is_in_use(namespace: &PathBuf) -> bool {
    let list = |folder: &str| std::fs::read_dir(folder).unwrap().flatten();
    let threads = list("/proc/self/task").map(|entry| entry.path().join("ns/net"));
    let files = list("/proc/self/fd").map(|entry| entry.path());
    let mut links = threads.chain(files).flat_map(std::fs::read_link);
    links.any(|link| link == *namespace)
}

#[test]
fn a_missing_capability_is_named() {
    gate::needs!(root);
    for (capability, name) in [
        (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    ] {
        // Capabilities are a thread's own.
        let refused = std::thread::spawn(move || {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(capability);
            set_capabilities(None, sets).unwrap();
            DelayLine::new(RTT).map(drop).unwrap_err()
        });
        let error = format!("{:#}", refused.join().unwrap());
        assert!(error.contains(name), "{error}");
    }
}
