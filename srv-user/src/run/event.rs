//! What happens to a coordinator, and the numbers by which it knows processes and claims.

use std::os::fd::OwnedFd;

use srv_common::claim::Message;

use super::holders::Holders;
use crate::control::Question;

/// A process of the server, for as long as its connection lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MemberId(pub(super) u64);

/// A process's claim of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClaimId {
    /// The process.
    pub(super) member: MemberId,
    /// Its number for the listener.
    pub(super) number: u32,
}

/// Something that the coordinator has to deal with.
pub(super) enum Event {
    /// A process belongs to the server. This is its connection.
    Hello(OwnedFd),
    /// A process has sent a packet, which may have brought file descriptors.
    Said(MemberId, Message, Vec<OwnedFd>),
    /// A process has ended, or its connection has.
    Left(MemberId),
    /// The server's first process has ended.
    ServerEnded,
    /// No process has the inherited socket any more.
    Uninvited,
    /// Which processes have the sockets that were looked for.
    Held(Holders),
    /// A question at the control socket.
    Asked(Question),
}

impl From<Question> for Event {
    fn from(question: Question) -> Self {
        Self::Asked(question)
    }
}
