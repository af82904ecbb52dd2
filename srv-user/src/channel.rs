//! The socketpair between the master and a worker: one JSON message per packet.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use anyhow::Context;
use rustix::io::{Errno, FdFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::Serving;
use crate::confine::{Confinement, User};
use crate::orders::Orders;

/// What the master says to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToWorker {
    /// The first message: what to do.
    Start(Start),
    /// Listeners of a slot, of this group and those after it: as many as the packet brings
    /// file descriptors.
    Listeners {
        /// Its slot.
        slot: u32,
        /// The group of the first.
        first_group: u32,
    },
    /// All that the worker is to do from now on.
    Orders(Orders),
    /// A probe. A healthy worker wakes when it receives one.
    Nudge,
}

/// What a worker needs to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The worker's number.
    pub slot: u32,
    /// Listeners in each group.
    pub listeners: u32,
    /// Listener groups; each has a memory and its listeners among the
    /// inherited file descriptors ([`Inherited`]).
    pub groups: u32,
    /// Whom to run as; `None`: as started.
    pub user: Option<User>,
    /// Another server serves here, too: should the master die, leave to that.
    pub beside: bool,
    /// Log lines as JSON.
    pub log_json: bool,
    /// What to serve, and how.
    pub serving: Serving,
}

/// What a worker says to the master.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToMaster {
    /// It waits on its own listeners, confined like this.
    Registered(Confinement),
    /// It accepts connections.
    Ready,
    /// It was asked to go, accepts no more and will exit.
    Retiring,
    /// It does what it was ordered with this revision.
    Obeyed(u64),
    /// It cannot do what it was ordered.
    Refused {
        /// Of these orders.
        revision: u64,
        /// The reason.
        #[serde(deserialize_with = "line")]
        why: String,
    },
    /// It can't do its work, and why; it exits.
    Failed(#[serde(deserialize_with = "line")] String),
}

/// Longest text of a worker that reaches the log, characters.
const LINE_CHARS_MAX: usize = 1000;

/// Text for the log from a worker that may be compromised: one line of bounded length.
fn line<'de, D: Deserializer<'de>>(text: D) -> Result<String, D::Error> {
    let text = String::deserialize(text)?;
    let chars = text.chars().take(LINE_CHARS_MAX);
    Ok(chars
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect())
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

    /// The first number that nothing was inherited at.
    pub fn end(self) -> RawFd {
        self.listener(self.groups, 0)
    }

    /// A listener.
    pub fn listener(self, group: u32, nth: u32) -> RawFd {
        self.memory(self.groups) + (group * self.listeners + nth) as RawFd
    }
}

/// Most file descriptors that one message brings (`SCM_MAX_FD`, net/core/scm.c).
pub const FDS_MAX: usize = 253;

/// Sends a packet that brings file descriptors along.
///
/// # Errors
/// What `sendmsg` says.
pub fn send_with_fds(channel: impl AsFd, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let buffers = &[IoSlice::new(packet)];
    rustix::net::sendmsg(channel, buffers, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Longest message; a socketpair's packet may be larger.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// The end of a channel that this process inherited at a number.
///
/// # Errors
/// There is no such channel: another program than a master has started this process.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    let option = |option| {
        let mut value: libc::c_int = 0;
        let mut length = size_of_val(&value) as libc::socklen_t;
        // SAFETY: the buffer is as long as `length` says; a number without a file is an error.
        let result = unsafe {
            let buffer = (&raw mut value).cast();
            libc::getsockopt(fd, libc::SOL_SOCKET, option, buffer, &raw mut length)
        };
        match result {
            0 => Ok(value),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let found = (option(libc::SO_DOMAIN)?, option(libc::SO_TYPE)?);
    if found != (libc::AF_UNIX, libc::SOCK_SEQPACKET) {
        return Err(io::Error::other("it is another kind of socket"));
    }
    // SAFETY: it is open, and a process that inherits it adopts it once, before it opens
    // anything.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

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

    /// Sends a message.
    ///
    /// # Errors
    /// `EPIPE` if the master is gone, `EAGAIN` if it does not listen.
    pub fn send(&self, message: &ToMaster) -> anyhow::Result<()> {
        let packet = serde_json::to_vec(message).context("encode a message")?;
        rustix::net::send(&self.0, &packet, SendFlags::NOSIGNAL).context("send a message")?;
        Ok(())
    }

    /// The next message, if one has arrived, with the file descriptors that it
    /// brought.
    ///
    /// # Errors
    /// See [`decode`].
    pub fn receive(&self) -> io::Result<Option<(ToWorker, Vec<OwnedFd>)>> {
        receive_with_fds(&self.0)
    }
}

/// The next message on `channel`, if one has arrived, with the file descriptors
/// that it brought.
///
/// # Errors
/// See [`decode`].
pub fn receive_with_fds<T: DeserializeOwned>(
    channel: impl AsFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut packet = vec![0u8; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let buffers = &mut [IoSliceMut::new(&mut packet)];
    match rustix::net::recvmsg(channel, buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
        Ok(received) => {
            let message = decode(&packet[..received.bytes])?;
            let rights = control.drain().filter_map(|ancillary| match ancillary {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            });
            Ok(Some((message, rights.flatten().collect())))
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(Errno::CONNRESET) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) => Err(error.into()),
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{AcceptMode, Limits, Root};
    use crate::mutation::{config, mutated};
    use crate::site::content_type::Types;

    #[test]
    fn a_hostile_packet_is_a_message_or_refused() {
        let serving = Serving {
            accept: AcceptMode::Ring,
            root: Some(Root::find("/".as_ref()).unwrap()),
            dotfiles: true,
            types: Types::from([("a".into(), "b/c".into())]),
            synthetic: false,
            worker_header: true,
            limits: Limits {
                idle_timeout: Duration::MAX,
                ..Limits::default()
            },
        };
        let start = Start {
            slot: 0,
            listeners: 2,
            groups: 1,
            user: Some(User { uid: 7, gid: 8 }),
            beside: false,
            log_json: false,
            serving,
        };
        let orders = Orders::first(start.serving.clone(), true, 2);
        let seeds = [
            serde_json::to_vec(&ToWorker::Start(start)).unwrap(),
            serde_json::to_vec(&ToWorker::Orders(orders)).unwrap(),
            serde_json::to_vec(&ToMaster::Ready).unwrap(),
            serde_json::to_vec(&ToMaster::Failed("why".into())).unwrap(),
        ];
        proptest!(config(), |(packet in mutated(seeds))| {
            let errors = [
                decode::<ToWorker>(&packet).err(),
                decode::<ToMaster>(&packet).err(),
            ];
            for error in errors.into_iter().flatten() {
                let end = matches!(error.kind(), io::ErrorKind::UnexpectedEof);
                prop_assert!(end || error.kind() == io::ErrorKind::InvalidData, "{}", error);
            }
        });
    }
}
