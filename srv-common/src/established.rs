//! When each connection was established that no worker has accepted yet, by its client's address: a
//! table in the memory of the group. The kernel runs the recording program when a connection becomes
//! established, from which moment on a worker can accept it, and the program writes the instant here.
//! The worker that accepts the connection knows the client's address, and finds the instant without a
//! system call.
//!
//! What cannot be told apart is unknown, and never another connection's:
//!
//! - An entry has the client's whole address and port (of IPv6, a hash of 64 bits), combined with the
//!   instant. If a reader finds the halves of two entries, they do not fit.
//! - The worker empties the entry that it takes, so that no later connection of the same address and
//!   port finds it.
//! - If a client has two connections from one port to two addresses of this server, both are unknown
//!   while neither is accepted.
//! - If a set is full, the newest connection replaces the oldest.

use crate::branchless::bounded;
use crate::shared::Shared;

/// The sets of the table; a power of two. A client's address decides the set.
pub const SETS: usize = 4096;

/// The entries of a set. If 4096 connections wait, which is the default limit of one accept queue, on
/// average one set in 250 has more than four, and forgets the oldest.
pub const WAYS: usize = 4;

/// The bit of an instant that says: two connections of this client wait, and the instant is the later
/// one's. The clock reaches it after 292 years.
const AMBIGUOUS: u64 = 1 << 63;

/// A client's address and port, as a number in which all bits depend on all of them. For IPv4, no
/// two clients have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client(u64);

impl Client {
    /// A client with this IPv4 address and port, as the kernel and the network have them in memory.
    #[inline(always)]
    pub fn of_ipv4(address: u32, port: u16) -> Self {
        /// The last half of `::ffff:0.0.0.0`.
        const MAPPED: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
        #[cfg(target_endian = "little")]
        let half = MAPPED | (address as u64) << 32;
        #[cfg(target_endian = "big")]
        let half = MAPPED | address as u64;
        Self::of_ipv6([0, half], port)
    }

    /// A client with this IPv6 address (if the client has an IPv4 address, the mapped one) and port,
    /// as the kernel and the network have them in memory.
    #[inline(always)]
    pub fn of_ipv6(address: [u64; 2], port: u16) -> Self {
        let [high, low] = address;
        // An IPv4 address has zeros where the port is added.
        #[cfg(target_endian = "little")]
        let with_port = low ^ port as u64;
        #[cfg(target_endian = "big")]
        let with_port = low ^ (port as u64) << 48;
        let high = high.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self(mixed(with_port ^ high ^ high >> 32))
    }

    /// The set that has the client's entry.
    #[inline(always)]
    pub fn set(self) -> usize {
        bounded((self.0 >> 32) as u32, SETS)
    }

    /// A client with this address.
    #[cfg(not(target_arch = "bpf"))]
    pub fn of(address: core::net::SocketAddr) -> Self {
        use core::net::SocketAddr;
        let port = address.port().to_be();
        match address {
            SocketAddr::V4(v4) => Self::of_ipv4(u32::from_ne_bytes(v4.ip().octets()), port),
            SocketAddr::V6(v6) => {
                let half = |at| {
                    let octets = v6.ip().octets();
                    u64::from_ne_bytes(core::array::from_fn(|nth| octets[at + nth]))
                };
                Self::of_ipv6([half(0), half(8)], port)
            }
        }
    }
}

/// Different for different `x`.
#[inline(always)]
fn mixed(mut x: u64) -> u64 {
    const FACTOR: u64 = 0xd6e8_feb8_6659_fd93;
    x ^= x >> 32;
    x = x.wrapping_mul(FACTOR);
    x ^= x >> 32;
    x = x.wrapping_mul(FACTOR);
    x ^ x >> 32
}

/// A connection, or nothing.
#[repr(C)]
#[derive(Debug, Default)]
struct Entry {
    /// The [`Client`], exclusive-or [`Self::established_ns`].
    check: Shared<u64>,
    /// When the connection was established, ns of `CLOCK_MONOTONIC`, or [`AMBIGUOUS`] too; 0: the
    /// entry is empty.
    established_ns: Shared<u64>,
}

impl Entry {
    #[inline(always)]
    fn is_of(&self, client: Client, established_ns: u64) -> bool {
        established_ns != 0 && self.check.get() ^ established_ns == client.0
    }

    #[inline(always)]
    fn write(&self, client: Client, established_ns: u64) {
        self.check.set(client.0 ^ established_ns);
        self.established_ns.set(established_ns);
    }
}

/// Entries of clients that have the same set, on a cache line.
#[repr(C, align(64))]
#[derive(Debug, Default)]
struct Set([Entry; WAYS]);

/// The table. The recording program writes entries, and each worker empties those that it takes. If
/// two write an entry at the same time, its connection is unknown.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Established {
    sets: [Set; SETS],
}

impl Established {
    #[inline(always)]
    fn entries(&self, client: Client) -> &[Entry; WAYS] {
        &self.sets[client.set()].0
    }

    /// A connection of this client is established since `now_ns` of `CLOCK_MONOTONIC`. The recording
    /// program calls this.
    #[inline(always)]
    pub fn record(&self, client: Client, now_ns: u64) {
        let entries = self.entries(client);
        let (mut oldest, mut oldest_ns) = (0, u64::MAX);
        for (nth, entry) in entries.iter().enumerate() {
            let established_ns = entry.established_ns.get();
            if entry.is_of(client, established_ns) {
                return entry.write(client, now_ns | AMBIGUOUS);
            }
            let age = established_ns & !AMBIGUOUS;
            if age < oldest_ns {
                (oldest, oldest_ns) = (nth, age);
            }
        }
        entries[bounded(oldest as u32, WAYS)].write(client, now_ns);
    }

    /// When the connection of this client was established, which a worker has just accepted, ns of
    /// `CLOCK_MONOTONIC`; `None` if that is not known.
    #[cfg(not(target_arch = "bpf"))]
    pub fn take(&self, client: Client) -> Option<u64> {
        let entry = self.entries(client).iter().find_map(|entry| {
            let established_ns = entry.established_ns.get();
            let is_found = entry.is_of(client, established_ns);
            is_found.then_some((entry, established_ns))
        });
        let (entry, established_ns) = entry?;
        entry.established_ns.set(0);
        (established_ns & AMBIGUOUS == 0).then_some(established_ns)
    }
}

/// Which connections the recording program records: those that are accepted from the group's
/// listeners. Written by the master.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Recorded {
    /// The local port, in host byte order; 0: none is recorded, and workers look up none.
    pub port: Shared<u32>,
    /// The address family of the listeners, and so of their connections.
    pub family: Shared<u32>,
    /// 1 if the listeners accept connections to any local address.
    pub any_address: Shared<u32>,
    /// Explicit padding.
    pub _pad: Shared<u32>,
    /// The network namespace of the listeners: its `SO_NETNS_COOKIE`.
    pub namespace: Shared<u64>,
    /// The listeners' address, as the network has it. An IPv4 address is the first word, as the number
    /// that these four bytes are in memory.
    pub address: [Shared<u64>; 2],
}

/// Where the running kernel keeps what the recording program reads: offsets in bytes. To the
/// verifier each is a constant. Without the kernel's type information all are zero, and the program
/// is not loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOffsets {
    /// `sock.__sk_common.skc_family`, a u16.
    pub family: u32,
    /// `sock.__sk_common.skc_num`, the local port as a u16.
    pub port: u32,
    /// `sock.__sk_common.skc_dport`, the client's port as the network has it.
    pub client_port: u32,
    /// `sock.__sk_common.skc_rcv_saddr`, the local IPv4 address.
    pub address_v4: u32,
    /// `sock.__sk_common.skc_daddr`, the client's IPv4 address.
    pub client_v4: u32,
    /// `sock.__sk_common.skc_v6_rcv_saddr`.
    pub address_v6: u32,
    /// `sock.__sk_common.skc_v6_daddr`.
    pub client_v6: u32,
    /// `sock.__sk_common.skc_net.net`, a pointer.
    pub namespace: u32,
    /// `net.net_cookie`, a u64.
    pub cookie: u32,
    /// `sock.sk_socket`, a pointer, which is null until the connection is accepted.
    pub socket: u32,
}

impl SocketOffsets {
    /// The number of fields.
    pub const COUNT: usize = 10;

    /// All fields, in their order.
    pub fn words(&self) -> [u32; Self::COUNT] {
        [
            self.family,
            self.port,
            self.client_port,
            self.address_v4,
            self.client_v4,
            self.address_v6,
            self.client_v6,
            self.namespace,
            self.cookie,
            self.socket,
        ]
    }
}

const _: () = {
    assert!(size_of::<Set>() == 64);
    assert!(size_of::<Recorded>() == 64);
    assert!(size_of::<SocketOffsets>() == 4 * SocketOffsets::COUNT);
    assert!(SETS.is_power_of_two() && WAYS.is_power_of_two());
};

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, SocketAddr};

    use proptest::prelude::*;

    use super::*;
    use crate::layout::{Group, MAX_WORKERS};

    fn client(port: u16) -> Client {
        Client::of(SocketAddr::from(([192, 0, 2, 1], port)))
    }

    /// Clients with the same set as the first, each with another port.
    fn of_one_set(count: usize) -> Vec<Client> {
        let all = (0..=u16::MAX).map(client);
        all.filter(|other| other.set() == client(0).set())
            .take(count)
            .collect()
    }

    #[test]
    fn an_instant_is_taken_once_and_by_its_client() {
        let group = Group::<MAX_WORKERS>::boxed();
        let table = &group.established;
        table.record(client(1), 70);
        assert_eq!(table.take(client(2)), None);
        assert_eq!(table.take(client(1)), Some(70));
        assert_eq!(table.take(client(1)), None, "it was taken");
        table.record(client(1), 90);
        assert_eq!(table.take(client(1)), Some(90), "the port was used again");
    }

    #[test]
    fn two_connections_of_one_client_are_unknown_until_none_waits() {
        let group = Group::<MAX_WORKERS>::boxed();
        let table = &group.established;
        table.record(client(1), 70);
        table.record(client(1), 80);
        assert_eq!(table.take(client(1)), None, "one of the two");
        assert_eq!(table.take(client(1)), None, "the other");
        table.record(client(1), 90);
        assert_eq!(table.take(client(1)), Some(90));
    }

    #[test]
    fn a_full_set_forgets_the_oldest_and_mixes_nothing_up() {
        let group = Group::<MAX_WORKERS>::boxed();
        let table = &group.established;
        let clients = of_one_set(WAYS + 2);
        let recorded = || clients.iter().zip(100..);
        recorded().for_each(|(client, ns)| table.record(*client, ns));
        let taken = recorded().map(|(client, _)| table.take(*client));
        let expected = recorded().map(|(_, ns)| (ns >= 102).then_some(ns));
        assert!(taken.eq(expected), "the two oldest are unknown");
        // Taken entries are used first.
        table.record(clients[0], 200);
        table.record(clients[1], 201);
        assert_eq!(table.take(clients[0]), Some(200));
    }

    #[test]
    fn an_ambiguous_entry_is_replaced_like_any_other() {
        let group = Group::<MAX_WORKERS>::boxed();
        let table = &group.established;
        let clients = of_one_set(WAYS + 1);
        table.record(clients[0], 1);
        table.record(clients[0], 2);
        let others = || clients[1..].iter().zip(3..);
        others().for_each(|(client, ns)| table.record(*client, ns));
        assert!(others().all(|(client, ns)| table.take(*client) == Some(ns)));
    }

    /// What a reader sees while another connection replaces the entry.
    #[test]
    fn halves_of_two_entries_belong_to_neither() {
        let clients = of_one_set(2);
        let entry = Entry::default();
        entry.write(clients[0], 70);
        entry.established_ns.set(80);
        assert!(clients.iter().all(|client| !entry.is_of(*client, 80)));
    }

    #[test]
    fn four_in_a_row_wait_for_many_more_connections_than_a_queue_has() {
        let group = Group::<MAX_WORKERS>::boxed();
        let table = &group.established;
        let clients: Vec<_> = (0..4096).map(client).collect();
        clients
            .iter()
            .zip(1..)
            .for_each(|(client, ns)| table.record(*client, ns));
        let known = { clients.iter().zip(1..) }
            .filter(|(client, ns)| match table.take(**client) {
                Some(taken) => {
                    assert_eq!(taken, *ns);
                    true
                }
                None => false,
            })
            .count();
        assert!(known > 4096 * 98 / 100, "{known} of 4096");
    }

    #[test]
    fn ipv4_clients_differ_and_are_the_same_in_ipv6_form() {
        let mut seen = HashSet::new();
        for address in [
            [127, 0, 0, 1],
            [127, 0, 0, 2],
            [10, 1, 0, 1],
            [1, 0, 0, 127],
        ] {
            for port in (0..u16::MAX).step_by(7) {
                let v4 = SocketAddr::from((address, port));
                let mapped = Ipv4Addr::from(address).to_ipv6_mapped();
                let client = Client::of(v4);
                assert_eq!(client, Client::of(SocketAddr::from((mapped, port))));
                assert!(seen.insert(client.0), "{v4}");
            }
        }
    }

    proptest! {
        #[test]
        fn mixing_can_be_undone(x: u64) {
            // An odd factor has an inverse modulo 2^64; Newton's iteration doubles its bits.
            let factor = 0xd6e8_feb8_6659_fd93u64;
            let inverse = (0..6).fold(factor, |inverse, _| {
                inverse.wrapping_mul(2u64.wrapping_sub(factor.wrapping_mul(inverse)))
            });
            let folded = |x: u64| x ^ x >> 32;
            let back = folded(folded(folded(mixed(x)).wrapping_mul(inverse)).wrapping_mul(inverse));
            prop_assert_eq!(back, x);
        }
    }
}
