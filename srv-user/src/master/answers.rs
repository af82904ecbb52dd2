//! What the master says through the control socket, and the changes of which
//! one can be told at once.

use srv_common::Policy;

use super::Master;
use crate::config::value::PolicyName;
use crate::confine::Confinement;
use crate::control::{GroupStatus, Reply, Request, SocketStatus, Status};
use crate::group::Group;
use crate::listen::ListenerInfo;
use crate::overflow::Overflow;
use crate::spawn;

impl Master {
    pub(super) fn answer(&mut self, request: &Request) -> Reply {
        match request {
            Request::Status => Reply::Status(self.status()),
            Request::Sockets => match self.sockets() {
                Ok(sockets) => Reply::Sockets(sockets),
                Err(error) => Reply::Refused(format!("{error:#}")),
            },
            Request::Upgrade => Reply::Refused("an upgrade is not answered at once".into()),
            Request::Reload => match self.reload() {
                Ok(what) => Reply::Done(what),
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
        for group in &mut self.groups {
            group.steer(policy)?;
        }
        tracing::info!("policy: {name}");
        Ok(std::mem::replace(&mut self.policy, policy))
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
        let mut status = group.status();
        for worker in &mut status.workers {
            worker.hang_kills = self.hang_kills[worker.slot as usize];
        }
        status
    }

    fn sockets(&self) -> anyhow::Result<Vec<SocketStatus>> {
        let mut sockets = Vec::new();
        for (nth_group, group) in self.groups.iter().enumerate() {
            for (nth, socket) in group.listeners.sockets.iter().enumerate() {
                let info = ListenerInfo::of(socket)?;
                let own = self.settings.serving.accept.has_own_listeners();
                let owner = self.in_charge(nth as u32).filter(|_| own);
                let inherited = spawn::inherited(&self.groups);
                sockets.push(SocketStatus {
                    listen: group.listeners.address,
                    slot: own.then_some(nth as u32),
                    owner: None,
                    inode: info.inode,
                    cookie: info.cookie,
                    pid: owner.map_or(0, |worker| worker.pid.as_raw_nonzero().get() as u32),
                    fd: inherited.listener(nth_group as u32, nth as u32),
                    recv_q: info.queued,
                    backlog: info.backlog,
                });
            }
        }
        Ok(sockets)
    }
}
