//! The coordinator's answers at the control socket.

use srv_common::Policy;
use srv_steer::{AcceptMode, ListenerInfo, Overflow};

use super::coordinator::Coordinator;
use super::group::RunGroup;
use crate::control::status::{GroupStatus, Totals, WorkerStatus};
use crate::control::{Reply, Request, SocketStatus, Status};
use crate::kernel::owners;
use crate::values::PolicyName;
use crate::values::reported::Reported;

/// The state of the slots that have a socket. A server that reloads leaves others behind, which
/// have no share of anything.
fn group_status(group: &RunGroup) -> GroupStatus {
    let mut status = GroupStatus::of(group.steered());
    let sockets = &group.steered().listeners.sockets;
    status
        .workers
        .retain(|worker| sockets.get(worker.slot as usize).is_some());
    status
        .workers
        .iter_mut()
        .for_each(WorkerStatus::forget_requests);
    status.totals = Totals::of(&status.workers);
    status
}

impl Coordinator {
    pub(super) fn answer(&mut self, request: &Request) -> Reply {
        let answer = match request {
            Request::Status => Ok(Reply::Status(self.status())),
            Request::Sockets => self.sockets().map(Reply::Sockets),
            Request::Reload | Request::Reopen | Request::Upgrade | Request::Join(_) => {
                Err(anyhow::anyhow!(
                    "the process that answers is the coordinator of `srv run`, which has no such \
                 command: reload {} in its own way, as without srv",
                    self.command()
                ))
            }
            Request::Policy(asked) => self
                .switch(asked)
                .map(|before| Reply::Done(format!("policy: {asked} (was {})", before.name()))),
        };
        answer.unwrap_or_else(|error| Reply::Refused(format!("{error:#}")))
    }

    fn switch(&mut self, asked: &Reported<PolicyName>) -> anyhow::Result<Policy> {
        let PolicyName(policy) = match asked {
            Reported::Known(policy) => *policy,
            // A newer srv knows it. The refusal names the policies that there are.
            Reported::Unknown(name) => name.parse()?,
        };
        let before = self.groups.steer(policy)?;
        tracing::info!("policy: {asked}");
        Ok(before)
    }

    fn command(&self) -> String {
        match owners::command(self.server) {
            command if command.is_empty() => "the server".to_owned(),
            command => command,
        }
    }

    fn status(&self) -> Status {
        let overflow = Overflow::read().unwrap_or_default().since(self.overflow);
        Status {
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: self.server_pid(),
            command: Some(self.command()),
            phase: None,
            reload: None,
            policy: Reported::Known(PolicyName(self.groups.policy())),
            accept: Reported::Known(AcceptMode::Ring),
            workers_run_as: None,
            listen_overflows: overflow.overflows,
            listen_drops: overflow.drops,
            joined: None,
            access_log: None,
            groups: self.groups.iter().map(group_status).collect(),
        }
    }

    fn sockets(&self) -> anyhow::Result<Vec<SocketStatus>> {
        let mut sockets = Vec::new();
        for group in self.groups.iter() {
            for (slot, socket, owner) in group.listed() {
                let info = ListenerInfo::of(socket)?;
                let pid = owner.map(|claim| self.members.pid(claim.member));
                sockets.push(SocketStatus {
                    listen: group.steered().address(),
                    slot: Some(slot),
                    server: self.command(),
                    inode: info.inode,
                    cookie: info.cookie,
                    pid,
                    fd: None,
                    recv_q: info.queued,
                    backlog: info.backlog,
                });
            }
        }
        Ok(sockets)
    }
}
