//! A TUN device: packets that the kernel sends there are read from a file
//! descriptor, and what is written to it the kernel receives. Made and found in
//! the network namespace of the calling thread; gone when the fd is closed.

use std::fs::{File, OpenOptions};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use rustix::ioctl::{Opcode, Setter, Updater, ioctl};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Packets that wait for being read; more than 3,700 new connections a second
/// send in 100 ms. The kernel's default is 500.
const QUEUE_PACKETS: i32 = 10_000;

const NEEDS: &str = "make a TUN device (needs CAP_NET_ADMIN)";

/// A device that is up and has an address.
pub(super) struct Tun {
    pub device: OwnedFd,
    pub name: String,
}

impl Tun {
    pub(super) fn open(address: Ipv4Addr, prefix_bits: u32) -> Result<Self> {
        let device: File = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .context("open /dev/net/tun (modprobe tun; in a container, --device /dev/net/tun)")?;
        // No packet information: a read is a packet and nothing else.
        let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as u16;
        let mut request = Request::new("srvdelay%d", &flags.to_ne_bytes());
        // SAFETY: this ioctl reads and writes one `struct ifreq`.
        unsafe {
            let update = Updater::<{ libc::TUNSETIFF as Opcode }, _>::new(&mut request);
            ioctl(&device, update).context(NEEDS)?;
        }
        let name = request.name();
        configure(&name, address, prefix_bits)
            .with_context(|| format!("configure {name} as {address}/{prefix_bits}"))?;
        Ok(Self {
            device: device.into(),
            name,
        })
    }
}

fn configure(name: &str, address: Ipv4Addr, prefix_bits: u32) -> Result<()> {
    let any = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .context("make a socket")?;
    let mask = Ipv4Addr::from(u32::MAX << (32 - prefix_bits));
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as u16;
    set::<{ libc::SIOCSIFTXQLEN as Opcode }>(&any, name, &QUEUE_PACKETS.to_ne_bytes())
        .context("size the queue")?;
    set::<{ libc::SIOCSIFADDR as Opcode }>(&any, name, &socket_address(address))
        .context("set the address")?;
    set::<{ libc::SIOCSIFNETMASK as Opcode }>(&any, name, &socket_address(mask))
        .context("set the netmask")?;
    set::<{ libc::SIOCSIFFLAGS as Opcode }>(&any, name, &flags.to_ne_bytes()).context("bring it up")
}

fn set<const OPCODE: Opcode>(any: impl AsFd, name: &str, value: &[u8]) -> Result<()> {
    // SAFETY: the ioctls that are used read one `struct ifreq`.
    unsafe { ioctl(any, Setter::<OPCODE, _>::new(Request::new(name, value))) }?;
    Ok(())
}

/// `struct ifreq`: a name and a union, of which each ioctl has its own idea.
#[repr(C, align(8))]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

impl Request {
    fn new(name: &str, value: &[u8]) -> Self {
        let mut request = Self {
            name: [0; libc::IFNAMSIZ],
            value: [0; 24],
        };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        request.value[..value.len()].copy_from_slice(value);
        request
    }

    fn name(&self) -> String {
        let end = self.name.iter().position(|byte| *byte == 0);
        String::from_utf8_lossy(&self.name[..end.unwrap_or(self.name.len())]).into_owned()
    }
}

/// `struct sockaddr_in` without a port.
fn socket_address(address: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    bytes[4..8].copy_from_slice(&address.octets());
    bytes
}

/// Packets that the device of that name lost, sending or receiving.
pub(super) fn dropped(name: &str) -> Result<u64> {
    let path = "/proc/thread-self/net/dev";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    parse_dropped(&text, name).with_context(|| format!("find {name} in {path}"))
}

/// After `name:`, eight counts of what was received and eight of what was sent;
/// the fourth of each is what was dropped.
fn parse_dropped(table: &str, name: &str) -> Option<u64> {
    let mut lines = table.lines();
    let counts = lines.find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    let counts: Vec<u64> = counts.split_whitespace().flat_map(str::parse).collect();
    Some(counts.get(3)? + counts.get(11)?)
}

#[cfg(test)]
mod tests {
    use super::parse_dropped;

    #[test]
    fn both_kinds_of_drops_count() {
        let table = "Inter-| Receive | Transmit\n face |bytes packets\n\
                     srvdelay10: 1 2 3 400 5 6 7 8 9 10 11 400 13 14 15 16\n\
                     srvdelay1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        assert_eq!(parse_dropped(table, "srvdelay1"), Some(16));
        assert_eq!(parse_dropped(table, "srvdelay2"), None);
    }
}
