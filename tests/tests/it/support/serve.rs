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
pub(crate) struct Serve {
    arguments: Vec<OsString>,
}

/// A server with srv's defaults.
pub(crate) fn serve() -> Serve {
    Serve {
        arguments: Vec::new(),
    }
}

impl Serve {
    /// `--workers`.
    pub(crate) fn workers(self, count: impl Display) -> Self {
        self.with("--workers", count.to_string())
    }

    /// `--policy`.
    pub(crate) fn policy(self, name: &str) -> Self {
        self.with("--policy", name)
    }

    /// `--accept`.
    pub(crate) fn accept(self, mode: &str) -> Self {
        self.with("--accept", mode)
    }

    /// `--listen`, another time if there is one already.
    pub(crate) fn listen(self, address: impl AsRef<OsStr>) -> Self {
        self.with("--listen", address)
    }

    /// `--root`.
    pub(crate) fn root(self, folder: impl AsRef<OsStr>) -> Self {
        self.with("--root", folder)
    }

    /// `--config`, of a file that names at most one address.
    pub(crate) fn config(self, file: impl AsRef<OsStr>) -> Self {
        self.with("--config", file)
    }

    /// `--synthetic`: it answers `/work`.
    pub(crate) fn synthetic(self) -> Self {
        self.flags(&["--synthetic"])
    }

    /// `--worker-header`: answers name their worker.
    pub(crate) fn worker_header(self) -> Self {
        self.flags(&["--worker-header"])
    }

    /// `--no-bpf`.
    pub(crate) fn no_bpf(self) -> Self {
        self.flags(&["--no-bpf"])
    }

    /// Another flag that takes a value.
    pub(crate) fn with(mut self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        self.arguments.push(flag.into());
        self.arguments.push(value.as_ref().to_owned());
        self
    }

    /// Further flags, as a caller gave them.
    pub(crate) fn flags<S: AsRef<OsStr>>(mut self, flags: &[S]) -> Self {
        let flags = flags.iter().map(|flag| flag.as_ref().to_owned());
        self.arguments.extend(flags);
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// If it ends before; with what it said.
    #[track_caller]
    pub(crate) fn start(self) -> Server {
        Server::start(self.arguments).unwrap()
    }

    /// As [`Self::start`], by `command` instead of the binary (it may run that in another
    /// way), and with its control socket in `folder`.
    #[track_caller]
    pub(crate) fn start_as(self, command: Command, folder: TempDir) -> Server {
        Server::start_as(command, folder, self.arguments).unwrap()
    }
}
