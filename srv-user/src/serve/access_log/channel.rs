//! The messages between the master and the log writer.

use serde::{Deserialize, Serialize};

use crate::serve::sandbox::User;
use crate::values::AccessLog;

/// A message from the master.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToLogWriter {
    /// The first message. It brings the memory of the counts, and a sealed file with [`Start`].
    Start,
    /// A worker was started: its number. The message brings the memory of its ring, and the end of its
    /// bell to read.
    Ring(u64),
    /// Write what there is, and end: another log writer takes over, or the server ends.
    End,
}

/// What the log writer needs to start.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    /// The logs.
    pub logs: Vec<AccessLog>,
    /// The user that it becomes once they are open.
    pub user: Option<User>,
    /// Whether log lines are written as JSON.
    pub log_json: bool,
}

/// A message from the log writer.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromLogWriter {
    /// It has opened the logs.
    Began,
    /// The worker of this number has ended, and its ring is empty.
    Drained(u64),
}
