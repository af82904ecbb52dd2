//! The socketpair between the master and a worker: one JSON message per packet.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use anyhow::Context;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::Serving;

/// What the master says to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToWorker {
    /// The first message: what to do.
    Start(Start),
    /// Every sibling has registered its own listeners: wait on all of them.
    JoinRing,
    /// The worker of this slot is new: register its listeners anew, behind it.
    Rejoin(u32),
    /// Finish what there is and exit.
    Drain,
}

/// A worker's orders.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The worker's number.
    pub slot: u32,
    /// Workers in all.
    pub workers: u32,
    /// Listener groups; each has a memory and its listeners among the
    /// inherited file descriptors ([`Inherited`]).
    pub groups: u32,
    /// Log lines as JSON.
    pub log_json: bool,
    /// What to serve, and how.
    pub serving: Serving,
}

/// What a worker says to the master.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToMaster {
    /// It waits on its own listeners.
    Registered,
    /// It accepts connections.
    Ready,
    /// It can't do its work, and why; it exits.
    Failed(String),
}

/// Where a worker finds its inherited file descriptors.
#[derive(Clone, Copy)]
pub struct Inherited {
    /// Listener groups.
    pub groups: u32,
    /// Listeners in each of them.
    pub listeners: u32,
}

impl Inherited {
    /// The worker's end of the channel.
    pub const CHANNEL: RawFd = 3;

    /// The shared memory of a group.
    pub fn memory(self, group: u32) -> RawFd {
        Self::CHANNEL + 1 + group as RawFd
    }

    /// A listener.
    pub fn listener(self, group: u32, nth: u32) -> RawFd {
        self.memory(self.groups) + (group * self.listeners + nth) as RawFd
    }
}

/// Longest message; a socketpair's packet may be larger.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// One end of the socketpair.
pub struct Channel(OwnedFd);

impl Channel {
    /// Both ends, non-blocking and close-on-exec.
    ///
    /// # Errors
    /// If the kernel is out of file descriptors.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (mine, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(mine), theirs))
    }

    /// The end that was inherited.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Another handle on the same end.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// `EPIPE` if the other side is gone, `EAGAIN` if it does not listen.
    pub fn send(&self, message: &impl Serialize) -> anyhow::Result<()> {
        let packet = serde_json::to_vec(message).context("encode a message")?;
        rustix::net::send(&self.0, &packet, SendFlags::NOSIGNAL).context("send a message")?;
        Ok(())
    }

    /// The next message, if one has arrived.
    ///
    /// # Errors
    /// `UnexpectedEof` if the other side is gone and nothing is left to read.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        let mut packet = [MaybeUninit::uninit(); MESSAGE_BYTES_MAX];
        let packet = match rustix::net::recv(&self.0, &mut packet, RecvFlags::empty()) {
            Ok(((packet, _), _)) => packet,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(Errno::CONNRESET) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => return Err(error.into()),
        };
        if packet.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(serde_json::from_slice(packet)?))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
