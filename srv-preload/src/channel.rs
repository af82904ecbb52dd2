//! The process's connection to the coordinator. Knows packets, and nothing of claims.

use srv_common::claim::{Kind, Message};

use crate::files::{self, File};
use crate::process::Told;
use crate::sys;

/// This library's own descriptors are from here on, if the limit of open files permits it: many
/// applications assume low numbers for their own.
const FIRST_NUMBER: usize = 800;

/// What was received.
pub(crate) enum Received {
    /// A message with its descriptors.
    Message(Message, [Option<i32>; sys::FDS_MAX]),
    /// There is none now.
    Nothing,
    /// The coordinator has gone.
    Closed,
}

/// The connection, if there is one.
pub(crate) struct Channel {
    fd: Option<i32>,
    /// What the coordinator rings when it has sent something: an eventfd that the process watches.
    bell: Option<i32>,
    /// How often the process has claimed.
    turn: u32,
    /// A connection could not be made, or has ended: there will be none.
    pub(crate) is_over: bool,
}

impl Channel {
    /// No connection yet.
    pub(crate) const NONE: Self = Self {
        fd: None,
        bell: None,
        turn: 0,
        is_over: false,
    };

    pub(crate) fn fd(&self) -> Option<i32> {
        self.fd
    }

    /// The bell, which is made when it is needed first.
    pub(crate) fn bell(&mut self) -> Option<i32> {
        if self.bell.is_none() {
            let bell = i32::try_from(sys::event_counter()).ok();
            self.bell = bell.filter(|bell| *bell >= 0).map(keep);
        }
        self.bell
    }

    /// The number of the next claim.
    pub(crate) fn next_turn(&mut self) -> u32 {
        self.turn = self.turn.wrapping_add(1);
        self.turn
    }

    /// The process has heard the bell. Returns whether it has rung.
    pub(crate) fn silence(&self) -> bool {
        self.bell.is_some_and(sys::reset_counter)
    }

    /// Connects, if that was not done before.
    pub(crate) fn open(&mut self, told: &Told) -> Option<i32> {
        if self.fd.is_none() && !self.is_over {
            self.fd = over_inherited(told).or_else(|| over_name(told)).map(keep);
            self.is_over = self.fd.is_none();
        }
        self.fd
    }

    /// Sends a message with descriptors.
    pub(crate) fn send(&mut self, message: Message, fds: &[i32]) -> bool {
        let sent = |channel| sys::send(channel, &mut message.to_bytes(), fds);
        self.fd
            .is_some_and(|channel| sent(channel) == Message::BYTES as isize)
    }

    /// Receives the next message, if there is one.
    pub(crate) fn receive(&mut self) -> Received {
        let Some(fd) = self.fd else {
            return Received::Nothing;
        };
        let mut bytes = [0; Message::BYTES];
        let (received, fds) = sys::receive(fd, &mut bytes);
        const WHOLE: isize = Message::BYTES as isize;
        match received {
            WHOLE => Received::Message(Message::from_bytes(bytes), fds),
            error if error == sys::failure(sys::errno::EAGAIN) => Received::Nothing,
            error if error == sys::failure(sys::errno::EINTR) => Received::Nothing,
            _ => {
                fds.into_iter().flatten().for_each(drop_fd);
                Received::Closed
            }
        }
    }

    /// Permits one more connection: the coordinator that had the last one may have been killed, and
    /// another one is in its place.
    pub(crate) fn begin_anew(&mut self) {
        self.is_over = false;
    }

    /// Forgets the connection.
    pub(crate) fn close(&mut self) {
        if let Some(fd) = self.fd.take() {
            drop_private(fd);
        }
        self.is_over = true;
    }
}

fn over_inherited(told: &Told) -> Option<i32> {
    if sys::inode(told.inherited) != Some(told.inode) {
        return None;
    }
    let [ours, theirs] = sys::packet_pair()?;
    let hello = Message::new(Kind::Hello, 0);
    let sent = sys::send(told.inherited, &mut hello.to_bytes(), &[theirs]);
    drop_fd(theirs);
    if sent == Message::BYTES as isize {
        return Some(ours);
    }
    drop_fd(ours);
    None
}

fn over_name(told: &Told) -> Option<i32> {
    let fd = sys::connect_abstract(&told.name[..told.name_bytes])?;
    let hello = Message {
        token: told.token,
        ..Message::new(Kind::Hello, 0)
    };
    if sys::send(fd, &mut hello.to_bytes(), &[]) == Message::BYTES as isize {
        return Some(fd);
    }
    drop_fd(fd);
    None
}

/// Takes a descriptor as this library's own, under a number that does not disturb.
pub(crate) fn keep(fd: i32) -> i32 {
    let moved = sys::duplicate_above(fd, FIRST_NUMBER);
    let fd = match i32::try_from(moved) {
        Ok(moved) if moved >= 0 => {
            drop_fd(fd);
            moved
        }
        _ => fd,
    };
    files::set(fd, File::Private);
    fd
}

/// Closes a descriptor of this library's own.
pub(crate) fn drop_private(fd: i32) {
    files::set(fd, File::Other);
    drop_fd(fd);
}

/// Closes a descriptor.
pub(crate) fn drop_fd(fd: i32) {
    sys::close(fd);
}
