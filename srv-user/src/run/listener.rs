//! What a claimed socket is: whether it can be steered at all, and to which group it belongs.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use srv_steer::ListenerInfo;

use crate::kernel::socket_options;

/// By what the kernel tells `SO_REUSEPORT` groups apart (`inet_reuseport_add_sock`,
/// net/ipv4/inet_hashtables.c).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct GroupKey {
    /// The address.
    pub(super) address: SocketAddr,
    /// Whether an IPv6 socket refuses IPv4 clients.
    is_only_v6: bool,
    /// The device that it is bound to.
    device: Option<Vec<u8>>,
    /// The user that made the socket.
    uid: u32,
}

/// A listening TCP socket that a process waits at.
pub(super) struct Claimed {
    pub(super) socket: Socket,
    pub(super) key: GroupKey,
    pub(super) info: ListenerInfo,
}

impl Claimed {
    /// What the descriptor of a claim is, for a coordinator in the network namespace `here`.
    ///
    /// # Errors
    /// The reason why it stays as it is.
    pub(super) fn of(fd: OwnedFd, here: Option<u64>) -> anyhow::Result<Self> {
        let socket = Socket::from(fd);
        let domain = socket.domain().context("examine a listener")?;
        let is_ip = [Domain::IPV4, Domain::IPV6].contains(&domain);
        ensure!(is_ip, "a listener has another address than an IP address");
        let protocol = (socket.r#type()?, socket.protocol()?);
        ensure!(
            protocol == (Type::STREAM, Some(Protocol::TCP)),
            "a listener is no TCP socket (MPTCP, for example, has no SO_REUSEPORT groups)"
        );
        let address = socket
            .local_addr()
            .context("ask for a listener's address")?;
        let address = address
            .as_socket()
            .context("a listener has no IP address")?;
        if !socket.is_listener().context("examine a listener")? {
            bail!("{address}: the socket does not listen");
        }
        if socket_options::namespace(&socket) != here {
            bail!(
                "{address}: the listener is in another network namespace than `srv run`: start \
                 srv inside that namespace"
            );
        }
        let uid = rustix::fs::fstat(&socket)
            .context("stat a listener")?
            .st_uid;
        Ok(Self {
            key: GroupKey {
                address,
                is_only_v6: address.is_ipv6() && socket.only_v6().unwrap_or(false),
                device: socket.device().unwrap_or_default(),
                uid,
            },
            info: ListenerInfo::of(&socket)?,
            socket,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn of(fd: impl Into<OwnedFd>) -> anyhow::Result<Claimed> {
        let fd = fd.into();
        let here = socket_options::namespace(&fd);
        Claimed::of(fd, here)
    }

    #[test]
    fn only_a_tcp_listener_of_this_namespace_is_steered() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let copy = listener.try_clone().unwrap();
        assert_eq!(of(listener).unwrap().key.address, address);
        let elsewhere = Claimed::of(copy.into(), Some(1)).map(drop).unwrap_err();
        assert!(elsewhere.to_string().contains("namespace"), "{elsewhere}");
        let folder = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(folder.path().join("socket")).unwrap();
        assert!(of(unix).is_err());
        assert!(of(UdpSocket::bind("127.0.0.1:0").unwrap()).is_err());
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound
            .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
            .unwrap();
        assert!(
            of(bound)
                .map(drop)
                .unwrap_err()
                .to_string()
                .contains("does not listen")
        );
    }
}
