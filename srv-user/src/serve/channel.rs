//! The messages between the master and a worker. Each is one packet of JSON on a socket
//! pair, or, if it is long (many sites), a packet with a sealed file that has the JSON.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use anyhow::Context;
use rustix::net::SendFlags;
use serde::{Deserialize, Deserializer, Serialize};

use crate::control::SandboxStatus;
use crate::kernel::packets::{self, MESSAGE_BYTES_MAX, receive_with_fds};
use crate::kernel::sealed;
use crate::serve::config::Serving;
use crate::serve::orders::Orders;
use crate::serve::sandbox::User;

/// A message from the master to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToWorker {
    /// The first message: what the worker needs to start.
    Start(Start),
    /// Listeners of a slot. The first file descriptor of the packet is the listener in
    /// `first_group`, and each further one is the listener in the next group.
    Listeners {
        /// The slot of these listeners.
        slot: u32,
        /// The group of the first listener.
        first_group: u32,
    },
    /// All that the worker is to do from now on.
    Orders(Orders),
    /// A probe. A healthy worker wakes when it receives one.
    Probe,
    /// A message that is too long for a packet. It is in a sealed file, the packet's only
    /// descriptor.
    Sealed,
}

/// The longest message of the master, in a sealed file.
const SEALED_BYTES_MAX: u64 = 64 << 20;

impl ToWorker {
    /// The packet for this message, and the file that goes along if the message does not fit into a
    /// packet.
    ///
    /// # Errors
    /// What the kernel says of such a file.
    pub fn packet(&self) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
        let message = serde_json::to_vec(self)?;
        if message.len() <= MESSAGE_BYTES_MAX {
            return Ok((message, None));
        }
        let file = sealed::sealed(&message)?;
        Ok((serde_json::to_vec(&Self::Sealed)?, Some(file)))
    }

    /// The message itself, if this one says that it is in the file that came along.
    ///
    /// # Errors
    /// There is no such file, or no message in it.
    fn unsealed(self, mut fds: Vec<OwnedFd>) -> io::Result<(Self, Vec<OwnedFd>)> {
        if !matches!(self, Self::Sealed) {
            return Ok((self, fds));
        }
        let file = fds.pop().ok_or(io::ErrorKind::InvalidData)?;
        let message = packets::decode(&sealed::read(file, SEALED_BYTES_MAX)?)?;
        Ok((message, Vec::new()))
    }
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
    /// The user that the worker changes to; `None`: it keeps the user that it started with.
    pub user: Option<User>,
    /// Whether another server serves here, too. If the master dies, the worker then leaves the
    /// connections to that server.
    pub beside: bool,
    /// Whether log lines are written as JSON.
    pub log_json: bool,
    /// What to serve, and how.
    pub serving: Serving,
}

/// A message from a worker to the master.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToMaster {
    /// It waits on its own listeners, in this sandbox.
    Registered(SandboxStatus),
    /// It accepts connections.
    Ready,
    /// It received SIGTERM, accepts no more connections, and will exit.
    Retiring,
    /// It follows the orders of this revision.
    Obeyed(u64),
    /// It cannot follow its orders.
    Refused {
        /// The revision of these orders.
        revision: u64,
        /// The reason.
        #[serde(deserialize_with = "line")]
        why: String,
    },
    /// It cannot do its work, for this reason, and exits.
    Failed(#[serde(deserialize_with = "line")] String),
}

/// The longest text of a worker that the master writes to the log, characters.
const LINE_CHARS_MAX: usize = 1000;

/// Reads text for the log. The worker that sent it may be compromised, so it becomes one line
/// of bounded length.
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

    /// The memory of the worker's ring for the access log.
    pub fn ring(self) -> RawFd {
        self.listener(self.groups, 0)
    }

    /// The end of the ring's bell to write.
    pub fn bell(self) -> RawFd {
        self.ring() + 1
    }

    /// The first descriptor number behind the inherited ones.
    pub fn end(self) -> RawFd {
        self.bell() + 1
    }

    /// A listener.
    pub fn listener(self, group: u32, nth: u32) -> RawFd {
        self.memory(self.groups) + (group * self.listeners + nth) as RawFd
    }
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
    /// `EPIPE` if the master is gone, `EAGAIN` if it does not read and the socket is full.
    pub fn send(&self, message: &ToMaster) -> anyhow::Result<()> {
        let packet = serde_json::to_vec(message).context("encode a message")?;
        rustix::net::send(&self.0, &packet, SendFlags::NOSIGNAL).context("send a message")?;
        Ok(())
    }

    /// The next message, if one has arrived, with the file descriptors that it
    /// brought.
    ///
    /// # Errors
    /// See [`receive_with_fds`]; or a sealed file has no message.
    pub fn receive(&self) -> io::Result<Option<(ToWorker, Vec<OwnedFd>)>> {
        let received = receive_with_fds::<ToWorker>(&self.0)?;
        received
            .map(|(message, fds)| message.unsealed(fds))
            .transpose()
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
    use crate::kernel::packets::decode;
    use crate::mutation::{config, mutated};
    use crate::serve::config::sites::Sites;
    use crate::serve::config::{Limits, Root, Types};
    use crate::values::Http2;
    use srv_steer::AcceptMode;

    #[test]
    fn a_hostile_packet_is_a_message_or_refused() {
        let serving = Serving {
            accept: AcceptMode::Ring,
            root: Some(Root::find("/".as_ref()).unwrap()),
            dotfiles: true,
            sites: Sites::default(),
            https: vec![false],
            tls: None,
            types: Types::from([("a".into(), "b/c".into())]),
            synthetic: false,
            worker_header: true,
            access_log: None,
            http2: Http2::Always,
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
        let orders = Orders::initial(start.serving.clone(), true, 2);
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
