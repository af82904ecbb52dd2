//! nginx as the tests need it: it can be restarted and reloaded, and the process ids of its
//! workers are known. The configuration is that of `srv ab`, [`srv::measure::baseline::nginx`].

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal};
pub use srv::measure::baseline::nginx::{Content, Options, require, version};
use srv::measure::baseline::nginx::{configure, spawn};
use srv::measure::baseline::retry_if_in_use;
use tempfile::TempDir;

use crate::child::Child;
use crate::free_address;

/// nginx replaces its binary only if the process that started it has ended since: this shell ends
/// when nginx has written its process id into the folder that follows `-p`.
pub const LEAVE: &str = r#"
for word; do [ "$before" = -p ] && file=$word/pid; before=$word; done
"$@" &
until [ -s "$file" ]; do sleep 0.02; done"#;

/// A running nginx; dropping it stops it.
#[derive(Debug)]
pub struct Nginx {
    child: Child,
    address: SocketAddr,
    workers: Vec<Pid>,
    folder: TempDir,
}

impl Nginx {
    /// Starts nginx on a port of `host` and waits until all its workers have started.
    ///
    /// # Errors
    /// nginx or its Lua module is not installed, or it did not start; the
    /// message carries what it said.
    pub fn start(host: IpAddr, options: &Options) -> Result<Self> {
        Self::start_as(|| Command::new("nginx"), host, options)
    }

    /// As [`Self::start`], with `nginx` for the command (it may run it in
    /// another way).
    ///
    /// # Errors
    /// As there.
    pub fn start_as(nginx: impl Fn() -> Command, host: IpAddr, options: &Options) -> Result<Self> {
        require(options)?;
        retry_if_in_use(|| {
            let folder = tempfile::tempdir().context("create a temporary folder")?;
            let address = free_address(host)?;
            let mut child = spawn(nginx(), options, address, folder.path())?;
            let workers = await_workers(&mut child, options)?;
            Ok(Self {
                child,
                address,
                workers,
                folder,
            })
        })
    }

    /// Stops it and starts it again, on the same address.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self, options: &Options) -> Result<()> {
        self.child.stop()?;
        let nginx = Command::new("nginx");
        self.child = spawn(nginx, options, self.address, self.folder.path())?;
        self.workers = await_workers(&mut self.child, options)?;
        Ok(())
    }

    /// Has it load a new configuration (SIGHUP), and waits until the new
    /// workers have started and the old ones have ended.
    ///
    /// # Errors
    /// They did not; the message carries what it said.
    pub fn reload(&mut self, options: &Options) -> Result<()> {
        configure(options, self.address, self.folder.path())?;
        self.child.signal(Signal::HUP)?;
        let before = std::mem::take(&mut self.workers);
        self.workers = await_workers(&mut self.child, options)?;
        for _ in before {
            self.child.await_line("exited with code 0")?;
        }
        Ok(())
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The master's process id.
    pub fn pid(&self) -> Pid {
        self.child.pid()
    }

    /// The workers that it started last, in order of `ngx.worker.id()`.
    pub fn workers(&self) -> &[Pid] {
        &self.workers
    }

    /// Its master, to await log lines of and to signal.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Where its files lie: `pid`, `nginx.conf`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// nginx's log is the only place that tells the workers in order of `ngx.worker.id()`.
fn await_workers(child: &mut Child, options: &Options) -> Result<Vec<Pid>> {
    let mut await_worker = |_| {
        let line = child.await_line("start worker process ")?;
        let pid = line.rsplit(' ').next().and_then(|pid| pid.parse().ok());
        pid.and_then(Pid::from_raw)
            .with_context(|| format!("read a process id in `{line}`"))
    };
    (0..options.workers).map(&mut await_worker).collect()
}
