//! srv as a child process, as the tests need it: with its log, its control socket, further
//! addresses, and a second server that joins. `srv ab` has a smaller one of its own,
//! [`srv::measure::baseline::srv`], which also says which binary is run.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Pid;
use srv::control::Status;
pub use srv::measure::baseline::srv::{executable as binary, profile_folder};
use tempfile::TempDir;

use crate::child::Child;

/// A running `srv serve` on a port of its own; dropping it stops it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    addresses: Vec<SocketAddr>,
    /// Holds its control socket. A server that has joined may take that socket over.
    folder: Arc<TempDir>,
}

impl Server {
    /// Starts `srv serve` with these further arguments and waits until it is
    /// ready, that is, until it has logged `listening on ADDR` for each address: tests
    /// await further lines of the log from there on. Without a `--listen` among the
    /// arguments it listens on 127.0.0.1, on a port that the kernel chooses.
    ///
    /// # Errors
    /// There is no binary, or it ended; the message carries what it said.
    pub fn start<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<Self> {
        let folder = tempfile::tempdir().context("create a temporary folder")?;
        Self::start_as(Command::new(binary()?), folder, arguments)
    }

    /// As [`Self::start`], where a configuration file among the arguments names `addresses`
    /// addresses to listen on.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_listening<S: AsRef<OsStr>>(
        arguments: impl IntoIterator<Item = S>,
        addresses: usize,
    ) -> Result<Self> {
        let folder = tempfile::tempdir().context("create a temporary folder")?;
        let mut command = Command::new(binary()?);
        command
            .arg("serve")
            .arg("--control")
            .arg(control_in(&folder));
        command.args(arguments);
        Self::spawn_listening(command, Arc::new(folder), addresses)
    }

    /// As [`Self::start`], with `command` for the binary (it may run it in
    /// another way) and `folder` for the control socket.
    ///
    /// # Errors
    /// It ended; the message carries what it said.
    pub fn start_as<S: AsRef<OsStr>>(
        mut command: Command,
        folder: TempDir,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Self> {
        command
            .arg("serve")
            .arg("--control")
            .arg(control_in(&folder));
        command.args(arguments);
        Self::spawn(command, Arc::new(folder))
    }

    /// Starts another server with these further arguments that joins this one, on
    /// the same addresses and with the same control socket.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_joined<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.args(["serve", "--join", "--control"]);
        command.arg(self.control());
        for address in &self.addresses {
            command.arg("--listen").arg(address.to_string());
        }
        command.args(arguments);
        Self::spawn(command, self.folder.clone())
    }

    fn spawn(mut command: Command, folder: Arc<TempDir>) -> Result<Self> {
        let is_listen = |argument: &&OsStr| *argument == "--listen";
        let mut listens = command.get_args().filter(is_listen).count();
        if listens == 0 {
            command.args(["--listen", "127.0.0.1:0"]);
            listens = 1;
        }
        Self::spawn_listening(command, folder, listens)
    }

    fn spawn_listening(mut command: Command, folder: Arc<TempDir>, listens: usize) -> Result<Self> {
        // The log is read by machines here.
        let mut child = Child::spawn(command.env("NO_COLOR", "1").env_remove("RUST_LOG"))?;
        let addresses = (0..listens)
            .map(|_| address_in(&child.await_line("listening on ")?))
            .collect::<Result<_>>()?;
        Ok(Self {
            child,
            addresses,
            folder,
        })
    }

    /// The first address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// All addresses it listens on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its control socket.
    pub fn control(&self) -> PathBuf {
        control_in(&self.folder)
    }

    /// The master's process id.
    pub fn pid(&self) -> Pid {
        self.child.pid()
    }

    /// Its process, to await log lines of and to signal.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Runs `srv` with these arguments and `--control` for this server.
    ///
    /// # Errors
    /// There is no binary, or it cannot be run.
    pub fn srv(&self, arguments: &[&str]) -> Result<Output> {
        Command::new(binary()?)
            .args(arguments)
            .arg("--control")
            .arg(self.control())
            .output()
            .with_context(|| format!("run srv {}", arguments.join(" ")))
    }

    /// What `srv status --json` says.
    ///
    /// # Errors
    /// It fails, or says something else than a status.
    pub fn status(&self) -> Result<Status> {
        let output = self.srv(&["status", "--json"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "srv status: {}: {said}",
            output.status
        );
        serde_json::from_slice(&output.stdout).context("read the output of srv status --json")
    }

    /// Stops it with SIGTERM and returns how it ended.
    ///
    /// # Errors
    /// It cannot be signalled, or does not end in time.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.child.stop()
    }
}

fn control_in(folder: &TempDir) -> PathBuf {
    Path::join(folder.path(), "control")
}

fn address_in(line: &str) -> Result<SocketAddr> {
    let (_, rest) = line.split_once("listening on ").unwrap_or_default();
    let address = rest.split_whitespace().next().unwrap_or_default();
    address
        .trim_end_matches([',', ';', '"', '}'])
        .parse()
        .with_context(|| format!("read an address in `{line}`"))
}

#[cfg(test)]
mod tests {
    use super::address_in;

    #[test]
    fn the_address_is_found_in_a_log_line() {
        let line = "2026-11-23T08:00:00Z  INFO srv: listening on 127.0.0.1:4711, 8 workers";
        assert_eq!(address_in(line).unwrap().port(), 4711);
        let json = r#"{"level":"INFO","message":"listening on [::1]:4711"}"#;
        assert!(address_in(json).unwrap().is_ipv6());
        assert!(address_in("listening on nothing").is_err());
    }
}
