//! Handshakes that never complete, and accept queues that overflow. In a network
//! namespace of the test's own, whose only ways out lead nowhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::process::Command;
use std::time::Duration;

use rustix::process::Pid;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use srv::control::status::ProgramStatus;
use srv::measure::arrivals::{Service, poisson};
use srv::measure::load::closed::Closed;
use srv::measure::load::{Load, Run};
use srv_common::Policy;
use srv_tests::server::{self, Server};

use crate::attached_server::{self, Waits, can_read_all};
use crate::gate;
use crate::network::{THIS, tcp_counter};
use crate::probe::{Stopped, group, in_namespace_of, pid, status, until, until_group, worker};
use crate::serve::serve;

/// Half-open connections that are begun, all of them from addresses that nobody has.
const SYNS: u32 = 100_000;
/// Of four listeners, each of which takes three quarters of 2048 or more
/// (`tcp_max_syn_backlog`, which depends on the machine's memory; set here).
const SYN_QUEUES_FULL: usize = 4 * 1536;
/// The packet comes with its IP header.
const IPPROTO_RAW: i32 = 255;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const WORKERS: usize = 4;
/// How far a worker's share may be from the mean, relative to it.
const EVEN_WITHIN: f64 = 0.05;
/// Requests whose shares are looked at together.
const WINDOW: usize = 100;

/// Prepares the network, in a shell. A tunnel from which no process reads takes what is sent to the
/// clients.
fn set_up(cookies: u32) -> String {
    format!(
        "ip link set lo up && ip tuntap add dev nowhere mode tun && \
         ip address add {SERVER}/16 dev nowhere && ip link set nowhere up && \
         cd /proc/sys/net/ipv4 && echo 0 >conf/all/rp_filter && echo 0 >conf/lo/rp_filter && \
         echo 0 >conf/nowhere/rp_filter && echo {cookies} >tcp_syncookies && echo 2048 >tcp_max_syn_backlog"
    )
}

/// Half-open connections are given up after one retransmission, 3 s.
fn start(cookies: u32) -> Server {
    let script = format!(
        "{} && echo 1 >tcp_synack_retries && cd / && exec \"$@\"",
        set_up(cookies)
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script, "sh"]);
    command.arg(server::binary().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("{SERVER}:0");
    let workers = WORKERS.to_string();
    serve()
        .workers(&workers)
        .synthetic()
        .worker_header()
        .listen(&listen)
        .start_as(command, folder)
}

#[test]
fn shares_in_a_flood_without_cookies() {
    if gate::steer() && gate::root() {
        flood_beside_known_clients(0, "ListenDrops");
    }
}

#[test]
fn shares_in_a_flood_with_cookies() {
    if gate::steer() && gate::root() {
        flood_beside_known_clients(1, "SyncookiesSent");
    }
}

#[test]
fn shares_in_a_flood_if_each_handshake_begins_with_a_cookie() {
    if gate::steer() && gate::root() {
        flood_beside_known_clients(2, "SyncookiesSent");
    }
}

/// Without cookies the kernel lets those in while SYN queues are nearly full whose
/// address has connected before (`tcp_peer_is_proven`).
fn flood_beside_known_clients(cookies: u32, shown_by: &str) {
    let server = start(cookies);
    let (process, target) = (server.pid(), server.address());
    let net = format!("/proc/{}/net", process.as_raw_nonzero());
    let before = tcp_counter(&net, shown_by);
    let (during, after) = in_namespace_of(process, || {
        one_by_one(target, 1);
        std::thread::scope(|scope| {
            let flooding = scope.spawn(|| send_syns(target, 0..SYNS));
            let mut during = Vec::new();
            while !flooding.is_finished() || half_open(process) > 0 {
                during.push(one_by_one(target, WINDOW));
            }
            (during, afterwards(target))
        })
    });
    let program = check_flooded(&server, cookies, &during, &after);
    assert_even(&during);
    let provoked = tcp_counter(&net, shown_by) - before;
    println!(
        "cookies {cookies}: {shown_by} {provoked}, {} cookies' ACKs steered",
        program.acks
    );
    assert!(provoked > 0, "{shown_by}");
}

/// Others' SYNs are dropped until half-open connections are given up, and sent again:
/// they come in bursts then, and whoever is awake takes them.
#[test]
fn shares_after_a_flood_that_kept_new_clients_out() {
    gate::needs!(steer, root);
    let server = start(0);
    let (process, target) = (server.pid(), server.address());
    let (during, after) = in_namespace_of(process, || {
        std::thread::scope(|scope| {
            scope.spawn(|| send_syns(target, 0..SYNS));
            until_full(process);
            let during = vec![at_random(target, 500.0)];
            (during, afterwards(target))
        })
    });
    let program = check_flooded(&server, 0, &during, &after);
    let sent_once = u64::from(SYNS) + (requests(&during) + requests(&after)) as u64;
    println!(
        "new clients sent {} SYNs again",
        program.steered - sent_once
    );
    assert!(program.steered > sent_once, "new clients were kept out");
}

/// SYN queues stay full for longer than a flood lasts: each SYN that comes then is
/// steered, dropped, and never accepted.
#[test]
fn what_the_kernel_drops_does_not_weigh() {
    gate::needs!(steer, root);
    let server = start(0);
    let (process, target) = (server.pid(), server.address());
    let runs = in_namespace_of(process, || {
        let mut sent = 2 * SYN_QUEUES_FULL as u32;
        send_syns(target, 0..sent);
        until_full(process);
        while half_open(process) > SYN_QUEUES_FULL / 2 {
            send_syns(target, sent..sent + 1);
            sent += 1;
        }
        println!("{sent} SYNs");
        // Less than a second's: half-open connections were forgotten after two anyway.
        [0; 3].map(|_| one_by_one(target, WINDOW))
    });
    assert_even(&runs);
}

fn until_full(process: Pid) {
    until("the SYN queues are full", || {
        (half_open(process) > SYN_QUEUES_FULL).then_some(())
    });
}

/// What holds in every flood.
fn check_flooded(server: &Server, cookies: u32, during: &[Run], after: &[Run]) -> ProgramStatus {
    let program = group(server).program;
    println!(
        "{} SYNs steered; share that is furthest off, of {} requests during and {} after: {:.3}, {:.3}",
        program.steered,
        requests(during),
        requests(after),
        off(&all_shares(during)),
        off(&all_shares(after)),
    );
    if cookies == 2 {
        // A SYN is no connection yet, and a cookie that comes back is one.
        let asked = 1 + requests(during) as u64 + requests(after) as u64;
        let counted = asked..u64::from(SYNS);
        assert!(counted.contains(&program.steered), "{program:?}");
        assert_eq!(program.acks, 0);
    } else {
        assert!(
            program.steered >= u64::from(SYNS),
            "the flood passed the program"
        );
        assert_eq!(program.acks > 0, cookies > 0, "cookies that came back");
    }
    // Nobody starves.
    for run in during.iter().chain(after) {
        assert_eq!(run.lost(), 0, "{:?}", run.first_error);
    }
    let shares = all_shares(during);
    let tenth = requests(during) as f64 / WORKERS as f64 / 10.0;
    assert!(
        shares.iter().all(|share| *share as f64 > tenth),
        "{shares:?}"
    );
    assert_even(after);
    until("the last half-open connection is given up", || {
        (half_open(server.pid()) == 0).then_some(())
    });
    let healed = until_group(server, "the counters have healed", |group| {
        group.totals.waiting == 0
    });
    assert!(healed.workers.iter().all(|worker| worker.state == "ready"));
    program
}

fn requests(runs: &[Run]) -> usize {
    runs.iter().map(|run| run.records.len()).sum()
}

fn all_shares(runs: &[Run]) -> Vec<u64> {
    let shares = |worker: usize| runs.iter().map(move |run| run.shares(WORKERS)[worker]);
    (0..WORKERS).map(|worker| shares(worker).sum()).collect()
}

/// How far the share that is furthest from the mean is from it, relative to it.
fn off(shares: &[u64]) -> f64 {
    let mean = shares.iter().sum::<u64>() as f64 / shares.len() as f64;
    let off = shares
        .iter()
        .map(|share| (*share as f64 / mean - 1.0).abs());
    off.fold(0.0, f64::max)
}

/// A client that connects anew when it has its answer. Whoever is slow to wake is waited
/// for, so that the shares show what the program chose, and not which worker ran.
fn one_by_one(target: SocketAddr, requests: usize) -> Run {
    let closed = Closed {
        clients: 1,
        service: Service::Fixed(1000),
        seed: 8,
        duration: None,
        requests: Some(requests),
    };
    work(target).run_closed(&closed).unwrap()
}

/// As many windows as it takes until shares are even in one.
fn afterwards(target: SocketAddr) -> Vec<Run> {
    let mut runs = Vec::new();
    while runs.len() < 30 && furthest_off_at_best(&runs) > EVEN_WITHIN {
        runs.push(one_by_one(target, WINDOW));
    }
    runs
}

/// In one window at least no worker is kept from running: it is passed over then, and what
/// it missed is not made up for. If a weight stayed at a listener, its worker would be
/// passed over in all of them.
#[track_caller]
fn assert_even(windows: &[Run]) {
    let off_by = furthest_off_at_best(windows);
    assert!(off_by <= EVEN_WITHIN, "{off_by} in the most even window");
}

fn furthest_off_at_best(windows: &[Run]) -> f64 {
    let each = windows.iter().map(|run| off(&run.shares(WORKERS)));
    each.fold(f64::INFINITY, f64::min)
}

/// So many clients a second for three seconds, whoever has been answered.
fn at_random(target: SocketAddr, per_second: f64) -> Run {
    let draws = poisson(8, per_second, Duration::from_secs(3), Service::Fixed(100));
    let run = work(target).run(&draws).unwrap();
    assert_eq!(run.records.len(), draws.len());
    run
}

/// Cheap requests.
fn work(target: SocketAddr) -> Load {
    Load {
        // A SYN that is dropped is sent again after 1, 3, 7 and 15 s.
        timeout: Duration::from_secs(60),
        ..Load::get(target, "/work?sleep_us={us}")
    }
}

/// One SYN from each of many addresses and ports, by their numbers.
fn send_syns(target: SocketAddr, numbers: Range<u32>) {
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW))).unwrap();
    let to = SockAddr::from(SocketAddr::new(target.ip(), 0));
    for nth in numbers {
        // 10.9.1.0 and up; the ports differ, too.
        let host = 256 + nth % 60_000;
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 9, 0, 0)) + host);
        let port = 1024 + (nth / 60_000 * 7919 + nth % 50_000) as u16;
        raw.send_to(&syn(source, port, target), &to).unwrap();
    }
}

/// An IPv4 packet with a TCP SYN; the kernel fills in IP's checksum and length.
fn syn(source: Ipv4Addr, port: u16, target: SocketAddr) -> [u8; 40] {
    let mut packet = [0; 40];
    packet[0] = 0x45;
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&SERVER.octets());
    let tcp = &mut packet[20..];
    tcp[0..2].copy_from_slice(&port.to_be_bytes());
    tcp[2..4].copy_from_slice(&target.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&u32::from(port).to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = 0x02;
    tcp[14..16].copy_from_slice(&64_000u16.to_be_bytes());
    let checksum = tcp_checksum(&packet);
    packet[36..38].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// RFC 9293, 3.1: over addresses, protocol, length and segment.
fn tcp_checksum(packet: &[u8; 40]) -> u16 {
    let words = packet[12..]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum = words.sum::<u32>() + 6 + 20;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Half-open connections in the network namespace of a process.
fn half_open(process: Pid) -> usize {
    const SYN_RECV: &str = "03";
    let path = format!("/proc/{}/net/tcp", process.as_raw_nonzero());
    let text = std::fs::read_to_string(path).unwrap();
    let states = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3));
    states.filter(|state| *state == SYN_RECV).count()
}

/// A flood leaves the more half-open connections at a listener the larger its backlog is. When a
/// cookie comes back, they do not count.
#[test]
fn an_attached_server_in_a_flood_with_cookies() {
    gate::needs!(steer, root);
    let ready = Command::new("sh").args(["-c", &set_up(1)]).status();
    assert!(ready.unwrap().success());
    let server = attached_server::Server::start_at(SERVER, 3, Waits::Epoll);
    server.workers[0].listener.listen(16).unwrap();
    // The hash gives each listener more than its backlog.
    send_syns(server.address, 0..2_000);
    let programs = server.steer(Policy::Least);
    if !can_read_all(&programs) {
        return;
    }
    let before = tcp_counter(THIS, "SyncookiesRecv");
    let clients: Vec<_> = (0..30).map(|_| server.connect()).collect();
    assert_eq!(tcp_counter(THIS, "SyncookiesRecv") - before, 30);
    let snapshot = programs.snapshot();
    let half_open: Vec<u32> = snapshot.slots.iter().map(|slot| slot.half_open).collect();
    assert!(half_open[0] < half_open[1], "{half_open:?}");
    let acks = snapshot.slots.iter().map(|slot| slot.acks);
    assert_eq!(acks.collect::<Vec<_>>(), [10; 3], "{snapshot:?}");
    drop(clients);
}

#[test]
fn an_accept_queue_that_overflows_is_counted_and_steered_around() {
    gate::needs!(steer);
    let server = serve()
        .workers(2)
        .synthetic()
        .accept("own")
        .policy("round-robin")
        // So long that the other's is full only if that worker does not run for 0.2 s.
        .with("--backlog", "64")
        .with("--hang-after", "0s")
        .start();
    let stopped = Stopped::new(pid(&worker(&server, 1)));
    let target = server.address();
    let running = std::thread::spawn(move || at_random(target, 200.0));
    let full = until_group(&server, "its queue overflows, which is seen", |group| {
        group.workers[1].state == "full"
    });
    assert!(status(&server).listen_overflows > 0);
    let enough = full.workers[0].taken_own + 100;
    let later = until_group(&server, "the other goes on", |group| {
        group.workers[0].taken_own >= enough
    });
    let (then, now) = (&full.workers[1], &later.workers[1]);
    assert_eq!(now.steered, then.steered, "it gets nothing more");
    let said = server.srv(&["status"]).unwrap().stdout;
    assert!(String::from_utf8_lossy(&said).contains("at full accept queues"));
    drop(stopped);
    let run = running.join().unwrap();
    assert_eq!(run.lost(), 0, "{:?}", run.first_error);
    until_group(&server, "it is itself again", |group| {
        group.workers[1].state == "ready" && group.workers[1].waiting == 0
    });
}
