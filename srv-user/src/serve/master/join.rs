//! A secondary server on one address (`srv serve --join`): how it finds the primary, what it is
//! given, and the messages between the two masters. What each master does is in `primary` and
//! `secondary`.
//!
//! The primary opens all listeners. The secondary gets a copy of each, and of the shared memory and
//! the program: its workers are siblings of the primary's in the ring, and the end of either server
//! closes no listener that the other has.

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
use crate::values::PolicyName;
use crate::values::reported::Reported;

/// To be raised with every change of the messages here, or of the meaning of a field of the shared
/// memory.
const PROTOCOL: u32 = 5;
/// The other master has to answer within this time.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

impl Joining {
    /// The request of a server with these settings.
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
    /// If the two servers could not understand each other.
    pub fn ensure_same_protocol(&self) -> anyhow::Result<()> {
        ensure!(
            (self.protocol, self.group_bytes) == (PROTOCOL, size_of::<Group>()),
            "the running server is another version of srv, whose workers use another layout of the \
             shared memory (protocol {PROTOCOL}, {} bytes; the joining one has {}, {}): run the same \
             binary, or `srv upgrade` the running one first",
            size_of::<Group>(),
            self.protocol,
            self.group_bytes
        );
        Ok(())
    }
}

/// What the primary says.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToSecondary {
    /// The first message, with the first of the file descriptors.
    Welcome(Welcome),
    /// More of the file descriptors.
    More,
    /// The primary steers by this policy from now on.
    Policy(Reported<PolicyName>),
    /// The worker of this slot is new and waits on its own listeners: others register behind it.
    Registered(u32),
    /// The worker of this slot may have missed an event: probe it.
    #[serde(rename = "Nudge")]
    Probe(u32),
    /// The worker of this slot has stalled.
    #[serde(rename = "Hangs")]
    Stalled {
        /// Its slot.
        slot: u32,
        /// For how long nothing of it has moved so far.
        lasted: Duration,
    },
    /// A worker died or has stalled: scan the listeners where it may have been the one that was
    /// woken.
    #[serde(rename = "LookAround")]
    Rescan,
    /// The primary stops: the secondary is to take everything.
    Take,
}

impl Message for ToSecondary {
    fn slot(&self) -> Option<u32> {
        match self {
            Self::Registered(slot) | Self::Probe(slot) | Self::Stalled { slot, .. } => Some(*slot),
            Self::Welcome(_) | Self::More | Self::Policy(_) | Self::Rescan | Self::Take => None,
        }
    }
}

/// What a server that joins is given. File descriptors follow: for each group its handles
/// ([`srv_steer::Group::handles`]), and then its listeners.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The primary's master.
    pub pid: u32,
    /// The slots from this one on are the secondary's.
    pub first_slot: u32,
    /// Listeners in each group.
    pub listeners: u32,
    /// The groups' addresses, and how many handles each has.
    pub groups: Vec<(SocketAddr, u32)>,
    /// The policy in force.
    pub policy: Reported<PolicyName>,
}

impl Welcome {
    fn fds(&self) -> usize {
        let fds = |handles: u32| self.listeners as usize + handles as usize;
        self.groups.iter().map(|(_, handles)| fds(*handles)).sum()
    }
}

/// What the secondary says of its workers, and of itself.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToPrimary {
    /// A worker process was started in this slot.
    Starts {
        /// Its slot.
        slot: u32,
        /// Its process.
        pid: u32,
    },
    /// The worker of this slot is new and waits on its own listeners: others register behind it.
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
    /// The worker of this slot has ended and was reaped.
    Died {
        /// Its slot.
        slot: u32,
        /// It was told to leave, and no other worker follows.
        has_left: bool,
    },
    /// The secondary stops: all its workers leave.
    Leaving,
    /// The answer to [`ToSecondary::Take`]: the secondary has everything.
    Taken,
}

impl Message for ToPrimary {
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
    let mut message = ToSecondary::Welcome(welcome);
    for some in fds.chunks(FDS_MAX) {
        let packet = serde_json::to_vec(&message)?;
        packets::send_with_fds(channel, &packet, some).context("send file descriptors")?;
        message = ToSecondary::More;
    }
    Ok(())
}

/// What the primary has given to this server.
pub struct Given {
    /// The primary's control socket.
    pub control: PathBuf,
    /// The channel to the primary's master.
    pub channel: OwnedFd,
    /// What the file descriptors are.
    pub welcome: Welcome,
    /// In the order that [`Welcome`] names.
    pub fds: Vec<OwnedFd>,
}

/// Asks the running server to let this one join.
///
/// # Errors
/// There is no server, or it refuses.
pub fn ask(settings: &Settings) -> anyhow::Result<Given> {
    let control = primary_server(settings).context("--join")?;
    let talk = || {
        let channel = ask_for_channel(&control, settings)?;
        let (mut message, mut fds) = receive(&channel)?;
        let ToSecondary::Welcome(welcome) = message else {
            bail!("it did not begin with a welcome: {message:?}");
        };
        while fds.len() < welcome.fds() {
            let more;
            (message, more) = receive(&channel)?;
            ensure!(matches!(message, ToSecondary::More), "it said {message:?}");
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

/// The control socket of the server that is to be joined: the one that was named, or the one on
/// this port, or the only one.
fn primary_server(settings: &Settings) -> anyhow::Result<PathBuf> {
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
        None => Err(control::no_server().context(
            "there is no server to join: leave --join out, or name a server by --control",
        )),
    }
}

fn ask_for_channel(path: &Path, settings: &Settings) -> anyhow::Result<OwnedFd> {
    let mut stream = UnixStream::connect(path).map_err(|error| explain(&error))?;
    ensure_same_user(&stream)?;
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    let mut packet = serde_json::to_vec(&Request::Join(Joining::new(settings)))?;
    packet.push(b'\n');
    io::Write::write_all(&mut stream, &packet)?;
    let Some((reply, mut fds)) = packets::receive_with_fds::<Reply>(&stream)? else {
        bail!("no answer in {ANSWERS_WITHIN:?}");
    };
    match (reply, fds.pop()) {
        (Reply::Joined(_), Some(channel)) => Ok(channel),
        (Reply::Refused(why), _) => bail!(why),
        (other, _) => bail!("asked to join, got {other:?}"),
    }
}

/// The other server hands over listeners and memory, with which this server's workers serve.
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
    let remedy = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ": there is no server to join; leave --join out, or name another --control"
        }
        io::ErrorKind::PermissionDenied => {
            ": it belongs to another user; only a server of the same user can be joined"
        }
        _ => "",
    };
    anyhow::anyhow!("{error}{remedy}")
}

fn receive<T: DeserializeOwned>(channel: &OwnedFd) -> anyhow::Result<(T, Vec<OwnedFd>)> {
    let mut ready = [PollFd::new(channel, PollFlags::IN)];
    let within = Timespec {
        tv_sec: ANSWERS_WITHIN.as_secs() as i64,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut ready, Some(&within)).context("wait for its file descriptors")?;
    let received = packets::receive_with_fds(channel.as_fd());
    let received = received.context("receive its file descriptors")?;
    received.with_context(|| format!("no file descriptors in {ANSWERS_WITHIN:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two versions of srv may be joined, so the messages are the same for ever, or PROTOCOL is
    /// raised.
    #[test]
    fn the_messages_on_the_wire_stay_the_same() {
        let lasted = Duration::new(2, 5);
        let slot = 3;
        let to_secondary = [
            ToSecondary::Welcome(Welcome {
                pid: 7,
                first_slot: 2,
                listeners: 4,
                groups: vec![("127.0.0.1:80".parse().unwrap(), 3)],
                policy: "least".into(),
            }),
            ToSecondary::More,
            ToSecondary::Policy("hash".into()),
            ToSecondary::Registered(slot),
            ToSecondary::Probe(slot),
            ToSecondary::Stalled { slot, lasted },
            ToSecondary::Rescan,
            ToSecondary::Take,
        ];
        let expected = r#"[{"Welcome":{"pid":7,"first_slot":2,"listeners":4,"groups":[["127.0.0.1:80",3]],"policy":"least"}},"More",{"Policy":"hash"},{"Registered":3},{"Nudge":3},{"Hangs":{"slot":3,"lasted":{"secs":2,"nanos":5}}},"LookAround","Take"]"#;
        assert_eq!(serde_json::to_string(&to_secondary).unwrap(), expected);
        let (pid, has_left) = (9, true);
        let to_primary = [
            ToPrimary::Starts { slot, pid },
            ToPrimary::Registered(slot),
            ToPrimary::Replaced { slot, pid },
            ToPrimary::Ready(slot),
            ToPrimary::Draining(slot),
            ToPrimary::Died { slot, has_left },
            ToPrimary::Leaving,
            ToPrimary::Taken,
        ];
        let expected = r#"[{"Starts":{"slot":3,"pid":9}},{"Registered":3},{"Replaced":{"slot":3,"pid":9}},{"Ready":3},{"Draining":3},{"Died":{"slot":3,"has_left":true}},"Leaving","Taken"]"#;
        assert_eq!(serde_json::to_string(&to_primary).unwrap(), expected);
    }
}
