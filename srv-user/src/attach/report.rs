//! The status of an attached group: from its agent, or, without an agent, from the kernel.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use aya::programs::{ProgramType, loaded_programs};
use rustix::process::Pid;

use super::group::Target;
use super::lock::{self, Record};
use crate::control::attached::{
    AttachedListener, AttachedProgram, AttachedStatus, Attachment, Balance, Shares,
};
use crate::control::{Reply, Request, SocketStatus, ask};
use crate::kernel::owners::{self, Owner, Owners};
use crate::kernel::sock_diag::{Listener, SockDiag};
use srv_steer::balance::{coefficient_of_variation, max_over_mean};
use srv_steer::monotonic_ns;

impl AttachedStatus {
    /// The status of a group from the agent of this user; without an agent, from the kernel.
    ///
    /// # Errors
    /// The kernel's error.
    pub(crate) fn of(target: &Target, diag: &mut SockDiag) -> anyhow::Result<Self> {
        let (records, _) = lock::records()?;
        let is_its = |record: &&Record| {
            (record.address, record.namespace) == (target.address, target.namespace)
        };
        let record = records.iter().find(is_its);
        if let Some(status) = record.and_then(of_agent) {
            return Ok(status);
        }
        let mut status = Self::of_kernel(target, diag)?;
        match record {
            Some(record) if is_of_group(record, &status) => status.was_left(record),
            _ => status.program = without_agent(not_ours(status.listeners.len())),
        }
        Ok(status)
    }

    /// The status of a group from the kernel: its queues, the owners of its sockets, and how many
    /// connections each process has. Fields that only an agent knows are `None`.
    ///
    /// # Errors
    /// The kernel's error.
    pub(crate) fn of_kernel(target: &Target, diag: &mut SockDiag) -> anyhow::Result<Self> {
        let read_at_us = monotonic_ns() / 1000;
        let sockets = diag.listeners_on(target.address)?;
        let owners = Owners::of(&sockets.iter().map(|socket| socket.inode).collect());
        let connections = open_connections(target.address, diag, &owners)?;
        let listener = |socket: &Listener| listener(socket, &owners, &connections);
        let listeners: Vec<AttachedListener> = sockets.iter().map(listener).collect();
        Ok(Self {
            listen: target.address,
            read_at_us,
            namespace: target.namespace,
            server: owners.command().unwrap_or_default().to_owned(),
            agent: None,
            policy: None,
            program: without_agent(Attachment::Unknown(NOT_TOLD.to_owned())),
            signals: None,
            balance: balance(&listeners),
            listeners,
            half_open: diag.half_open(target.address)? as u64,
        })
    }

    /// The lines for `srv sockets`.
    pub(crate) fn sockets(&self) -> Vec<SocketStatus> {
        let socket = |listener: &AttachedListener| SocketStatus {
            listen: self.listen,
            slot: listener.slot,
            server: self.server.clone(),
            inode: listener.inode,
            cookie: listener.cookie,
            pid: listener.workers.first().copied(),
            fd: listener.fd,
            recv_q: listener.queued,
            backlog: listener.backlog,
        };
        self.listeners.iter().map(socket).collect()
    }
}

/// All attached groups of this user: those that an agent steers, and those whose agent was killed
/// or has left the program. Also the reason for each record that cannot be read.
///
/// # Errors
/// The runtime directory cannot be read.
pub(crate) fn all() -> anyhow::Result<(Vec<AttachedStatus>, Vec<anyhow::Error>)> {
    let (records, unreadable) = lock::records()?;
    Ok((records.iter().filter_map(of_record).collect(), unreadable))
}

pub(crate) fn of_record(record: &Record) -> Option<AttachedStatus> {
    of_agent(record).or_else(|| left_alone(record).ok().flatten())
}

/// The answer of the agent that wrote this record; `None` if the agent has ended.
fn of_agent(record: &Record) -> Option<AttachedStatus> {
    let path = record.control.as_deref()?;
    match ask(Some(path), &Request::Status) {
        Ok(Reply::Attached(status)) => Some(status),
        _ => None,
    }
}

/// The status of a group whose agent has left or was killed. `None` if all its sockets are closed,
/// since then the program is gone, too.
fn left_alone(record: &Record) -> anyhow::Result<Option<AttachedStatus>> {
    let Some(target) = Target::in_namespace(record.address, record.namespace)? else {
        return Ok(None);
    };
    let mut diag = SockDiag::open(target.netns)?;
    let mut status = AttachedStatus::of_kernel(&target, &mut diag)?;
    if !is_of_group(record, &status) {
        return Ok(None);
    }
    status.was_left(record);
    Ok(Some(status))
}

fn is_of_group(record: &Record, status: &AttachedStatus) -> bool {
    let is_known = |listener: &AttachedListener| record.cookies.contains(&listener.cookie);
    status.listeners.iter().any(is_known)
}

impl AttachedStatus {
    /// Adds what the record of an agent tells that has left the program, or was killed.
    fn was_left(&mut self, record: &Record) {
        let is_loaded = programs().map(|ids| ids.contains(&record.program));
        self.program.attachment = match is_loaded {
            Some(true) => Attachment::Attached,
            Some(false) => Attachment::NotAttached(
                "the program that was attached is no longer loaded".to_owned(),
            ),
            None => Attachment::Unknown(
                "the kernel lists programs only to a process that has CAP_SYS_ADMIN (sudo)"
                    .to_owned(),
            ),
        };
        self.policy = (is_loaded != Some(false)).then(|| record.policy.clone());
    }
}

/// Why it is unknown what is attached to a group that no agent of this user steers.
const NOT_TOLD: &str =
    "this user has attached nothing, and the kernel does not tell what others attached";

/// Whether a program is attached to a group to which this user has attached nothing.
fn not_ours(listeners: usize) -> Attachment {
    match programs() {
        _ if listeners < 2 => {
            Attachment::NotAttached("with one socket there is nothing to choose between".into())
        }
        Some(ids) if ids.is_empty() => {
            Attachment::NotAttached("no program of this kind is loaded".into())
        }
        _ => Attachment::Unknown(NOT_TOLD.to_owned()),
    }
}

/// A program whose counts are unknown, because no agent tells them.
fn without_agent(attachment: Attachment) -> AttachedProgram {
    AttachedProgram {
        attachment,
        runs: None,
        steered: None,
        acks: None,
        fallbacks: None,
    }
}

/// The ids of all select programs that the kernel has; `None` if the kernel does not list them to
/// this process, which takes CAP_SYS_ADMIN. The kernel keeps a program as long as a group or a
/// process has it.
fn programs() -> Option<BTreeSet<u32>> {
    let programs = loaded_programs().collect::<Result<Vec<_>, _>>().ok()?;
    let is_select =
        |info: &aya::programs::ProgramInfo| info.program_type() == ProgramType::SkReuseport.into();
    Some(
        programs
            .iter()
            .filter(|info| is_select(info))
            .map(|info| info.id())
            .collect(),
    )
}

/// The number of open connections to `address` that each process has.
///
/// # Errors
/// The kernel's error.
pub(crate) fn open_connections(
    address: SocketAddr,
    diag: &mut SockDiag,
    owners: &Owners,
) -> anyhow::Result<HashMap<Pid, u64>> {
    let open: BTreeSet<u64> = diag.connections_to(address)?.into_iter().collect();
    let count = |pid: Pid| {
        let sockets = owners::sockets_of(pid).unwrap_or_default();
        sockets.keys().filter(|inode| open.contains(inode)).count() as u64
    };
    let pids = owners.owners.iter().map(|owner| owner.pid);
    Ok(pids.map(|pid| (pid, count(pid))).collect())
}

fn listener(
    socket: &Listener,
    owners: &Owners,
    connections: &HashMap<Pid, u64>,
) -> AttachedListener {
    let workers = owners.workers(socket.inode);
    let of = |worker: &&Owner| match worker.polled.len() {
        0 | 1 => connections.get(&worker.pid).copied(),
        _ => None,
    };
    let first = owners.having(socket.inode).next();
    AttachedListener {
        slot: None,
        connections: workers.iter().map(of).sum(),
        workers: workers
            .iter()
            .map(|worker| worker.pid.as_raw_nonzero().get() as u32)
            .collect(),
        owners: owners.having(socket.inode).count(),
        steered: None,
        acks: None,
        sleep: None,
        live: None,
        queued: socket.queued,
        backlog: socket.backlog,
        inode: socket.inode,
        cookie: socket.cookie,
        fd: first.map(|owner| owner.sockets[&socket.inode]),
    }
}

fn balance(listeners: &[AttachedListener]) -> Balance {
    let connections = listeners.iter().map(|each| each.connections);
    let connections: Option<Vec<u64>> = connections.collect();
    let queued: u64 = listeners.iter().map(|each| u64::from(each.queued)).sum();
    let empty = listeners.iter().filter(|each| each.queued == 0).count();
    Balance {
        connections: connections.map(|counts| Shares {
            sum: counts.iter().sum(),
            cv: coefficient_of_variation(&counts),
            max_over_mean: max_over_mean(&counts),
        }),
        queued,
        empty_while_others_queue: if queued > 0 { empty } else { 0 },
    }
}
