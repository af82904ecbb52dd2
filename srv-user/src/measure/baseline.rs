//! Servers as child processes, to be measured: srv itself and its peers, each
//! on a port of its own, and what they cost. Nothing here judges a result.

pub mod child;
pub mod haproxy;
pub mod nginx;
pub mod others;
pub mod python;
pub mod server;
pub mod usage;

use std::net::{IpAddr, SocketAddr, TcpListener};

use anyhow::{Context as _, Result};

/// An address of `host` that nobody uses now. Another process may take it
/// before it is used.
///
/// # Errors
/// `host` is no address of this machine.
pub fn free_address(host: IpAddr) -> Result<SocketAddr> {
    let listener =
        TcpListener::bind((host, 0)).with_context(|| format!("find a free port on {host}"))?;
    Ok(listener.local_addr()?)
}

/// Starts a server whose port may be taken before it binds it: tries again.
fn retry_if_in_use<T>(mut start: impl FnMut() -> Result<T>) -> Result<T> {
    let mut attempts = 3;
    loop {
        match start() {
            Err(error) if attempts > 1 && format!("{error:#}").contains("in use") => {
                attempts -= 1;
            }
            result => return result,
        }
    }
}
