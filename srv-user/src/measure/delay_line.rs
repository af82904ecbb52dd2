//! A network path with a fixed delay between a client and a server on one
//! machine, where the kernel has no netem: a network namespace for the client,
//! a TUN device in it and one in the server's, and a thread that carries
//! packets between the two and holds each for half of the round-trip time.
//!
//! It costs about 11 µs of processor time a packet (on two shared cores of an
//! AMD EPYC), most of it the kernel's in receiving the packet; 3,700 new
//! connections a second are ten packets each and take a third of a core. Where
//! it may, the thread takes the highest priority.
//!
//! Nothing of it has a name in the file system or outlives its file
//! descriptors: it is gone with the process, however that ends.

mod forward;
mod tun;

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::EventfdFlags;
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};

use forward::{Forwarder, Lane};
use tun::Tun;

/// See the module. The server's end is in the network namespace of the thread
/// that made it.
pub struct DelayLine {
    client_namespace: OwnedFd,
    subnet: Subnet,
    device_names: [String; 2],
    stop: OwnedFd,
    /// Taken when dropped.
    carrier: Option<JoinHandle<()>>,
    /// `/proc` knows the carrying thread by it.
    carrier_tid: u32,
    /// Keeps other delay lines off the subnet.
    _reservation: UnixListener,
}

impl DelayLine {
    /// A path with this round-trip time, tried once before it is handed out.
    ///
    /// # Errors
    /// If a capability (`CAP_SYS_ADMIN` for the namespace, `CAP_NET_ADMIN` for
    /// the devices) or the TUN driver is missing, if no part of 198.18.0.0/15
    /// is free, or if a firewall keeps packets off the path.
    pub fn new(rtt: Duration) -> Result<Self> {
        let (subnet, reservation) = Subnet::reserve()?;
        let in_own_namespace = || client_end(subnet);
        let client_end = std::thread::scope(|scope| scope.spawn(in_own_namespace).join());
        let (client_namespace, client) =
            client_end.map_err(|_| anyhow!("the client's end of the path panicked"))??;
        let server = Tun::open(subnet.server(), Subnet::PREFIX_BITS)
            .context("make the server's end of the path")?;
        let device_names = [client.name.clone(), server.name.clone()];
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).context("make an eventfd")?;
        let one_way = rtt / 2 + Duration::from_nanos(u64::from(rtt.as_nanos() % 2 == 1));
        let forwarder = Forwarder {
            lanes: Lane::both_ways(client.device, server.device, one_way)
                .context("duplicate the devices' fds")?,
            stop: stop.try_clone().context("duplicate an eventfd")?,
        };
        let (tell_tid, tid) = std::sync::mpsc::channel();
        let carrier = std::thread::Builder::new()
            .name("delay-line".into())
            .spawn(move || {
                // If this cannot be sent, the receiver notices.
                let _ = tell_tid.send(rustix::thread::gettid().as_raw_pid() as u32);
                forwarder.run();
            })
            .context("start the thread that carries packets")?;
        let line = Self {
            client_namespace,
            subnet,
            device_names,
            stop,
            carrier: Some(carrier),
            carrier_tid: tid.recv().context("the carrying thread died")?,
            _reservation: reservation,
        };
        line.try_out(rtt)?;
        Ok(line)
    }

    /// Runs `f` on a thread in the client's namespace; threads that it starts
    /// are there, too. It sees nothing but the path: no loopback, no internet.
    ///
    /// # Panics
    /// If `f` does, or if the privilege that [`Self::new`] had was given up.
    pub fn client<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        let in_namespace = || {
            let kind = ThreadNameSpaceType::NETWORK;
            move_into_thread_name_spaces(self.client_namespace.as_fd(), kind)
                .expect("enter the client's network namespace (needs CAP_SYS_ADMIN)");
            f()
        };
        let outcome = std::thread::scope(|scope| scope.spawn(in_namespace).join());
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Where a server is to listen so that clients reach it over the path.
    pub fn server_address(&self) -> IpAddr {
        self.subnet.server().into()
    }

    /// Packets lost so far at either end: no room in the device's queue, or
    /// refused by the kernel.
    ///
    /// # Errors
    /// If `/proc` can't be read.
    pub fn dropped(&self) -> Result<u64> {
        let [client, server] = &self.device_names;
        Ok(self.client(|| tun::dropped(client))? + tun::dropped(server)?)
    }

    /// Processor time of the carrying thread so far, which includes the
    /// kernel's part in receiving each packet, at both ends.
    ///
    /// # Errors
    /// If `/proc` can't be read.
    pub fn cpu_time(&self) -> Result<Duration> {
        let path = format!("/proc/self/task/{}/schedstat", self.carrier_tid);
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let ns = text.split(' ').next().and_then(|ns| ns.parse().ok());
        Ok(Duration::from_nanos(ns.context("understand schedstat")?))
    }

    /// One connection, which a firewall may be in the way of.
    fn try_out(&self, rtt: Duration) -> Result<()> {
        let listener = TcpListener::bind((self.server_address(), 0))
            .context("listen at the server's end of the path")?;
        let address = listener.local_addr().context("ask for its address")?;
        let patience = Duration::from_secs(5) + 4 * rtt;
        self.client(|| TcpStream::connect_timeout(&address, patience))
            .with_context(|| {
                format!(
                    "connect to {address} over the path (does a firewall drop {})",
                    Subnet::ALL
                )
            })?;
        Ok(())
    }
}

impl Drop for DelayLine {
    fn drop(&mut self) {
        // An eventfd takes a first 1 always.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(Err(_)) = self.carrier.take().map(JoinHandle::join) {
            tracing::error!("the thread that carries packets panicked");
        }
    }
}

/// A namespace with one end of the path in it.
fn client_end(subnet: Subnet) -> Result<(OwnedFd, Tun)> {
    // SAFETY: this thread only changes its network; file descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .context("make a network namespace for the client (needs CAP_SYS_ADMIN)")?;
    let namespace = File::open("/proc/thread-self/ns/net").context("open the new namespace")?;
    // Each connection takes a port; where /proc is read-only, there are fewer.
    let ports = std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535");
    if let Err(error) = ports {
        tracing::debug!("widen the client's range of ports: {error}");
    }
    let tun = Tun::open(subnet.client(), Subnet::PREFIX_BITS)
        .context("make the client's end of the path")?;
    Ok((namespace.into(), tun))
}

/// Four addresses of those set aside for benchmarks (RFC 2544), two of them usable.
#[derive(Clone, Copy)]
struct Subnet {
    base: u32,
}

impl Subnet {
    const ALL: &str = "198.18.0.0/15";
    const ALL_BASE: u32 = 198 << 24 | 18 << 16;
    const PREFIX_BITS: u32 = 30;
    /// Far more than one machine has use for.
    const CANDIDATES: u32 = 256;

    /// The first that no route leads to and no other delay line has.
    fn reserve() -> Result<(Self, UnixListener)> {
        let routes = std::fs::read_to_string("/proc/thread-self/net/route")
            .context("read the routing table")?;
        let routes = parse_routes(&routes);
        for nth in 0..Self::CANDIDATES {
            let base = Self::ALL_BASE + (nth << 8);
            if routes.iter().any(|route| route.overlaps(base)) {
                continue;
            }
            // Abstract names belong to the network namespace, as addresses do,
            // and vanish with their socket.
            let name = format!("srv-delay-line-{nth}");
            let name = UnixAddress::from_abstract_name(name).context("name a reservation")?;
            match UnixListener::bind_addr(&name) {
                Ok(reservation) => return Ok((Self { base }, reservation)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error).context("reserve addresses"),
            }
        }
        bail!(
            "find unused addresses in {}: there are routes to all that were tried",
            Self::ALL
        )
    }

    fn client(self) -> Ipv4Addr {
        (self.base + 1).into()
    }

    fn server(self) -> Ipv4Addr {
        (self.base + 2).into()
    }
}

/// A route that is not the default.
#[derive(Debug, PartialEq)]
struct Route {
    to: u32,
    mask: u32,
}

impl Route {
    fn overlaps(&self, base: u32) -> bool {
        let mask = self.mask & (u32::MAX << (32 - Subnet::PREFIX_BITS));
        self.to & mask == base & mask
    }
}

/// Of `/proc/net/route`: destination and mask are in columns 1 and 7, in hex,
/// the address's bytes as they lie in memory.
fn parse_routes(table: &str) -> Vec<Route> {
    let number = |hex: &str| u32::from_str_radix(hex, 16).map(u32::from_be).ok();
    let route = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let (to, mask) = (number(columns.get(1)?)?, number(columns.get(7)?)?);
        (mask != 0).then_some(Route { to, mask })
    };
    table.lines().skip(1).filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::{Route, Subnet, parse_routes};

    #[test]
    fn only_routes_into_the_subnet_are_in_the_way() {
        let table = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                     eth0 00000000 010011AC 0003 0 0 0 00000000 0 0 0\n\
                     eth0 000012C6 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
                     eth0 0000000A 00000000 0001 0 0 0 000000FF 0 0 0\n";
        let routes = parse_routes(table);
        let expected = Route {
            to: Subnet::ALL_BASE,
            mask: 0xffff_ff00,
        };
        assert_eq!(routes[0], expected);
        let taken = |base| routes.iter().any(|route| route.overlaps(base));
        assert_eq!(routes.len(), 2, "the default route does not count");
        assert!(taken(Subnet::ALL_BASE));
        assert!(!taken(Subnet::ALL_BASE + 256));
    }
}
