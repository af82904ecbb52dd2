//! srv as a baseline server: a private `srv serve` on a port of its own, and which binary
//! that is.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use srv_common::histogram::Snapshot;

use super::BaselineServer;
use super::child::Child;
use crate::control::status::accept_delays;
use crate::control::{self, Reply, Request, Status};

/// The name of its control socket, in its folder.
const CONTROL: &str = "control";

/// Starts `srv serve` with these further arguments and waits until each of its
/// workers is ready, which it says over its control socket.
///
/// # Errors
/// There is no binary, or it ended; the message carries what it said.
pub fn start<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<BaselineServer> {
    let folder = tempfile::tempdir().context("create a temporary folder")?;
    let control = folder.path().join(CONTROL);
    let mut command = Command::new(executable()?);
    command.arg("serve").arg("--control").arg(&control);
    command.args(arguments);
    // What it logs becomes part of an error message.
    let mut child = Child::spawn(command.env("NO_COLOR", "1").env_remove("RUST_LOG"))?;
    let address = child.await_ready("all workers are ready", || {
        Ok(match control::ask(Some(&control), &Request::Status) {
            Ok(Reply::Status(status)) => ready_address(&status),
            // It has not opened the socket yet.
            _ => None,
        })
    })?;
    Ok(BaselineServer {
        child,
        address,
        coordinator: None,
        folder,
    })
}

/// For how long the connections waited that the workers of srv have accepted so far; `None` if the
/// server is another one, or does not know.
pub fn accept_delay(server: &BaselineServer) -> Option<Snapshot> {
    let control = server.folder().join(CONTROL);
    let Ok(Reply::Status(status)) = control::ask(Some(&control), &Request::Status) else {
        return None;
    };
    let group = status.groups.first()?;
    accept_delays(&group.workers).map(|delays| delays.all())
}

/// The address of the first listener group; `None` if a worker is not ready.
fn ready_address(status: &Status) -> Option<SocketAddr> {
    let mut workers = status.groups.iter().flat_map(|group| &group.workers);
    let is_ready = workers.all(|worker| worker.state == "ready");
    let group = status.groups.first()?;
    (is_ready && !group.workers.is_empty()).then_some(group.listen)
}

/// The binary to measure: the one that `SRV_BIN` names, else this very process's if it is
/// srv, else the one that cargo built beside the running test or bench.
///
/// # Errors
/// It is not there; the message says how to build it.
pub fn executable() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SRV_BIN") {
        return Ok(path.into());
    }
    let this = std::env::current_exe().context("find the running program")?;
    if this.file_name() == Some(OsStr::new("srv")) {
        return Ok(this);
    }
    let path = profile_folder()?.join("srv");
    ensure!(
        path.is_file(),
        "there is no {}: build it with `cargo xtask build` or name one with SRV_BIN",
        path.display()
    );
    Ok(path)
}

/// Cargo's `target/<profile>`, in which the running test or bench lies.
///
/// # Errors
/// The kernel does not tell which file the running program is.
pub fn profile_folder() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the running test")?;
    let deps = own.parent().context("the running test lies in no folder")?;
    Ok(deps.parent().unwrap_or(deps).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{group_for_tests, worker_for_tests};
    use crate::control::status_for_tests;

    #[test]
    fn a_server_is_ready_when_each_of_its_workers_is() {
        let with = |states: &[&str]| {
            let worker = |(slot, state): (usize, &&str)| {
                let mut worker = worker_for_tests(slot as u32);
                worker.state = (*state).into();
                worker
            };
            let workers = states.iter().enumerate().map(worker).collect();
            ready_address(&status_for_tests(vec![group_for_tests(workers)]))
        };
        assert_eq!(with(&["ready", "ready"]).map(|at| at.port()), Some(8080));
        assert_eq!(with(&["ready", "starting"]), None);
        assert_eq!(with(&[]), None);
        assert_eq!(ready_address(&status_for_tests(vec![])), None);
    }
}
