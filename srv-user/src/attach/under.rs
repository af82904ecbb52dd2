//! Whether a group is srv's own already: under `srv run`, whose coordinator has its sockets, or of
//! `srv serve`. Asks at the control socket, changes nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::hint::Under;
use crate::control::attached::AttachedStatus;
use crate::control::{self, Reply, Request, SocketStatus, Status};
use crate::kernel::owners::Owners;

/// The part of srv that has the group's sockets.
pub(crate) fn under(group: &AttachedStatus, owners: &Owners) -> Option<Under> {
    let of_srv = owners.owners.iter().filter(|owner| owner.command == "srv");
    let controls: Vec<PathBuf> = of_srv
        .flat_map(|owner| control::sockets_of(owner.pid))
        .collect();
    match controls.iter().find_map(|path| answer(path, group)) {
        Some(under) => Some(under),
        None if !controls.is_empty() => Some(Under::SilentRun),
        // The coordinator may be hidden: one that has capabilities is hidden from its own user.
        None if owners.hidden > 0 => hidden(group),
        None => None,
    }
}

/// What the process at this control socket says of the group; `None` if that is not one of its
/// groups.
fn answer(path: &Path, group: &AttachedStatus) -> Option<Under> {
    let Ok(Reply::Status(status)) = control::ask(Some(path), &Request::Status) else {
        return None;
    };
    let Status {
        command, groups, ..
    } = status;
    let its = groups.iter().find(|each| each.listen == group.listen)?;
    Some(match command {
        Some(_) => Under::Run(its.program.why_not.clone()),
        None => Under::Serve,
    })
}

/// As [`answer`], by the server of this user that has the same sockets.
fn hidden(group: &AttachedStatus) -> Option<Under> {
    let cookies: BTreeSet<u64> = group.listeners.iter().map(|each| each.cookie).collect();
    let has = |path: &PathBuf| {
        let sockets = match control::ask(Some(path), &Request::Sockets) {
            Ok(Reply::Sockets(sockets)) => sockets,
            _ => Vec::new(),
        };
        let is_its = |socket: &SocketStatus| cookies.contains(&socket.cookie);
        sockets.iter().any(is_its)
    };
    let servers = control::servers().unwrap_or_default();
    let path = servers.into_iter().find(has)?;
    answer(&path, group)
}
