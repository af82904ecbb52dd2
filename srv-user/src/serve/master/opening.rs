//! What a server has before it has workers: its listener groups and its first policy.

use std::net::SocketAddr;

use anyhow::{anyhow, bail};
use rustix::process::Pid;
use srv_common::Policy;

use super::takeover::Takeover;
use crate::control::status::why_hashing;
use crate::kernel::open_files;
use crate::kernel::owners::Owners;
use crate::kernel::sock_diag::SockDiag;
use crate::serve::config::Settings;
use crate::serve::systemd;
use srv_steer::{ErrorKind, Group, GroupOptions, ListenerGroup, program};

pub(super) fn open_groups(
    settings: &Settings,
    takeover: &mut Takeover,
) -> anyhow::Result<Vec<Group>> {
    let listeners = open_listeners(settings, takeover)?.into_iter().enumerate();
    let groups = listeners.map(|(nth, group)| Group::open(group, &settings.group_of(nth)));
    Ok(groups.collect::<Result<_, _>>()?)
}

/// The listeners of all addresses in the settings: those that `takeover` has, and new ones.
/// Each address gets equally many.
fn open_listeners(
    settings: &Settings,
    takeover: &mut Takeover,
) -> anyhow::Result<Vec<ListenerGroup>> {
    let mut groups = Vec::new();
    for (nth, address) in settings.listen.iter().enumerate() {
        let options = settings.group_of(nth);
        groups.push(match takeover.listeners(*address) {
            Some(listeners) if takeover.predecessor.is_some() => listeners.inherit(&options)?,
            Some(listeners) => take_back(listeners, &options)?,
            None => bind(*address, &options)?,
        });
    }
    if settings.serving.accept.has_own_listeners() {
        let most = groups.iter().map(|group| group.sockets.len()).max();
        for (nth, group) in groups.iter_mut().enumerate() {
            group.grow(most.unwrap_or(0) as u32, &settings.group_of(nth))?;
        }
    }
    Ok(groups)
}

/// Binds new listeners.
fn bind(address: SocketAddr, options: &GroupOptions) -> anyhow::Result<ListenerGroup> {
    ListenerGroup::bind(address, options).map_err(|error| {
        let is_in_use = error.kind() == ErrorKind::AddressInUse;
        match (is_in_use, error.is_shareable()) {
            (true, true) => anyhow!(
                "{error}, or pass another --listen; the kernel would have let this server listen \
                 there, since the process that does has the same user and set SO_REUSEPORT: this \
                 server would get a share of the other's connections, and the other's program \
                 would not know of it; {}",
                way_in(address)
            ),
            (true, false) => anyhow!("{error}, or pass another --listen"),
            (false, _) => error.into(),
        }
    })
}

/// What the user can do to share the address with the server that has it.
fn way_in(address: SocketAddr) -> String {
    let holder = holder(address);
    let name = holder.as_ref().map(|(name, _)| name.as_str());
    match (name, &holder) {
        (Some("srv"), _) => "with --join, it adds its workers to those of the other server".into(),
        (_, Some((name, pid))) => format!(
            "{name}, process {pid}, has the address: `srv attach --listen {address}` steers that \
             server from outside"
        ),
        (_, None) => "if the other is srv, --join adds this server's workers to it".into(),
    }
}

/// Name and id of a process that has a listener on the address, if srv may see it.
fn holder(address: SocketAddr) -> Option<(String, Pid)> {
    let listeners = SockDiag::open(None).ok()?.listeners_on(address).ok()?;
    let inodes = listeners.iter().map(|listener| listener.inode).collect();
    let owners = Owners::of(&inodes).owners;
    let owner = owners.into_iter().next()?;
    Some((owner.command, owner.pid))
}

/// Takes the listeners that systemd kept. The server before may have died, so their old program
/// may still be there.
fn take_back(listeners: ListenerGroup, options: &GroupOptions) -> anyhow::Result<ListenerGroup> {
    // A new socket could not join a group that has a program, and a new program could not get
    // these sockets.
    listeners.sockets.iter().for_each(program::take_off);
    let stored = systemd::store::names(&listeners);
    let inherited = listeners.inherit(options).inspect_err(|_| {
        // With these listeners, no start can succeed. After this, the next start opens new ones.
        stored.iter().for_each(|name| systemd::store::remove(name));
    });
    Ok(inherited?)
}

/// The policy to start with. If steering is not possible and the settings do not name a policy,
/// it is the hash.
pub(super) fn initial_policy(settings: &Settings, groups: &[Group]) -> anyhow::Result<Policy> {
    let why = groups.iter().find_map(Group::why_unsteered);
    let why = why.map(why_hashing);
    match why {
        Some(why) if settings.policy_is_explicit && settings.policy != Policy::Hash => {
            bail!("steer by {}: {why}", settings.policy.name())
        }
        Some(_) => Ok(Policy::Hash),
        None => Ok(settings.policy),
    }
}

/// Raises the limit of open files to what these settings need.
pub(super) fn raise_open_files(settings: &Settings) -> anyhow::Result<()> {
    let listeners = match settings.serving.accept.has_own_listeners() {
        true => settings.workers.into(),
        false => 1,
    };
    open_files::raise_for_master(settings.workers, settings.listen.len() as u64, listeners)
}
