//! A network of a test's own. Within it no other test takes a port, fills a queue, or
//! changes a setting. Also what the kernel counts there. It does not know what runs there.

use std::cell::RefCell;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use socket2::{Domain, Socket, Type};

/// The namespace that a thread came from, into which it returns when this is dropped.
struct Away(File);

thread_local! {
    /// That of a test lasts as long as its thread, since libtest gives each test one.
    static AWAY: RefCell<Option<Away>> = const { RefCell::new(None) };
}

/// Gives this thread, and what it starts from now on, a network in which only the loopback
/// interface exists, if it does not have one already. Only root may: the tests of another
/// user share the machine's network.
///
/// # Panics
/// If the kernel refuses it to root.
pub(crate) fn own_if_root() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    AWAY.with_borrow_mut(|away| {
        away.get_or_insert_with(|| Away::go().expect("make a network namespace"));
    });
}

impl Away {
    fn go() -> io::Result<Self> {
        let before = File::open("/proc/thread-self/ns/net")?;
        // SAFETY: the flag concerns no memory and no file descriptors.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        let away = Self(before);
        set_loopback_up()?;
        Ok(away)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let back = move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network));
        back.expect("return to the network namespace from before the test");
    }
}

fn set_loopback_up() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: all zeroes are a value of each member of ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the kernel tells of the network of this thread.
pub(crate) const THIS: &str = "/proc/thread-self/net";

/// Sets `net.ipv4.NAME` in the network of this thread. Call it only after [`own_if_root`].
pub(crate) fn set(name: &str, value: impl Display) {
    let path = format!("/proc/sys/net/ipv4/{name}");
    std::fs::write(&path, value.to_string()).unwrap_or_else(|error| panic!("set {path}: {error}"));
}

/// A counter of TcpExt, in the network of which `net` is the folder in `/proc`.
pub(crate) fn tcp_counter(net: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("{net}/netstat")).unwrap();
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|pair| pair.0 == name).unwrap();
    value.parse().unwrap()
}
