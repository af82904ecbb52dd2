//! The sockets at which the process answers: inherited ones, and one that it opens itself.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;

use anyhow::{Context as _, bail};
use socket2::{Domain, Socket};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// A listening socket.
pub(super) enum Listener {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener),
}

/// Bytes from and to a client.
pub(super) type Stream = Pin<Box<dyn Duplex>>;

pub(super) trait Duplex: AsyncRead + AsyncWrite {}

impl<T: AsyncRead + AsyncWrite> Duplex for T {}

/// Where a client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Over the Unix socket: only the server's user can.
    Unix,
    /// To an address of the loopback interface: from this machine, perhaps by a browser.
    Loopback,
    /// To another address.
    Network,
}

impl Listener {
    /// A socket that listens and does not block.
    ///
    /// # Errors
    /// It is of another kind.
    pub(super) fn of(fd: OwnedFd) -> anyhow::Result<Self> {
        let socket = Socket::from(fd);
        let domain = socket.domain().context("look at the admin socket")?;
        match domain {
            Domain::UNIX => Ok(Self::Unix(UnixListener::from_std(socket.into())?)),
            Domain::IPV4 | Domain::IPV6 => {
                let address = socket.local_addr()?.as_socket();
                let address = address.context("read the address of the admin socket")?;
                Ok(Self::Tcp(TcpListener::from_std(socket.into())?, address))
            }
            other => bail!("use the admin socket: it is of family {other:?}"),
        }
    }

    /// Where its clients come from.
    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::Unix(_) => Origin::Unix,
            Self::Tcp(_, address) if address.ip().is_loopback() => Origin::Loopback,
            Self::Tcp(..) => Origin::Network,
        }
    }

    /// The next client.
    ///
    /// # Errors
    /// What `accept` says.
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener, _) => Box::pin(listener.accept().await?.0),
            Self::Unix(listener) => Box::pin(listener.accept().await?.0),
        })
    }
}
