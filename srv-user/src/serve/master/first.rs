//! The first of two servers on one address: it gives the second slots and
//! listeners, writes to the shared memory what that one says of its workers, and
//! leaves everything to it when it stops.

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, bail, ensure};
use srv_common::{MAX_WORKERS, State};

use super::Master;
use super::event::Event;
use crate::control::JoinedStatus;
use crate::control::joining::{Joined, Joining};
use crate::kernel::packets;
use crate::serve::master::between_masters::Peer;
use crate::serve::master::join::{self, ToFirst, ToJoined, Welcome};
use crate::serve::orders::Task;
use srv_steer::{Group, Stage, Stall};

/// The second server, as the first knows it.
pub(super) struct Second {
    peer: Peer<ToJoined>,
    pid: u32,
    pub(super) slots: Range<u32>,
    /// By slot.
    pub(super) pids: HashMap<u32, u32>,
    /// Its workers go: it takes nothing over any more.
    is_leaving: bool,
}

impl Second {
    /// For `srv status`.
    pub(super) fn status(&self) -> JoinedStatus {
        JoinedStatus {
            pid: self.pid,
            first_slot: self.slots.start,
            workers: self.slots.len() as u32,
        }
    }
}

impl Master {
    /// Gives another server slots and listeners.
    ///
    /// # Errors
    /// Why that one may not join, or not now.
    pub(super) fn let_join(&mut self, joining: &Joining) -> anyhow::Result<Joined> {
        self.ensure_may_join(joining)?;
        let slots = self.free_slots(joining.workers)?;
        for group in &mut self.groups {
            group
                .open_listeners(slots.end, &self.settings.group())
                .context("open listeners for the workers of the joining server")?;
        }
        self.forget_listeners();
        let (mine, theirs) = packets::pair().context("create a channel to the joining server")?;
        self.welcome(&mine, slots.start)?;
        let mut peer = Peer::new(mine);
        peer.listen(self.events.clone(), Event::FromSecond)
            .context("watch the channel to the joining server")?;
        self.second = Some(Second {
            peer,
            pid: joining.pid,
            slots: slots.clone(),
            pids: HashMap::new(),
            is_leaving: false,
        });
        self.apply_settings();
        // Until it has workers.
        self.leave_to_all(slots.clone());
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
            self.stopping.is_none(),
            "the running server is stopping: start without --join when it has ended"
        );
        ensure!(
            self.upgrade.is_none() && self.predecessor.is_none(),
            "the running server is being upgraded: try again when that is done"
        );
        ensure!(
            self.ever_ready,
            "the running server is just starting: try again when it is ready"
        );
        if let Some(second) = &self.second {
            bail!(
                "another server, process {}, has joined it already, and there can be one: \
                 stop that one first",
                second.pid
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

    /// The lowest run of slots that nobody has or is about to leave.
    fn free_slots(&self, workers: u32) -> anyhow::Result<Range<u32>> {
        let most = self.policy.workers_max();
        let is_taken = |slot| {
            let mut workers = self.workers.values();
            self.own_slots().contains(&slot) || workers.any(|worker| worker.slot == slot)
        };
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
            "the running server has not {workers} slots in a row left, of {most} {}: {free} are \
             free; give fewer --workers",
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
                .map(|group| (group.listeners.address, group.why_unsteered().is_none()))
                .collect(),
            policy: self.policy.name().to_string(),
        };
        join::welcome(channel, welcome, &fds).context("hand over the listeners")
    }

    /// The second server says something, or (`None`) is gone.
    pub(super) fn second_says(&mut self, said: Option<ToFirst>) {
        let Some(second) = &mut self.second else {
            return;
        };
        let slots = second.slots.clone();
        match said {
            Some(ToFirst::Starts { slot, pid }) if slots.contains(&slot) => {
                second.pids.insert(slot, pid);
                let groups = self.groups.iter();
                groups.for_each(|group| group.worker_starts(slot, pid));
            }
            Some(ToFirst::Replaced { slot, pid }) if slots.contains(&slot) => {
                second.pids.insert(slot, pid);
                let groups = self.groups.iter();
                groups.for_each(|group| group.worker_replaced(slot, pid));
            }
            Some(ToFirst::Registered(slot)) if slots.contains(&slot) => self.step_back(slot),
            Some(ToFirst::Ready(slot)) if slots.contains(&slot) => {
                self.set_slot_state(slot, State::Ready);
            }
            Some(ToFirst::Draining(slot)) if slots.contains(&slot) => {
                self.set_slot_state(slot, State::Draining);
            }
            Some(ToFirst::Died { slot, has_left }) if slots.contains(&slot) => {
                second.pids.remove(&slot);
                let then = if has_left { State::Absent } else { State::Dead };
                self.second_lost_worker(slot, then);
            }
            Some(ToFirst::Leaving) => self.second_leaves(),
            Some(ToFirst::Taken) => self.let_go(),
            Some(other) => tracing::warn!("the joined server says {other:?} of another's slot"),
            None => self.second_is_gone(),
        }
    }

    fn second_lost_worker(&mut self, slot: u32, then: State) {
        let groups = self.groups.iter();
        groups.for_each(|group| group.worker_died(slot, then));
        if self.stopping.is_none() {
            self.have_somebody_look_around();
        }
    }

    fn second_leaves(&mut self) {
        let Some(second) = &mut self.second else {
            return;
        };
        second.is_leaving = true;
        let slots = second.slots.clone();
        tracing::info!("server {} leaves", second.pid);
        for slot in slots.clone() {
            self.set_slot_state(slot, State::Draining);
        }
        self.leave_to_all(slots);
        // What it was offered it does not take.
        self.stop_alone();
    }

    /// Its listeners stay: whatever came there is accepted by this server's workers.
    fn second_is_gone(&mut self) {
        let Some(second) = self.second.take() else {
            return;
        };
        match second.is_leaving {
            true => tracing::info!("server {} has left", second.pid),
            false => tracing::warn!(
                "server {} is gone without a word: its slots are free",
                second.pid
            ),
        }
        for slot in second.slots.clone() {
            let groups = self.groups.iter();
            groups.for_each(|group| group.worker_died(slot, State::Absent));
        }
        self.apply_settings();
        self.leave_to_all(second.slots);
        match self.stopping.is_some() {
            true => self.stop_alone(),
            false => {
                self.keep_listeners();
                self.have_somebody_look_around();
            }
        }
    }

    /// Instead of a stop: the second server is to go on with everything. Whether
    /// there is one.
    pub(super) fn offer_everything(&mut self) -> bool {
        let Some(second) = self.second.as_ref().filter(|second| !second.is_leaving) else {
            return false;
        };
        // The other one puts its own there.
        self.control = None;
        self.is_offering = true;
        tracing::info!("leaving everything to server {}", second.pid);
        second.peer.tell(ToJoined::Take);
        true
    }

    /// The second server has taken everything.
    fn let_go(&mut self) {
        if !std::mem::take(&mut self.is_offering) {
            return;
        }
        self.groups.iter_mut().for_each(Group::hand_over);
        self.give_all(Task::Retire);
    }

    /// Nobody takes what was offered.
    fn stop_alone(&mut self) {
        if std::mem::take(&mut self.is_offering) {
            self.close();
        }
    }

    /// A worker, perhaps of the other server, is new at its listeners: the others step back.
    pub(super) fn step_back(&mut self, slot: u32) {
        self.slots.use_until(slot + 1);
        let record = &mut self.slots[slot];
        record.newcomers = record.newcomers.wrapping_add(1);
        record.is_orphan = false;
    }

    /// In mode own all workers wait on these listeners, until a worker of the slot does.
    pub(super) fn leave_to_all(&mut self, slots: Range<u32>) {
        self.slots.use_until(slots.end);
        slots.for_each(|slot| self.slots[slot].is_orphan = true);
    }

    pub(super) fn tell_second(&self, message: ToJoined) {
        if let Some(second) = &self.second {
            second.peer.tell(message);
        }
    }

    /// A worker of the second server hangs, or may.
    pub(super) fn tell_of_hang(&self, hang: &Stall) {
        let slot = hang.slot;
        let is_its = |second: &&Second| second.slots.contains(&slot);
        if let Some(second) = self.second.as_ref().filter(is_its) {
            second.peer.tell(match hang.stage {
                Stage::Suspected => ToJoined::Nudge(slot),
                _ => ToJoined::Hangs {
                    slot,
                    lasted: hang.lasted,
                },
            });
        }
    }

    /// # Errors
    /// If another server has a part in this one's groups, which this would not suit.
    pub(super) fn ensure_alone(&self, what: &str) -> anyhow::Result<()> {
        if let Some(second) = &self.second {
            bail!(
                "{what}: server {} has joined this one; stop it first, or stop this one, and \
                 that one goes on",
                second.pid
            );
        }
        if let Some(first) = &self.first {
            bail!(
                "{what}: this server has joined server {}; start another with --join in its place, \
                 or stop that one, and this one goes on",
                first.pid
            );
        }
        Ok(())
    }
}
