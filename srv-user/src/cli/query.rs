//! `srv status`, `srv sockets`, `srv policy` and the like: asking what runs. The one
//! server that is meant comes first, then other people's servers that this
//! user's agents steer.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::bail;
use serde::Serialize;

use super::{Query, Server};
use crate::control::{Reply, Request, SocketStatus, Status, ask, no_server, only_server};
use crate::foreign::report::{self, ForeignStatus};
use crate::foreign::table;
use crate::view;

/// The shape of `srv status --json`.
#[derive(Serialize)]
struct Overview {
    #[serde(flatten)]
    server: Option<Status>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    foreign: Vec<ForeignStatus>,
}

/// `srv status`.
///
/// # Errors
/// Nothing runs, or it is not clear what is meant.
pub fn status(query: &Query) -> anyhow::Result<()> {
    let (server, foreign) = running(&query.server)?;
    let mut overview = Overview {
        server: None,
        foreign,
    };
    match server
        .map(|path| ask(Some(&path), &Request::Status))
        .transpose()?
    {
        None => {}
        Some(Reply::Status(status)) => overview.server = Some(status),
        Some(Reply::Foreign(status)) => overview.foreign = vec![status],
        Some(other) => bail!("asked for status, got {other:?}"),
    }
    if query.json {
        return print_json(&overview);
    }
    let own = overview.server.iter().map(view::status);
    let groups: Vec<String> = own
        .chain(overview.foreign.iter().map(table::group))
        .collect();
    println!("{}", groups.join("\n").trim_end());
    Ok(())
}

/// `srv sockets`.
///
/// # Errors
/// As [`status`].
pub fn sockets(query: &Query) -> anyhow::Result<()> {
    let (server, foreign) = running(&query.server)?;
    let mut all: Vec<SocketStatus> = Vec::new();
    match server
        .map(|path| ask(Some(&path), &Request::Sockets))
        .transpose()?
    {
        None => {}
        Some(Reply::Sockets(sockets)) => all = sockets,
        Some(other) => bail!("asked for sockets, got {other:?}"),
    }
    all.extend(foreign.iter().flat_map(ForeignStatus::sockets));
    match query.json {
        true => print_json(&all),
        false => {
            println!("{}", view::sockets(&all).trim_end());
            Ok(())
        }
    }
}

/// `srv policy`, `srv reload` and `srv upgrade`.
///
/// # Errors
/// As [`status`], or the server refuses.
pub fn change(request: &Request, server: &Server) -> anyhow::Result<()> {
    match ask(server.control.as_deref(), request)? {
        Reply::Done(text) => println!("{text}"),
        other => bail!("asked for a change, got {other:?}"),
    }
    Ok(())
}

/// The control socket of the server that is meant, and the groups of others:
/// none of those if one is named.
fn running(server: &Server) -> anyhow::Result<(Option<PathBuf>, Vec<ForeignStatus>)> {
    if let Some(path) = &server.control {
        return Ok((Some(Path::to_owned(path)), Vec::new()));
    }
    let (server, (foreign, unreadable)) = (only_server()?, report::all()?);
    for error in unreadable {
        // Standard error may be closed; the answer goes to standard output.
        let _ = writeln!(std::io::stderr(), "srv: {error:#}");
    }
    match server.is_none() && foreign.is_empty() {
        true => Err(no_server()),
        false => Ok((server, foreign)),
    }
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
