//! The socket on which systemd listens to its services. A manager that is stopped, or
//! slow, must not stop this process, so nothing waits for it: what it has no room for is
//! kept, in order, and sent when it listens again.

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

/// How long the end of this process waits for systemd to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(1);
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

/// One packet, and the socket that it brings.
struct Packet {
    text: String,
    fd: Option<OwnedFd>,
}

/// What was not sent yet, the oldest first.
static UNSENT: Mutex<VecDeque<Packet>> = Mutex::new(VecDeque::new());

/// Sends a packet and the socket that it brings, now or as soon as systemd listens.
/// No-op without systemd.
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

/// Whether everything was sent.
pub fn is_idle() -> bool {
    unsent().is_empty()
}

/// Sends what could not be sent before, as far as systemd has room.
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

/// The last thing that is done: waits for systemd to listen, for a moment.
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
    // Its description is new: no other process knows it.
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address(&path)?)?;
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    packets::send_with_fds(&socket, text.as_bytes(), &fds)
}

/// A path, or behind an `@` a name that is in no file system.
fn address(path: &OsStr) -> io::Result<SocketAddr> {
    match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path),
    }
}
