//! What is known of another server's group, for people and programs: part of
//! `srv status --json` and of `srv observe --json`. What is unknown is `None`, never 0.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use aya::programs::{ProgramType, loaded_programs};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::group::Target;
use super::lock::{self, Record};
use super::owners::{self, Owner, Owners};
use super::sock_diag::{Listener, SockDiag};
use crate::balance::{coefficient_of_variation, max_over_mean};
use crate::control::{Reply, Request, SocketStatus, ask};

/// Another server's group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForeignStatus {
    /// Its address.
    pub listen: SocketAddr,
    /// Inode number of its network namespace.
    pub namespace: u64,
    /// Command name of the server.
    pub server: String,
    /// The process id of the agent that steers it; `None`: no agent of this user.
    pub agent: Option<u32>,
    /// The policy, by name; `None` where this user has attached nothing.
    pub policy: Option<String>,
    /// The BPF program.
    pub program: ForeignProgram,
    /// What it goes by: `known`, or why not; `None` where no agent tells.
    pub signals: Option<BTreeMap<String, String>>,
    /// Socket by socket.
    pub listeners: Vec<ForeignListener>,
    /// Handshakes that wait for their last packet, of all sockets together.
    pub half_open: u64,
    /// How evenly it is shared.
    pub balance: Balance,
}

/// The BPF program of another server's group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignProgram {
    /// Whether it decides now; `None`: unknown.
    pub attached: Option<bool>,
    /// If it does not, or that is unknown: why.
    pub why_not: Option<String>,
    /// Runs so far: those that steered and those that fell back. Like the two below
    /// `None` where no agent tells.
    pub runs: Option<u64>,
    /// Connections assigned to a listener.
    pub steered: Option<u64>,
    /// Runs that left the choice to the kernel's hash, by reason.
    pub fallbacks: Option<BTreeMap<String, u64>>,
}

/// One of its sockets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForeignListener {
    /// Its slot in the program's array; `None` where no agent tells.
    pub slot: Option<u32>,
    /// The processes that accept from it; empty where that is unknown.
    pub workers: Vec<u32>,
    /// How many processes have it.
    pub owners: usize,
    /// Connections that the program assigned to it; `None` where no agent tells.
    pub steered: Option<u64>,
    /// `asleep`, `busy`, `gone` or `unknown`: its worker, when the program last
    /// looked; `None` where no agent tells.
    pub sleep: Option<String>,
    /// Live connections that came through it since it was attached; `None` where no
    /// agent tells, or they are not counted.
    pub live: Option<u64>,
    /// Accept queue length now.
    pub queued: u32,
    /// Accept queue limit.
    pub backlog: u32,
    /// Open connections of those workers to this address; `None` where they
    /// accept from other sockets of it, too.
    pub connections: Option<u64>,
    /// Inode number.
    pub inode: u64,
    /// `SO_COOKIE`.
    pub cookie: u64,
    /// A descriptor of it, in the first process that has it; `None`: no process is seen.
    pub fd: Option<i32>,
}

/// How evenly open connections are shared, and what waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Balance {
    /// Open connections; `None` where nobody knows which socket they came by.
    pub connections: Option<Shares>,
    /// Connections that wait in accept queues.
    pub queued: u64,
    /// Sockets whose queue is empty while another's is not: connections may
    /// wait that could be served.
    pub empty_while_others_queue: usize,
}

/// How evenly something is shared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shares {
    /// All of it.
    pub sum: u64,
    /// Standard deviation over mean; 0 is even.
    pub cv: f64,
    /// The most over the mean; 1 is even.
    pub max_over_mean: f64,
}

impl ForeignStatus {
    /// What this user's agent says of a group; without an agent, what the kernel shows.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(target: &Target, diag: &mut SockDiag) -> anyhow::Result<Self> {
        let (records, _) = lock::records()?;
        let is_its = |record: &&Record| {
            (record.address, record.namespace) == (target.address, target.namespace)
        };
        let record = records.iter().find(is_its);
        if let Some(status) = record.and_then(of_agent) {
            return Ok(status);
        }
        let mut status = Self::look(target, diag)?;
        match record {
            Some(record) if is_of_group(record, &status) => status.was_left(record),
            _ => status.program = not_ours(status.listeners.len()),
        }
        Ok(status)
    }

    /// Looks at a group: its queues, which process owns what, and how many connections
    /// each process has. What only an agent can tell stays `None`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn look(target: &Target, diag: &mut SockDiag) -> anyhow::Result<Self> {
        let sockets = diag.listeners_on(target.address)?;
        let owners = Owners::of(&sockets.iter().map(|socket| socket.inode).collect());
        let connections = open_connections(target.address, diag, &owners)?;
        let listener = |socket: &Listener| listener(socket, &owners, &connections);
        let listeners: Vec<ForeignListener> = sockets.iter().map(listener).collect();
        Ok(Self {
            listen: target.address,
            namespace: target.namespace,
            server: owners.command().unwrap_or_default().to_owned(),
            agent: None,
            policy: None,
            program: ForeignProgram {
                attached: None,
                why_not: None,
                runs: None,
                steered: None,
                fallbacks: None,
            },
            signals: None,
            balance: balance(&listeners),
            listeners,
            half_open: diag.half_open(target.address)? as u64,
        })
    }

    /// As lines of `srv sockets`.
    pub fn sockets(&self) -> Vec<SocketStatus> {
        let socket = |listener: &ForeignListener| SocketStatus {
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

/// All groups of other servers that this user's agents steer, or steered when
/// they were killed or left; and why a record of one cannot be read.
///
/// # Errors
/// The runtime directory cannot be read.
pub fn all() -> anyhow::Result<(Vec<ForeignStatus>, Vec<anyhow::Error>)> {
    let (records, unreadable) = lock::records()?;
    Ok((records.iter().filter_map(of_record).collect(), unreadable))
}

fn of_record(record: &Record) -> Option<ForeignStatus> {
    of_agent(record).or_else(|| left_alone(record).ok().flatten())
}

/// What the agent answers that wrote this record; `None` if it has ended.
fn of_agent(record: &Record) -> Option<ForeignStatus> {
    let path = record.control.as_deref()?;
    match ask(Some(path), &Request::Status) {
        Ok(Reply::Foreign(status)) => Some(status),
        _ => None,
    }
}

/// What can be told of a group whose agent has left or was killed; `None` once
/// none of its sockets is there any more, and with them the program.
fn left_alone(record: &Record) -> anyhow::Result<Option<ForeignStatus>> {
    let Some(target) = Target::in_namespace(record.address, record.namespace)? else {
        return Ok(None);
    };
    let mut diag = SockDiag::open(target.netns)?;
    let mut status = ForeignStatus::look(&target, &mut diag)?;
    if !is_of_group(record, &status) {
        return Ok(None);
    }
    status.was_left(record);
    Ok(Some(status))
}

fn is_of_group(record: &Record, status: &ForeignStatus) -> bool {
    let is_known = |listener: &ForeignListener| record.cookies.contains(&listener.cookie);
    status.listeners.iter().any(is_known)
}

impl ForeignStatus {
    /// An agent attached the recorded program and has left it, or was killed.
    fn was_left(&mut self, record: &Record) {
        let is_loaded = programs().map(|ids| ids.contains(&record.program));
        self.program.attached = is_loaded;
        self.program.why_not = match is_loaded {
            Some(true) => None,
            Some(false) => Some("its program is gone".to_owned()),
            None => Some("the kernel does not list its programs to this user".to_owned()),
        };
        self.policy = (is_loaded != Some(false)).then(|| record.policy.clone());
    }
}

/// Where this user has attached nothing.
fn not_ours(listeners: usize) -> ForeignProgram {
    let (attached, why_not) = match programs() {
        _ if listeners < 2 => (Some(false), "one socket leaves nothing to choose between"),
        Some(ids) if ids.is_empty() => (Some(false), "no program of this kind is loaded"),
        _ => (
            None,
            "nothing of this user's is attached, and the kernel does not tell what others attached",
        ),
    };
    ForeignProgram {
        attached,
        why_not: Some(why_not.to_owned()),
        runs: None,
        steered: None,
        fallbacks: None,
    }
}

/// The ids of all programs of this kind that the kernel has; `None` if it does not say
/// (it takes CAP_SYS_ADMIN). It keeps a program as long as a group, or a process, has it.
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

/// Open connections to `address`, by the process that has them.
///
/// # Errors
/// What the kernel says.
pub fn open_connections(
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
) -> ForeignListener {
    let workers = owners.workers(socket.inode);
    let of = |worker: &&Owner| match worker.polled.len() {
        0 | 1 => connections.get(&worker.pid).copied(),
        _ => None,
    };
    let first = owners.having(socket.inode).next();
    ForeignListener {
        slot: None,
        connections: workers.iter().map(of).sum(),
        workers: workers
            .iter()
            .map(|worker| worker.pid.as_raw_nonzero().get() as u32)
            .collect(),
        owners: owners.having(socket.inode).count(),
        steered: None,
        sleep: None,
        live: None,
        queued: socket.queued,
        backlog: socket.backlog,
        inode: socket.inode,
        cookie: socket.cookie,
        fd: first.map(|owner| owner.sockets[&socket.inode]),
    }
}

fn balance(listeners: &[ForeignListener]) -> Balance {
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
