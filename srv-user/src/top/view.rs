//! What is shown of a group: the same for srv's own workers, a server under `srv run`, and an
//! attached server, with the figures of the last interval. Pure; knows no terminal.

use std::time::Duration;

use crate::control::Status;
use crate::control::attached::{Activity, AttachedListener, AttachedStatus, Attachment};
use crate::control::interval::{self, GroupInterval, WorkerInterval};
use crate::control::status::{GroupStatus, WorkerStatus};

/// What a server or an agent answered.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// A server of `srv serve`, or under `srv run`.
    Server(Status),
    /// The group of an attached server.
    Attached(AttachedStatus),
}

/// One group, at one moment.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Its address.
    pub(super) listen: String,
    /// The server's name and, if it is not attached, its process.
    pub(super) server: String,
    /// The process id of the agent that steers it.
    pub(super) agent: Option<u32>,
    /// Whether `srv attach` steers it.
    pub(super) is_attached: bool,
    /// The policy; a dash if it is unknown.
    pub(super) policy: String,
    /// The accept mode, if it has one.
    pub(super) accept: Option<String>,
    /// What chooses, in one sentence.
    pub(super) program: String,
    /// Whether the BPF program chooses; `None` if that is unknown.
    pub(super) is_steered: Option<bool>,
    /// What happened since the last answer.
    pub(super) interval: GroupInterval,
    /// Connections that wait.
    pub(super) waiting: u64,
    /// Open connections.
    pub(super) active: Option<u64>,
    /// Requests in service.
    pub(super) running: Option<u64>,
    /// Worker by worker.
    pub(super) rows: Vec<Row>,
}

/// One worker, or one socket of an attached server.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// What stays the same between two answers: the slot, or the socket's cookie.
    pub(super) key: u64,
    /// Its slot.
    pub(super) slot: Option<u32>,
    /// Its process, or the first of several.
    pub(super) pid: Option<u32>,
    /// How many more processes accept from the socket.
    pub(super) further_pids: usize,
    /// What it does.
    pub(super) state: String,
    /// Connections that wait for it.
    pub(super) waiting: u64,
    /// Open connections.
    pub(super) active: Option<u64>,
    /// Requests in service.
    pub(super) running: Option<u64>,
    /// What it did since the last answer.
    pub(super) interval: WorkerInterval,
}

/// A figure of a worker that bars show and the table is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    Accepts,
    Requests,
    Stolen,
    Busy,
    Active,
    Running,
    Waiting,
}

impl Figure {
    pub(super) const ALL: [Self; 7] = [
        Self::Accepts,
        Self::Requests,
        Self::Stolen,
        Self::Busy,
        Self::Active,
        Self::Running,
        Self::Waiting,
    ];

    /// Its name, also the heading of its column.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Accepts => "accepts/s",
            Self::Requests => "req/s",
            Self::Stolen => "stolen",
            Self::Busy => "busy",
            Self::Active => "active",
            Self::Running => "running",
            Self::Waiting => "waiting",
        }
    }

    /// Its value; `None` if it is unknown.
    pub(super) fn of(self, row: &Row) -> Option<f64> {
        match self {
            Self::Accepts => row.interval.accepts_per_s,
            Self::Requests => row.interval.requests_per_s,
            Self::Stolen => row.interval.stolen_share,
            Self::Busy => row.interval.busy_share,
            Self::Active => row.active.map(|count| count as f64),
            Self::Running => row.running.map(|count| count as f64),
            Self::Waiting => Some(row.waiting as f64),
        }
    }

    /// The figure after this one.
    pub(super) fn next(self) -> Self {
        let nth = Self::ALL.iter().position(|each| *each == self).unwrap_or(0);
        Self::ALL[(nth + 1) % Self::ALL.len()]
    }
}

impl View {
    /// The groups of an answer, with what happened since `earlier`, `asked_apart` before.
    pub(super) fn of(earlier: Option<&Answer>, later: &Answer, asked_apart: Duration) -> Vec<Self> {
        match later {
            Answer::Server(status) => {
                let earlier = earlier.and_then(|earlier| match earlier {
                    Answer::Server(earlier) => Some(earlier),
                    Answer::Attached(_) => None,
                });
                let groups = status.groups.iter().map(|group| {
                    let mut before = earlier.iter().flat_map(|earlier| &earlier.groups);
                    let before = before.find(|before| before.listen == group.listen);
                    let interval = interval::of_group(before, group, asked_apart);
                    Self::of_group(status, group, interval)
                });
                groups.collect()
            }
            Answer::Attached(status) => {
                let earlier = earlier.and_then(|earlier| match earlier {
                    Answer::Attached(earlier) => Some(earlier),
                    Answer::Server(_) => None,
                });
                let interval = interval::of_attached(earlier, status, asked_apart);
                vec![Self::of_attached(status, interval)]
            }
        }
    }

    fn of_group(status: &Status, group: &GroupStatus, interval: GroupInterval) -> Self {
        let program = match &group.program.why_not {
            _ if group.program.attached => "steered by the BPF program".to_owned(),
            Some(why) => format!("not steered: {why}"),
            None => "not steered".to_owned(),
        };
        let name = status.command.as_deref().unwrap_or("srv");
        let rows = group.workers.iter().zip(&interval.workers);
        Self {
            listen: group.listen.to_string(),
            server: format!("{name} {}", status.pid),
            agent: None,
            is_attached: false,
            policy: status.policy.to_string(),
            accept: Some(status.accept.to_string()),
            program,
            is_steered: Some(group.program.attached),
            waiting: group.totals.waiting,
            active: Some(group.totals.active),
            running: Some(group.totals.running),
            rows: rows.map(|(worker, did)| Row::of(worker, did)).collect(),
            interval,
        }
    }

    fn of_attached(status: &AttachedStatus, interval: GroupInterval) -> Self {
        let (is_steered, program) = match &status.program.attachment {
            Attachment::Attached => (Some(true), "steered by the BPF program".to_owned()),
            Attachment::NotAttached(why) => (Some(false), format!("not steered: {why}")),
            Attachment::Unknown(why) => (None, format!("unknown whether it is steered: {why}")),
        };
        let rows = status.listeners.iter().zip(&interval.workers);
        let rows: Vec<Row> = rows
            .map(|(socket, did)| Row::of_socket(socket, did))
            .collect();
        Self {
            listen: status.listen.to_string(),
            server: status.server.clone(),
            agent: status.agent,
            is_attached: true,
            policy: status.policy.clone().unwrap_or_else(|| "-".to_owned()),
            accept: None,
            program,
            is_steered,
            waiting: status.balance.queued,
            active: rows.iter().map(|row| row.active).sum(),
            running: None,
            rows,
            interval,
        }
    }
}

impl Row {
    fn of(worker: &WorkerStatus, did: &WorkerInterval) -> Self {
        Self {
            key: worker.slot.into(),
            slot: Some(worker.slot),
            pid: Some(worker.pid).filter(|pid| *pid != 0),
            further_pids: 0,
            state: worker.state.to_string(),
            waiting: worker.waiting,
            active: Some(worker.active.into()),
            running: Some(worker.running.into()),
            interval: did.clone(),
        }
    }

    fn of_socket(socket: &AttachedListener, did: &WorkerInterval) -> Self {
        Self {
            key: socket.cookie,
            slot: socket.slot,
            pid: socket.workers.first().copied(),
            further_pids: socket.workers.len().saturating_sub(1),
            state: socket.sleep.map_or("-", Activity::name).to_owned(),
            waiting: socket.queued.into(),
            active: socket.connections.or(socket.live),
            running: None,
            interval: did.clone(),
        }
    }
}
