//! Hands a worker's part of a group to another process: the memory and the listeners, over a Unix
//! stream socket, by SCM_RIGHTS. The socket buffers all of it, so that the receiver need not run
//! yet.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::io::{Errno, FdFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::accept_mode::AcceptMode;
use crate::error::{Error, ErrorKind, Result, Tried as _};
use crate::worker::Worker;

/// Most file descriptors that one message brings (`SCM_MAX_FD`, net/core/scm.c).
const FDS_MAX: usize = 253;
/// The environment variable that tells a child process the number of the socket that it inherited.
const VARIABLE: &str = "SRV_STEER_FD";
/// The first bytes of a worker, with the version of what follows.
const MAGIC: [u8; 8] = *b"srvsteer";
const VERSION: u32 = 1;

/// What is sent to a worker before its listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    slot: u32,
    mode: AcceptMode,
    listeners: u32,
}

impl Header {
    const BYTES: usize = MAGIC.len() + 4 * size_of::<u32>();

    fn to_bytes(self) -> Vec<u8> {
        let words = [VERSION, self.slot, self.mode as u32, self.listeners];
        let words = words.iter().flat_map(|word| word.to_ne_bytes());
        MAGIC.into_iter().chain(words).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let words = bytes.strip_prefix(&MAGIC)?.as_chunks::<4>().0;
        let words: Vec<u32> = words.iter().map(|word| u32::from_ne_bytes(*word)).collect();
        let [VERSION, slot, mode, listeners] = words[..] else {
            return None;
        };
        let (_, mode) = *AcceptMode::NAMED.get(mode as usize)?;
        let is_possible = listeners as usize <= srv_common::MAX_WORKERS;
        is_possible.then_some(Self {
            slot,
            mode,
            listeners,
        })
    }
}

/// Sends the worker in `slot` of a group with this memory and these listeners.
pub(crate) fn send(
    channel: impl AsFd,
    slot: u32,
    mode: AcceptMode,
    memory: BorrowedFd<'_>,
    listeners: &[BorrowedFd<'_>],
) -> Result<()> {
    let header = Header {
        slot,
        mode,
        listeners: listeners.len() as u32,
    };
    let sent = send_fds(&channel, &header.to_bytes(), &[memory]);
    let chunks = || listeners.chunks(FDS_MAX);
    sent.and_then(|()| chunks().try_for_each(|fds| send_fds(&channel, &[0], fds)))
        .map_err(|error| {
            let tried = format!("send worker {slot} to another process");
            Error::new(ErrorKind::Handover, tried).because(error)
        })
}

fn send_fds(channel: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let buffers = &[IoSlice::new(bytes)];
    let sent = rustix::net::sendmsg(channel, buffers, &mut control, SendFlags::NOSIGNAL)?;
    match sent == bytes.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Has `command` inherit the worker that `send` sends.
pub(crate) fn pass(
    command: &mut Command,
    send: impl FnOnce(BorrowedFd<'_>) -> Result<()>,
) -> Result<()> {
    let pair = UnixStream::pair();
    let (ours, theirs) = pair.tried(ErrorKind::Handover, "create a socket for a child process")?;
    send(ours.as_fd())?;
    command.env(VARIABLE, theirs.as_raw_fd().to_string());
    // SAFETY: between fork and exec only `fcntl` is called, which is async-signal-safe.
    unsafe {
        // The command owns the socket, which is therefore open until the child has its copy.
        command.pre_exec(move || Ok(rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?));
    }
    Ok(())
}

impl Worker {
    /// The worker that another process has sent ([`Group::send_worker`](crate::Group::send_worker))
    /// to the other end of `channel`. Waits for it.
    ///
    /// # Errors
    /// If what arrives is no worker, or the other end is closed before all of it has come.
    pub fn receive(channel: impl AsFd) -> Result<Self> {
        let tried = "receive a worker from another process";
        let mut bytes = [0; Header::BYTES];
        let mut memory = receive_fds(&channel, &mut bytes).tried(ErrorKind::Handover, tried)?;
        let not_one = || {
            let tried = format!("{tried}: it is no worker of this version of srv-steer");
            Error::new(ErrorKind::Handover, tried).remedy("build both programs with the same one")
        };
        let header = Header::from_bytes(&bytes).ok_or_else(not_one)?;
        let memory = memory.pop().ok_or_else(not_one)?;
        let mut listeners = Vec::new();
        while listeners.len() < header.listeners as usize {
            let more = receive_fds(&channel, &mut [0]).tried(ErrorKind::Handover, tried)?;
            if more.is_empty() {
                return Err(not_one());
            }
            listeners.extend(more);
        }
        Self::from_fds(header.slot, header.mode, memory, listeners)
    }

    /// The worker that this process inherited from its parent
    /// ([`Group::pass_worker`](crate::Group::pass_worker)). Call it once, before the process opens
    /// any file.
    ///
    /// # Errors
    /// If it inherited none, or has taken it already.
    pub fn inherited() -> Result<Self> {
        let tried = "take over the worker that the parent process passes";
        let number = std::env::var(VARIABLE).ok();
        let number = number.and_then(|number| number.parse::<RawFd>().ok());
        let Some(number) = number.filter(|number| *number > 2) else {
            let error = Error::new(
                ErrorKind::Handover,
                format!("{tried}: {VARIABLE} names none"),
            );
            return Err(error.remedy("start this program from the one that has the group"));
        };
        // SAFETY: the call only asks whether the number is an open file.
        let is_open = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) });
        is_open.tried(ErrorKind::Handover, tried)?;
        // SAFETY: the parent opened it for this process, which takes it over once.
        let channel = unsafe { OwnedFd::from_raw_fd(number) };
        Self::receive(channel)
    }
}

/// Fills `bytes`, and returns the descriptors that came with them.
fn receive_fds(channel: impl AsFd, bytes: &mut [u8]) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = bytes.len();
    let received = loop {
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
        let buffers = &mut [IoSliceMut::new(bytes)];
        match rustix::net::recvmsg(&channel, buffers, &mut control, flags) {
            Err(Errno::INTR) => {}
            ended => break ended?.bytes,
        }
    };
    if received < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let rights = control.drain().filter_map(|ancillary| match ancillary {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(rights.flatten().collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_header_comes_back_as_it_was_and_nothing_else_is_one() {
        let header = Header {
            slot: 3,
            mode: AcceptMode::Own,
            listeners: 256,
        };
        let bytes = header.to_bytes();
        assert_eq!(bytes.len(), Header::BYTES);
        assert_eq!(Header::from_bytes(&bytes), Some(header));
        for nth in 0..Header::BYTES - 4 {
            let mut changed = bytes.clone();
            changed[nth] ^= 0x80;
            assert_ne!(Header::from_bytes(&changed), Some(header), "byte {nth}");
        }
        assert_eq!(Header::from_bytes(&bytes[1..]), None);
    }

    #[test]
    fn what_is_no_worker_is_refused() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&[b'x'; Header::BYTES]).unwrap();
        let refused = Worker::receive(&theirs).map(drop).unwrap_err();
        assert!(refused.to_string().contains("no worker"), "{refused}");
        drop(ours);
        let refused = Worker::receive(&theirs).map(drop).unwrap_err();
        let kernel = refused.kernel().map(io::Error::kind);
        assert_eq!(kernel, Some(io::ErrorKind::UnexpectedEof));
    }
}
