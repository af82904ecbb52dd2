//! `srv status`, `srv sockets`, `srv policy` and the like: the commands that ask running servers.
//! The server that is meant comes first, then the servers of other programs that this user's agents
//! steer.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;

use super::{Query, Server, StatusArgs, find};
use crate::attach::report;
use crate::attach::table;
use crate::control::attached::{AttachedStatus, Attachment};
use crate::control::text;
use crate::control::{self, Reply, Request, SocketStatus, Status, ask, no_server};
use crate::output::json;

/// The fields of `srv status --json`.
#[derive(Serialize)]
struct Overview {
    /// The server, if there is only one.
    #[serde(flatten)]
    server: Option<Status>,
    /// The servers, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    servers: Vec<Placed>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(rename = "foreign")]
    attached: Vec<AttachedStatus>,
}

/// The fields of `srv sockets --json`.
#[derive(Serialize)]
struct Sockets {
    sockets: Vec<SocketStatus>,
}

/// One of several servers.
#[derive(Serialize)]
struct Placed {
    /// Its control socket.
    control: PathBuf,
    /// Whose it is.
    uid: Option<u32>,
    #[serde(flatten)]
    status: Status,
}

impl Placed {
    /// The text for people. If it is not clear which server it is about, a line names the server's
    /// user and its control socket.
    fn shown(&self, is_one_of_several: bool) -> String {
        let status = text::status(&self.status);
        let own = rustix::process::getuid().as_raw();
        match self.uid {
            Some(uid) if is_one_of_several || uid != own => {
                let control = self.control.display();
                format!("server of user {uid}, --control {control}\n{status}")
            }
            _ => status,
        }
    }
}

/// `srv status`.
///
/// # Errors
/// If nothing runs, or it is not clear which server is meant.
pub fn status(query: &StatusArgs) -> anyhow::Result<ExitCode> {
    let (paths, mut attached) = running(&query.ask.server)?;
    let mut servers = Vec::new();
    for (control, reply) in ask_each(&query.ask.server, paths, &Request::Status)? {
        match reply {
            Reply::Status(status) => servers.push(Placed {
                uid: std::fs::metadata(&control).ok().map(|file| file.uid()),
                control,
                status,
            }),
            Reply::Attached(status) => attached = vec![status],
            other => bail!("asked for status, got {other:?}"),
        }
    }
    let own = servers.iter().flat_map(|server| &server.status.groups);
    let own = own.map(|group| group.program.attached);
    let others = attached
        .iter()
        .map(|status| status.program.attachment == Attachment::Attached);
    let code = match own.chain(others).all(|is_steered| is_steered) {
        false if query.strict => ExitCode::from(3),
        _ => ExitCode::SUCCESS,
    };
    if query.ask.json {
        let only = (servers.len() == 1).then(|| servers.pop()).flatten();
        json::print(&Overview {
            server: only.map(|only| only.status),
            servers,
            attached,
        })?;
        return Ok(code);
    }
    let names_each = servers.len() > 1;
    let own = servers.iter().map(|server| server.shown(names_each));
    let groups: Vec<String> = own.chain(attached.iter().map(table::group)).collect();
    println!("{}", groups.join("\n").trim_end());
    Ok(code)
}

/// `srv sockets`.
///
/// # Errors
/// As [`status`].
pub fn sockets(query: &Query) -> anyhow::Result<()> {
    let (paths, attached) = running(&query.server)?;
    let mut all: Vec<SocketStatus> = Vec::new();
    for (_, reply) in ask_each(&query.server, paths, &Request::Sockets)? {
        match reply {
            Reply::Sockets(sockets) => all.extend(sockets),
            other => bail!("asked for sockets, got {other:?}"),
        }
    }
    all.extend(attached.iter().flat_map(AttachedStatus::sockets));
    match query.json {
        true => json::print(Sockets { sockets: all }),
        false => {
            println!("{}", text::sockets(&all).trim_end());
            Ok(())
        }
    }
}

/// `srv policy`, `srv reload` and `srv upgrade`.
///
/// # Errors
/// As [`status`], or the server refuses.
pub fn change(request: &Request, server: &Server) -> anyhow::Result<()> {
    match ask(Some(&find::one(server)?), request)? {
        Reply::Done(text) => println!("{text}"),
        other => bail!("asked for a change, got {other:?}"),
    }
    Ok(())
}

/// The answers of all servers that answer. A server that the user did not name may have ended since
/// it was found, or be of another version. The command then says so, and shows the others.
fn ask_each(
    asked: &Server,
    paths: BTreeSet<PathBuf>,
    request: &Request,
) -> anyhow::Result<Vec<(PathBuf, Reply)>> {
    let is_alone = asked.is_named() || paths.len() == 1;
    let mut replies = Vec::new();
    for path in paths {
        match ask(Some(&path), request) {
            Ok(reply) => replies.push((path, reply)),
            Err(error) if is_alone => return Err(error),
            Err(error) => {
                // Standard error may be closed; the answer goes to standard output.
                let _ = writeln!(std::io::stderr(), "srv: {error:#}");
            }
        }
    }
    Ok(replies)
}

/// The control sockets of the servers that are meant, and the attached groups. If the user names a
/// server, there are no attached groups.
fn running(server: &Server) -> anyhow::Result<(BTreeSet<PathBuf>, Vec<AttachedStatus>)> {
    if server.is_named() {
        return Ok((BTreeSet::from([find::one(server)?]), Vec::new()));
    }
    let (servers, (attached, unreadable)) = (control::servers()?, report::all()?);
    for error in unreadable {
        // Standard error may be closed; the answer goes to standard output.
        let _ = writeln!(std::io::stderr(), "srv: {error:#}");
    }
    match servers.is_empty() && attached.is_empty() {
        true => Err(no_server()),
        false => Ok((servers, attached)),
    }
}
