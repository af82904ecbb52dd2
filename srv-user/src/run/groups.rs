//! All groups of a server, and which claim belongs to which. Answers claims; a claim that cannot be
//! answered by a slot leaves the process as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use srv_common::Policy;
use srv_common::claim::{Kind, Message};
use srv_steer::{Group, HashingReason, SelectProgram};

use super::event::{ClaimId, MemberId};
use super::group::{Adopted, RunGroup, Steering};
use super::holders::Holders;
use super::kept::{Keeper, Kept, Key};
use super::listener::{Claimed, GroupKey};
use super::members::Members;
use crate::values::PolicyName;

/// The groups of a server.
pub(super) struct Groups {
    all: BTreeMap<GroupKey, RunGroup>,
    claims: BTreeMap<ClaimId, GroupKey>,
    steering: Steering,
    /// The number of the next group.
    next: u64,
    /// The program of the first group, which was loaded before any process waits for that, or why
    /// there is none.
    spare: Option<Result<SelectProgram, HashingReason>>,
    keeper: Keeper,
    /// The network namespace of this process.
    namespace: Option<u64>,
    /// Why claims stayed plain; the log names each reason once.
    reasons: BTreeSet<String>,
}

impl Groups {
    pub(super) fn new(steering: Steering, namespace: Option<u64>, keeper: Keeper) -> Self {
        Self {
            all: BTreeMap::new(),
            claims: BTreeMap::new(),
            steering,
            next: 0,
            spare: None,
            keeper,
            namespace,
            reasons: BTreeSet::new(),
        }
    }

    /// Begins without a group, and loads the program of the first one.
    pub(super) fn prepare(&mut self) {
        self.keep_policy();
        self.spare = Some(Group::load_program(&self.steering.options()));
    }

    /// Goes on where the coordinator before this one was killed, which has left these records. A
    /// group that cannot be taken over stays as it is.
    pub(super) fn restore(&mut self, kept: Kept, members: &mut Members) {
        let mut adopted = BTreeMap::new();
        // In the order of the keys, what a record refers to comes first.
        for (key, record) in kept {
            let done = match key {
                Key::Policy => record.read::<String>().and_then(|name| {
                    self.steering.policy = name.parse::<PolicyName>()?.0;
                    Ok(())
                }),
                Key::Member(number) => {
                    members.restore(number, record);
                    Ok(())
                }
                Key::Group(number) => {
                    self.next = self.next.max(number + 1);
                    Adopted::of(number, record, self.steering, self.keeper.clone())
                        .map(|group| drop(adopted.insert(number, group)))
                }
                Key::Socket(number, slot) => match adopted.get_mut(&number) {
                    Some(group) => group.add(slot, record, members),
                    None => Ok(()),
                },
            };
            if let Err(error) = done {
                tracing::error!("go on with what the coordinator has left: {error:#}");
                if let Key::Group(number) | Key::Socket(number, _) = key {
                    self.keeper.forget(Key::Group(number));
                    adopted.remove(&number);
                }
            }
        }
        for Adopted { key, group } in adopted.into_values() {
            let group = group.resume(self.steering.policy, members);
            self.claims
                .extend(group.claims().map(|claim| (claim, key.clone())));
            self.all.insert(key, group);
        }
    }

    fn keep_policy(&self) {
        let name = self.steering.policy.name();
        self.keeper.keep(Key::Policy, name, &[]);
    }

    /// Each group with its address.
    pub(super) fn iter(&self) -> impl Iterator<Item = &RunGroup> {
        self.all.values()
    }

    /// The policy of all groups.
    pub(super) fn policy(&self) -> Policy {
        self.steering.policy
    }

    /// Answers what a process says.
    pub(super) fn hear(
        &mut self,
        member: MemberId,
        message: &Message,
        fds: Vec<OwnedFd>,
        members: &mut Members,
    ) {
        let claim = ClaimId {
            member,
            number: message.claim,
        };
        match message.kind() {
            Some(Kind::Claim) => {
                let group = self.group_of(claim);
                if group.is_some_and(|group| group.answers_again(claim, message, members)) {
                    return;
                }
                // The number belongs to another listener from now on.
                self.release(claim, members);
                let mut fds = fds.into_iter();
                let socket = fds.next();
                fds.next()
                    .into_iter()
                    .for_each(|bell| members.set_bell(member, bell));
                if let Err(why) = self.claim(claim, message.turn, socket, members) {
                    self.explain(&why);
                    let plain = Message {
                        turn: message.turn,
                        ..Message::new(Kind::Plain, claim.number)
                    };
                    members.tell(member, plain, &[]);
                }
            }
            Some(Kind::Ready) => {
                if let Some(group) = self.group_of(claim) {
                    group.is_ready(claim, members);
                }
            }
            Some(Kind::Release) => self.release(claim, members),
            // What only a coordinator says.
            _ => tracing::debug!("process {} said {message:?}", members.pid(member)),
        }
    }

    /// Ends all claims of a process that has left.
    pub(super) fn forget(&mut self, member: MemberId, members: &mut Members) {
        let of_member = |claim: &&ClaimId| claim.member == member;
        let claims: Vec<_> = self.claims.keys().filter(of_member).copied().collect();
        for claim in claims {
            self.release(claim, members);
        }
    }

    /// See [`RunGroup::maintain`].
    pub(super) fn maintain(&mut self, members: &mut Members) {
        for group in self.all.values_mut() {
            group.maintain(members);
        }
    }

    /// Has the processes that are at work look at what they were told.
    pub(super) fn count_notice(&self) {
        self.all.values().for_each(RunGroup::count_notice);
    }

    /// The inode numbers of the server's sockets that no process owns.
    pub(super) fn unowned(&self) -> BTreeSet<u64> {
        self.all.values().flat_map(RunGroup::unowned).collect()
    }

    /// Ends the groups that no process has a slot of, unless one of `pids`, the server's
    /// processes, is about to start the next worker. What the server has closed then refuses
    /// connections at once, and what it has open is its own again.
    pub(super) fn drop_unneeded(&mut self, pids: &BTreeSet<u32>) {
        self.all.retain(|_, group| {
            let is_needed = group.is_needed(pids);
            if !is_needed {
                group.forget();
            }
            is_needed
        });
    }

    /// Closes the sockets that the server has closed.
    pub(super) fn close_abandoned(
        &mut self,
        holders: &Holders,
        members: &Members,
        pids: &BTreeSet<u32>,
    ) {
        for group in self.all.values_mut() {
            group.close_abandoned(holders, members, pids);
        }
    }

    /// Steers all groups by `policy` from now on. If one cannot be steered so, none is.
    ///
    /// # Errors
    /// The reason.
    pub(super) fn steer(&mut self, policy: Policy) -> anyhow::Result<Policy> {
        let before = self.steering.policy;
        let mut groups = self.all.values_mut();
        if let Err(error) = groups.try_for_each(|group| group.steer(policy)) {
            for group in self.all.values_mut() {
                // A group that has no program has nothing to undo.
                let _ = group.steer(before);
            }
            return Err(error);
        }
        self.steering.policy = policy;
        self.keep_policy();
        Ok(before)
    }

    fn claim(
        &mut self,
        claim: ClaimId,
        turn: u32,
        socket: Option<OwnedFd>,
        members: &mut Members,
    ) -> anyhow::Result<()> {
        let socket = socket.context("a claim came without its socket")?;
        let claimed = Claimed::of(socket, self.namespace)?;
        let key = claimed.key.clone();
        if !self.all.contains_key(&key) {
            self.begin(&key)?;
        }
        let group = self.all.get_mut(&key).context("find a group")?;
        let answered = group.claim(claim, turn, claimed, members);
        match &answered {
            Ok(()) => drop(self.claims.insert(claim, key)),
            Err(_) => self.drop_unneeded(&BTreeSet::new()),
        }
        answered
    }

    fn begin(&mut self, key: &GroupKey) -> anyhow::Result<()> {
        let number = self.next;
        self.next += 1;
        let spare = self.spare.take();
        let program = spare.unwrap_or_else(|| Group::load_program(&self.steering.options()));
        let group = RunGroup::new(key, number, program, self.steering, self.keeper.clone())?;
        self.all.insert(key.clone(), group);
        Ok(())
    }

    fn release(&mut self, claim: ClaimId, members: &mut Members) {
        let Some(key) = self.claims.remove(&claim) else {
            return;
        };
        if let Some(group) = self.all.get_mut(&key) {
            group.leave(claim, members);
        }
    }

    fn group_of(&mut self, claim: ClaimId) -> Option<&mut RunGroup> {
        self.all.get_mut(self.claims.get(&claim)?)
    }

    fn explain(&mut self, why: &anyhow::Error) {
        /// A server with a thousand listeners does not fill the log.
        const REASONS_MAX: usize = 64;
        let why = format!("{why:#}");
        if self.reasons.len() < REASONS_MAX && self.reasons.insert(why.clone()) {
            tracing::warn!("a process of the server goes on without a ring: {why}");
        }
    }
}
