//! The primary of two servers on one address. It gives slots and listeners to the secondary,
//! writes to the shared memory what the secondary says of its workers, and leaves everything to
//! the secondary when it stops.

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, bail, ensure};
use srv_common::{MAX_WORKERS, State};

use super::Master;
use super::admin::Answering;
use super::event::Event;
use super::role::{Role, SecondaryServer, Stay};
use super::stopping::Listeners;
use crate::control::joining::{Joined, Joining};
use crate::kernel::packets;
use crate::serve::master::between_masters::Peer;
use crate::serve::master::join::{self, ToPrimary, ToSecondary, Welcome};
use crate::serve::orders::Task;
use crate::values::PolicyName;
use crate::values::reported::Reported;
use srv_steer::{Group, Stage, Stall};

impl Master {
    /// Gives slots and listeners to a server that asks to join.
    ///
    /// # Errors
    /// Why it may not join, or not now.
    pub(super) fn let_join(&mut self, joining: &Joining) -> anyhow::Result<Joined> {
        self.ensure_may_join(joining)?;
        let slots = self.free_slots(joining.workers)?;
        for (nth, group) in self.groups.iter_mut().enumerate() {
            group
                .open_listeners(slots.end, &self.settings.group_of(nth))
                .context("open listeners for the workers of the joining server")?;
        }
        self.forget_listeners();
        let (mine, theirs) = packets::pair().context("create a channel to the joining server")?;
        self.welcome(&mine, slots.start)?;
        let mut peer = Peer::new(mine);
        peer.listen(self.events.clone(), Event::FromSecondary)
            .context("watch the channel to the joining server")?;
        self.role = Role::Primary(SecondaryServer {
            peer,
            pid: joining.pid,
            slots: slots.clone(),
            pids: HashMap::new(),
            stay: Stay::Stays,
        });
        self.apply_settings();
        // Until it has workers.
        self.staff.leave_to_all(slots.clone());
        tracing::info!(
            "server {} has joined: its workers are in slots {} to {}",
            joining.pid,
            slots.start,
            slots.end - 1
        );
        Ok(Joined {
            channel: Some(theirs),
        })
    }

    fn ensure_may_join(&self, joining: &Joining) -> anyhow::Result<()> {
        joining.ensure_same_protocol()?;
        ensure!(
            !self.phase.is_stopping() && self.leaving.is_none(),
            "the running server is stopping: start without --join when it has ended"
        );
        ensure!(
            !self.is_changing_hands(),
            "the running server is being upgraded: try again when that is done"
        );
        ensure!(
            self.phase.has_started(),
            "the running server is just starting: try again when it is ready"
        );
        if let Some(secondary) = self.role.secondary() {
            bail!(
                "another server, process {}, has joined it already, and only one can: \
                 stop that one first",
                secondary.pid
            );
        }
        self.ensure_alike(joining)
    }

    fn ensure_alike(&self, joining: &Joining) -> anyhow::Result<()> {
        let accept = self.settings.serving.accept;
        ensure!(
            accept.has_own_listeners(),
            "the running server has one listener for all its workers (--accept {}): there is \
             nothing to steer between; it would have to run with --accept ring or own",
            accept.name()
        );
        ensure!(
            joining.accept == accept,
            "the running server has --accept {}, the joining one {}: give both the same",
            accept.name(),
            joining.accept.name()
        );
        let own = self.groups.iter().map(|group| group.listeners.address);
        let mut own: Vec<_> = own.collect();
        let mut asked = joining.listen.clone();
        own.sort();
        asked.sort();
        let names = || own.iter().map(|address| format!("--listen {address}"));
        ensure!(
            asked == own,
            "the running server listens on other addresses: join it with {}",
            names().collect::<Vec<_>>().join(" ")
        );
        Ok(())
    }

    /// The lowest run of slots in which no worker is, and none is about to start.
    fn free_slots(&self, workers: u32) -> anyhow::Result<Range<u32>> {
        let most = self.policy.workers_max();
        let is_taken =
            |slot| self.staff.own_slots().contains(&slot) || self.staff.is_occupied(slot);
        let mut start = 0;
        for slot in 0..most {
            if is_taken(slot) {
                start = slot + 1;
            } else if slot + 1 - start == workers {
                return Ok(start..slot + 1);
            }
        }
        let free = (0..most).filter(|slot| !is_taken(*slot)).count();
        bail!(
            "the running server does not have {workers} free slots in a row: of {most} {}, {free} \
             are free; give fewer --workers",
            match most as usize == MAX_WORKERS {
                true => "that there are".to_string(),
                false => format!("that policy {} chooses between", self.policy.name()),
            }
        )
    }

    fn welcome(&self, channel: &OwnedFd, first_slot: u32) -> anyhow::Result<()> {
        let mut fds = Vec::new();
        for group in &self.groups {
            fds.extend(group.handles());
            fds.extend(group.listeners.sockets.iter().map(|socket| socket.as_fd()));
        }
        let groups = self.groups.iter();
        let welcome = Welcome {
            pid: std::process::id(),
            first_slot,
            listeners: self.groups[0].listeners.sockets.len() as u32,
            groups: groups
                .map(|group| (group.listeners.address, group.handles().len() as u32))
                .collect(),
            policy: Reported::Known(PolicyName(self.policy)),
        };
        join::welcome(channel, welcome, &fds).context("hand over the listeners")
    }

    /// The secondary says something, or (`None`) is gone.
    pub(super) fn secondary_says(&mut self, said: Option<ToPrimary>) {
        let Some(secondary) = self.role.secondary_mut() else {
            return;
        };
        let slots = secondary.slots.clone();
        match said {
            Some(ToPrimary::Starts { slot, pid }) if slots.contains(&slot) => {
                secondary.pids.insert(slot, pid);
                let groups = self.groups.iter();
                groups.for_each(|group| group.worker_starts(slot, pid));
            }
            Some(ToPrimary::Replaced { slot, pid }) if slots.contains(&slot) => {
                secondary.pids.insert(slot, pid);
                let groups = self.groups.iter();
                groups.for_each(|group| group.worker_replaced(slot, pid));
            }
            Some(ToPrimary::Registered(slot)) if slots.contains(&slot) => {
                self.staff.note_newcomer(slot);
            }
            Some(ToPrimary::Ready(slot)) if slots.contains(&slot) => {
                self.set_slot_state(slot, State::Ready);
            }
            Some(ToPrimary::Draining(slot)) if slots.contains(&slot) => {
                self.set_slot_state(slot, State::Draining);
            }
            Some(ToPrimary::Died { slot, has_left }) if slots.contains(&slot) => {
                secondary.pids.remove(&slot);
                let then = if has_left { State::Absent } else { State::Dead };
                self.secondary_lost_worker(slot, then);
            }
            Some(ToPrimary::Leaving) => self.secondary_leaves(),
            Some(ToPrimary::Taken) => self.let_go(),
            Some(other) => {
                tracing::warn!("the secondary says {other:?} of a slot that it does not have");
            }
            None => self.secondary_is_gone(),
        }
    }

    fn secondary_lost_worker(&mut self, slot: u32, then: State) {
        let groups = self.groups.iter();
        groups.for_each(|group| group.worker_died(slot, then));
        if !self.phase.is_stopping() {
            self.request_rescan();
        }
    }

    fn secondary_leaves(&mut self) {
        let Some(secondary) = self.role.secondary_mut() else {
            return;
        };
        secondary.stay = Stay::Leaves;
        let slots = secondary.slots.clone();
        tracing::info!("server {} leaves", secondary.pid);
        for slot in slots.clone() {
            self.set_slot_state(slot, State::Draining);
        }
        self.staff.leave_to_all(slots);
        // It does not take what it was offered.
        self.stop_alone();
    }

    /// Its listeners stay: this server's workers accept what has come there.
    fn secondary_is_gone(&mut self) {
        let Some(secondary) = self.role.end_of_secondary() else {
            return;
        };
        match secondary.stay {
            Stay::Leaves => tracing::info!("server {} has left", secondary.pid),
            Stay::Stays => tracing::warn!(
                "server {} has ended without notice: its slots are free",
                secondary.pid
            ),
        }
        for slot in secondary.slots.clone() {
            let groups = self.groups.iter();
            groups.for_each(|group| group.worker_died(slot, State::Absent));
        }
        self.apply_settings();
        self.staff.leave_to_all(secondary.slots);
        match self.phase.is_stopping() {
            true => self.stop_alone(),
            false => {
                self.keep_listeners();
                self.request_rescan();
            }
        }
    }

    /// This server stops: offers everything to the secondary. Whether there is one that stays.
    pub(super) fn offer_everything(&mut self) -> bool {
        let secondary = self.role.secondary();
        let Some(secondary) = secondary.filter(|secondary| secondary.stay == Stay::Stays) else {
            return false;
        };
        // The secondary opens its own control and admin sockets there.
        self.control = None;
        self.admin = Answering::No;
        if let Some(stopping) = self.phase.stopping_mut() {
            stopping.listeners = Listeners::Offer;
        }
        tracing::info!("leaving everything to server {}", secondary.pid);
        secondary.peer.tell(ToSecondary::Take);
        true
    }

    /// The secondary has taken everything.
    fn let_go(&mut self) {
        if self.settle_offer(Listeners::Leave) {
            self.groups.iter_mut().for_each(Group::hand_over);
            self.staff.give_all(Task::Retire);
        }
    }

    /// The secondary does not take what it was offered.
    fn stop_alone(&mut self) {
        if self.settle_offer(Listeners::Close) {
            self.close();
        }
    }

    /// What becomes of listeners that were offered. Whether they were.
    fn settle_offer(&mut self, listeners: Listeners) -> bool {
        match self.phase.stopping_mut() {
            Some(stopping) if stopping.listeners == Listeners::Offer => {
                stopping.listeners = listeners;
                true
            }
            _ => false,
        }
    }

    /// Has the secondary probe the worker in `slot`, if that is one of its own.
    pub(super) fn have_probed(&self, slot: u32) {
        self.tell_owner(slot, ToSecondary::Probe(slot));
    }

    /// Tells the secondary that one of its workers has stalled, since it may have to kill it.
    pub(super) fn report_stall(&self, stall: &Stall) {
        if stall.stage != Stage::Suspected {
            let (slot, lasted) = (stall.slot, stall.lasted);
            self.tell_owner(slot, ToSecondary::Stalled { slot, lasted });
        }
    }

    fn tell_owner(&self, slot: u32, message: ToSecondary) {
        let has_slot = |secondary: &&SecondaryServer| secondary.slots.contains(&slot);
        if let Some(secondary) = self.role.secondary().filter(has_slot) {
            secondary.peer.tell(message);
        }
    }

    /// # Errors
    /// If two servers have the listeners: a change of this kind would not suit the other.
    pub(super) fn ensure_alone(&self, what: &str) -> anyhow::Result<()> {
        if let Some(secondary) = self.role.secondary() {
            bail!(
                "{what}: server {} has joined this one; stop it first, or stop this one, and \
                 the other goes on",
                secondary.pid
            );
        }
        if let Some(primary) = self.role.primary() {
            bail!(
                "{what}: this server has joined server {}; start another with --join in its place, \
                 or stop that server, and this one goes on",
                primary.pid
            );
        }
        Ok(())
    }
}
