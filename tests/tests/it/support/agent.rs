//! `srv attach` before a server that is not srv's own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output};

use srv::control::attached::AttachedStatus;
use srv::control::{Reply, Request, ask};
use srv_tests::child::Child;
use srv_tests::nginx::{self, Content, Nginx};
use srv_tests::server::binary;
use tempfile::TempDir;

use crate::client::get;
use crate::probe::until;
use crate::{gate, network};

/// Where the servers listen.
pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A running agent; dropping it stops it.
pub(crate) struct Agent {
    child: Child,
    folder: TempDir,
}

impl Agent {
    /// Attaches with these further arguments.
    pub(crate) fn attach(address: SocketAddr, arguments: &[&str]) -> Self {
        Self::attach_as(srv(), address, arguments)
    }

    /// As [`Self::attach`], with `srv` for the binary.
    pub(crate) fn attach_as(mut srv: Command, address: SocketAddr, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        srv.args(["attach", "--listen", &address.to_string()]);
        srv.arg("--control").arg(folder.path().join("agent"));
        let mut child = Child::spawn(srv.args(arguments)).unwrap();
        child.await_line("attached to").unwrap();
        Self { child, folder }
    }

    /// Its control socket.
    pub(crate) fn control(&self) -> PathBuf {
        self.folder.path().join("agent")
    }

    /// Its process.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// What it says of the group.
    pub(crate) fn status(&self) -> AttachedStatus {
        // It answers a moment after it has attached.
        let reply = until("the agent answers", || {
            ask(Some(&self.control()), &Request::Status).ok()
        });
        match reply {
            Reply::Attached(status) => status,
            other => panic!("asked for status, got {other:?}"),
        }
    }

    /// Waits until its status shows what `is_so` looks for.
    pub(crate) fn until(
        &self,
        what: &str,
        is_so: impl Fn(&AttachedStatus) -> bool,
    ) -> AttachedStatus {
        until(what, || Some(self.status()).filter(|status| is_so(status)))
    }

    /// Stops it with SIGTERM.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.child.stop().unwrap()
    }
}

/// srv, with a plain log.
pub(crate) fn srv() -> Command {
    let mut command = Command::new(binary().unwrap());
    command.env("NO_COLOR", "1").env_remove("RUST_LOG");
    command
}

/// Runs srv with these arguments, separated by spaces.
pub(crate) fn run(arguments: &str) -> Output {
    srv().args(arguments.split(' ')).output().unwrap()
}

/// What it printed; it succeeded, or what it looked at is not as one would wish
/// (exit codes 3 and 4 of `srv observe`).
pub(crate) fn said(arguments: &str) -> String {
    let output = run(arguments);
    let complaint = String::from_utf8_lossy(&output.stderr);
    let has_looked = matches!(output.status.code(), Some(0 | 3 | 4));
    assert!(has_looked, "srv {arguments}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// What it complained of; it failed.
pub(crate) fn refused(arguments: &str) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(1), "srv {arguments}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// nginx with this many workers, a socket each, whose answers name the worker.
pub(crate) fn options(workers: usize) -> nginx::Options {
    nginx::Options {
        workers,
        reuseport: true,
        deferred: false,
        tuning: String::new(),
        content: Content::Work,
    }
}

/// That nginx, if it and steering can be had here.
pub(crate) fn nginx(workers: usize) -> Option<Nginx> {
    let options = options(workers);
    let required = nginx::require(&options).map_err(|error| format!("{error:#}"));
    if !gate::steer() || !gate::root() || !gate::can("run nginx", required) {
        return None;
    }
    network::own_if_root();
    Some(Nginx::start(LOCALHOST, &options).unwrap())
}

/// Gets `/work` this often, one connection after the other; which worker answered.
pub(crate) fn answered_by(address: SocketAddr, count: usize) -> Vec<u16> {
    let answered = |_| {
        let response = get(address, "/work");
        assert_eq!(response.status(), 200);
        response.head.worker.expect("X-Worker")
    };
    (0..count).map(answered).collect()
}

/// Whether one worker after the other answered: the hash would need a miracle.
pub(crate) fn is_in_turn(answered: &[u16], workers: usize) -> bool {
    let (first, rest) = answered.split_at(workers);
    let mut sorted = first.to_vec();
    sorted.sort_unstable();
    let all: Vec<u16> = (0..workers as u16).collect();
    sorted == all
        && rest
            .iter()
            .zip(answered)
            .all(|(later, former)| later == former)
}
