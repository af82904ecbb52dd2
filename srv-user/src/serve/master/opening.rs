//! What a server has before it has workers: its listener groups and its first policy.

use anyhow::bail;
use srv_common::Policy;

use super::takeover::Takeover;
use crate::kernel::open_files;
use crate::serve::config::Settings;
use crate::serve::systemd;
use crate::steering::group::Group;
use crate::steering::listeners::ListenerGroup;
use crate::steering::program;

pub(super) fn open_groups(
    settings: &Settings,
    takeover: &mut Takeover,
) -> anyhow::Result<Vec<Group>> {
    let listeners = open_listeners(settings, takeover)?.into_iter();
    listeners
        .map(|listeners| Group::open(listeners, &settings.group()))
        .collect()
}

/// The listeners of all addresses that are asked for, as many at each: those that
/// `takeover` has, and new ones.
fn open_listeners(
    settings: &Settings,
    takeover: &mut Takeover,
) -> anyhow::Result<Vec<ListenerGroup>> {
    let mut groups = Vec::new();
    for address in &settings.listen {
        groups.push(match takeover.listeners(*address) {
            Some(listeners) if takeover.predecessor.is_some() => {
                listeners.inherit(&settings.group())?
            }
            Some(listeners) => take_back(listeners, settings)?,
            None => ListenerGroup::bind(*address, &settings.group())?,
        });
    }
    if settings.serving.accept.has_own_listeners() {
        let most = groups.iter().map(|group| group.sockets.len()).max();
        for group in &mut groups {
            group.grow(most.unwrap_or(0) as u32, &settings.group())?;
        }
    }
    Ok(groups)
}

/// Takes what systemd kept, as a server that may not have lived to leave it well did.
fn take_back(listeners: ListenerGroup, settings: &Settings) -> anyhow::Result<ListenerGroup> {
    // A new socket could not join a group with a program, nor a new program get these.
    listeners.sockets.iter().for_each(program::take_off);
    let stored = systemd::store::names(&listeners);
    listeners.inherit(&settings.group()).inspect_err(|_| {
        // With these no start can succeed; the next makes new ones.
        stored.iter().for_each(|name| systemd::store::remove(name));
    })
}

/// The policy asked for, or the hash where a default cannot be had.
pub(super) fn first_policy(settings: &Settings, groups: &[Group]) -> anyhow::Result<Policy> {
    let why = groups.iter().find_map(Group::why_unsteered);
    match why {
        Some(why) if settings.policy_is_explicit && settings.policy != Policy::Hash => {
            bail!("steer by {}: {why}", settings.policy.name())
        }
        Some(_) => Ok(Policy::Hash),
        None => Ok(settings.policy),
    }
}

/// Makes room for as many open files as these settings need.
pub(super) fn raise_open_files(settings: &Settings) -> anyhow::Result<()> {
    let listeners = match settings.serving.accept.has_own_listeners() {
        true => settings.workers.into(),
        false => 1,
    };
    open_files::raise_for_master(settings.workers, settings.listen.len() as u64, listeners)
}
