//! The kernel's own list of sockets (`NETLINK_SOCK_DIAG`, inet_diag): what `ss` shows, in any
//! network namespace. Knows no processes.

use std::io;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags,
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A way to ask the kernel about one network namespace.
pub struct SockDiag {
    socket: Socket,
    buffer: Vec<u8>,
}

/// A listening TCP socket, as the kernel tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// What it is bound to.
    pub address: SocketAddr,
    /// Inode number, as in `/proc/PID/fd`.
    pub inode: u64,
    /// `SO_COOKIE`. Unlike an inode number, the kernel never gives it twice.
    pub cookie: u64,
    /// The UID of the user that created it.
    pub uid: u32,
    /// The device it is bound to, 0 if none.
    pub device: u32,
    /// Accept queue length now (Recv-Q).
    pub queued: u32,
    /// Accept queue limit (Send-Q).
    pub backlog: u32,
}

/// The largest packet that the kernel makes of a dump is 32 KiB
/// (netlink_dump, net/netlink/af_netlink.c).
const PACKET_BYTES_MAX: usize = 64 << 10;

impl SockDiag {
    /// For the network namespace of process `netns`, or this one's.
    ///
    /// # Errors
    /// If that process is gone, or may not be joined (needs CAP_SYS_ADMIN).
    pub fn open(netns: Option<Pid>) -> anyhow::Result<Self> {
        Ok(Self {
            socket: netns.map_or_else(connect, connect_in)?,
            buffer: vec![0; PACKET_BYTES_MAX],
        })
    }

    /// The TCP listeners on exactly `address`, oldest first.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn listeners_on(&mut self, address: SocketAddr) -> anyhow::Result<Vec<Listener>> {
        let mut found = self.listeners(family(address), address.port())?;
        found.retain(|listener| listener.address == address);
        // Inode numbers grow: a server's first socket comes first.
        found.sort_by_key(|listener| listener.inode);
        Ok(found)
    }

    /// All TCP listeners on `port`, or on any port if it is 0.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn all_listeners(&mut self, port: u16) -> anyhow::Result<Vec<Listener>> {
        let mut found = self.listeners(AF_INET, port)?;
        found.extend(self.listeners(AF_INET6, port)?);
        Ok(found)
    }

    fn listeners(&mut self, family: u8, port: u16) -> anyhow::Result<Vec<Listener>> {
        let found = self.dump(family, IPPROTO_TCP, StateFlags::LISTEN, port)?;
        Ok(found.into_iter().map(Listener::from).collect())
    }

    /// Inode numbers of the established connections to `address`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn connections_to(&mut self, address: SocketAddr) -> anyhow::Result<Vec<u64>> {
        let states = StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT;
        let found = self.dump(family(address), IPPROTO_TCP, states, address.port())?;
        Ok(found.into_iter().map(|entry| entry.inode.into()).collect())
    }

    /// How many handshakes on `port` wait for their last packet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn half_open(&mut self, address: SocketAddr) -> anyhow::Result<usize> {
        let states = StateFlags::SYN_RECV;
        let found = self.dump(family(address), IPPROTO_TCP, states, address.port())?;
        Ok(found.len())
    }

    /// Whether a UDP socket is bound to `address`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn has_udp(&mut self, address: SocketAddr) -> anyhow::Result<bool> {
        let states = StateFlags::all();
        let found = self.dump(family(address), IPPROTO_UDP, states, address.port())?;
        Ok(found.iter().any(|entry| bound_to(entry) == address))
    }

    fn dump(
        &mut self,
        family: u8,
        protocol: u8,
        states: StateFlags,
        port: u16,
    ) -> anyhow::Result<Vec<InetResponseHeader>> {
        self.ask(family, protocol, states, port)
            .context("ask the kernel for sockets (sock_diag)")?;
        let mut found = Vec::new();
        while self.receive(&mut found)? {}
        Ok(found)
    }

    fn ask(&self, family: u8, protocol: u8, states: StateFlags, port: u16) -> io::Result<()> {
        let mut socket_id = match family {
            AF_INET => SocketId::new_v4(),
            _ => SocketId::new_v6(),
        };
        // The kernel passes over the others (inet_diag_dump_icsk, net/ipv4/inet_diag.c).
        socket_id.source_port = port;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let request = InetRequest {
            family,
            protocol,
            extensions: ExtensionFlags::empty(),
            states,
            socket_id,
        };
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut packet = vec![0; message.buffer_len()];
        message.serialize(&mut packet);
        self.socket.send(&packet, 0).map(drop)
    }

    /// Whether there is more to come.
    fn receive(&mut self, found: &mut Vec<InetResponseHeader>) -> anyhow::Result<bool> {
        let mut free = &mut self.buffer[..];
        let length = self.socket.recv(&mut free, 0);
        let length = length.context("receive the kernel's sockets (sock_diag)")?;
        read(&self.buffer[..length], found).context("read the kernel's sockets (sock_diag)")
    }
}

/// Reads a packet of a dump. Returns whether more packets follow.
fn read(packet: &[u8], found: &mut Vec<InetResponseHeader>) -> anyhow::Result<bool> {
    let mut rest = packet;
    while !rest.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)?;
        let message_bytes = (message.header.length as usize).next_multiple_of(4);
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                found.push(socket.header);
            }
            NetlinkPayload::Done(_) => return Ok(false),
            NetlinkPayload::Error(error) => {
                // This does not call its `to_io`, which panics at a code that has no opposite.
                let error = io::Error::from_raw_os_error(error.raw_code().saturating_neg());
                bail!(
                    "the kernel does not list sockets: {error} (needs Linux 3.3 or newer, and \
                     its modules inet_diag, tcp_diag and udp_diag)"
                )
            }
            _ => {}
        }
        rest = rest.get(message_bytes..).unwrap_or_default();
    }
    Ok(true)
}

impl From<InetResponseHeader> for Listener {
    fn from(entry: InetResponseHeader) -> Self {
        Self {
            address: bound_to(&entry),
            inode: entry.inode.into(),
            cookie: u64::from_ne_bytes(entry.socket_id.cookie),
            uid: entry.uid,
            device: entry.socket_id.interface_id,
            queued: entry.recv_queue,
            backlog: entry.send_queue,
        }
    }
}

fn bound_to(entry: &InetResponseHeader) -> SocketAddr {
    SocketAddr::new(entry.socket_id.source_address, entry.socket_id.source_port)
}

fn family(address: SocketAddr) -> u8 {
    match address.ip() {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

fn connect() -> anyhow::Result<Socket> {
    let open = || {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddress::new(0, 0))?;
        io::Result::Ok(socket)
    };
    open()
        .context("open a sock_diag socket (needs Linux 3.3 or newer, built with CONFIG_INET_DIAG)")
}

/// A socket belongs for ever to the namespace in which it was made: only the
/// thread that makes it has to go there, and ends.
fn connect_in(pid: Pid) -> anyhow::Result<Socket> {
    let path = format!("/proc/{}/ns/net", pid.as_raw_nonzero());
    let namespace =
        std::fs::File::open(&path).with_context(|| format!("open the network namespace {path}"))?;
    let go = move || {
        use std::os::fd::AsFd as _;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .context("join the network namespace (needs CAP_SYS_ADMIN)")?;
        connect()
    };
    let thread = std::thread::spawn(go);
    thread
        .join()
        .unwrap_or_else(|_| bail!("the thread that joins a network namespace panicked"))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use proptest::prelude::*;

    use super::*;
    use crate::mutation::{config, mutated};

    #[test]
    fn a_listener_and_its_connection_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut diag = SockDiag::open(None).unwrap();
        let found = diag.listeners_on(address).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].address, found[0].queued), (address, 0));
        let cookie = socket2::SockRef::from(&listener).cookie().unwrap();
        assert_eq!(found[0].cookie, cookie);
        assert!(!diag.has_udp(address).unwrap());
        let _client = TcpStream::connect(address).unwrap();
        assert_eq!(diag.listeners_on(address).unwrap()[0].queued, 1);
        let (_server, _) = listener.accept().unwrap();
        assert_eq!(diag.connections_to(address).unwrap().len(), 1);
        assert_eq!(diag.half_open(address).unwrap(), 0);
    }

    #[test]
    fn the_other_family_and_udp_are_told_apart() {
        let v6 = TcpListener::bind("[::1]:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut diag = SockDiag::open(None).unwrap();
        let address = v6.local_addr().unwrap();
        assert_eq!(diag.listeners_on(address).unwrap().len(), 1);
        let of_port = diag.all_listeners(address.port()).unwrap();
        assert!(of_port.iter().any(|listener| listener.address == address));
        let udp = udp.local_addr().unwrap();
        assert!(diag.has_udp(udp).unwrap());
        assert_eq!(diag.listeners_on(udp).unwrap(), []);
    }

    /// The kernel's answer to a question, packet by packet.
    fn packets(family: u8, states: StateFlags) -> Vec<Vec<u8>> {
        let mut diag = SockDiag::open(None).unwrap();
        diag.ask(family, IPPROTO_TCP, states, 0).unwrap();
        let mut packets = Vec::new();
        loop {
            let mut free = &mut diag.buffer[..];
            let length = diag.socket.recv(&mut free, 0).unwrap();
            packets.push(diag.buffer[..length].to_vec());
            if !read(&diag.buffer[..length], &mut Vec::new()).unwrap() {
                return packets;
            }
        }
    }

    /// `NLMSG_ERROR` with this code.
    fn refusal(code: i32) -> Vec<u8> {
        [36, 2, 0, 0, code as u32, 0, 0, 0, 0]
            .map(u32::to_ne_bytes)
            .concat()
    }

    /// Found by the test below: there is no `-i32::MIN`.
    #[test]
    fn a_refusal_is_told_whatever_its_code() {
        for (code, told) in [(-1, "not permitted"), (i32::MIN, "2147483647")] {
            let error = read(&refusal(code), &mut Vec::new())
                .unwrap_err()
                .to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn a_hostile_dump_is_refused_or_read() {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let _v6 = TcpListener::bind("[::1]:0").unwrap();
        let _client = TcpStream::connect(v4.local_addr().unwrap()).unwrap();
        let mut seeds = packets(AF_INET, StateFlags::all());
        seeds.extend(packets(AF_INET6, StateFlags::LISTEN));
        // Of a busy machine's packets the beginning, and the refusal that is the same anywhere.
        seeds.iter_mut().for_each(|packet| packet.truncate(1024));
        seeds.push(refusal(-1));
        proptest!(config(), |(packet in mutated(seeds))| {
            let mut found = Vec::new();
            if read(&packet, &mut found).is_ok() {
                // Each entry takes its room, so nothing is read twice.
                prop_assert!(found.len() <= packet.len() / 16);
            }
            found.into_iter().map(Listener::from).for_each(drop);
        });
    }
}
