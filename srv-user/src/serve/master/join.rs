//! A second server on one address (`srv serve --join`): how it finds the first,
//! what it is given, and what the two masters say to each other. Both sides' deeds
//! are the masters'.
//!
//! All listeners are the first server's. The second gets a copy of each, and of
//! the shared memory and the program: its workers are the first's siblings in the
//! ring, and whichever of the two ends closes no listener that the other has.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::sockopt::socket_peercred;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use srv_common::Group;

use crate::control::joining::Joining;
use crate::control::{self, Reply, Request};
use crate::kernel::packets::{self, FDS_MAX};
use crate::serve::config::Settings;
use crate::serve::master::between_masters::Message;

/// To be raised with every change of the messages here, or of what the fields of the
/// shared memory mean.
const PROTOCOL: u32 = 4;
/// Within which the other master answers, or is taken to be stuck.
const PATIENCE: Duration = Duration::from_secs(5);

impl Joining {
    /// What a server with these settings asks.
    pub fn new(settings: &Settings) -> Self {
        Self {
            protocol: PROTOCOL,
            group_bytes: size_of::<Group>(),
            listen: settings.listen.clone(),
            accept: settings.serving.accept,
            workers: settings.workers,
            pid: std::process::id(),
        }
    }

    /// # Errors
    /// If the two could not understand each other.
    pub fn ensure_same_protocol(&self) -> anyhow::Result<()> {
        ensure!(
            (self.protocol, self.group_bytes) == (PROTOCOL, size_of::<Group>()),
            "the running server is another version of srv, whose workers see shared memory in \
             another way (protocol {PROTOCOL}, {} bytes; the joining one has {}, {}): run the same \
             binary, or `srv upgrade` the running one first",
            size_of::<Group>(),
            self.protocol,
            self.group_bytes
        );
        Ok(())
    }
}

/// What the first server says.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToJoined {
    /// The first message, with the first of the file descriptors.
    Welcome(Welcome),
    /// More of the file descriptors.
    More,
    /// Steered by this policy from now on, by name.
    Policy(String),
    /// The worker of this slot is new and waits on its own listeners: be behind it.
    Registered(u32),
    /// The worker of this slot may have missed something.
    Nudge(u32),
    /// The worker of this slot hangs.
    Hangs {
        /// Its slot.
        slot: u32,
        /// For how long nothing of it has moved so far.
        lasted: Duration,
    },
    /// A worker died or hangs: look where it may have been the one who was woken.
    LookAround,
    /// The first server is going to leave: everything is the second's now.
    Take,
}

impl Message for ToJoined {
    fn slot(&self) -> Option<u32> {
        match self {
            Self::Registered(slot) | Self::Nudge(slot) | Self::Hangs { slot, .. } => Some(*slot),
            Self::Welcome(_) | Self::More | Self::Policy(_) | Self::LookAround | Self::Take => None,
        }
    }
}

/// What a server is given that joins. Of each group, in this order, file
/// descriptors of its memory, its program and its socket array (if it is steered)
/// and its listeners follow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The first server's master.
    pub pid: u32,
    /// The slots from this one on are the second's.
    pub first_slot: u32,
    /// Listeners in each group.
    pub listeners: u32,
    /// The groups' addresses, and whether there is a program.
    pub groups: Vec<(SocketAddr, bool)>,
    /// The policy in force, by name.
    pub policy: String,
}

impl Welcome {
    fn fds(&self) -> usize {
        let fds = |is_steered: bool| self.listeners as usize + if is_steered { 3 } else { 1 };
        self.groups.iter().map(|(_, steered)| fds(*steered)).sum()
    }
}

/// What the second server says of its workers, and of itself.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToFirst {
    /// A worker process was started in this slot.
    Starts {
        /// Its slot.
        slot: u32,
        /// Its process.
        pid: u32,
    },
    /// The worker of this slot is new and waits on its own listeners: be behind it.
    Registered(u32),
    /// The process has taken over this slot from one that publishes no more.
    Replaced {
        /// Its slot.
        slot: u32,
        /// Its process.
        pid: u32,
    },
    /// The worker of this slot accepts.
    Ready(u32),
    /// The worker of this slot finishes what it has.
    Draining(u32),
    /// The worker of this slot is dead and reaped, and whether for good.
    Died {
        /// Its slot.
        slot: u32,
        /// It has left; nobody follows.
        has_left: bool,
    },
    /// The second server is going to leave: all its workers do.
    Leaving,
    /// To [`ToJoined::Take`]: it has everything.
    Taken,
}

impl Message for ToFirst {
    fn slot(&self) -> Option<u32> {
        match self {
            Self::Registered(slot) | Self::Ready(slot) | Self::Draining(slot) => Some(*slot),
            Self::Starts { slot, .. } | Self::Replaced { slot, .. } | Self::Died { slot, .. } => {
                Some(*slot)
            }
            Self::Leaving | Self::Taken => None,
        }
    }
}

/// Hands a [`Welcome`] to the server at the other end of `channel`.
///
/// # Errors
/// What the kernel says.
pub fn welcome(channel: &OwnedFd, welcome: Welcome, fds: &[BorrowedFd<'_>]) -> anyhow::Result<()> {
    let mut message = ToJoined::Welcome(welcome);
    for some in fds.chunks(FDS_MAX) {
        let packet = serde_json::to_vec(&message)?;
        packets::send_with_fds(channel, &packet, some).context("send file descriptors")?;
        message = ToJoined::More;
    }
    Ok(())
}

/// What a running server has given.
pub struct Given {
    /// Where that one is asked.
    pub control: PathBuf,
    /// To that one's master.
    pub channel: OwnedFd,
    /// What it is.
    pub welcome: Welcome,
    /// In the order that [`Welcome`] says.
    pub fds: Vec<OwnedFd>,
}

/// Asks the running server to let this one join.
///
/// # Errors
/// There is none, or it refuses.
pub fn ask(settings: &Settings) -> anyhow::Result<Given> {
    let control = first_server(settings).context("--join")?;
    let talk = || {
        let channel = ask_for_channel(&control, settings)?;
        let (mut message, mut fds) = receive(&channel)?;
        let ToJoined::Welcome(welcome) = message else {
            bail!("it did not begin with a welcome: {message:?}");
        };
        while fds.len() < welcome.fds() {
            let more;
            (message, more) = receive(&channel)?;
            ensure!(matches!(message, ToJoined::More), "it said {message:?}");
            fds.extend(more);
        }
        anyhow::Ok((channel, welcome, fds))
    };
    let (channel, welcome, fds) =
        talk().with_context(|| format!("--join the server at {}", control.display()))?;
    Ok(Given {
        control,
        channel,
        welcome,
        fds,
    })
}

/// Where the server answers that is meant: the one that was named, or the one on
/// this port, or the only one.
fn first_server(settings: &Settings) -> anyhow::Result<PathBuf> {
    if let Some(path) = &settings.control {
        return Ok(path.clone());
    }
    for address in &settings.listen {
        let path = control::server_path(address.port())?;
        if UnixStream::connect(&path).is_ok() {
            return Ok(path);
        }
    }
    match control::only_server()? {
        Some(path) => Ok(path),
        None => Err(control::no_server()
            .context("there is nobody to join: leave it out, or name a server by --control")),
    }
}

fn ask_for_channel(path: &Path, settings: &Settings) -> anyhow::Result<OwnedFd> {
    let mut stream = UnixStream::connect(path).map_err(|error| explain(&error))?;
    ensure_same_user(&stream)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut packet = serde_json::to_vec(&Request::Join(Joining::new(settings)))?;
    packet.push(b'\n');
    io::Write::write_all(&mut stream, &packet)?;
    let Some((reply, mut fds)) = packets::receive_with_fds::<Reply>(&stream)? else {
        bail!("no answer in {PATIENCE:?}");
    };
    match (reply, fds.pop()) {
        (Reply::Joined(_), Some(channel)) => Ok(channel),
        (Reply::Refused(why), _) => bail!(why),
        (other, _) => bail!("asked to join, got {other:?}"),
    }
}

/// The other server hands over listeners and memory, and this one's workers serve by them.
fn ensure_same_user(stream: &UnixStream) -> anyhow::Result<()> {
    let other = socket_peercred(stream)
        .context("ask whose server it is")?
        .uid;
    ensure!(
        other == rustix::process::geteuid(),
        "it belongs to user {}: only a server of the same user can be joined",
        other.as_raw()
    );
    Ok(())
}

fn explain(error: &io::Error) -> anyhow::Error {
    let mend = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ": there is nobody to join; leave --join out, or name another --control"
        }
        io::ErrorKind::PermissionDenied => {
            ": it belongs to another user; only a server of the same user can be joined"
        }
        _ => "",
    };
    anyhow::anyhow!("{error}{mend}")
}

fn receive<T: DeserializeOwned>(channel: &OwnedFd) -> anyhow::Result<(T, Vec<OwnedFd>)> {
    let mut ready = [PollFd::new(channel, PollFlags::IN)];
    let patience = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut ready, Some(&patience)).context("wait for its file descriptors")?;
    let received = packets::receive_with_fds(channel.as_fd());
    let received = received.context("receive its file descriptors")?;
    received.with_context(|| format!("no file descriptors in {PATIENCE:?}"))
}
