//! What is known of another server's group, for people and programs: part of
//! `srv status --json` and of `srv observe --json`. What is unknown is `None`, never 0.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use srv_common::attached::Sleep;

/// Another server's group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachedStatus {
    /// Its address.
    pub listen: SocketAddr,
    /// When these figures were read, µs of `CLOCK_MONOTONIC`; 0 if the agent is of a version that
    /// does not say it.
    #[serde(default)]
    pub read_at_us: u64,
    /// Inode number of its network namespace.
    pub namespace: u64,
    /// Command name of the server.
    pub server: String,
    /// The process id of the agent that steers it; `None` if no agent of this user steers it.
    pub agent: Option<u32>,
    /// The policy, by name; `None` if this user has attached nothing.
    pub policy: Option<String>,
    /// The BPF program.
    pub program: AttachedProgram,
    /// The signals by name, and whether the program uses each; `None` if no agent reports them.
    pub signals: Option<BTreeMap<String, Signal>>,
    /// Socket by socket.
    pub listeners: Vec<AttachedListener>,
    /// Handshakes that wait for their last packet, of all sockets together.
    pub half_open: u64,
    /// How evenly connections are shared.
    pub balance: Balance,
}

/// The BPF program of another server's group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedProgram {
    /// Whether it decides now.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// Runs so far: those that steered, those at ACKs, and those that fell back. If no agent reports
    /// them, this and the fields below are `None`.
    pub runs: Option<u64>,
    /// SYNs assigned to a listener.
    pub steered: Option<u64>,
    /// ACKs that belong to no connection and were given to a listener: SYN cookies that come back,
    /// whose connections are accepted there, and strays. `None` also if the agent is older.
    pub acks: Option<u64>,
    /// Runs that left the choice to the kernel's hash, by reason.
    pub fallbacks: Option<BTreeMap<String, u64>>,
}

/// Whether a program decides for a group. In JSON two fields: `attached`, which is null if that
/// is unknown, and `why_not`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "AttachmentFields", into = "AttachmentFields")]
pub enum Attachment {
    /// The program decides.
    Attached,
    /// No program decides, for this reason.
    NotAttached(String),
    /// It is unknown to this user, for this reason.
    Unknown(String),
}

#[derive(Serialize, Deserialize)]
struct AttachmentFields {
    attached: Option<bool>,
    why_not: Option<String>,
}

impl From<AttachmentFields> for Attachment {
    fn from(fields: AttachmentFields) -> Self {
        let why = || {
            fields
                .why_not
                .unwrap_or_else(|| "the reason is unknown".into())
        };
        match fields.attached {
            Some(true) => Self::Attached,
            Some(false) => Self::NotAttached(why()),
            None => Self::Unknown(why()),
        }
    }
}

impl From<Attachment> for AttachmentFields {
    fn from(attachment: Attachment) -> Self {
        let (attached, why_not) = match attachment {
            Attachment::Attached => (Some(true), None),
            Attachment::NotAttached(why) => (Some(false), Some(why)),
            Attachment::Unknown(why) => (None, Some(why)),
        };
        Self { attached, why_not }
    }
}

/// Whether the program knows a signal. In JSON `known`, or the reason why it is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Signal {
    /// The program uses it.
    Known,
    /// The program does not have it, for this reason.
    Missing(String),
}

impl From<String> for Signal {
    fn from(text: String) -> Self {
        match text.as_str() {
            "known" => Self::Known,
            _ => Self::Missing(text),
        }
    }
}

impl From<Signal> for String {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Known => "known".into(),
            Signal::Missing(why) => why,
        }
    }
}

/// What the worker of a listener did when the program last looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activity {
    /// It slept in `epoll_wait`.
    Asleep,
    /// It did something else.
    Busy,
    /// No process waited for the listener any more.
    Gone,
    /// The program could not tell. If a later version reports a state that this one does not know,
    /// it is read as this one.
    #[serde(other)]
    Unknown,
}

impl From<Sleep> for Activity {
    fn from(sleep: Sleep) -> Self {
        match sleep {
            Sleep::Asleep => Self::Asleep,
            Sleep::Busy => Self::Busy,
            Sleep::Gone => Self::Gone,
            Sleep::Unknown => Self::Unknown,
        }
    }
}

impl Activity {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Asleep => "asleep",
            Self::Busy => "busy",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
        }
    }
}

/// One of the group's sockets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachedListener {
    /// Its slot in the program's array; `None` if no agent reports it.
    pub slot: Option<u32>,
    /// The processes that accept from it; empty if that is unknown.
    pub workers: Vec<u32>,
    /// How many processes have it.
    pub owners: usize,
    /// SYNs that the program assigned to it; `None` if no agent reports it.
    pub steered: Option<u64>,
    /// ACKs that the program gave to it ([`AttachedProgram::acks`]).
    pub acks: Option<u64>,
    /// What its worker did when the program last looked; `None` if no agent reports it.
    pub sleep: Option<Activity>,
    /// Live connections that came through it since it was attached; `None` where no
    /// agent tells, or they are not counted.
    pub live: Option<u64>,
    /// Accept queue length now.
    pub queued: u32,
    /// Accept queue limit.
    pub backlog: u32,
    /// Open connections of those workers to this address; `None` if they accept from other sockets
    /// of it, too.
    pub connections: Option<u64>,
    /// Inode number.
    pub inode: u64,
    /// `SO_COOKIE`.
    pub cookie: u64,
    /// A descriptor of it, in the first process that has it; `None` if no process is visible.
    pub fd: Option<i32>,
}

/// How evenly open connections are shared, and what waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Balance {
    /// Open connections; `None` if it is unknown which socket they came by.
    pub connections: Option<Shares>,
    /// Connections that wait in accept queues.
    pub queued: u64,
    /// How many sockets have an empty queue while another's is not empty: connections may then wait
    /// although a worker could serve them.
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Scripts, and srv of another version, read these fields.
    #[test]
    fn types_are_the_same_strings_and_flags_in_json_as_ever() {
        for (attachment, fields) in [
            (
                Attachment::Attached,
                json!({"attached": true, "why_not": null}),
            ),
            (
                Attachment::NotAttached("no socket".into()),
                json!({"attached": false, "why_not": "no socket"}),
            ),
            (
                Attachment::Unknown("no agent".into()),
                json!({"attached": null, "why_not": "no agent"}),
            ),
        ] {
            assert_eq!(serde_json::to_value(&attachment).unwrap(), fields);
            let read: Attachment = serde_json::from_value(fields).unwrap();
            assert_eq!(read, attachment);
        }
        for (signal, text) in [
            (Signal::Known, json!("known")),
            (Signal::Missing("no BTF".into()), json!("no BTF")),
        ] {
            assert_eq!(serde_json::to_value(&signal).unwrap(), text);
            assert_eq!(serde_json::from_value::<Signal>(text).unwrap(), signal);
        }
        for activity in [
            Activity::Asleep,
            Activity::Busy,
            Activity::Gone,
            Activity::Unknown,
        ] {
            let text = json!(activity.name());
            assert_eq!(serde_json::to_value(activity).unwrap(), text);
            assert_eq!(serde_json::from_value::<Activity>(text).unwrap(), activity);
        }
        let later: Activity = serde_json::from_value(json!("dreams")).unwrap();
        assert_eq!(later, Activity::Unknown);
    }
}
