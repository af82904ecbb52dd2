//! The listeners of one address: which process owns each, which processes watch it beside the
//! owner, and when it is closed. Knows how processes are told, and neither where claims come from
//! nor other addresses.
//!
//! A socket is in a slot from its first claim until it is closed. Its identity is its cookie. If
//! the owner leaves, the socket stays open, and the siblings drain what comes there, until another
//! process claims it or it is closed (`closing`).

mod closing;
mod keeping;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use socket2::Socket;
use srv_common::claim::{Kind, Message};
use srv_common::{MAX_WORKERS, Policy, State};
use srv_steer::{
    Group, GroupState, HashingReason, ListenerGroup, ListenerInfo, SelectProgram, Stage,
};

use super::event::ClaimId;
use super::kept::Keeper;
use super::listener::{Claimed, GroupKey};
use super::members::Members;
use super::twin;
use closing::Closing;
pub(super) use keeping::Adopted;

/// The state of one address.
pub(super) struct RunGroup {
    group: Group,
    /// By which the keeper knows it.
    number: u64,
    keeper: Keeper,
    sockets: BTreeMap<u32, GroupSocket>,
    /// Since when no process has a slot.
    idle_since: Option<Instant>,
    /// Processes beside those known that had the server's sockets open when that was last so.
    heirs: BTreeSet<u32>,
    /// Whether the log says already what chooses.
    is_announced: bool,
}

/// A socket of the group, which is in the slot of its owner.
struct GroupSocket {
    cookie: u64,
    inode: u64,
    origin: Origin,
    condition: Condition,
}

/// Which process has opened a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The server.
    Server,
    /// This coordinator.
    Coordinator,
}

/// What a socket is there for.
enum Condition {
    /// A process accepts from it first.
    Owned(Owner),
    /// No process owns it since then. The siblings drain it.
    Free(Instant),
    /// It is about to be closed.
    Closing(Closing),
}

/// The process that accepts from a socket first, by its claim.
struct Owner {
    claim: ClaimId,
    /// The process's count of its claims.
    turn: u32,
    is_ready: bool,
    /// The slots of the siblings' sockets that it was given.
    knows: BTreeSet<u32>,
}

/// Why a process is to watch the socket of a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The process has begun.
    Began,
    /// The owner of the socket has registered it.
    Registered,
    /// The owner of the socket has left.
    Left,
}

/// How groups are steered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steering {
    pub(super) policy: Policy,
    /// Whether a program is loaded at all.
    pub(super) uses_bpf: bool,
}

impl RunGroup {
    /// A group without a socket, which is steered by `program`.
    ///
    /// # Errors
    /// If memory cannot be shared.
    pub(super) fn new(
        key: &GroupKey,
        number: u64,
        program: Result<SelectProgram, HashingReason>,
        steering: Steering,
        keeper: Keeper,
    ) -> anyhow::Result<Self> {
        let listeners = ListenerGroup::empty(key.address);
        let mut group = Group::open_with(listeners, program, &steering.options())?;
        // Without a program, the group says why.
        if group.why_unsteered().is_none() {
            group.steer(steering.policy)?;
        }
        let group = Self {
            group,
            number,
            keeper,
            sockets: BTreeMap::new(),
            idle_since: None,
            heirs: BTreeSet::new(),
            is_announced: false,
        };
        group.keep(key);
        Ok(group)
    }

    /// The group as srv-steer has it.
    pub(super) fn steered(&self) -> &Group {
        &self.group
    }

    /// Chooses by `policy` from now on.
    ///
    /// # Errors
    /// As [`Group::steer`].
    pub(super) fn steer(&mut self, policy: Policy) -> anyhow::Result<()> {
        Ok(self.group.steer(policy)?)
    }

    /// Gives a slot to a process that waits at a listener: the slot that has this socket, or, if
    /// another process owns it, a slot with another socket.
    ///
    /// # Errors
    /// The reason why the process goes on without a slot.
    pub(super) fn claim(
        &mut self,
        claim: ClaimId,
        turn: u32,
        claimed: Claimed,
        members: &mut Members,
    ) -> anyhow::Result<()> {
        let cookie = claimed.info.cookie;
        let slot = match self.slot_with(cookie) {
            None => self.adopt(claimed)?,
            Some(slot) if self.owner(slot).is_none() => slot,
            Some(slot) => self.another_than(slot)?,
        };
        self.reopen(slot);
        let socket = self.sockets.get_mut(&slot).context("find a slot")?;
        socket.condition = Condition::Owned(Owner {
            claim,
            turn,
            is_ready: false,
            knows: BTreeSet::new(),
        });
        self.idle_since = None;
        // Before the process is told: a slot that it has is never another's.
        self.keep_condition(slot);
        self.group.worker_starts(slot, members.pid(claim.member));
        self.answer(slot, cookie, members);
        Ok(())
    }

    /// Whether the claim has its slot already, since a coordinator was killed after it had
    /// answered. It is answered again.
    pub(super) fn answers_again(
        &self,
        claim: ClaimId,
        message: &Message,
        members: &mut Members,
    ) -> bool {
        let slot = self.slot_of(claim);
        let slot = slot.filter(|slot| {
            self.owner(*slot)
                .is_some_and(|owner| owner.turn == message.turn)
        });
        slot.into_iter()
            .for_each(|slot| self.answer(slot, message.cookie, members));
        slot.is_some()
    }

    /// Answers the owner of a slot, which has claimed the socket with that cookie.
    fn answer(&self, slot: u32, claimed: u64, members: &mut Members) {
        let listener = self.group.listeners.sockets.get(slot as usize);
        let (Some(socket), Some(owner), Some(listener)) =
            (self.sockets.get(&slot), self.owner(slot), listener)
        else {
            return;
        };
        let is_replaced = socket.cookie != claimed;
        let own = Message {
            slot,
            turn: owner.turn,
            flags: if is_replaced { Message::REPLACE } else { 0 },
            cookie: socket.cookie,
            ..Message::new(Kind::Own, owner.claim.number)
        };
        let fds = [self.group.memory(), listener.as_fd()];
        let count = if is_replaced { 2 } else { 1 };
        members.tell(owner.claim.member, own, &fds[..count]);
    }

    /// A process waits at its own listener. Only now do the others watch it, too. If it says so
    /// again, it has registered its listener anew, and the others have to follow it.
    pub(super) fn is_ready(&mut self, claim: ClaimId, members: &mut Members) {
        let Some(slot) = self.slot_of(claim) else {
            return;
        };
        let Some(owner) = self.owner_mut(slot) else {
            return;
        };
        if !std::mem::replace(&mut owner.is_ready, true) {
            self.group.set_state(slot, State::Ready);
            self.keep_condition(slot);
        }
        for other in self.slots() {
            if other != slot {
                self.let_watch(slot, other, Why::Began, members);
                self.let_watch(other, slot, Why::Registered, members);
            }
        }
        self.announce();
    }

    /// A process has left its slot.
    pub(super) fn leave(&mut self, claim: ClaimId, members: &mut Members) {
        let Some(slot) = self.slot_of(claim) else {
            return;
        };
        if let Some(socket) = self.sockets.get_mut(&slot) {
            socket.condition = Condition::Free(Instant::now());
        }
        self.keep_condition(slot);
        self.group.worker_ended(slot);
        for other in self.slots() {
            if other != slot {
                self.let_watch(other, slot, Why::Left, members);
            }
        }
        self.have_rescan(slot, members, |_| true);
        if !self.has_claims() {
            self.idle_since = Some(Instant::now());
        }
    }

    /// Steers around what has stalled, and closes what is not needed. To be called every
    /// [`Group::MAINTENANCE_INTERVAL`].
    pub(super) fn maintain(&mut self, members: &mut Members) {
        for stall in self.group.maintain() {
            if stall.is_to_be_probed(Group::MAINTENANCE_INTERVAL)
                && let Some(owner) = self.owner(stall.slot)
            {
                members.ring(owner.claim.member);
            }
            if stall.stage != Stage::Suspected && self.group.waiting(stall.slot) > 0 {
                // The kernel woke its owner alone, which then did not accept.
                self.have_rescan(stall.slot, members, |slot| self.is_asleep(slot));
            }
        }
        self.close_unneeded(Instant::now(), members);
    }

    fn has_claims(&self) -> bool {
        self.owners().next().is_some()
    }

    /// The sockets, each with its slot and the process that owns it.
    pub(super) fn listed(&self) -> impl Iterator<Item = (u32, &Socket, Option<ClaimId>)> {
        let all = self.group.listeners.sockets.by_slot();
        all.map(|(slot, socket)| (slot, socket, self.owner(slot).map(|owner| owner.claim)))
    }

    /// Gives the socket of `slot` to the owner of `to`, if the latter is ready to watch it and the
    /// former has nothing to become first in line.
    fn let_watch(&mut self, to: u32, slot: u32, why: Why, members: &mut Members) {
        let has_starting_owner = self.owner(slot).is_some_and(|owner| !owner.is_ready);
        let listener = self.group.listeners.sockets.get(slot as usize);
        let cookie = self.sockets.get(&slot).map(|socket| socket.cookie);
        let watcher = match self
            .sockets
            .get_mut(&to)
            .map(|socket| &mut socket.condition)
        {
            Some(Condition::Owned(owner)) if owner.is_ready => owner,
            _ => return,
        };
        let (Some(listener), Some(cookie), false) = (listener, cookie, has_starting_owner) else {
            return;
        };
        let is_new = watcher.knows.insert(slot);
        let kind = match is_new {
            true => Kind::Sibling,
            // It watches the socket already, and would be in line before the owner.
            false if why == Why::Registered => Kind::Behind,
            false => return,
        };
        let message = Message {
            slot,
            cookie,
            ..Message::new(kind, watcher.claim.number)
        };
        let member = watcher.claim.member;
        let bell = self
            .owner(slot)
            .and_then(|owner| members.bell(owner.claim.member));
        let fds = is_new.then_some(listener.as_fd()).into_iter();
        let fds: Vec<_> = fds.chain(bell.as_ref().map(|bell| bell.as_fd())).collect();
        members.tell(member, message, &fds);
        members.ring(member);
        self.count_notice();
    }

    /// Whether the owner of `slot` waits for events, as it publishes.
    fn is_asleep(&self, slot: u32) -> bool {
        let slots = &self.group.figures().slots;
        slots[slot as usize].load.busy_since_ns.get() == 0
    }

    /// Has the processes look at all listeners whose slots are `among`: the owner of `missed` may
    /// have been the only one that the kernel woke for a connection which it did not accept.
    fn have_rescan(&self, missed: u32, members: &mut Members, among: impl Fn(u32) -> bool) {
        let owners = self.owners().filter(|(_, owner)| owner.is_ready);
        for (_, owner) in owners.filter(|(slot, _)| among(*slot)) {
            let rescan = Message {
                slot: missed,
                ..Message::new(Kind::Rescan, owner.claim.number)
            };
            members.tell(owner.claim.member, rescan, &[]);
            members.ring(owner.claim.member);
        }
        self.count_notice();
    }

    /// Counts that processes were told something, for those that are at work.
    pub(super) fn count_notice(&self) {
        self.group.figures().config.notices.bump(1);
    }

    /// Takes the server's own socket into the group. It may get `SO_REUSEPORT` after `listen`.
    fn adopt(&mut self, claimed: Claimed) -> anyhow::Result<u32> {
        let slot = self.free_number()?;
        let Claimed { socket, info, key } = claimed;
        if !socket.reuse_port().unwrap_or(false) {
            socket
                .set_reuse_port(true)
                .with_context(|| format!("set SO_REUSEPORT on the listener of {}", key.address))?;
        }
        self.put(slot, socket, &info, Origin::Server);
        Ok(slot)
    }

    /// A slot for a process that waits at the socket of `slot`, which another process owns: a free
    /// one whose socket this coordinator has made, or a new one.
    fn another_than(&mut self, slot: u32) -> anyhow::Result<u32> {
        let is_free = |socket: &GroupSocket| {
            socket.origin == Origin::Coordinator && matches!(socket.condition, Condition::Free(_))
        };
        let mut sockets = self.sockets.iter();
        if let Some((free, _)) = sockets.find(|(_, socket)| is_free(socket)) {
            return Ok(*free);
        }
        let number = self.free_number()?;
        let model = self.group.listeners.sockets.get(slot as usize);
        let model = model.context("find the socket of a slot")?;
        let twin = twin::beside(model, self.group.address())?;
        let info = ListenerInfo::of(&twin)?;
        self.put(number, twin, &info, Origin::Coordinator);
        Ok(number)
    }

    fn put(&mut self, slot: u32, socket: Socket, info: &ListenerInfo, origin: Origin) {
        let entry = GroupSocket {
            cookie: info.cookie,
            inode: info.inode,
            origin,
            condition: Condition::Free(Instant::now()),
        };
        self.sockets.insert(slot, entry);
        self.group.put_listener(slot, socket);
        self.keep_socket(slot);
    }

    /// The lowest number of a slot without a socket.
    fn free_number(&self) -> anyhow::Result<u32> {
        let policy = self.group.policy();
        let most = policy.workers_max().min(MAX_WORKERS as u32);
        let free = (0..most).find(|slot| !self.sockets.contains_key(slot));
        ensure!(
            free.is_some(),
            "{}: all {most} slots of the policy {} are in use; the process goes on without a ring",
            self.group.address(),
            policy.name()
        );
        free.context("find a slot")
    }

    /// Says once what chooses for the group.
    fn announce(&mut self) {
        let address = self.group.address();
        let state = self.group.state();
        let is_open = matches!(
            state,
            GroupState::Hashing(srv_steer::HashingReason::OneListener)
        );
        if self.is_announced || is_open {
            return;
        }
        self.is_announced = true;
        match state {
            GroupState::Steered => tracing::info!(
                "{address}: the BPF program steers, policy {}",
                self.group.policy().name()
            ),
            GroupState::Hashing(why) => tracing::info!(
                "{address}: the kernel's hash chooses, and the ring corrects it: {}",
                crate::control::status::why_hashing(&why)
            ),
        }
    }

    fn slots(&self) -> Vec<u32> {
        self.sockets.keys().copied().collect()
    }

    fn slot_with(&self, cookie: u64) -> Option<u32> {
        let mut sockets = self.sockets.iter();
        let found = sockets.find(|(_, socket)| socket.cookie == cookie);
        found.map(|(slot, _)| *slot)
    }

    fn slot_of(&self, claim: ClaimId) -> Option<u32> {
        let mut owners = self.owners();
        let found = owners.find(|(_, owner)| owner.claim == claim);
        found.map(|(slot, _)| slot)
    }

    fn owners(&self) -> impl Iterator<Item = (u32, &Owner)> {
        let sockets = self.sockets.iter();
        sockets.filter_map(|(slot, socket)| Some((*slot, socket.owner()?)))
    }

    fn owner(&self, slot: u32) -> Option<&Owner> {
        self.sockets.get(&slot)?.owner()
    }

    fn owner_mut(&mut self, slot: u32) -> Option<&mut Owner> {
        match &mut self.sockets.get_mut(&slot)?.condition {
            Condition::Owned(owner) => Some(owner),
            _ => None,
        }
    }
}

impl GroupSocket {
    fn owner(&self) -> Option<&Owner> {
        match &self.condition {
            Condition::Owned(owner) => Some(owner),
            _ => None,
        }
    }
}
