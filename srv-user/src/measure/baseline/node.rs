//! A private cluster of Node.js processes on a port of its own.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::launch::{Complete, Launch};
use super::{BaselineServer, free_address, retry_if_in_use};

/// Which process of the cluster accepts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduling {
    /// The primary, which hands them to the workers in turn: Node's default.
    RoundRobin,
    /// The workers, which share the listening socket.
    None,
}

/// `/work?sleep_us=N`, which *blocks* its worker; answers carry `X-Worker`. A worker leaves a
/// file when it listens.
const APPLICATION: &str = "\
const cluster = require('node:cluster');
const fs = require('node:fs');
const http = require('node:http');

const [host, port, workers] = process.argv.slice(2);
if (cluster.isPrimary) {
  for (let nth = 0; nth < Number(workers); nth++) cluster.fork({ NUMBER: nth });
} else {
  const number = process.env.NUMBER;
  const never = new Int32Array(new SharedArrayBuffer(4));
  const server = http.createServer((request, response) => {
    const asked = /[?&]sleep_us=(\\d+)/.exec(request.url);
    if (asked && asked[1] !== '0') Atomics.wait(never, 0, 0, Number(asked[1]) / 1000);
    response.writeHead(200, { 'Content-Length': 3, 'X-Worker': number });
    response.end('ok\\n');
  });
  server.keepAliveTimeout = 0;
  server.listen({ host, port: Number(port), backlog: 4096 }, () => {
    fs.writeFileSync(`worker-${number}`, '');
  });
}
";

const MEND: &str = "`cargo xtask ab --arms node` installs it, or: apt-get install nodejs";

/// Starts the cluster on a port of `host` and waits until each worker listens.
///
/// # Errors
/// Node.js is not installed, or it did not start; the message carries what it said.
pub fn start(
    scheduling: Scheduling,
    host: IpAddr,
    workers: usize,
    launch: Launch,
) -> Result<BaselineServer> {
    version()?;
    retry_if_in_use(|| try_start(scheduling, host, workers, launch))
}

fn try_start(
    scheduling: Scheduling,
    host: IpAddr,
    workers: usize,
    launch: Launch,
) -> Result<BaselineServer> {
    let folder = tempfile::tempdir().context("create a temporary folder")?;
    let file = folder.path().join("application.js");
    std::fs::write(&file, APPLICATION).with_context(|| format!("write {}", file.display()))?;
    let address = free_address(host)?;
    let complete = Complete {
        listeners: 1,
        processes: 1 + workers,
        acceptors: scheduling.acceptors(workers),
    };
    let command = scheduling.command(address, workers, &folder);
    let mut server = launch.start(command, address, folder, complete)?;
    server.await_files((0..workers).map(|nth| format!("worker-{nth}")))?;
    Ok(server)
}

impl Scheduling {
    /// Its value of `NODE_CLUSTER_SCHED_POLICY`.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "rr",
            Self::None => "none",
        }
    }

    fn acceptors(self, workers: usize) -> usize {
        match self {
            Self::RoundRobin => 1,
            Self::None => workers,
        }
    }

    fn command(self, address: SocketAddr, workers: usize, folder: &tempfile::TempDir) -> Command {
        let mut command = Command::new("node");
        command
            .arg("application.js")
            .args([address.ip().to_string(), address.port().to_string()])
            .arg(workers.to_string())
            .env("NODE_CLUSTER_SCHED_POLICY", self.name())
            .current_dir(folder.path());
        command
    }
}

/// Node's version, as it says it.
///
/// # Errors
/// It is not installed.
pub fn version() -> Result<String> {
    let output = Command::new("node")
        .arg("--version")
        .output()
        .with_context(|| format!("Node.js is not installed; {MEND}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(format!("Node.js {}", said.trim().trim_start_matches('v')))
}
