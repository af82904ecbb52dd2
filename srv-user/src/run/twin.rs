//! A second listener beside one that a server has opened: on the same address, with the same
//! options, in the same `SO_REUSEPORT` group.

use std::net::SocketAddr;

use anyhow::Context as _;
use libc::{
    IP_BIND_ADDRESS_NO_PORT, IP_FREEBIND, IP_MTU_DISCOVER, IP_TOS, IP_TRANSPARENT, IP_TTL,
    IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPV6_MTU_DISCOVER, IPV6_TCLASS, IPV6_TRANSPARENT,
    IPV6_UNICAST_HOPS, IPV6_V6ONLY, SO_BINDTODEVICE, SO_BUSY_POLL, SO_KEEPALIVE, SO_LINGER,
    SO_MARK, SO_OOBINLINE, SO_PRIORITY, SO_RCVBUF, SO_RCVLOWAT, SO_RCVTIMEO, SO_SNDBUF,
    SO_SNDTIMEO, SOL_SOCKET, TCP_CONGESTION, TCP_DEFER_ACCEPT, TCP_FASTOPEN, TCP_KEEPCNT,
    TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_LINGER2, TCP_MAXSEG, TCP_NODELAY, TCP_NOTSENT_LOWAT,
    TCP_SYNCNT, TCP_USER_TIMEOUT, TCP_WINDOW_CLAMP, c_int,
};
use socket2::{Domain, Protocol, Socket, Type};
use srv_steer::accept_queue;

use crate::kernel::socket_options::{get, set};

/// The options that a listener has before it is bound, and that its connections inherit. A value
/// is copied if it differs from that of a new socket.
const COPIED: [(c_int, c_int, &str); 28] = [
    (SOL_SOCKET, SO_BINDTODEVICE, "SO_BINDTODEVICE"),
    (SOL_SOCKET, SO_MARK, "SO_MARK"),
    (SOL_SOCKET, SO_KEEPALIVE, "SO_KEEPALIVE"),
    (SOL_SOCKET, SO_LINGER, "SO_LINGER"),
    (SOL_SOCKET, SO_OOBINLINE, "SO_OOBINLINE"),
    (SOL_SOCKET, SO_PRIORITY, "SO_PRIORITY"),
    (SOL_SOCKET, SO_RCVLOWAT, "SO_RCVLOWAT"),
    (SOL_SOCKET, SO_RCVTIMEO, "SO_RCVTIMEO"),
    (SOL_SOCKET, SO_SNDTIMEO, "SO_SNDTIMEO"),
    (SOL_SOCKET, SO_BUSY_POLL, "SO_BUSY_POLL"),
    (IPPROTO_TCP, TCP_NODELAY, "TCP_NODELAY"),
    (IPPROTO_TCP, TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT"),
    (IPPROTO_TCP, TCP_FASTOPEN, "TCP_FASTOPEN"),
    (IPPROTO_TCP, TCP_KEEPIDLE, "TCP_KEEPIDLE"),
    (IPPROTO_TCP, TCP_KEEPINTVL, "TCP_KEEPINTVL"),
    (IPPROTO_TCP, TCP_KEEPCNT, "TCP_KEEPCNT"),
    (IPPROTO_TCP, TCP_LINGER2, "TCP_LINGER2"),
    (IPPROTO_TCP, TCP_MAXSEG, "TCP_MAXSEG"),
    (IPPROTO_TCP, TCP_CONGESTION, "TCP_CONGESTION"),
    (IPPROTO_TCP, TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT"),
    (IPPROTO_TCP, TCP_NOTSENT_LOWAT, "TCP_NOTSENT_LOWAT"),
    (IPPROTO_TCP, TCP_SYNCNT, "TCP_SYNCNT"),
    (IPPROTO_TCP, TCP_WINDOW_CLAMP, "TCP_WINDOW_CLAMP"),
    (IPPROTO_IP, IP_TOS, "IP_TOS"),
    (IPPROTO_IP, IP_TTL, "IP_TTL"),
    (IPPROTO_IP, IP_MTU_DISCOVER, "IP_MTU_DISCOVER"),
    (IPPROTO_IP, IP_FREEBIND, "IP_FREEBIND"),
    (
        IPPROTO_IP,
        IP_BIND_ADDRESS_NO_PORT,
        "IP_BIND_ADDRESS_NO_PORT",
    ),
];

/// Those that need a capability, and that most listeners do not have. Reading IP_TRANSPARENT needs
/// none.
const TRANSPARENT: [(c_int, c_int, &str); 1] = [(IPPROTO_IP, IP_TRANSPARENT, "IP_TRANSPARENT")];

/// Of an IPv6 socket, beside those of IPv4.
const COPIED_V6: [(c_int, c_int, &str); 5] = [
    (IPPROTO_IPV6, IPV6_V6ONLY, "IPV6_V6ONLY"),
    (IPPROTO_IPV6, IPV6_TCLASS, "IPV6_TCLASS"),
    (IPPROTO_IPV6, IPV6_UNICAST_HOPS, "IPV6_UNICAST_HOPS"),
    (IPPROTO_IPV6, IPV6_MTU_DISCOVER, "IPV6_MTU_DISCOVER"),
    (IPPROTO_IPV6, IPV6_TRANSPARENT, "IPV6_TRANSPARENT"),
];

/// The kernel doubles the value when it is set, for its own bookkeeping (socket(7)).
const DOUBLED: [(c_int, c_int, &str); 2] = [
    (SOL_SOCKET, SO_RCVBUF, "SO_RCVBUF"),
    (SOL_SOCKET, SO_SNDBUF, "SO_SNDBUF"),
];

/// Opens a listener beside `socket`, which listens on `address` and has `SO_REUSEPORT`.
///
/// # Errors
/// If an option cannot be copied, or the kernel refuses the address.
pub(super) fn beside(socket: &Socket, address: SocketAddr) -> anyhow::Result<Socket> {
    let domain = Domain::for_address(address);
    let twin = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
        .with_context(|| format!("create a socket for {address}"))?;
    twin.set_reuse_address(true).context("set SO_REUSEADDR")?;
    twin.set_reuse_port(true).context("set SO_REUSEPORT")?;
    twin.set_nonblocking(true)
        .context("make a listener non-blocking")?;
    let v6 = COPIED_V6.iter().filter(|_| address.is_ipv6());
    for option in COPIED.iter().chain(&TRANSPARENT).chain(v6) {
        copy(socket, &twin, *option, <[u8]>::to_vec)?;
    }
    for option in DOUBLED {
        copy(socket, &twin, option, halved)?;
    }
    let (_, backlog) = accept_queue(socket).context("read TCP_INFO of a listener")?;
    twin.bind(&address.into())
        .and_then(|()| twin.listen(i32::try_from(backlog).unwrap_or(i32::MAX)))
        .with_context(|| format!("listen on {address} beside the server's own socket"))?;
    Ok(twin)
}

/// An option that the kernel does not have is on neither socket.
fn copy(
    from: &Socket,
    to: &Socket,
    (level, option, name): (c_int, c_int, &str),
    to_set: impl FnOnce(&[u8]) -> Vec<u8>,
) -> anyhow::Result<()> {
    let Ok(value) = get(from, level, option) else {
        return Ok(());
    };
    if get(to, level, option).is_ok_and(|there| there == value) {
        return Ok(());
    }
    set(to, level, option, &to_set(&value))
        .with_context(|| format!("copy {name} to a second listener"))
}

fn halved(value: &[u8]) -> Vec<u8> {
    match value.try_into() {
        Ok(bytes) => (c_int::from_ne_bytes(bytes) / 2).to_ne_bytes().to_vec(),
        Err(_) => value.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use socket2::TcpKeepalive;

    use super::*;

    fn listener(address: &str) -> (Socket, SocketAddr) {
        let address: SocketAddr = address.parse().unwrap();
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(77).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    #[test]
    fn a_twin_has_the_options_and_listens_beside_it() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (socket, address) = listener(address);
            socket.set_tcp_nodelay(true).unwrap();
            socket.set_recv_buffer_size(50_000).unwrap();
            socket.set_linger(Some(Duration::from_secs(7))).unwrap();
            let alive = TcpKeepalive::new().with_time(Duration::from_secs(33));
            socket.set_tcp_keepalive(&alive).unwrap();
            set(&socket, IPPROTO_TCP, TCP_DEFER_ACCEPT, &5i32.to_ne_bytes()).unwrap();
            set(&socket, IPPROTO_TCP, TCP_FASTOPEN, &9i32.to_ne_bytes()).unwrap();
            assert!(beside(&socket, address).is_err(), "without SO_REUSEPORT");
            socket.set_reuse_port(true).unwrap();
            let twin = beside(&socket, address).unwrap();
            let all = COPIED.iter().chain(&COPIED_V6).chain(&DOUBLED);
            for (level, option, name) in all {
                let [there, here] = [&socket, &twin].map(|at| get(at, *level, *option).ok());
                assert_eq!(here, there, "{name}");
            }
            assert_eq!(twin.recv_buffer_size().unwrap(), 100_000);
            assert_eq!(accept_queue(&twin).unwrap().1, 77);
            set(&socket, IPPROTO_TCP, TCP_DEFER_ACCEPT, &0i32.to_ne_bytes()).unwrap();
            drop(socket);
            let _client = TcpStream::connect(address).unwrap();
        }
    }
}
