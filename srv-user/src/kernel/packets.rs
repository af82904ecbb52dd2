//! Packets over a local socket, which may bring file descriptors. Most are one JSON message each.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::io::{Errno, FdFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;

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
/// If there is no such channel: another program than a master has started this process.
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

/// The next message on `channel`, if one has arrived, with the file descriptors
/// that it brought.
///
/// # Errors
/// See [`decode`].
pub fn receive_with_fds<T: DeserializeOwned>(
    channel: impl AsFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut packet = vec![0u8; MESSAGE_BYTES_MAX];
    match receive_into(channel, &mut packet)? {
        Some((bytes, fds)) => Ok(Some((decode(&packet[..bytes])?, fds))),
        None => Ok(None),
    }
}

/// The next packet on `channel`, if one has arrived: how many bytes of `packet` it has filled, and
/// the file descriptors that it brought. No byte means that the other side is gone.
///
/// # Errors
/// `UnexpectedEof` if the other side went without reading what it was sent, or what `recvmsg` says.
pub fn receive_into(
    channel: impl AsFd,
    packet: &mut [u8],
) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    receive_with(channel, packet, RecvFlags::empty())
}

/// As [`receive_into`], but the packet stays the next one until it is taken by [`discard`].
///
/// # Errors
/// As there.
pub fn peek_into(
    channel: impl AsFd,
    packet: &mut [u8],
) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    receive_with(channel, packet, RecvFlags::PEEK)
}

/// Takes the next packet on a channel that does not block, and what it brought.
pub fn discard(channel: impl AsFd) {
    // If there is none, the other side has gone, which the next look tells.
    let _ = rustix::net::recv(channel, &mut [0; 1], RecvFlags::empty());
}

fn receive_with(
    channel: impl AsFd,
    packet: &mut [u8],
    flags: RecvFlags,
) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let buffers = &mut [IoSliceMut::new(packet)];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    match rustix::net::recvmsg(channel, buffers, &mut control, flags) {
        Ok(received) => {
            let rights = control.drain().filter_map(|ancillary| match ancillary {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            });
            Ok(Some((received.bytes, rights.flatten().collect())))
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(Errno::CONNRESET) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) => Err(error.into()),
    }
}
