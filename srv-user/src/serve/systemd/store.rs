//! systemd's file descriptor store. Listeners outlive the master there, with the connections
//! that wait at them. systemd passes them to the next master, together with the sockets of a
//! socket unit.
//!
//! systemd promises no order and removes by name, so the name contains the slot. It also
//! contains the socket's cookie, since each address numbers its slots from 0. systemd stores
//! the same socket only once, even under another name.

use std::io;
use std::os::fd::AsFd as _;

use socket2::Socket;

use super::notify;
use srv_steer::ListenerGroup;

const PREFIX: &str = "srv-listener-";

/// The slot in the name of a listener that systemd passed; `None` if it is not from the store.
pub fn slot_of(name: &str) -> Option<u32> {
    let (slot, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    slot.parse().ok()
}

/// The name under which systemd stores listener `nth` of a group.
fn name_of(nth: usize, socket: &Socket) -> io::Result<String> {
    Ok(format!("{PREFIX}{nth}-{}", socket.cookie()?))
}

/// Has systemd keep the listeners that it does not keep yet, up to the number that it
/// allows. systemd sets that number in `FDSTORE` from version 254 on; with an older one, the
/// unit has to set it.
pub fn keep<'a>(groups: impl Iterator<Item = &'a mut ListenerGroup>) {
    let allowed = std::env::var("FDSTORE").ok();
    let allowed = allowed.and_then(|allowed| allowed.parse::<usize>().ok());
    let Some(allowed) = allowed.filter(|_| super::is_there()) else {
        return;
    };
    let mut groups: Vec<_> = groups.collect();
    let stored = groups.iter().map(|group| group.kept - group.activated);
    let mut stored: usize = stored.sum();
    for group in &mut groups {
        while group.kept < group.sockets.len() && stored < allowed {
            if let Err(error) = store(group.kept, &group.sockets[group.kept]) {
                return tracing::warn!("have systemd keep a listener: {error}");
            }
            group.kept += 1;
            stored += 1;
        }
    }
    if groups.iter().any(|group| !group.is_kept()) {
        tracing::warn!("systemd keeps {allowed} listeners only: raise FileDescriptorStoreMax=");
    }
}

fn store(nth: usize, socket: &Socket) -> io::Result<()> {
    let name = name_of(nth, socket)?;
    // With FDPOLL=0, systemd does not poll the socket, and does not remove it after an error.
    let packet = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n");
    notify::send(&packet, Some(socket.as_fd()))
}

/// Has systemd close the listeners that it keeps of this group.
pub fn forget(group: &mut ListenerGroup) {
    for name in names(group) {
        remove(&name);
    }
    group.kept = group.activated;
}

/// The names of the listeners that the store has of this group.
pub fn names(group: &ListenerGroup) -> Vec<String> {
    let sockets = group.sockets.iter().enumerate().take(group.kept);
    let stored = sockets.skip(group.activated);
    stored
        .filter_map(|(nth, socket)| name_of(nth, socket).ok())
        .collect()
}

/// Has systemd close the socket that it keeps under that name.
pub fn remove(name: &str) {
    if let Err(error) = notify::send(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), None) {
        tracing::warn!("have systemd close a listener: {error}");
    }
}

/// Stores a listener that was stored as `name` under its number `nth` instead. The two differ
/// if the socket unit had other sockets when the listener was stored.
///
/// # Errors
/// If srv cannot send that to systemd.
pub fn rename(name: &str, nth: usize, socket: &Socket) -> io::Result<()> {
    if name != name_of(nth, socket)? {
        remove(name);
        store(nth, socket)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_is_read_from_the_name() {
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        assert_eq!(slot_of(&name_of(255, &socket).unwrap()), Some(255));
        for other in [
            "srv.socket",
            "",
            "unknown",
            "srv-listener-x-1",
            "srv-listener-1",
        ] {
            assert_eq!(slot_of(other), None, "{other}");
        }
    }
}
