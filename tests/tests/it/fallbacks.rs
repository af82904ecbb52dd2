//! Each reason for which the program leaves a connection to the kernel's hash
//! is provoked, counted under its name, and costs the client nothing.
//!
//! `truncated` is not among them: the kernel looks for a listener only after it
//! has made sure of a whole TCP header, so that no packet can bring it about.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use srv_common::layout::{ELIGIBLE, eligibility};
use srv_common::{Group, Policy, Reason};
use srv_steer::SelectProgram;

use crate::client::get;
use crate::gate;
use crate::probe::{group, pid, signal, until, until_group};
use crate::serve::serve;

/// A listener group of this process with the program attached, everything
/// else as zero as the kernel hands it out.
struct Steered {
    steering: SelectProgram,
    memory: &'static Group,
    listeners: Vec<Socket>,
    address: SocketAddr,
}

impl Steered {
    fn attach(listeners: usize) -> Self {
        let listeners = listening((Ipv4Addr::LOCALHOST, 0).into(), listeners);
        let mut steering = SelectProgram::load().unwrap();
        let memory = steering.memory().map().unwrap().leak();
        steering.attach(&listeners[0]).unwrap();
        let address = listeners[0].local_addr().unwrap().as_socket().unwrap();
        Self {
            steering,
            memory,
            listeners,
            address,
        }
    }

    fn policy(&self, policy: Policy, workers: u32) {
        self.memory.config.policy.set(policy as u32);
        self.memory.config.workers.set(workers);
    }

    fn ready(&self, slot: u32) {
        self.memory.steering[slot as usize]
            .eligible
            .set(eligibility(ELIGIBLE, slot));
        self.memory.ready[0].set(slot as u16);
        self.memory.config.ready_count.set(1);
    }

    /// Connects once; the connection stands, and `reason` alone counts it.
    fn assert_falls_back(&self, reason: Reason) {
        let before = self.counts();
        self.assert_connects();
        let mut expected = before;
        expected[reason as usize] += 1;
        assert_eq!(self.counts(), expected, "reasons: {:?}", Reason::NAMES);
    }

    fn assert_connects(&self) {
        let client = TcpStream::connect(self.address).unwrap();
        let port = client.local_addr().unwrap().port();
        until("somebody accepts", || {
            let accepted = self
                .listeners
                .iter()
                .filter_map(|listener| listener.accept().ok());
            let mut ports = accepted.map(|(_, peer)| peer.as_socket().unwrap().port());
            ports.find(|accepted| *accepted == port)
        });
    }

    fn counts(&self) -> [u64; Reason::COUNT] {
        std::array::from_fn(|reason| self.memory.program.fallbacks[reason].get())
    }
}

/// Sockets of one group; they accept without waiting.
fn listening(address: SocketAddr, count: usize) -> Vec<Socket> {
    let mut address = SockAddr::from(address);
    let open = |_| {
        let socket = Socket::new(address.domain(), Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&address).unwrap();
        socket.listen(16).unwrap();
        address = socket.local_addr().unwrap();
        socket
    };
    (0..count).map(open).collect()
}

#[test]
fn no_policy() {
    gate::needs!(steer);
    let steered = Steered::attach(2);
    steered.assert_falls_back(Reason::NoPolicy);
    // One that this program does not know yet.
    steered.memory.config.policy.set(1_000);
    steered.assert_falls_back(Reason::NoPolicy);
}

#[test]
fn none_ready() {
    gate::needs!(steer);
    let steered = Steered::attach(2);
    for (_, policy) in Policy::NAMED.into_iter().skip(1) {
        steered.policy(policy, 2);
        steered.assert_falls_back(Reason::NoneReady);
    }
}

#[test]
fn empty_slot() {
    gate::needs!(steer);
    let steered = Steered::attach(2);
    steered.policy(Policy::Least, 2);
    steered.ready(1);
    steered.assert_falls_back(Reason::EmptySlot);
}

#[test]
fn other_group() {
    gate::needs!(steer);
    let mut steered = Steered::attach(2);
    let others = listening((Ipv4Addr::LOCALHOST, 0).into(), 1);
    steered.steering.set_listener(0, &others[0]).unwrap();
    steered.policy(Policy::Random, 2);
    steered.ready(0);
    steered.assert_falls_back(Reason::OtherGroup);
}

#[test]
fn select_failed() {
    gate::needs!(steer);
    let mut steered = Steered::attach(2);
    let address = (std::net::Ipv6Addr::LOCALHOST, 0).into();
    gate::needs!("use IPv6": &std::net::TcpListener::bind(address));
    // Another family is an error of its own kind.
    let others = listening(address, 1);
    steered.steering.set_listener(0, &others[0]).unwrap();
    steered.policy(Policy::Random, 2);
    steered.ready(0);
    steered.assert_falls_back(Reason::SelectFailed);
}

#[test]
fn dropping_leaves_the_group_as_it_was_found() {
    gate::needs!(steer);
    let steered = Steered::attach(2);
    steered.assert_falls_back(Reason::NoPolicy);
    let Steered {
        steering,
        memory,
        listeners,
        address,
    } = steered;
    drop(steering);
    let unsteered = Steered {
        steering: SelectProgram::load().unwrap(),
        memory,
        listeners,
        address,
    };
    let before = unsteered.counts();
    unsteered.assert_connects();
    assert_eq!(unsteered.counts(), before, "the program still runs");
}

#[test]
fn not_syn() {
    gate::needs!(steer, root);
    let server = serve().workers(2).start();
    const FIN: u8 = 0x01;
    const ACK: u8 = 0x10;
    const RST: u8 = 0x04;
    // An ACK alone may bring a SYN cookie back.
    for (flags, not_syn, acks) in [(FIN | ACK, 1, 0), (RST | ACK, 2, 0), (ACK, 2, 1)] {
        send_stray_segment(server.address(), flags);
        until_group(&server, "the segment is counted", |group| {
            group.program.fallbacks["not_syn"] == not_syn && group.program.acks == acks
        });
    }
    assert_eq!(get(server.address(), "/").status(), 200);
    let program = group(&server).program;
    assert_eq!(
        (program.runs, program.steered),
        (4, 1),
        "{:?}",
        program.fallbacks
    );
}

/// A segment that belongs to no connection. The kernel adds the IP header.
fn send_stray_segment(target: SocketAddr, flags: u8) {
    let SocketAddr::V4(target) = target else {
        panic!("IPv4 only")
    };
    const SOURCE_PORT: u16 = 9;
    let mut header = [0u8; 20];
    header[0..2].copy_from_slice(&SOURCE_PORT.to_be_bytes());
    header[2..4].copy_from_slice(&target.port().to_be_bytes());
    header[12] = 5 << 4;
    header[13] = flags;
    let checksum = checksum(*target.ip(), &header);
    header[16..18].copy_from_slice(&checksum.to_be_bytes());
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).unwrap();
    // A raw socket takes no port.
    let to = SockAddr::from(SocketAddr::from((*target.ip(), 0)));
    assert_eq!(raw.send_to(&header, &to).unwrap(), header.len());
}

/// RFC 9293, 3.1: over the header after a pseudo-header, from `address` to itself.
fn checksum(address: Ipv4Addr, header: &[u8; 20]) -> u16 {
    const TCP: u32 = 6;
    let words = |bytes: &[u8]| -> u32 {
        bytes
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum()
    };
    let sum = 2 * words(&address.octets()) + TCP + header.len() as u32 + words(header);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// The same through the whole server: all workers are dead and kept from
/// coming back for a while. The client waits, and is served.
#[test]
fn none_ready_in_a_server() {
    gate::needs!(steer);
    let server = serve().workers(2).start();
    // Each early death doubles the wait for the next start.
    until("no worker is alive", || {
        let workers = group(&server).workers;
        for worker in workers
            .iter()
            .filter(|worker| worker.pid != 0 && worker.starts < 5)
        {
            signal(pid(worker), rustix::process::Signal::KILL);
            until_group(&server, "its death is noticed", |group| {
                let now = &group.workers[worker.slot as usize];
                now.starts > worker.starts || now.pid == 0
            });
        }
        workers
            .iter()
            .all(|worker| worker.state == "dead")
            .then_some(())
    });
    assert_eq!(get(server.address(), "/").status(), 200);
    assert!(group(&server).program.fallbacks["none_ready"] > 0);
}
