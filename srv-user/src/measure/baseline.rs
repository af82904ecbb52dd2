//! Baseline servers: servers as child processes, to be measured, each on a port of its
//! own. They are srv itself and the servers that it is compared with. Also what they cost.
//! Nothing here judges a result.

pub mod child;
pub mod haproxy;
pub mod launch;
pub mod nginx;
pub mod node;
pub mod others;
pub mod python;
pub mod srv;
pub mod usage;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitStatus;

use anyhow::{Context as _, Result};
use rustix::process::Pid;
use tempfile::TempDir;

use crate::kernel::sock_diag::SockDiag;
use child::Child;
use usage::Tree;

/// A running baseline server; dropping it stops it.
#[derive(Debug)]
pub struct BaselineServer {
    child: Child,
    address: SocketAddr,
    coordinator: Option<Pid>,
    /// What the server reads and writes; dropping it removes it.
    folder: TempDir,
}

impl BaselineServer {
    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process id of its master.
    pub fn pid(&self) -> Pid {
        self.child.pid()
    }

    /// The coordinator's process id, if the server runs under `srv run`. The coordinator is no
    /// descendant of the server.
    pub fn coordinator(&self) -> Option<Pid> {
        self.coordinator
    }

    /// Its folder, in which its configuration is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Waits until it ends, which something else brings about.
    ///
    /// # Errors
    /// 20 s passed.
    pub fn await_end(&mut self) -> Result<ExitStatus> {
        self.child.await_exit()
    }

    /// Waits until its folder has these files, which its workers leave.
    fn await_files(&mut self, names: impl Iterator<Item = String>) -> Result<()> {
        for name in names {
            let file = self.folder.path().join(&name);
            self.child
                .await_ready(&name, || Ok(file.exists().then_some(())))?;
        }
        Ok(())
    }
}

/// An address of `host` that no process uses now. Another process may take it
/// before it is used.
///
/// # Errors
/// `host` is no address of this machine.
pub fn free_address(host: IpAddr) -> Result<SocketAddr> {
    let listener =
        TcpListener::bind((host, 0)).with_context(|| format!("find a free port on {host}"))?;
    Ok(listener.local_addr()?)
}

/// Waits until `child` has so many listening sockets on `address` and, together with its
/// descendants, is so many processes: the kernel tells both of any server.
fn await_listeners(
    child: &mut Child,
    address: SocketAddr,
    listeners: usize,
    processes: usize,
) -> Result<()> {
    let mut diag = SockDiag::open(None)?;
    let pid = child.pid();
    let what = format!("{listeners} listeners on {address}, {processes} processes");
    child.await_ready(&what, || {
        let is_listening = diag.listeners_on(address)?.len() >= listeners;
        // If it has ended, that is what the caller is told.
        let is_complete = || Tree::of(pid).is_ok_and(|tree| tree.len() >= processes);
        Ok((is_listening && is_complete()).then_some(()))
    })
}

/// Calls `start`, which binds a port that was free. If another process has taken the port
/// meanwhile, calls it again.
///
/// # Errors
/// What `start` says: at once if it is something else, or the third time.
pub fn retry_if_in_use<T>(mut start: impl FnMut() -> Result<T>) -> Result<T> {
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
