//! Finding the server or agent for a command if the user does not name a control socket: by the
//! address that the server serves or the agent steers, or because it is the only one.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::bail;

use super::Server;
use crate::attach::lock;
use crate::control::{self, Reply, Request, ask, no_server, only_server};

/// The control socket of the server or agent that the arguments name.
///
/// # Errors
/// No server or agent fits, or several do.
pub fn one(server: &Server) -> anyhow::Result<PathBuf> {
    match (&server.control, server.listen) {
        (Some(path), _) => Ok(path.clone()),
        (None, Some(listen)) => on(listen.0),
        (None, None) => only(),
    }
}

/// The control socket of the only server; if no server runs, of the only agent.
fn only() -> anyhow::Result<PathBuf> {
    if let Some(path) = only_server()? {
        return Ok(path);
    }
    let mut agents = agents()?;
    match agents.len() {
        0 => Err(no_server()),
        1 => Ok(agents.remove(0).1),
        _ => bail!(
            "several agents run on this machine: name one, {}",
            named(&agents)
        ),
    }
}

/// The control socket of the agent that steers this address, or of the server that serves it.
///
/// # Errors
/// No agent or server of this user does, or agents in several network namespaces do.
pub fn on(address: SocketAddr) -> anyhow::Result<PathBuf> {
    let (mut here, others): (Vec<_>, Vec<_>) = agents()?
        .into_iter()
        .partition(|(steered, _)| *steered == address);
    if here.len() > 1 {
        let paths: Vec<String> = here
            .iter()
            .map(|(_, path)| path.display().to_string())
            .collect();
        bail!(
            "agents in several network namespaces steer {address}: name one, --control {}",
            paths.join(" or --control ")
        );
    }
    if let Some((_, path)) = here.pop() {
        return Ok(path);
    }
    let mut found = others;
    for path in control::servers()? {
        let Ok(Reply::Status(status)) = ask(Some(&path), &Request::Status) else {
            continue;
        };
        for group in &status.groups {
            if group.listen == address {
                return Ok(path);
            }
            found.push((group.listen, path.clone()));
        }
    }
    match found.is_empty() {
        true => Err(no_server()),
        false => bail!(
            "no server or agent of this user serves or steers {address}; these addresses are: {}",
            named(&found)
        ),
    }
}

/// The agents of this user that answer, with the address that each steers.
fn agents() -> anyhow::Result<Vec<(SocketAddr, PathBuf)>> {
    let (records, _) = lock::records()?;
    let answers =
        |path: &PathBuf| matches!(ask(Some(path), &Request::Status), Ok(Reply::Attached(_)));
    let found = records
        .into_iter()
        .filter_map(|record| Some((record.address, record.control?)));
    Ok(found.filter(|(_, path)| answers(path)).collect())
}

fn named(found: &[(SocketAddr, PathBuf)]) -> String {
    let names: Vec<String> = found
        .iter()
        .map(|(address, _)| format!("--listen {address}"))
        .collect();
    names.join(" or ")
}
