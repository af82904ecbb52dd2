//! The hand-over from a master to its successor: what the successor inherits, and the
//! messages between the two. What each of them does is in the master.
//!
//! The successor is a child of the old master and inherits its listeners. To pass the file
//! descriptors over a control socket, the successor would have to answer there before it has
//! anything to serve. If the old master executed the new binary in its own place, it could
//! not undo that. The successor does not inherit maps: the new binary may lay them out in
//! another way, and its counters begin anew.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use clap::Args;
use command_fds::{CommandFdExt, FdMapping};
use serde::{Deserialize, Serialize};
use socket2::Socket;

use crate::control::admin::{AdminSockets, Inherited};
use crate::kernel::packets;
use crate::kernel::process::Process;
use crate::serve::master::between_masters::{Message, Peer};
use crate::serve::systemd;
use crate::serve::tickets::TicketKeys;
use crate::values::AdminAddr;
use srv_steer::ListenerGroup;

/// The environment variable that tells a new process what it inherits.
const VARIABLE: &str = "SRV_TAKE_OVER";
/// The variable that names the admin sockets among what it inherits.
const ADMIN_VARIABLE: &str = "SRV_TAKE_OVER_ADMIN";
const CHANNEL: RawFd = 3;

/// A message from the successor.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToPredecessor {
    /// Its workers accept, beside the old ones.
    Ready,
    /// It serves, and needs nothing more from the old master.
    Serving,
    /// It cannot take over, for this reason, and exits.
    Failed(String),
}

impl Message for ToPredecessor {}

/// A message from the old master.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToSuccessor {
    /// The listeners are in no socket array any more, and the control socket's path is free.
    Take,
    /// With these keys the old workers made TLS session tickets.
    Tickets(TicketKeys),
}

impl Message for ToSuccessor {}

/// How many listeners of one address the successor inherits.
#[derive(Debug, Serialize, Deserialize)]
struct Inheritance {
    address: SocketAddr,
    listeners: u32,
    /// As in [`ListenerGroup`]. An older binary does not send it.
    #[serde(default)]
    activated: usize,
    /// As in [`ListenerGroup`]. An older binary does not send it.
    #[serde(default)]
    kept: usize,
}

/// Starts `binary` with this process's own arguments as the successor.
///
/// # Errors
/// If it cannot be started.
pub fn start_successor<'a>(
    binary: &Path,
    groups: impl Iterator<Item = &'a ListenerGroup> + Clone,
    admin: Option<&AdminSockets>,
) -> anyhow::Result<(Process, Peer<ToSuccessor>)> {
    let (mine, theirs) = packets::pair().context("create a channel to the successor")?;
    let inheritance: Vec<_> = groups.clone().map(inheritance_of).collect();
    let mut fds = vec![theirs];
    for socket in groups.flat_map(|group| &group.sockets) {
        let fd = socket.as_fd().try_clone_to_owned();
        fds.push(fd.context("duplicate a listener")?);
    }
    for socket in admin.into_iter().flat_map(AdminSockets::handles) {
        let fd = socket.try_clone_to_owned();
        fds.push(fd.context("duplicate an admin socket")?);
    }
    let admin = admin.into_iter().flat_map(AdminSockets::addresses);
    let admin: Vec<_> = admin.collect();
    let numbered = (CHANNEL..).zip(fds);
    let mappings = numbered.map(|(child_fd, parent_fd)| FdMapping {
        parent_fd,
        child_fd,
    });
    // This does not start the new binary itself: a parent waits until its new child has
    // executed a program, and the new binary's file system may not answer.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("srv")
        .arg("succeed")
        .arg(binary)
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, serde_json::to_string(&inheritance)?)
        .env(ADMIN_VARIABLE, serde_json::to_string(&admin)?)
        // The variable names this process. Without it, the watchdog holds for the service's
        // main process.
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::null())
        .fd_mappings(mappings.collect())
        .context("number the successor's file descriptors")?;
    let child = command.spawn().context("start a successor")?;
    Ok((Process::new(&child), Peer::new(mine)))
}

/// The arguments of the process that [`start_successor`] starts. It becomes the new binary.
#[derive(Debug, Args)]
pub struct SuccessionArgs {
    binary: PathBuf,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Executes the new binary in this process, which keeps its file descriptors. This returns
/// only if the kernel refuses; then it has sent the reason to the old master.
pub fn succeed(args: &SuccessionArgs) -> anyhow::Error {
    let error = Command::new(&args.binary).args(&args.arguments).exec();
    let error = anyhow::Error::new(error).context(format!("start {}", args.binary.display()));
    if let Ok(channel) = packets::inherited(CHANNEL) {
        Peer::new(channel).tell(ToPredecessor::Failed(format!("{error:#}")));
    }
    error
}

fn inheritance_of(group: &ListenerGroup) -> Inheritance {
    Inheritance {
        address: group.address,
        listeners: group.sockets.len() as u32,
        activated: group.activated,
        kept: group.kept,
    }
}

/// What this process inherited at its start: the listeners of an old master, those of
/// systemd, or nothing.
pub struct Takeover {
    /// The old master.
    pub predecessor: Option<Peer<ToPredecessor>>,
    /// The admin sockets of the old master.
    pub admin: Vec<Inherited>,
    groups: Vec<ListenerGroup>,
}

impl Takeover {
    /// Adopts what this process inherited. Call this once, before anything else opens a file or
    /// starts a thread.
    ///
    /// # Errors
    /// If this process did not inherit what the old master or systemd announced.
    pub fn inherited() -> anyhow::Result<Self> {
        let Some(text) = std::env::var_os(VARIABLE) else {
            return Ok(Self {
                predecessor: None,
                admin: Vec::new(),
                groups: systemd::listeners()?,
            });
        };
        let admin = std::env::var(ADMIN_VARIABLE).ok();
        // SAFETY: there is no other thread yet, so nothing else reads the environment now.
        unsafe {
            std::env::remove_var(VARIABLE);
            std::env::remove_var(ADMIN_VARIABLE);
        }
        let inheritance = parse(&text)?;
        let channel = packets::inherited(CHANNEL).with_context(|| {
            format!("adopt the channel to the old master, which sets {VARIABLE} (unset it)")
        })?;
        let mut next = CHANNEL + 1;
        let mut adopt = || {
            let fd = next;
            next += 1;
            // SAFETY: the old master passed exactly these, and each is adopted once.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map(|()| fd)
        };
        let mut groups = Vec::new();
        for group in inheritance {
            let sockets = (0..group.listeners).map(|_| adopt().map(Socket::from));
            groups.push(ListenerGroup {
                sockets: sockets
                    .collect::<Result<_, _>>()
                    .context("adopt a listener")?,
                activated: group.activated,
                kept: group.kept,
                ..ListenerGroup::empty(group.address)
            });
        }
        let admin = admin.map(|admin| serde_json::from_str::<Vec<AdminAddr>>(&admin));
        let admin = admin
            .transpose()
            .with_context(|| format!("read {ADMIN_VARIABLE}"))?;
        let admin = admin.unwrap_or_default().into_iter();
        let admin = admin.map(|address| adopt().map(|fd| (address, fd)));
        let admin = admin.collect::<Result<_, _>>();
        Ok(Self {
            predecessor: Some(Peer::new(channel)),
            admin: admin.context("adopt an admin socket")?,
            groups,
        })
    }

    /// Makes sure that this process inherited no listeners.
    ///
    /// # Errors
    /// systemd has passed listeners.
    pub fn ensure_empty(&self) -> anyhow::Result<()> {
        ensure!(
            self.predecessor.is_none() && self.groups.is_empty(),
            "--join: systemd passed listeners, but a server with --join uses those of the server \
             that it joins: leave out --join, or start srv without the socket unit"
        );
        Ok(())
    }

    /// Takes the listeners of the address that the settings name as `asked`. If its port is 0,
    /// any port matches, since the kernel chose one then.
    pub fn listeners(&mut self, asked: SocketAddr) -> Option<ListenerGroup> {
        let is_it = |group: &ListenerGroup| {
            let port = group.address.port();
            group.address.ip() == asked.ip() && (asked.port() == 0 || asked.port() == port)
        };
        let nth = self.groups.iter().position(is_it)?;
        Some(self.groups.remove(nth))
    }

    /// The orphaned listeners: a server before this one listened on them, and the settings do
    /// not name their addresses any more.
    ///
    /// # Errors
    /// If a socket unit passed one of these: connections to it would wait for ever.
    pub fn orphaned(&mut self) -> anyhow::Result<Vec<ListenerGroup>> {
        let mut activated = self.groups.iter().filter(|group| group.activated > 0);
        match activated.next().filter(|_| self.predecessor.is_none()) {
            None => Ok(std::mem::take(&mut self.groups)),
            Some(ListenerGroup { address, .. }) => bail!(
                "systemd passed a listener on {address} that --listen does not name: \
                 add --listen {address}, or remove it from the socket unit"
            ),
        }
    }
}

fn parse(text: &OsStr) -> anyhow::Result<Vec<Inheritance>> {
    let text = text.to_str().unwrap_or_default();
    let groups: Vec<Inheritance> = serde_json::from_str(text)
        .with_context(|| format!("read {VARIABLE} (only an old master sets it: unset it)"))?;
    ensure!(!groups.is_empty(), "{VARIABLE} names no listeners");
    Ok(groups)
}
