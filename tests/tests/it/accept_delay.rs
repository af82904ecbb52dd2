//! For how long connections wait until a worker accepts them: what the status says agrees with what
//! a client can know, and what cannot be known is said to be unknown. Only the recording program
//! writes the table that workers look an instant up in, so each known time proves that it ran.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use srv::control::status::{AcceptDelays, GroupStatus, accept_delays};
use srv::control::{Reply, Request, ask};
use srv_common::established::{Client as Key, WAYS};
use srv_common::histogram::{Snapshot, bucket_of};
use srv_tests::server::Server;

use crate::client::{Client, get};
use crate::gate;
use crate::network;
use crate::probe::{Stopped, asked, group, pid, signal, status, until, until_group, worker};
use crate::serve::serve;

const ASKED: Duration = Duration::from_millis(300);

fn ns(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// Waits until so many connections can be accepted, and returns when that was so at the latest.
fn until_queued(server: &Server, connections: u32) -> Instant {
    until("the connections can be accepted", || {
        let Reply::Sockets(sockets) = ask(Some(&server.control()), &Request::Sockets).unwrap()
        else {
            panic!("asked for sockets");
        };
        let queued: u32 = sockets.iter().map(|socket| socket.recv_q).sum();
        (queued == connections).then(Instant::now)
    })
}

/// A connection from this address, with a request.
fn from(source: SocketAddr, target: SocketAddr) -> Client {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).unwrap();
    // Several connections have the same source.
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&source.into()).unwrap();
    socket.connect(&target.into()).unwrap();
    let mut client = Client::over(socket.into());
    client.get("/");
    client
}

fn ask_for_page(target: SocketAddr) -> Client {
    let mut client = Client::connect(target);
    client.get("/");
    client
}

fn delays(group: &GroupStatus) -> AcceptDelays {
    accept_delays(&group.workers).expect("they are recorded")
}

/// All of `waited` are at least `least`, and together they are at most `most`.
#[track_caller]
fn assert_between(waited: &Snapshot, least: Duration, most: Duration) {
    let shorter: u64 = waited.buckets[..bucket_of(ns(least))].iter().sum();
    assert_eq!(shorter, 0, "shorter than {least:?}: {waited:?}");
    let sum = Duration::from_nanos(waited.sum_ns);
    assert!(sum >= least * waited.count() as u32, "{sum:?}: {waited:?}");
    assert!(sum <= most * waited.count() as u32, "{sum:?}, {most:?}");
}

/// Both workers stand still for a while. Then the second one accepts what waits, at its own listener
/// and at the other's.
#[test]
fn a_stopped_worker_shows_for_how_long_its_connections_waited() {
    gate::needs!(steer);
    let server = serve()
        .listen("127.0.0.1:0")
        .listen("[::1]:0")
        .policy("round-robin")
        .workers(2)
        .with("--hang-after", "0s")
        .start();
    let [first, second] = [0, 1].map(|slot| Stopped::new(pid(&worker(&server, slot))));
    let from = Instant::now();
    let addresses = server.addresses();
    let mut clients: Vec<_> = { addresses.iter() }
        .flat_map(|address| (0..4).map(|_| ask_for_page(*address)))
        .collect();
    let queued = until_queued(&server, 8);
    std::thread::sleep(ASKED);
    let least = queued.elapsed();
    drop(second);
    for client in &mut clients {
        assert_eq!(client.response().status(), 200);
    }
    let most = from.elapsed();
    for group in status(&server).groups {
        let delays = delays(&group);
        let counts = (delays.own.count(), delays.stolen.count(), delays.unknown);
        assert_eq!(counts, (2, 2, 0), "{}", group.listen);
        assert_between(&delays.own, least, most);
        assert_between(&delays.stolen, least, most);
        let idle = group.workers[0].accept_delay.as_ref().unwrap();
        assert_eq!(idle.own.count + idle.stolen.count, 0, "it stands still");
    }
    let text = server.srv(&["status"]).unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    let said = |line: &str| line.starts_with("waited to be accepted: own p50 ");
    assert_eq!(text.lines().filter(|line| said(line)).count(), 2, "{text}");
    drop(first);
}

/// With deferred accept, the time in which the client says nothing is no waiting.
#[test]
fn a_connection_waits_from_its_first_data_on() {
    gate::needs!(steer);
    let server = serve().workers(1).start();
    let mut client = Client::connect(server.address());
    std::thread::sleep(Duration::from_millis(50));
    let asked = Instant::now();
    client.get("/");
    assert_eq!(client.response().status(), 200);
    let waited = delays(&group(&server)).own;
    assert_eq!(waited.count(), 1);
    assert_between(&waited, Duration::ZERO, asked.elapsed());
}

/// An IPv4 client at an IPv6 socket, and handshakes that begin with a SYN cookie.
#[test]
fn mapped_addresses_and_syn_cookies_are_known() {
    gate::needs!(steer);
    if rustix::process::geteuid().is_root() {
        network::set("tcp_syncookies", 2);
    }
    let server = serve()
        .listen("[::]:0")
        .flags(&["--v6-only=false"])
        .workers(1)
        .start();
    let port = server.address().port();
    let from = Instant::now();
    for target in ["127.0.0.1", "::1"].map(|ip| ip.parse::<IpAddr>().unwrap()) {
        assert_eq!(get((target, port).into(), "/").status(), 200);
    }
    let delays = delays(&group(&server));
    assert_eq!((delays.own.count(), delays.unknown), (2, 0));
    assert_between(&delays.own, Duration::ZERO, from.elapsed());
}

/// Of two connections from one address and port, the table cannot tell which is which. If a set of
/// the table is full, it forgets the oldest connections.
#[test]
fn what_the_table_cannot_tell_apart_is_unknown() {
    gate::needs!(steer, root);
    let server = serve().listen("0.0.0.0:0").workers(1).start();
    let port = server.address().port();
    let stopped = Stopped::new(pid(&worker(&server, 0)));
    let began = Instant::now();
    let ip = |last| IpAddr::from([127, 0, 0, last]);
    let [one, other] = [1, 2].map(|last| SocketAddr::new(ip(last), port));
    let twice = SocketAddr::new(ip(1), 999);
    let mut clients = vec![from(twice, one), from(twice, other)];
    let of_one_set = |source: &SocketAddr| {
        let set = Key::of(SocketAddr::new(ip(1), 1000)).set();
        Key::of(*source).set() == set && Key::of(twice).set() != set
    };
    let sources = (1000..60_000).map(|port| SocketAddr::new(ip(1), port));
    let sources = sources.filter(of_one_set).take(WAYS + 2);
    clients.extend(sources.map(|source| from(source, one)));
    assert_eq!(clients.len(), 2 + WAYS + 2);
    let queued = until_queued(&server, clients.len() as u32);
    std::thread::sleep(Duration::from_millis(20));
    let least = queued.elapsed();
    drop(stopped);
    for client in &mut clients {
        assert_eq!(client.response().status(), 200);
    }
    let delays = delays(&group(&server));
    assert_eq!((delays.own.count(), delays.unknown), (WAYS as u64, 4));
    assert_between(&delays.own, least, began.elapsed());
}

/// The program goes on with the server that takes over, although the other process loaded it.
#[test]
fn the_successor_of_a_dead_server_knows_it_too() {
    gate::needs!(steer);
    let first = serve().workers(1).start();
    let second = first.start_joined(["--workers", "1"]).unwrap();
    until("both workers are ready", || {
        let workers = group(&first).workers;
        let ready = workers.iter().filter(|worker| worker.state == "ready");
        (ready.count() == 2).then_some(())
    });
    let known = |server: &Server| delays(&group(server)).all().count();
    get(first.address(), "/");
    assert_eq!(known(&first), 1);
    let number = second.pid().as_raw_nonzero().get() as u32;
    signal(first.pid(), Signal::KILL);
    until("the other has taken over", || {
        asked(&second).filter(|status| status.pid == number)
    });
    let before = known(&second);
    get(second.address(), "/");
    until_group(&second, "it is counted", |group| {
        delays(group).all().count() == before + 1
    });
    assert_eq!(delays(&group(&second)).unknown, 0);
}

#[test]
fn without_a_program_it_is_unknown_and_the_reason_is_said() {
    let server = serve().no_bpf().workers(1).start();
    assert_eq!(get(server.address(), "/").status(), 200);
    let group = group(&server);
    assert_eq!(accept_delays(&group.workers), None);
    let why = group.program.accept_delay_unknown;
    assert_eq!(why.as_deref(), Some("--no-bpf was given"));
}
