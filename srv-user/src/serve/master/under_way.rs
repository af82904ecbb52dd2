//! An upgrade that is under way, as the old master sees it: the successor, and what is known of it.
//! What the two masters do is in [`super::upgrade`].

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::oneshot;

use super::stopping::ENDS_WITHIN;
use super::takeover::ToSuccessor;
use crate::control::Reply;
use crate::kernel::process::Process;
use crate::serve::master::between_masters::Peer;

/// An upgrade, as the old master sees it.
pub(super) struct Upgrade {
    pub(super) successor: Process,
    pub(super) peer: Peer<ToSuccessor>,
    pub(super) outcome: Outcome,
    /// Whether program and control socket are still this server's.
    pub(super) holding: Holding,
    /// Whom to tell how it ended.
    pub(super) asked_by: Option<oneshot::Sender<Reply>>,
}

/// What is known of a successor.
pub(super) enum Outcome {
    /// It comes up, and is killed at this time if it has not taken over.
    Awaited { deadline: Instant },
    /// It has failed, and was killed. At `give_up`, its end is not awaited any more.
    Failed { why: String, give_up: Instant },
}

/// Which server has the program and the control socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    /// This one.
    Held,
    /// This one has released them, and the successor was told to take them.
    Released,
}

/// How long after the successor's end its last message may still be on its way through the
/// channel.
const LAST_MESSAGE_WITHIN: Duration = Duration::from_secs(1);

impl Upgrade {
    /// When the successor is killed; once it was, when its end is not awaited any more.
    pub(super) fn deadline(&self) -> Instant {
        match self.outcome {
            Outcome::Awaited { deadline } => deadline,
            Outcome::Failed { give_up, .. } => give_up,
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed { .. })
    }

    /// Kills the successor, for this reason.
    pub(super) fn fail(&mut self, why: &str) {
        // It may have ended by itself.
        let _ = self.successor.signal(Signal::KILL);
        self.outcome = Outcome::Failed {
            why: why.to_owned(),
            give_up: Instant::now() + ENDS_WITHIN,
        };
    }

    /// The successor has ended: what it said last has to arrive soon.
    pub(super) fn hurry(&mut self) {
        let soon = Instant::now() + LAST_MESSAGE_WITHIN;
        match &mut self.outcome {
            Outcome::Awaited { deadline } => *deadline = soon.min(*deadline),
            Outcome::Failed { give_up, .. } => *give_up = soon.min(*give_up),
        }
    }

    pub(super) fn report_failure(self) {
        let why = match &self.outcome {
            Outcome::Awaited { .. } => "",
            Outcome::Failed { why, .. } => why,
        };
        let why = format!("the new binary did not come up: {why}; the old one goes on");
        tracing::error!("upgrade: {why}");
        answer(self.asked_by, Reply::Refused(why));
    }
}

/// Answers the command that asked for an upgrade, if one did.
pub(super) fn answer(asked_by: Option<oneshot::Sender<Reply>>, reply: Reply) {
    if let Some(asked_by) = asked_by {
        // The process that asked may have ended.
        let _ = asked_by.send(reply);
    }
}
