//! How a baseline server is started: by itself, or under `srv run`. Owns when it is ready: the
//! kernel tells that of any server, and the coordinator of `srv run` tells which listeners take
//! part. Knows no server.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::net::sockopt::socket_peercred;
use rustix::process::Pid;
use tempfile::TempDir;

use super::child::Child;
use super::{BaselineServer, await_listeners, srv};
use crate::control::{self, Reply, Request, Status};

/// How a baseline server is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launch {
    /// By itself, as its users start it.
    Plain,
    /// Under `srv run`, with these flags.
    Run(&'static [&'static str]),
}

/// The flag by which `srv run` leaves out the program.
pub const NO_BPF: &str = "--no-bpf";

/// The control socket of the coordinator, in the server's folder.
pub const CONTROL: &str = "run.sock";

/// What shows that a server is ready.
#[derive(Clone, Copy, Debug)]
pub struct Complete {
    /// It has so many listening sockets.
    pub listeners: usize,
    /// It is so many processes, its descendants included.
    pub processes: usize,
    /// So many processes or threads accept connections, each by itself: under `srv run` each has
    /// a slot.
    pub acceptors: usize,
}

impl Launch {
    /// Starts `command`, which listens on `address` and whose files are in `folder`, and waits
    /// until it is `complete`.
    ///
    /// # Errors
    /// It does not become ready; the message carries what it said.
    pub fn start(
        self,
        command: Command,
        address: SocketAddr,
        folder: TempDir,
        complete: Complete,
    ) -> Result<BaselineServer> {
        let control = folder.path().join(CONTROL);
        let mut child = Child::spawn(&mut self.command(command, &control)?)?;
        let Complete {
            listeners,
            processes,
            acceptors,
        } = complete;
        await_listeners(&mut child, address, listeners, processes)?;
        let coordinator = match self {
            Self::Plain => None,
            Self::Run(_) => {
                self.await_claims(&mut child, &control, address, acceptors)?;
                Some(coordinator(&control)?)
            }
        };
        Ok(BaselineServer {
            child,
            address,
            coordinator,
            folder,
        })
    }

    /// `command`, started in this way.
    fn command(self, command: Command, control: &Path) -> Result<Command> {
        let Self::Run(flags) = self else {
            return Ok(command);
        };
        let mut run = Command::new(srv::executable()?);
        run.arg("run").arg("--control").arg(control).args(flags);
        run.arg("--").arg(command.get_program());
        run.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => run.env(name, value),
                None => run.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            run.current_dir(folder);
        }
        // What it logs becomes part of an error message.
        run.env("NO_COLOR", "1").env_remove("RUST_LOG");
        Ok(run)
    }

    /// Waits until each of the acceptors has its slot, and until the program steers, if it is to.
    fn await_claims(
        self,
        child: &mut Child,
        control: &Path,
        address: SocketAddr,
        acceptors: usize,
    ) -> Result<()> {
        // There is nothing to steer to if one process accepts for all.
        let steers = acceptors > 1 && !matches!(self, Self::Run(flags) if flags.contains(&NO_BPF));
        let mut last = None;
        let what = format!("{acceptors} slots of srv run on {address}");
        let found = child.await_ready(&what, || {
            // Until there is a socket, the answer is an error.
            if let Ok(Reply::Status(status)) = control::ask(Some(control), &Request::Status) {
                last = Some(status);
            }
            let is_ready = last
                .as_ref()
                .is_some_and(|status| lack(status, address, acceptors, steers).is_none());
            Ok(is_ready.then_some(()))
        });
        found.with_context(|| match &last {
            None => "srv run: its coordinator does not answer".to_owned(),
            Some(status) => {
                let lack = lack(status, address, acceptors, steers).unwrap_or_default();
                format!("srv run: its coordinator says: {lack}")
            }
        })
    }
}

/// What `status` of a coordinator lacks until the server is ready; `None` if it is.
fn lack(status: &Status, address: SocketAddr, acceptors: usize, steers: bool) -> Option<String> {
    let mut groups = status.groups.iter();
    let Some(group) = groups.find(|group| group.listen == address) else {
        return Some(format!("there is no group on {address}"));
    };
    let workers = group.workers.iter();
    let ready = workers.filter(|worker| worker.state == "ready").count();
    if ready < acceptors {
        return Some(format!("{ready} of {acceptors} workers are ready"));
    }
    if steers && !group.program.attached {
        let why = group
            .program
            .why_not
            .as_deref()
            .unwrap_or("no reason given");
        return Some(format!("the program does not steer: {why}"));
    }
    None
}

/// The process that answers on `control`.
fn coordinator(control: &Path) -> Result<Pid> {
    let peer = UnixStream::connect(control).and_then(|stream| Ok(socket_peercred(&stream)?.pid));
    peer.with_context(|| format!("ask which process listens on {}", control.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{group_for_tests, worker_for_tests};
    use crate::control::status_for_tests;

    #[test]
    fn under_srv_run_the_command_is_the_same_behind_a_prefix() {
        let mut server = Command::new("server");
        server
            .args(["--port", "1"])
            .env("SIZE", "2")
            .current_dir("/");
        let plain = Launch::Plain
            .command(server, Path::new("/control"))
            .unwrap();
        assert_eq!(plain.get_program(), "server");
        let run = Launch::Run(&[NO_BPF]).command(plain, Path::new("/control"));
        let run = run.unwrap();
        let arguments: Vec<_> = run.get_args().collect();
        assert_eq!(
            arguments,
            [
                "run",
                "--control",
                "/control",
                "--no-bpf",
                "--",
                "server",
                "--port",
                "1"
            ]
        );
        assert!(
            run.get_envs()
                .any(|(name, value)| name == "SIZE" && value == Some("2".as_ref()))
        );
        assert_eq!(run.get_current_dir(), Some(Path::new("/")));
    }

    #[test]
    fn a_server_under_srv_run_is_ready_when_each_acceptor_has_a_slot() {
        let workers = vec![worker_for_tests(0), worker_for_tests(1)];
        let mut status = status_for_tests(vec![group_for_tests(workers)]);
        let address = status.groups[0].listen;
        for worker in &mut status.groups[0].workers {
            worker.state = "ready".into();
        }
        assert_eq!(lack(&status, address, 2, true), None);
        let too_few = lack(&status, address, 3, true).unwrap();
        assert!(too_few.contains("2 of 3"), "{too_few}");
        status.groups[0].program.attached = false;
        status.groups[0].program.why_not = Some("EPERM".into());
        let hashed = lack(&status, address, 2, true).unwrap();
        assert!(hashed.contains("EPERM"), "{hashed}");
        assert_eq!(lack(&status, address, 2, false), None);
        status.groups.clear();
        let none = lack(&status, address, 2, false).unwrap();
        assert!(none.contains("no group"), "{none}");
    }
}
