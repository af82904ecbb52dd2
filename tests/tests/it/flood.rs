//! Handshakes that never complete, and accept queues that overflow. In a network
//! namespace of the test's own, whose only ways out lead nowhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use rustix::process::Pid;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use srv::arrivals::{Service, poisson};
use srv::load::{Connections, Load, Run};
use srv_tests::server::{self, Server};

use crate::gate;
use crate::probe::{Stopped, group, in_namespace_of, pid, status, until, until_group, worker};

/// Half-open connections that are begun, all of them from addresses that nobody has.
const SYNS: u32 = 100_000;
/// The packet comes with its IP header.
const IPPROTO_RAW: i32 = 255;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const WORKERS: usize = 4;

/// A tunnel that nobody reads takes what is sent to the clients.
/// Half-open connections are given up after one retransmission, 3 s.
fn start(cookies: u32) -> Server {
    let script = format!(
        "ip link set lo up && ip tuntap add dev nowhere mode tun && \
         ip address add {SERVER}/16 dev nowhere && ip link set nowhere up && \
         cd /proc/sys/net/ipv4 && echo 0 >conf/all/rp_filter && echo 0 >conf/lo/rp_filter && \
         echo 0 >conf/nowhere/rp_filter && echo {cookies} >tcp_syncookies && \
         echo 1 >tcp_synack_retries && cd / && exec \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script, "sh"]);
    command.arg(server::binary().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("{SERVER}:0");
    let workers = WORKERS.to_string();
    let arguments = [
        "--workers",
        &workers,
        "--synthetic",
        "--worker-header",
        "--listen",
        &listen,
    ];
    Server::start_as(command, folder, arguments).unwrap()
}

#[test]
fn a_flood_without_cookies_is_survived() {
    if gate::can_steer() && gate::is_root() {
        flood(0, "ListenDrops");
    }
}

#[test]
fn a_flood_with_cookies_is_survived() {
    if gate::can_steer() && gate::is_root() {
        flood(1, "SyncookiesSent");
    }
}

fn flood(cookies: u32, shown_by: &str) {
    let server = start(cookies);
    let (process, target) = (server.pid(), server.address());
    let before = tcp_counter(process, shown_by);
    let (during, after) = in_namespace_of(process, || {
        std::thread::scope(|scope| {
            let flooding = scope.spawn(|| send_syns(target));
            let during = honest(target);
            flooding.join().unwrap();
            (during, honest(target))
        })
    });
    let provoked = tcp_counter(process, shown_by) - before;
    until("the last half-open connection is given up", || {
        (half_open(process) == 0).then_some(())
    });
    let mut runs = vec![during, after];
    // What is shifted is made up for later: ties go to whoever has had fewest.
    while runs.len() < 3 || (off(&all_shares(&runs)) > 0.05 && runs.len() < 8) {
        runs.push(in_namespace_of(process, || honest(target)));
    }
    let now = group(&server);
    let shares: Vec<Vec<f64>> = runs.iter().map(|run| run.shares(WORKERS)).collect();
    let all = all_shares(&runs);
    println!(
        "cookies {cookies}: {} SYNs steered, {shown_by} {provoked}, {} cookies' ACKs steered; \
         largest share off by {:.3} during, {:.3} after, {:.4} in all",
        now.program.steered,
        now.program.acks,
        off(&shares[0]),
        off(&shares[1]),
        off(&all),
    );
    assert!(
        now.program.steered >= u64::from(SYNS),
        "the flood passed the program"
    );
    assert!(provoked > 0, "{shown_by}");
    // Nobody starves.
    for run in &runs {
        assert_eq!(run.lost(), 0, "{:?}", run.first_error);
    }
    assert!(off(&all) <= 0.05, "{shares:?}");
    if cookies > 0 {
        assert!(now.program.acks > 0, "cookies came back");
        assert!(
            off(&shares[0]) <= 0.05 && off(&shares[1]) <= 0.05,
            "{shares:?}"
        );
    }
    let healed = until_group(&server, "the counters have healed", |group| {
        group.totals.waiting == 0
    });
    assert!(healed.workers.iter().all(|worker| worker.state == "ready"));
}

fn all_shares(runs: &[Run]) -> Vec<f64> {
    let shares = |worker: usize| runs.iter().map(move |run| run.shares(WORKERS)[worker]);
    (0..WORKERS).map(|worker| shares(worker).sum()).collect()
}

/// How far the share that is furthest from the mean is from it, relative to it.
fn off(shares: &[f64]) -> f64 {
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    let off = shares.iter().map(|share| (share / mean - 1.0).abs());
    off.fold(0.0, f64::max)
}

/// Cheap requests, for longer than the flood.
fn honest(target: SocketAddr) -> Run {
    let load = Load {
        target,
        host: None,
        path: "/work?sleep_us={us}".into(),
        connections: Connections::PerRequest,
        // A SYN that is dropped is sent again after 1, 3, 7 and 15 s.
        timeout: Duration::from_secs(60),
    };
    let draws = poisson(8, 500.0, Duration::from_secs(3), Service::Fixed(100));
    let run = load.run(&draws).unwrap();
    assert_eq!(run.records.len(), draws.len());
    run
}

/// One SYN from each of many addresses and ports.
fn send_syns(target: SocketAddr) {
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW))).unwrap();
    let to = SockAddr::from(SocketAddr::new(target.ip(), 0));
    for nth in 0..SYNS {
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

/// A counter of TcpExt in the network namespace of a process.
fn tcp_counter(process: Pid, name: &str) -> u64 {
    let path = format!("/proc/{}/net/netstat", process.as_raw_nonzero());
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs
        .find(|pair| pair.0 == name)
        .unwrap()
        .1
        .parse()
        .unwrap()
}

#[test]
fn an_accept_queue_that_overflows_is_counted_and_steered_around() {
    if !gate::can_steer() {
        return;
    }
    let arguments = [
        "--workers",
        "2",
        "--synthetic",
        "--accept",
        "own",
        "--policy",
        "round-robin",
        "--backlog",
        "8",
        "--hang-after",
        "0s",
    ];
    let server = Server::start(arguments).unwrap();
    let stopped = Stopped::new(pid(&worker(&server, 1)));
    let target = server.address();
    let running = std::thread::spawn(move || honest(target));
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
