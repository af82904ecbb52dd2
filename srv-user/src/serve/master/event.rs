//! What the master deals with, one after the other.

use std::path::PathBuf;
use std::time::Instant;

use rustix::process::Pid;
use tokio::sync::oneshot;

use super::hear::Heard;
use super::join::{ToFirst, ToJoined};
use super::place::Place;
use super::takeover::{ToPredecessor, ToSuccessor};
use crate::control::Question;
use crate::serve::channel::ToMaster;
use crate::serve::config::{Root, Settings};

/// Something for the master to deal with.
pub enum Event {
    /// A process said something; it is read on there once the sender is dropped ([`crate::serve::master::hear`]).
    Said(Box<Event>, oneshot::Sender<()>),
    /// The process of that id said something.
    FromWorker(Pid, ToMaster),
    /// A slot's back-off is over.
    Respawn(u32),
    /// Somebody asks through the control socket.
    Asked(Question),
    /// The successor of that id says something, or (`None`) is gone.
    FromSuccessor(Pid, Option<ToPredecessor>),
    /// The old master says something, or (`None`) is gone.
    FromPredecessor(Option<ToSuccessor>),
    /// The server that has joined says something, or (`None`) is gone.
    FromSecond(Option<ToFirst>),
    /// The server that this one has joined says something, or (`None`) is gone.
    FromFirst(Option<ToJoined>),
    /// The root's name means another folder than workers serve, and why workers cannot
    /// serve that one.
    RootIs(Root, Option<String>),
    /// Open the control socket there; when to give up.
    AnswerAt(PathBuf, Instant),
    /// The configuration was read again, or cannot be used.
    Reread(Place, Box<anyhow::Result<Settings>>),
}

impl From<Question> for Event {
    fn from(question: Question) -> Self {
        Self::Asked(question)
    }
}

impl Heard for Event {
    fn one_at_a_time(self, read_on: oneshot::Sender<()>) -> Self {
        Self::Said(Box::new(self), read_on)
    }
}
