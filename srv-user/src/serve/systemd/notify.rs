//! The socket on which systemd receives reports of its services. If systemd is stopped, or
//! slow, it must not stop this process, so srv does not wait for it. If the socket has no
//! room, srv keeps the packets in order, and sends them when systemd reads again.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::NOTIFY_SOCKET;
use crate::kernel::packets;

/// How long this process waits at its end for systemd to read its socket.
const LISTENS_WITHIN: Duration = Duration::from_secs(1);
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

/// One packet, and the socket that it carries.
struct Packet {
    text: String,
    fd: Option<OwnedFd>,
}

/// The packets that were not sent yet, the oldest first.
static UNSENT: Mutex<VecDeque<Packet>> = Mutex::new(VecDeque::new());

/// Sends a packet and the socket that it carries, now or as soon as the socket has room.
/// Without systemd, this does nothing.
///
/// # Errors
/// What the kernel says, other than that there is no room.
pub(super) fn send(text: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    if !super::is_there() {
        return Ok(());
    }
    let mut unsent = unsent();
    if unsent.is_empty() {
        match try_send(text, fd) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
    let fd = fd.map(|fd| fd.try_clone_to_owned()).transpose()?;
    let text = text.to_owned();
    unsent.push_back(Packet { text, fd });
    Ok(())
}

/// Whether all packets were sent.
pub fn is_idle() -> bool {
    unsent().is_empty()
}

/// Sends the packets that could not be sent before, as far as the socket has room.
pub fn catch_up() {
    let mut unsent = unsent();
    while let Some(packet) = unsent.front() {
        match try_send(&packet.text, packet.fd.as_ref().map(OwnedFd::as_fd)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => {
                let what = packet.text.lines().next().unwrap_or_default();
                tracing::warn!("tell systemd {what}: {error}");
            }
            Ok(()) => {}
        }
        unsent.pop_front();
    }
}

/// The last step of this process: sends the packets that are left. If the socket has no room,
/// it waits for at most 1 s.
pub fn finish() {
    let deadline = Instant::now() + LISTENS_WITHIN;
    catch_up();
    while !is_idle() && Instant::now() < deadline {
        std::thread::sleep(BETWEEN_TRIES);
        catch_up();
    }
}

fn unsent() -> MutexGuard<'static, VecDeque<Packet>> {
    UNSENT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_send(text: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let path = std::env::var_os(NOTIFY_SOCKET).unwrap_or_default();
    let socket = UnixDatagram::unbound()?;
    // The description of this socket is new, and no other process has it, so the flag affects
    // this process only.
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address(&path)?)?;
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    packets::send_with_fds(&socket, text.as_bytes(), &fds)
}

/// The address of a path. If it begins with `@`, the rest is an abstract name, which is in no
/// file system.
fn address(path: &OsStr) -> io::Result<SocketAddr> {
    match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path),
    }
}
