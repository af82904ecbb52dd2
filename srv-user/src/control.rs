//! The local control socket: what can be asked of a running server, and the
//! asking end. `server` is the master's end, `socket_file` is its file, and `discovery` finds it.
//! The master makes the answers.

pub mod admin;
pub mod attached;
mod discovery;
pub mod interval;
pub mod joining;
mod phase;
mod sandbox;
mod server;
mod socket_file;
pub mod status;
pub mod text;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use srv_steer::AcceptMode;

use crate::control::status::GroupStatus;
use crate::values::PolicyName;
use crate::values::reported::{Named, Reported};
use attached::AttachedStatus;
use joining::{Joined, Joining};

pub use discovery::{no_server, servers, sockets_of};
pub use phase::ServerPhase;
pub use sandbox::SandboxStatus;
pub use server::{Question, Server};

/// A question to a running server: one line of JSON, answered by one [`Reply`]
/// (which brings a file descriptor to [`Request::Join`]).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Asks for the server's state.
    Status,
    /// Asks for the server's listening sockets.
    Sockets,
    /// Has the server steer by this policy from now on.
    Policy(Reported<PolicyName>),
    /// Has the server read its configuration file again.
    Reload,
    /// Has the server open its access logs anew.
    Reopen,
    /// Has the server replace itself by the binary that now has the name of its own.
    Upgrade,
    /// Has the server take the sender's workers into its groups.
    Join(Joining),
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Status`], from the agent of another server's group.
    #[serde(rename = "foreign")]
    Attached(AttachedStatus),
    /// To [`Request::Sockets`].
    Sockets(Vec<SocketStatus>),
    /// The server made the change. The text is for the user.
    Done(String),
    /// To [`Request::Join`].
    Joined(Joined),
    /// The server refused the request, for this reason.
    Refused(String),
}

/// A server's state; the shape of `srv status --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of srv.
    pub version: String,
    /// The master's process id; with `command`, that of the server's first process.
    pub pid: u32,
    /// The name of the server that `srv run` has started; `None` for a server of `srv serve`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Whether it serves, or begins to, or ends. `None` for a server of `srv run`, which ends by
    /// itself, and for an older one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ServerPhase>,
    /// How its last reload ended. `None` as for `phase`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<ReloadStatus>,
    /// The policy in force.
    pub policy: Reported<PolicyName>,
    /// The accept mode.
    pub accept: Reported<AcceptMode>,
    /// The user and the sandbox of the workers; `None` until one runs.
    pub workers_run_as: Option<SandboxStatus>,
    /// How often the kernel has found an accept queue full since the server started, in its whole
    /// network namespace, other servers' queues included.
    pub listen_overflows: u64,
    /// SYNs and handshakes that the kernel dropped at a listener, counted likewise.
    pub listen_drops: u64,
    /// The secondary server that has joined this one, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined: Option<JoinedStatus>,
    /// The log writer; `None` if no request is logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLogStatus>,
    /// One entry per listen address.
    pub groups: Vec<GroupStatus>,
}

/// What has become of the records of the access logs. Those for which workers found no room are in the
/// figures of each worker (`unlogged`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLogStatus {
    /// The process that writes the logs; `None` while none runs.
    pub writer: Option<u32>,
    /// Records that were written.
    pub written: u64,
    /// Records that wait for room in their log.
    pub waiting: u64,
    /// Records that came to no log although the log writer had them: there was no room for too long, or
    /// the log writer was killed.
    pub lost: u64,
}

impl Named for AcceptMode {
    fn name(&self) -> &str {
        (*self).name()
    }
}

/// A server with these groups that has nothing to report.
#[cfg(test)]
pub(crate) fn status_for_tests(groups: Vec<GroupStatus>) -> Status {
    Status {
        version: "0.1.0".into(),
        pid: 4711,
        command: None,
        phase: Some(ServerPhase::Serving),
        reload: None,
        policy: Reported::Known(PolicyName(srv_common::Policy::Least)),
        accept: Reported::Known(AcceptMode::Ring),
        workers_run_as: None,
        listen_overflows: 0,
        listen_drops: 0,
        joined: None,
        access_log: None,
        groups,
    }
}

/// How the last reload of a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// Whether the server has taken over what it read. The start counts as a success.
    pub succeeded: bool,
    /// When the last one succeeded, s since 1970.
    pub succeeded_at_s: u64,
}

/// A secondary server, which has joined (`--join`). Its workers are in the primary's groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedStatus {
    /// Its master's process id.
    pub pid: u32,
    /// The first of its slots.
    pub first_slot: u32,
    /// How many workers it has.
    pub workers: u32,
}

/// One listening socket; a line of `srv sockets`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SocketStatus {
    /// Its address.
    pub listen: SocketAddr,
    /// The slot of the worker that it belongs to; `None` if all workers share it.
    pub slot: Option<u32>,
    /// Command name of the server it belongs to.
    pub server: String,
    /// Inode number, as in `/proc/PID/fd` and `ss -e`.
    pub inode: u64,
    /// `SO_COOKIE`, as in `ss -e`.
    pub cookie: u64,
    /// The process that serves it; `None` if there is none, or it is unknown.
    pub pid: Option<u32>,
    /// The file descriptor in that process.
    pub fd: Option<i32>,
    /// Accept queue length now.
    pub recv_q: u32,
    /// Accept queue limit.
    pub backlog: u32,
}

/// Sends a request to the server on `path`, or, if that is `None`, to the only one that runs.
///
/// # Errors
/// If no server runs, if several run and `path` names none, or if the server refuses.
pub fn ask(path: Option<&Path>, request: &Request) -> anyhow::Result<Reply> {
    const PATIENCE: Duration = Duration::from_secs(5);
    /// The longest reply, of 256 workers at many addresses, is a tenth of this.
    const REPLY_BYTES_MAX: u64 = 16 << 20;
    let path = match path {
        Some(path) => path.to_path_buf(),
        None => only_server()?.map_or_else(|| Err(no_server()), Ok)?,
    };
    let talk = || {
        let mut stream = UnixStream::connect(&path)?;
        // An upgrade has a bound of its own.
        let patience = (!matches!(request, Request::Upgrade)).then_some(PATIENCE);
        stream.set_read_timeout(patience)?;
        let mut packet = serde_json::to_vec(request)?;
        packet.push(b'\n');
        stream.write_all(&packet)?;
        let mut line = String::new();
        let read = BufReader::new(stream.take(REPLY_BYTES_MAX)).read_line(&mut line);
        if read
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        {
            bail!(
                "it has not answered within {} s: it is stopped, or no srv listens there",
                PATIENCE.as_secs()
            );
        }
        read?;
        ensure!(
            !line.is_empty(),
            "it closed the connection without an answer"
        );
        ensure!(
            line.ends_with('\n'),
            "it closed the connection in the middle of its answer, or the answer is too long"
        );
        Ok(serde_json::from_str(&line)?)
    };
    let reply = talk().with_context(|| format!("ask the server at {}", path.display()))?;
    match reply {
        Reply::Refused(why) => bail!(why),
        reply => Ok(reply),
    }
}

/// The control socket of the only server that this user may ask, if one runs.
///
/// # Errors
/// If several run.
pub fn only_server() -> anyhow::Result<Option<PathBuf>> {
    let mut living = discovery::servers()?;
    if living.len() > 1 {
        let names: Vec<_> = living
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        bail!(
            "several servers run here, name one: --control {}",
            names.join(" or --control ")
        )
    }
    Ok(living.pop_first())
}

/// Where [`ask`] looks for a server on `port`.
///
/// # Errors
/// There is no runtime directory.
pub fn server_path(port: u16) -> anyhow::Result<PathBuf> {
    Ok(runtime_folder()?.join(format!("{port}.sock")))
}

/// Where `dist/srv.service` keeps its control socket: systemd gives the folder to the
/// unit's user. All commands look here, too.
pub const SERVICE_FOLDER: &str = "/run/srv";

/// Where servers and agents of root leave their sockets and locks. No unit that runs as another
/// user may own this folder, because srv trusts what is in it.
pub const ROOT_FOLDER: &str = "/run/srv-root";

/// Where servers and agents of this user leave their sockets and locks.
///
/// # Errors
/// If the folder cannot be created, belongs to another user, or can be written to by other users.
pub fn runtime_folder() -> anyhow::Result<PathBuf> {
    let uid = rustix::process::getuid();
    let folder = match std::env::var_os("XDG_RUNTIME_DIR") {
        _ if uid.is_root() => PathBuf::from(ROOT_FOLDER),
        Some(folder) => PathBuf::from(folder).join("srv"),
        None => PathBuf::from(format!("/tmp/srv-{}", uid.as_raw())),
    };
    let made = rustix::fs::mkdir(&folder, Mode::RWXU);
    if let Err(error) = made
        && error != rustix::io::Errno::EXIST
    {
        bail!("create {}: {error}", folder.display());
    }
    // If every user can write to the parent folder, another user may have created this one first.
    let owner = rustix::fs::lstat(&folder).context("stat the folder of control sockets")?;
    ensure!(
        owner.st_uid == uid.as_raw() && owner.st_mode & 0o022 == 0,
        "{} belongs to another user, or other users can write to it: pass --control PATH",
        folder.display()
    );
    Ok(folder)
}

#[cfg(test)]
mod tests;
