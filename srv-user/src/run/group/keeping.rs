//! What the keeper keeps of a group, and how another coordinator goes on with that: with the
//! memory, the program, the sockets and their owners. The state of the slots is in the memory; what
//! each process has been given is not kept, so each gets it again.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use socket2::Socket;
use srv_common::claim::{Kind, Message};
use srv_common::{Policy, State};
use srv_steer::{Group, GroupOptions, HashingReason, ListenerGroup, SelectProgram, SharedMemory};

use super::closing::Closing;
use super::{Condition, GroupSocket, Origin, Owner, RunGroup, Steering, Why};
use crate::run::event::{ClaimId, MemberId};
use crate::run::kept::{Keeper, Key, Record};
use crate::run::listener::GroupKey;
use crate::run::members::Members;

/// What is kept of a socket, beside itself.
#[derive(Serialize, Deserialize)]
struct SocketRecord {
    cookie: u64,
    inode: u64,
    is_servers: bool,
    condition: ConditionRecord,
}

/// See [`Condition`].
#[derive(Serialize, Deserialize)]
enum ConditionRecord {
    Owned {
        member: u64,
        number: u32,
        turn: u32,
        is_ready: bool,
    },
    Free,
    Closing,
}

impl SocketRecord {
    fn of(socket: &GroupSocket) -> Self {
        Self {
            cookie: socket.cookie,
            inode: socket.inode,
            is_servers: socket.origin == Origin::Server,
            condition: match &socket.condition {
                Condition::Owned(owner) => ConditionRecord::Owned {
                    member: owner.claim.member.0,
                    number: owner.claim.number,
                    turn: owner.turn,
                    is_ready: owner.is_ready,
                },
                Condition::Free(_) => ConditionRecord::Free,
                Condition::Closing(_) => ConditionRecord::Closing,
            },
        }
    }

    /// The socket. An owner that is not connected has left.
    fn restored(self, members: &Members) -> GroupSocket {
        let condition = match self.condition {
            ConditionRecord::Owned {
                member,
                number,
                turn,
                is_ready,
            } if members.has(MemberId(member)) => Condition::Owned(Owner {
                claim: ClaimId {
                    member: MemberId(member),
                    number,
                },
                turn,
                is_ready,
                knows: BTreeSet::new(),
            }),
            ConditionRecord::Closing => Condition::Closing(Closing::begins()),
            _ => Condition::Free(Instant::now()),
        };
        GroupSocket {
            cookie: self.cookie,
            inode: self.inode,
            origin: match self.is_servers {
                true => Origin::Server,
                false => Origin::Coordinator,
            },
            condition,
        }
    }
}

/// A group of which another coordinator was killed, until this one has all of its sockets.
pub(in crate::run) struct Adopted {
    pub(in crate::run) key: GroupKey,
    pub(in crate::run) group: RunGroup,
}

impl Adopted {
    /// The group of that record, without its sockets.
    ///
    /// # Errors
    /// If the record is of something else, or its memory or program cannot be used.
    pub(in crate::run) fn of(
        number: u64,
        record: Record,
        steering: Steering,
        keeper: Keeper,
    ) -> anyhow::Result<Self> {
        let key: GroupKey = record.read()?;
        let mut fds = record.fds.into_iter();
        let memory = SharedMemory::checked(fds.next().context("find its memory")?)?;
        let program = match (fds.next(), fds.next()) {
            (Some(select), Some(array)) => {
                let adopted = SelectProgram::adopt(select, array, fds.next(), memory.try_clone()?);
                Ok(adopted.context("adopt its program")?)
            }
            _ if steering.uses_bpf => Err(HashingReason::NothingToAdopt),
            _ => Err(HashingReason::SwitchedOff),
        };
        let listeners = ListenerGroup::empty(key.address);
        let group = RunGroup {
            group: Group::join(listeners, memory, program, &steering.options())?,
            number,
            keeper,
            sockets: Default::default(),
            idle_since: None,
            heirs: BTreeSet::new(),
            is_announced: false,
        };
        Ok(Self { key, group })
    }

    /// Adds the socket of a record.
    ///
    /// # Errors
    /// If the record is of something else.
    pub(in crate::run) fn add(
        &mut self,
        slot: u32,
        record: Record,
        members: &Members,
    ) -> anyhow::Result<()> {
        let kept: SocketRecord = record.read()?;
        let fd = record.fds.into_iter().next();
        let socket = Socket::from(fd.context("find a socket")?);
        ensure!(
            socket.cookie().is_ok_and(|cookie| cookie == kept.cookie),
            "the socket of slot {slot} is another one"
        );
        self.group.sockets.insert(slot, kept.restored(members));
        self.group.group.put_listener(slot, socket);
        Ok(())
    }
}

impl RunGroup {
    /// Has the keeper keep the group, without its sockets: its memory and, if there is one, the
    /// program and its array.
    pub(super) fn keep(&self, key: &GroupKey) {
        let fds = self.group.handles();
        self.keeper.keep(Key::Group(self.number), key, &fds);
    }

    /// Has the keeper keep a socket that is new.
    pub(super) fn keep_socket(&self, slot: u32) {
        let listener = self.group.listeners.sockets.get(slot as usize);
        let fds: Vec<_> = listener.into_iter().map(|socket| socket.as_fd()).collect();
        self.keep_with(slot, &fds);
    }

    /// Has the keeper keep what has become of a socket.
    pub(super) fn keep_condition(&self, slot: u32) {
        self.keep_with(slot, &[]);
    }

    fn keep_with(&self, slot: u32, fds: &[BorrowedFd<'_>]) {
        if let Some(socket) = self.sockets.get(&slot) {
            let record = SocketRecord::of(socket);
            self.keeper
                .keep(Key::Socket(self.number, slot), record, fds);
        }
    }

    /// Has the keeper forget a socket, which is closed.
    pub(super) fn forget_socket(&self, slot: u32) {
        self.keeper.forget(Key::Socket(self.number, slot));
    }

    /// Has the keeper forget the group, which is over.
    pub(in crate::run) fn forget(&self) {
        self.keeper.forget(Key::Group(self.number));
    }

    /// Steers the group from now on, and gives each process what it may have missed.
    pub(in crate::run) fn resume(mut self, policy: Policy, members: &mut Members) -> Self {
        self.take_over(policy);
        self.tell_all(members);
        self
    }

    /// The claims that have a slot.
    pub(in crate::run) fn claims(&self) -> impl Iterator<Item = ClaimId> {
        self.owners().map(|(_, owner)| owner.claim)
    }

    fn take_over(&mut self, policy: Policy) {
        for (slot, socket) in &self.sockets {
            let state = match socket.owner() {
                Some(owner) if owner.is_ready => State::Ready,
                Some(_) => State::Starting,
                None => State::Absent,
            };
            // The memory has it when the group is taken over.
            self.group.set_state(*slot, state);
        }
        let policy = match self.group.why_unsteered() {
            Some(_) => Policy::Hash,
            None => policy,
        };
        let end = self.group.slots().end;
        if let Some(error) = self.group.take_over(0..end, policy) {
            tracing::warn!("{}: {error}", self.group.address());
        }
        for slot in 0..end {
            if self.owner(slot).is_none() {
                self.group.worker_ended(slot);
            }
        }
        if !self.has_claims() {
            self.idle_since = Some(Instant::now());
        }
        self.is_announced = self.sockets.len() > 1;
    }

    /// Gives each process the sockets of its siblings anew, and has it leave those that are gone:
    /// what the coordinator before this one was about to say is not known.
    fn tell_all(&mut self, members: &mut Members) {
        let all = 0..self.group.slots().end;
        for slot in self.slots() {
            let owner = self.owner(slot).filter(|owner| owner.is_ready);
            let Some(claim) = owner.map(|owner| owner.claim) else {
                continue;
            };
            for other in all.clone().filter(|other| *other != slot) {
                if self.sockets.contains_key(&other) {
                    self.let_watch(slot, other, Why::Began, members);
                } else {
                    let gone = Message {
                        slot: other,
                        ..Message::new(Kind::Gone, claim.number)
                    };
                    members.tell(claim.member, gone, &[]);
                }
            }
            members.ring(claim.member);
        }
        self.count_notice();
    }
}

impl Steering {
    /// The options of a group that has no socket yet.
    pub(in crate::run) fn options(self) -> GroupOptions {
        let mut options = GroupOptions::default();
        options.workers = 0;
        options.steer = self.uses_bpf;
        options.policy = self.policy;
        options
    }
}
