//! The master's answers at the control socket, and the changes whose outcome is known at once.

use anyhow::ensure;
use srv_common::Policy;

use super::Master;
use super::role::SecondaryServer;
use super::worker::Worker;
use crate::control::SandboxStatus;
use crate::control::status::GroupStatus;
use crate::control::{Reply, Request, SocketStatus, Status};
use crate::serve::master::spawn;
use crate::values::PolicyName;
use crate::values::reported::Reported;
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
            Request::Upgrade | Request::Reload | Request::Reopen => {
                Reply::Refused("this request is not answered at once".into())
            }
            Request::Join(joining) => match self.let_join(joining) {
                Ok(joined) => Reply::Joined(joined),
                Err(error) => Reply::Refused(format!("{error:#}")),
            },
            Request::Policy(policy) => match self.switch_policy(policy) {
                Ok(before) => Reply::Done(format!("policy: {policy} (was {})", before.name())),
                Err(error) => Reply::Refused(format!("{error:#}")),
            },
        }
    }

    fn switch_policy(&mut self, asked: &Reported<PolicyName>) -> anyhow::Result<Policy> {
        let PolicyName(policy) = match asked {
            Reported::Known(policy) => *policy,
            // A newer srv knows it. The refusal names the policies that there are.
            Reported::Unknown(name) => name.parse()?,
        };
        ensure!(
            !self.is_changing_hands(),
            "an upgrade is under way: switch the policy when it is done"
        );
        let before = self.policy;
        self.change_policy(policy)?;
        tracing::info!("policy: {asked}");
        Ok(before)
    }

    fn status(&self) -> Status {
        let overflow = Overflow::read().unwrap_or_default();
        let overflow = overflow.since(self.launch.overflow);
        Status {
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            command: None,
            phase: Some(self.reported_phase()),
            reload: Some(self.reloads.last()),
            policy: Reported::Known(PolicyName(self.policy)),
            accept: Reported::Known(self.settings.serving.accept),
            workers_run_as: self.sandbox(),
            listen_overflows: overflow.overflows,
            listen_drops: overflow.drops,
            joined: self.role.secondary().map(SecondaryServer::status),
            access_log: self.log_writer.status(),
            groups: self
                .groups
                .iter()
                .map(|group| self.group_status(group))
                .collect(),
        }
    }

    /// The sandbox of any worker that is registered: all were started in the same way.
    fn sandbox(&self) -> Option<SandboxStatus> {
        let mut workers = self.staff.workers.values();
        workers.find_map(|worker| worker.sandbox().cloned())
    }

    fn group_status(&self, group: &Group) -> GroupStatus {
        let mut status = GroupStatus::of(group);
        for worker in &mut status.workers {
            worker.hangs = self.staff.slots[worker.slot].stalls;
            worker.hang_kills = self.staff.slots[worker.slot].stall_kills;
            worker.behind = self.staff.is_behind(worker.slot);
            let secondary = self.role.secondary();
            worker.joined = secondary.is_some_and(|at| at.slots.contains(&worker.slot));
        }
        if !self.settings.serving.accept.has_own_listeners() {
            for queue in &mut status.queues {
                queue.slot = None;
            }
        }
        status
    }

    /// The process of the worker in charge of a slot, also of the secondary's.
    fn pid_in(&self, slot: u32) -> Option<u32> {
        let own = self.staff.in_charge(slot).map(Worker::pid);
        let own = own.map(|pid| pid.as_raw_nonzero().get() as u32);
        own.or_else(|| self.role.secondary()?.pids.get(&slot).copied())
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
