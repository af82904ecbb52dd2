//! What srv reports to systemd, and the listeners that it takes from systemd. If systemd
//! did not ask for it, none of this has an effect.

mod notify;
pub mod store;

use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use anyhow::{Context, ensure};
pub use notify::{catch_up, finish, is_idle};
use sd_notify::NotifyState;
use socket2::Socket;

use srv_steer::ListenerGroup;

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// Whether systemd started this process and receives its reports.
pub fn is_there() -> bool {
    std::env::var_os(NOTIFY_SOCKET).is_some()
}

/// Reports that the server serves, and that this process is the service's main process, also
/// after an upgrade.
pub fn ready() {
    let pid = std::process::id();
    say(&[NotifyState::Ready, NotifyState::MainPid(pid)]);
}

/// Reports that the server stops.
pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// Reports that the master's loop runs. This holds for the present only, so if systemd does
/// not read its socket now, srv does not report it later.
pub fn alive() {
    if notify::is_idle() {
        say(&[NotifyState::Watchdog]);
    }
}

/// How often the master is to call [`alive`], if systemd runs a watchdog: twice as often as
/// systemd demands.
pub fn alive_every() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|demanded| demanded / 2)
}

fn say(states: &[NotifyState<'_>]) {
    let packet: String = states.iter().map(|state| format!("{state}\n")).collect();
    if let Err(error) = notify::send(&packet, None) {
        tracing::warn!("notify systemd: {error}");
    }
}

/// The listeners that a socket unit or the store ([`store`]) passed, by address. At each
/// address, those of a socket unit come first, then those of the store, by slot. Call this
/// once, before anything else opens a file or starts a thread.
///
/// # Errors
/// If one of them is not a listening TCP socket.
pub fn listeners() -> anyhow::Result<Vec<ListenerGroup>> {
    let passed = sd_notify::listen_fds_with_names().context("read LISTEN_FDS")?;
    let mut passed: Vec<_> = passed
        .map(|(fd, name)| {
            // SAFETY: systemd passed this descriptor, and this is the only place that adopts it.
            let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(fd) });
            adopt(fd, &socket).map(|address| (store::slot_of(&name), name, address, socket))
        })
        .collect::<Result<_, _>>()?;
    passed.sort_by_key(|(slot, ..)| *slot);
    let mut groups: Vec<ListenerGroup> = Vec::new();
    for (slot, name, address, socket) in passed {
        let nth = groups.iter().position(|group| group.address == address);
        let nth = nth.unwrap_or_else(|| {
            groups.push(ListenerGroup::empty(address));
            groups.len() - 1
        });
        let group = &mut groups[nth];
        match slot {
            None => group.activated += 1,
            Some(_) => store::rename(&name, group.kept, &socket).context("rename a listener")?,
        }
        group.kept += 1;
        group.sockets.push(socket);
    }
    Ok(groups)
}

/// The address of a listener that came as `fd`.
fn adopt(fd: RawFd, socket: &Socket) -> anyhow::Result<SocketAddr> {
    rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::CLOEXEC).context("adopt a listener")?;
    let is_listening = socket.is_listener().unwrap_or(false);
    ensure!(
        is_listening,
        "file descriptor {fd}, which systemd passed, does not listen: set Accept=no in the socket unit"
    );
    let address = socket.local_addr().ok().and_then(|local| local.as_socket());
    address
        .with_context(|| format!("file descriptor {fd}, which systemd passed, has no IP address"))
}
