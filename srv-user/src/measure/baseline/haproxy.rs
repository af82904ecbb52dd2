//! A private HAProxy on a port of its own, which answers requests itself. Its handler cannot
//! block a worker, so it only takes part if the handlers do nothing.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::launch::{Complete, Launch};
use super::{BaselineServer, free_address, retry_if_in_use};

const MEND: &str = "`cargo xtask ab` installs it, or: apt-get install haproxy";

/// Starts HAProxy on a port of `host` with `threads` threads, a socket of its own for each, and
/// waits until it listens.
///
/// # Errors
/// It is not installed, or it did not start; the message carries what it said.
pub fn start(host: IpAddr, threads: usize, launch: Launch) -> Result<BaselineServer> {
    if let Err(error) = version() {
        bail!("{error:#}; {MEND}");
    }
    retry_if_in_use(|| try_start(host, threads, launch))
}

fn try_start(host: IpAddr, threads: usize, launch: Launch) -> Result<BaselineServer> {
    let folder = tempfile::tempdir().context("create a temporary folder")?;
    let address = free_address(host)?;
    let file = folder.path().join("haproxy.cfg");
    std::fs::write(&file, configuration(address, threads))
        .with_context(|| format!("write {}", file.display()))?;
    check(&file)?;
    let mut command = Command::new("haproxy");
    command.args(["-W", "-f"]).arg(&file);
    let complete = Complete {
        listeners: threads,
        // -W: a master process and a worker process.
        processes: 2,
        acceptors: threads,
    };
    launch.start(command, address, folder, complete)
}

fn check(file: &Path) -> Result<()> {
    let output = Command::new("haproxy")
        .args(["-c", "-f"])
        .arg(file)
        .output()
        .context("run haproxy -c")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("haproxy refuses its configuration:\n{said}");
    }
    Ok(())
}

/// HAProxy needs two files for each connection, and ends if it may not open so many.
fn connections() -> u64 {
    const ENOUGH: u64 = 20_000;
    const OTHER_FILES: u64 = 200;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.maximum.map_or(ENOUGH, |files| {
        (files.saturating_sub(OTHER_FILES) / 2).clamp(1, ENOUGH)
    })
}

fn configuration(address: SocketAddr, threads: usize) -> String {
    let connections = connections();
    format!(
        "global
  nbthread {threads}
  maxconn {connections}
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
frontend work
  bind {address} shards by-thread backlog 4096 defer-accept
  http-request return status 200 content-type text/plain lf-string ok hdr X-Worker %[thread]
"
    )
}

/// HAProxy's version, as it says it.
///
/// # Errors
/// It is not installed.
pub fn version() -> Result<String> {
    let output = Command::new("haproxy")
        .arg("-v")
        .output()
        .context("HAProxy is not installed")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().next().unwrap_or_default();
    Ok(line.split(" - ").next().unwrap_or(line).to_owned())
}
