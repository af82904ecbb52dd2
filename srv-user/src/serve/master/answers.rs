//! What the master says through the control socket, and the changes of which
//! one can be told at once.

use anyhow::ensure;
use srv_common::Policy;

use super::{Master, Second};
use crate::control::Confinement;
use crate::control::status::GroupStatus;
use crate::control::{Reply, Request, SocketStatus, Status};
use crate::serve::master::spawn::{self, Worker};
use crate::values::PolicyName;
use srv_steer::Group;
use srv_steer::ListenerInfo;
use srv_steer::Overflow;

impl Master {
    pub(super) fn answer(&mut self, request: &Request) -> Reply {
        match request {
            Request::Status => Reply::Status(self.status()),
            Request::Sockets => match self.sockets() {
                Ok(sockets) => Reply::Sockets(sockets),
                Err(error) => Reply::Refused(format!("{error:#}")),
            },
            Request::Upgrade | Request::Reload => {
                Reply::Refused("that is not answered at once".into())
            }
            Request::Join(joining) => match self.let_join(joining) {
                Ok(joined) => Reply::Joined(joined),
                Err(error) => Reply::Refused(format!("{error:#}")),
            },
            Request::Policy(name) => match self.switch_policy(name) {
                Ok(before) => Reply::Done(format!("policy: {name} (was {})", before.name())),
                Err(error) => Reply::Refused(format!("{error:#}")),
            },
        }
    }

    fn switch_policy(&mut self, name: &str) -> anyhow::Result<Policy> {
        let policy = name.parse::<PolicyName>().map_err(anyhow::Error::msg)?.0;
        ensure!(
            !self.is_changing_hands(),
            "an upgrade is under way: switch the policy when it is done"
        );
        let before = self.policy;
        self.change_policy(policy)?;
        tracing::info!("policy: {name}");
        Ok(before)
    }

    fn status(&self) -> Status {
        let overflow = Overflow::read().unwrap_or_default();
        let overflow = overflow.since(self.overflow_before);
        Status {
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            policy: self.policy.name().to_string(),
            accept: self.settings.serving.accept.name().to_string(),
            workers_run_as: self.confinement(),
            listen_overflows: overflow.overflows,
            listen_drops: overflow.drops,
            joined: self.second.as_ref().map(Second::status),
            groups: self
                .groups
                .iter()
                .map(|group| self.group_status(group))
                .collect(),
        }
    }

    /// All workers were started in the same way; one that is registered tells.
    fn confinement(&self) -> Option<Confinement> {
        let mut workers = self.workers.values();
        workers.find_map(|worker| worker.confinement.clone())
    }

    fn group_status(&self, group: &Group) -> GroupStatus {
        let mut status = GroupStatus::of(group);
        for worker in &mut status.workers {
            worker.hang_kills = self.slots[worker.slot].hang_kills;
            worker.behind = self.is_behind(worker.slot);
            let second = self.second.as_ref();
            worker.joined = second.is_some_and(|second| second.slots.contains(&worker.slot));
        }
        status
    }

    /// The process of the worker in charge of a slot, the second server's too.
    fn pid_in(&self, slot: u32) -> Option<u32> {
        let own = self.in_charge(slot).map(Worker::pid);
        let own = own.map(|pid| pid.as_raw_nonzero().get() as u32);
        own.or_else(|| self.second.as_ref()?.pids.get(&slot).copied())
    }

    fn sockets(&self) -> anyhow::Result<Vec<SocketStatus>> {
        let mut sockets = Vec::new();
        for (nth_group, group) in self.groups.iter().enumerate() {
            for (nth, socket) in group.listeners.sockets.iter().enumerate() {
                let info = ListenerInfo::of(socket)?;
                let own = self.settings.serving.accept.has_own_listeners();
                let pid = self.pid_in(nth as u32).filter(|_| own);
                let inherited = spawn::inherited(&self.groups);
                sockets.push(SocketStatus {
                    listen: group.listeners.address,
                    slot: own.then_some(nth as u32),
                    server: "srv".to_owned(),
                    inode: info.inode,
                    cookie: info.cookie,
                    pid,
                    fd: pid.map(|_| inherited.listener(nth_group as u32, nth as u32)),
                    recv_q: info.queued,
                    backlog: info.backlog,
                });
            }
        }
        Ok(sockets)
    }
}
