//! What the library that `srv run` preloads into a server's processes and the coordinator say to
//! one another, over one SEQPACKET connection for each process.
//!
//! A process *claims* a slot for a listener when it begins to wait for connections there. The
//! coordinator answers with the slot, the group's memory and, if another process has claimed the
//! same socket already, with a socket of its own in the same `SO_REUSEPORT` group. The process
//! registers its own socket and says [`Kind::Ready`]. Only then do its siblings get that socket
//! ([`Kind::Sibling`]), so that the owner is the first in line at its own socket. If the process
//! ends, its connection does, and the slot is free.
//!
//! Each packet is one [`Message`]; file descriptors travel beside it by SCM_RIGHTS. After it has
//! sent something beside the answer to a claim, the coordinator counts that in the memory of the
//! group ([`crate::layout::Config::notices`]) and writes 1 to the process's bell: a process that is
//! at work looks at the first, one that waits is woken by the second. (The process does not watch
//! the connection itself: what a hang-up looks like to the application's event loop is none of a
//! listener's events.)

/// The environment variable that carries a [`Kind::Hello`]'s channel: `FD:INODE:NAME:TOKEN`, and
/// after it `:`[`SHARES_PORTS`] for one of several copies of a server, and `:`[`CAPACITY`]`N` if
/// each process is to have at most N requests in service. FD is
/// the number of the inherited socket and INODE its inode, by which a process knows that the
/// number still is that socket. NAME is the abstract name to connect to if it is not, and TOKEN,
/// 32 hexadecimal digits, is what proves there that the process belongs to the server.
pub const VARIABLE: &str = "SRV_RUN";

/// The part of [`VARIABLE`] in a copy of a server: each socket that it binds to a port shares
/// that port with the other copies (`SO_REUSEPORT`).
pub const SHARES_PORTS: &str = "copy";

/// What the part of [`VARIABLE`] begins with that limits the requests in service of a process.
pub const CAPACITY: &str = "capacity=";

/// The first number of each message: "srv" and the version of the protocol.
pub const MAGIC: u32 = u32::from_be_bytes(*b"srv\x01");

/// Most listeners that one process can claim.
pub const CLAIMS_MAX: usize = 64;

/// For how long a process waits for the answer to a claim, ms. After that it does without.
pub const ANSWER_WITHIN_MS: u64 = 2_000;

/// What a message says.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From a process, over the inherited socket: the descriptor is the coordinator's end of the
    /// process's own connection. Over a connection to the abstract name, it comes first, without a
    /// descriptor, and `token` is that of [`VARIABLE`].
    Hello = 1,
    /// From a process: it waits for connections at a listener. The descriptors are the listener and
    /// the process's *bell*, an eventfd that is the same in all of its claims. `claim` is the
    /// process's number for the listener, below [`CLAIMS_MAX`]; `cookie` is the socket's.
    Claim = 2,
    /// From a process: the listener of `claim` is registered, or its owner waits at it.
    Ready = 3,
    /// From a process: it accepts no more at `claim`. It has closed the listener, or left it.
    Release = 4,
    /// To a process, the answer to a claim: `slot`, and as descriptors the group's memory and,
    /// with [`Message::REPLACE`], the socket that takes the place of the process's listener.
    Own = 5,
    /// To a process, the answer to a claim: the listener stays as it is, without a ring.
    Plain = 6,
    /// To a process: the descriptors are the listener of the sibling in `slot`, to be watched, and,
    /// if a process owns it, the bell of that process.
    Sibling = 7,
    /// To a process: the sibling in `slot` has a new process, which must be the first in line
    /// again: register its listener anew. The descriptor is that process's bell.
    Behind = 8,
    /// To a process: the listener of `slot` is to be left and closed.
    Gone = 9,
    /// To a process, when another has left: register all siblings' listeners anew. The kernel may
    /// have woken the other one, and no more, for a connection that it did not accept.
    Rescan = 10,
}

impl Kind {
    /// The kind of that number.
    pub fn from_number(number: u32) -> Option<Self> {
        const ALL: [Kind; 10] = [
            Kind::Hello,
            Kind::Claim,
            Kind::Ready,
            Kind::Release,
            Kind::Own,
            Kind::Plain,
            Kind::Sibling,
            Kind::Behind,
            Kind::Gone,
            Kind::Rescan,
        ];
        ALL.into_iter().find(|kind| *kind as u32 == number)
    }
}

/// One packet. Every field is an integer, since what arrives may be anything.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// [`MAGIC`].
    pub magic: u32,
    /// A [`Kind`] as number.
    pub kind: u32,
    /// The process's number for the listener.
    pub claim: u32,
    /// The slot that is meant.
    pub slot: u32,
    /// [`Self::REPLACE`], or 0.
    pub flags: u32,
    /// In [`Kind::Claim`]: the process's count of its claims. The answer repeats it, so that an
    /// answer which is given twice, because a coordinator was killed, is not taken for another's.
    pub turn: u32,
    /// `SO_COOKIE` of the listener.
    pub cookie: u64,
    /// Of [`Kind::Hello`] over the abstract name.
    pub token: [u8; 16],
}

impl Message {
    /// Bytes of a packet.
    pub const BYTES: usize = size_of::<Self>();
    /// In [`Kind::Own`]: a socket comes along, which takes the place of the process's listener.
    pub const REPLACE: u32 = 1;

    /// A message of that kind about a claim.
    pub fn new(kind: Kind, claim: u32) -> Self {
        Self {
            magic: MAGIC,
            kind: kind as u32,
            claim,
            ..Self::default()
        }
    }

    /// What the message says; `None` if it is none of this version.
    pub fn kind(&self) -> Option<Kind> {
        let is_known = self.magic == MAGIC && (self.claim as usize) < CLAIMS_MAX;
        Kind::from_number(self.kind).filter(|_| is_known)
    }

    /// Whether a socket comes along that takes the place of the process's listener.
    pub fn replaces(&self) -> bool {
        self.flags & Self::REPLACE != 0
    }

    /// The packet.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        // SAFETY: integers without padding, of exactly that many bytes.
        unsafe { core::mem::transmute(self) }
    }

    /// The message of a packet.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        // SAFETY: integers without padding accept any bits.
        unsafe { core::mem::transmute(bytes) }
    }
}

const _: () = assert!(Message::BYTES == 48);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_as_it_was_and_another_version_is_none() {
        let message = Message {
            slot: 7,
            cookie: u64::MAX - 3,
            flags: Message::REPLACE,
            ..Message::new(Kind::Own, 5)
        };
        let back = Message::from_bytes(message.to_bytes());
        assert_eq!((back, back.kind()), (message, Some(Kind::Own)));
        let others = [
            Message {
                magic: MAGIC + 1,
                ..message
            },
            Message { kind: 0, ..message },
            Message {
                kind: 11,
                ..message
            },
            Message {
                claim: CLAIMS_MAX as u32,
                ..message
            },
        ];
        assert!(others.iter().all(|other| other.kind().is_none()));
    }
}
