//! What a request asks for, and of which server. Knows nothing of how that was
//! said on the command line.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

/// What one kind of request asks for.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server that it is sent to.
    pub server: Endpoint,
    /// Method, such as `GET`.
    pub method: String,
    /// What `Host` says, unless [`Self::headers`] have it.
    pub host: String,
    /// Path and query; each `{us}` becomes the request's service time, µs.
    pub path: String,
    /// Further header fields, names and values.
    pub headers: Vec<(String, String)>,
    /// The body, if it has one.
    pub body: Option<Arc<[u8]>>,
}

/// A server and how it is spoken to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// Over TLS; `None`: plain.
    pub tls: Option<Tls>,
}

impl PartialEq for Endpoint {
    /// Whether a connection to the one is as good as one to the other. A run has
    /// one TLS configuration.
    fn eq(&self, other: &Self) -> bool {
        let name = |server: &Self| server.tls.as_ref().map(|tls| tls.name.clone());
        self.address == other.address && name(self) == name(other)
    }
}

/// What a TLS session needs.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Versions, ciphers and trust.
    pub config: Arc<ClientConfig>,
    /// The name that the server's certificate has to show.
    pub name: ServerName<'static>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
