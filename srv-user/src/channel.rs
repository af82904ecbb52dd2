//! The socketpair between the master and a worker: one JSON message per packet.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

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
    /// It was asked to go, accepts no more and will exit.
    Retiring,
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
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Both ends of a new channel, non-blocking and close-on-exec.
///
/// # Errors
/// If the kernel is out of file descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// A packet's message.
///
/// # Errors
/// `UnexpectedEof` for an empty packet: the other side is gone.
/// `InvalidData` if it is no such message.
pub fn decode<T: DeserializeOwned>(packet: &[u8]) -> io::Result<T> {
    if packet.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(packet)?)
}

/// The worker's end.
pub struct Channel(OwnedFd);

impl Channel {
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
    /// `EPIPE` if the master is gone, `EAGAIN` if it does not listen.
    pub fn send(&self, message: &ToMaster) -> anyhow::Result<()> {
        let packet = serde_json::to_vec(message).context("encode a message")?;
        rustix::net::send(&self.0, &packet, SendFlags::NOSIGNAL).context("send a message")?;
        Ok(())
    }

    /// The next message, if one has arrived.
    ///
    /// # Errors
    /// See [`decode`].
    pub fn receive(&self) -> io::Result<Option<ToWorker>> {
        let mut packet = vec![0u8; MESSAGE_BYTES_MAX];
        match rustix::net::recv(&self.0, &mut packet, RecvFlags::empty()) {
            Ok((length, _)) => decode(&packet[..length]).map(Some),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(Errno::CONNRESET) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
