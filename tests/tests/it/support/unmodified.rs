//! Servers of others, unmodified, under `srv run`: how each is started on a port of its own, and
//! what its coordinator says. Which servers there are is in `servers`. Judges nothing.

pub(crate) mod servers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use srv::control::status::GroupStatus;
use srv::control::{Reply, Request, ask};
use srv::measure::baseline::launch::{CONTROL, Complete, Launch, NO_BPF};
use srv::measure::baseline::{BaselineServer, retry_if_in_use};
use srv_tests::{free_address, python};

use crate::agent::LOCALHOST;

/// A server as its users configure it. In `arguments` and `files`, `{address}`, `{host}`, `{port}`
/// and `{folder}` stand for what it is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unmodified {
    /// Its command: in PATH, of PyPI, or a whole path.
    pub program: &'static str,
    /// Separated by white space.
    pub arguments: &'static str,
    /// Whether `/hold/N` blocks one of the processes or threads that accept until another process
    /// has written the named pipe `hold-N` in its folder.
    pub can_be_blocked: bool,
    /// The signal that ends its process group, if that has to be its own: it signals the group
    /// itself, or leaves that to a terminal.
    pub ends_group: Option<Signal>,
    /// Variables of its environment.
    pub environment: &'static [(&'static str, &'static str)],
    /// What is written into its folder, in which it is started: name and content.
    pub files: &'static [(&'static str, &'static str)],
    /// Whether `srv run` starts four copies of it, a server that has one process.
    pub copies: bool,
    /// How many listening sockets it has when it is ready.
    pub listeners: usize,
    /// How many processes it is then.
    pub processes: usize,
    /// How many of its processes or threads accept connections.
    pub acceptors: usize,
    /// Whether it keeps connections, and a kept one does not occupy a worker.
    pub keeps: bool,
}

/// An unmodified server that runs under `srv run`; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Running {
    server: BaselineServer,
    ends_group: Option<Signal>,
}

impl Unmodified {
    /// Whether it is installed.
    pub(crate) fn installed(&self) -> Result<PathBuf> {
        in_path(self.path())
    }

    /// Its command. A server of PyPI is in a folder of its own.
    fn path(&self) -> PathBuf {
        python::executable(self.program)
    }

    /// Starts it under `srv run` with these flags, and waits until each of its acceptors has a
    /// slot.
    ///
    /// # Panics
    /// It does not become ready; with what it said.
    #[track_caller]
    pub(crate) fn run(&self, flags: &'static [&'static str]) -> Running {
        let server = retry_if_in_use(|| self.try_run(flags)).unwrap();
        Running {
            server,
            ends_group: self.ends_group,
        }
    }

    /// The flags of `srv run`, with those that the test asks for.
    fn flags(&self, asked: &'static [&'static str]) -> &'static [&'static str] {
        match (self.copies, asked) {
            (false, asked) => asked,
            (true, []) => &["--copies", "4"],
            (true, _) => &["--copies", "4", NO_BPF],
        }
    }

    fn try_run(&self, flags: &'static [&'static str]) -> Result<BaselineServer> {
        let folder = tempfile::tempdir().context("create a temporary folder")?;
        let address = free_address(LOCALHOST)?;
        // Apache's workers, which are another user's, read it.
        set_mode(folder.path(), 0o755)?;
        for (name, content) in self.files {
            let file = folder.path().join(name);
            let content = filled_in(content, address, folder.path());
            std::fs::write(&file, content).with_context(|| format!("write {}", file.display()))?;
        }
        let mut command = if self.ends_group.is_some() {
            let mut command = Command::new("setsid");
            command.arg(self.path());
            command
        } else {
            Command::new(self.path())
        };
        let arguments = filled_in(self.arguments, address, folder.path());
        command
            .args(arguments.split_whitespace())
            .envs(self.environment.iter().copied())
            .current_dir(folder.path());
        let complete = Complete {
            listeners: self.listeners,
            processes: self.processes,
            acceptors: self.acceptors,
        };
        Launch::Run(self.flags(flags)).start(command, address, folder, complete)
    }
}

/// The file that a command names.
pub(crate) fn in_path(command: impl AsRef<Path>) -> Result<PathBuf> {
    let command = command.as_ref();
    let folders = std::env::var_os("PATH").unwrap_or_default();
    // If the command is a whole path, joining leaves nothing of the folder.
    let mut found = std::env::split_paths(&folders).map(|folder| folder.join(command));
    found.find(|path| path.is_file()).with_context(|| {
        let command = command.display();
        format!("{command} is not in PATH: `cargo xtask test` installs it")
    })
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, permissions)
        .with_context(|| format!("set the mode of {}", path.display()))
}

fn filled_in(template: &str, address: SocketAddr, folder: &Path) -> String {
    template
        .replace("{address}", &address.to_string())
        .replace("{host}", &address.ip().to_string())
        .replace("{port}", &address.port().to_string())
        .replace("{folder}", &folder.display().to_string())
}

impl Running {
    /// The address it listens on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Its process id, from `srv run` on.
    pub(crate) fn pid(&self) -> Pid {
        self.server.pid()
    }

    /// The folder in which it was started.
    pub(crate) fn folder(&self) -> &Path {
        self.server.folder()
    }

    /// What its coordinator says of its group.
    ///
    /// # Panics
    /// The coordinator does not answer, or knows no such group.
    pub(crate) fn group(&self) -> GroupStatus {
        let control = self.folder().join(CONTROL);
        let status = match ask(Some(&control), &Request::Status).unwrap() {
            Reply::Status(status) => status,
            other => panic!("asked for status, got {other:?}"),
        };
        let mut groups = status.groups.into_iter();
        let group = groups.find(|group| group.listen == self.address());
        group.expect("the coordinator has a group for the address")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(signal) = self.ends_group else {
            return;
        };
        let ended = kill_process_group(self.server.pid(), signal)
            .context("signal a process group")
            .and_then(|()| self.server.await_end());
        if let Err(error) = ended {
            eprintln!("{error:#}");
        }
    }
}
