//! Connections with TLS that stay open after one request each, for what they cost a server in
//! memory. What the kernel keeps for the sockets is the same for all servers and not counted.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use srv_tests::usage::Tree;

use crate::servers::{FILE, NAME, Running};

/// How many connections are held.
pub(crate) const CONNECTIONS: usize = 2000;
/// Connections before the first look, so that what is needed once is there.
const WARM_UP: usize = 64;

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// How much resident memory a connection adds, bytes, over all processes of the server.
///
/// # Errors
/// A connection fails.
pub(crate) fn bytes_per_connection(
    server: &Running,
    trusted: &CertificateDer<'static>,
) -> Result<f64> {
    let mut roots = RootCertStore::empty();
    roots
        .add(trusted.clone())
        .context("trust the certificate")?;
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    drop(hold(server.tls, &config, WARM_UP)?);
    let tree = Tree::of(server.pid())?;
    let before = tree.memory()?;
    let held = hold(server.tls, &config, CONNECTIONS)?;
    let after = tree.memory()?;
    drop(held);
    Ok((after.pss_bytes as f64 - before.pss_bytes as f64) / CONNECTIONS as f64)
}

fn hold(server: SocketAddr, config: &Arc<ClientConfig>, count: usize) -> Result<Vec<Stream>> {
    (0..count).map(|_| open(server, config)).collect()
}

fn open(server: SocketAddr, config: &Arc<ClientConfig>) -> Result<Stream> {
    let name = ServerName::try_from(NAME).context("name the server")?;
    let client = ClientConnection::new(config.clone(), name).context("begin a session")?;
    let mut stream = StreamOwned::new(client, TcpStream::connect(server).context("connect")?);
    write!(stream, "GET {FILE} HTTP/1.1\r\nHost: {NAME}\r\n\r\n").context("ask")?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    // The file consists of one letter, which nothing else in an answer ends with.
    while !answer.ends_with(b"xxxx") {
        let count = stream.read(&mut part).context("read the answer")?;
        ensure!(count > 0, "the server closed the connection");
        answer.extend_from_slice(&part[..count]);
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "no file was sent");
    Ok(stream)
}
