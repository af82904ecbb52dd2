//! What srv says to systemd, and the listeners that it takes from it. Nothing
//! of it does anything where systemd did not ask.

use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use sd_notify::NotifyState;
use socket2::Socket;

use crate::listen::ListenerGroup;

/// The server serves. It is the service's main process, also after an upgrade.
pub fn ready() {
    let pid = std::process::id();
    say(&[NotifyState::Ready, NotifyState::MainPid(pid)]);
}

/// The server stops.
pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// The master's loop goes round.
pub fn alive() {
    say(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is to be said, if systemd watches: twice as often as it demands.
pub fn alive_every() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|demanded| demanded / 2)
}

fn say(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("notify systemd: {error}");
    }
}

/// The listeners that a socket unit passed, by address. To be called once,
/// before anything else opens a file or starts a thread.
///
/// # Errors
/// If one of them is no listening TCP socket.
pub fn listeners() -> anyhow::Result<Vec<ListenerGroup>> {
    let passed = sd_notify::listen_fds().context("read LISTEN_FDS")?;
    let mut groups: Vec<ListenerGroup> = Vec::new();
    for fd in passed {
        // SAFETY: systemd passed it to this process, and it is adopted once.
        let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(fd) });
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)
            .context("adopt a listener")?;
        let is_listening = socket.is_listener().unwrap_or(false);
        ensure!(
            is_listening,
            "file descriptor {fd}, which systemd passed, does not listen: Accept=no is needed"
        );
        let Some(address) = socket.local_addr().ok().and_then(|local| local.as_socket()) else {
            bail!("file descriptor {fd}, which systemd passed, has no IP address");
        };
        match groups.iter_mut().find(|group| group.address == address) {
            Some(group) => group.sockets.push(socket),
            None => groups.push(ListenerGroup {
                address,
                sockets: vec![socket],
                is_closed: false,
            }),
        }
    }
    Ok(groups)
}
