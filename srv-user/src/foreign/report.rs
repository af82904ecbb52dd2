//! What is known of another server's group, for people and programs: the
//! shape of `srv status --json` and of what `srv attach --observe` prints.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::group::Target;
use super::lock::{self, Record};
use super::owners::{self, Owner, Owners};
use super::sock_diag::{Listener, SockDiag};
use crate::balance::{coefficient_of_variation, max_over_mean};
use crate::control::{ProgramStatus, Reply, Request, SocketStatus, ask};

/// Another server's group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForeignStatus {
    /// Its address.
    pub listen: SocketAddr,
    /// Inode number of its network namespace.
    pub namespace: u64,
    /// Command name of the server.
    pub server: String,
    /// The agent's process id; `None`: none is left.
    pub agent: Option<u32>,
    /// The policy, by name; `None` where nothing is attached.
    pub policy: Option<String>,
    /// The BPF program.
    pub program: ProgramStatus,
    /// What it goes by: `known`, or why not; empty where nothing is attached.
    pub signals: BTreeMap<String, String>,
    /// Socket by socket.
    pub listeners: Vec<ForeignListener>,
    /// Handshakes that wait for their last packet, of all sockets together.
    pub half_open: u64,
    /// How evenly it is shared.
    pub balance: Balance,
}

/// One of its sockets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForeignListener {
    /// Its slot in the program's array.
    pub slot: Option<u32>,
    /// The processes that accept from it; empty where nobody knows.
    pub workers: Vec<u32>,
    /// How many processes have it.
    pub owners: usize,
    /// Connections that the program assigned to it.
    pub steered: u64,
    /// `asleep`, `busy`, `gone` or `unknown`: its worker, when the program
    /// last looked.
    pub sleep: String,
    /// Live connections that came through it since it was attached.
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
    /// A descriptor of it, in the first process that has it.
    pub fd: i32,
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
    /// Looks at a group: its queues, who owns what, who has how many connections.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn look(
        target: &Target,
        diag: &mut SockDiag,
        program: ProgramStatus,
    ) -> anyhow::Result<Self> {
        let sockets = diag.listeners_on(target.address)?;
        let owners = Owners::of(&sockets.iter().map(|socket| socket.inode).collect());
        let open: BTreeSet<u64> = diag.connections_to(target.address)?.into_iter().collect();
        let connections = connections_by_process(&owners, &open);
        let listener = |socket: &Listener| listener(socket, &owners, &connections);
        let listeners: Vec<ForeignListener> = sockets.iter().map(listener).collect();
        Ok(Self {
            listen: target.address,
            namespace: target.namespace,
            server: owners.command().unwrap_or_default().to_owned(),
            agent: None,
            policy: None,
            program,
            signals: BTreeMap::new(),
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
            owner: Some(self.server.clone()),
            inode: listener.inode,
            cookie: listener.cookie,
            pid: listener.workers.first().copied().unwrap_or(0),
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
    let answer = record
        .control
        .as_deref()
        .map(|path| ask(Some(path), &Request::Status));
    match answer {
        Some(Ok(Reply::Foreign(status))) => Some(status),
        _ => left_alone(record).ok().flatten(),
    }
}

/// What can be told of a group whose agent has left or was killed; `None` once
/// none of its sockets is there any more, and with them the program.
fn left_alone(record: &Record) -> anyhow::Result<Option<ForeignStatus>> {
    let Some(target) = Target::in_namespace(record.address, record.namespace)? else {
        return Ok(None);
    };
    let mut diag = SockDiag::open(target.netns)?;
    // The kernel does not tell; what is known is that nobody took it off.
    let program = ProgramStatus {
        attached: true,
        why_not: None,
        runs: 0,
        steered: 0,
        acks: 0,
        fallbacks: BTreeMap::new(),
    };
    let mut status = ForeignStatus::look(&target, &mut diag, program)?;
    let is_known = |listener: &ForeignListener| record.cookies.contains(&listener.cookie);
    status.policy = Some(record.policy.clone());
    Ok(status.listeners.iter().any(is_known).then_some(status))
}

fn connections_by_process(owners: &Owners, open: &BTreeSet<u64>) -> HashMap<Pid, u64> {
    let count = |pid: Pid| {
        let sockets = owners::sockets_of(pid).unwrap_or_default();
        sockets.keys().filter(|inode| open.contains(inode)).count() as u64
    };
    let pids = owners.owners.iter().map(|owner| owner.pid);
    pids.map(|pid| (pid, count(pid))).collect()
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
        steered: 0,
        sleep: "unknown".to_owned(),
        live: None,
        queued: socket.queued,
        backlog: socket.backlog,
        inode: socket.inode,
        cookie: socket.cookie,
        fd: first.map_or(-1, |owner| owner.sockets[&socket.inode]),
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
