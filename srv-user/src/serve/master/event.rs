//! The events that the master handles, one after the other.

use std::path::PathBuf;
use std::time::Instant;

use rustix::process::Pid;
use tokio::sync::oneshot;

use super::current_path::CurrentPath;
use super::join::{ToPrimary, ToSecondary};
use super::receive::ProcessEvent;
use super::takeover::{ToPredecessor, ToSuccessor};
use crate::control::Question;
use crate::serve::access_log::channel::FromLogWriter;
use crate::serve::channel::ToMaster;
use crate::serve::config::tls::Tls;
use crate::serve::config::{Root, Settings};

/// An event that the master handles.
pub enum Event {
    /// A message of another process. The next one of that process is read once the sender is
    /// dropped ([`super::receive`]).
    OneAtATime(Box<Event>, oneshot::Sender<()>),
    /// The worker process of that id said something.
    FromWorker(Pid, ToMaster),
    /// The log writer of that id said something.
    FromLogWriter(Pid, FromLogWriter),
    /// A slot's back-off is over.
    FillSlot(u32),
    /// A request came through the control socket.
    Asked(Question),
    /// The successor of that id said something, or (`None`) is gone.
    FromSuccessor(Pid, Option<ToPredecessor>),
    /// The old master said something, or (`None`) is gone.
    FromPredecessor(Option<ToSuccessor>),
    /// The secondary said something, or (`None`) is gone.
    FromSecondary(Option<ToPrimary>),
    /// The primary said something, or (`None`) is gone.
    FromPrimary(Option<ToSecondary>),
    /// The root's name means another folder than the one that workers serve; and why workers
    /// cannot serve that one, if they cannot.
    RootMoved(Root, Option<String>),
    /// The files of the first have the second now.
    CertificateChanged(Box<Tls>, Box<Tls>),
    /// The control socket is to be opened there; when to give up.
    AnswerAt(PathBuf, Instant),
    /// A thread has read the configuration, or it cannot be used.
    ConfigRead(CurrentPath, Box<anyhow::Result<Settings>>),
}

impl From<Question> for Event {
    fn from(question: Question) -> Self {
        Self::Asked(question)
    }
}

impl ProcessEvent for Event {
    fn one_at_a_time(self, read_on: oneshot::Sender<()>) -> Self {
        Self::OneAtATime(Box::new(self), read_on)
    }
}
