//! `srv serve` as a test wants it: flags by name, then the start. It does not know which
//! flags there are beyond those that many tests give.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::process::Command;

use srv_tests::server::Server;
use tempfile::TempDir;

/// A server that is not started yet. Without [`listen`](Self::listen) it will listen on
/// 127.0.0.1, on a port that the kernel chooses.
#[must_use = "start it"]
pub struct Serve {
    arguments: Vec<OsString>,
}

/// A server with srv's defaults.
pub fn serve() -> Serve {
    Serve {
        arguments: Vec::new(),
    }
}

impl Serve {
    /// `--workers`.
    pub fn workers(self, count: impl Display) -> Self {
        self.with("--workers", count.to_string())
    }

    /// `--policy`.
    pub fn policy(self, name: &str) -> Self {
        self.with("--policy", name)
    }

    /// `--accept`.
    pub fn accept(self, mode: &str) -> Self {
        self.with("--accept", mode)
    }

    /// `--listen`, another time if there is one already.
    pub fn listen(self, address: impl AsRef<OsStr>) -> Self {
        self.with("--listen", address)
    }

    /// `--root`.
    pub fn root(self, folder: impl AsRef<OsStr>) -> Self {
        self.with("--root", folder)
    }

    /// `--config`, of a file that names at most one address.
    pub fn config(self, file: impl AsRef<OsStr>) -> Self {
        self.with("--config", file)
    }

    /// `--synthetic`: it answers `/work`.
    pub fn synthetic(self) -> Self {
        self.flags(&["--synthetic"])
    }

    /// `--worker-header`: answers name their worker.
    pub fn worker_header(self) -> Self {
        self.flags(&["--worker-header"])
    }

    /// `--no-bpf`.
    pub fn no_bpf(self) -> Self {
        self.flags(&["--no-bpf"])
    }

    /// Another flag that takes a value.
    pub fn with(mut self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        self.arguments.push(flag.into());
        self.arguments.push(value.as_ref().to_owned());
        self
    }

    /// Further flags, as a caller gave them.
    pub fn flags<S: AsRef<OsStr>>(mut self, flags: &[S]) -> Self {
        let flags = flags.iter().map(|flag| flag.as_ref().to_owned());
        self.arguments.extend(flags);
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// If it ends before; with what it said.
    #[track_caller]
    pub fn start(self) -> Server {
        Server::start(self.arguments).unwrap()
    }

    /// As [`Self::start`], by `command` instead of the binary (it may run that in another
    /// way), and with its control socket in `folder`.
    #[track_caller]
    pub fn start_as(self, command: Command, folder: TempDir) -> Server {
        Server::start_as(command, folder, self.arguments).unwrap()
    }
}
