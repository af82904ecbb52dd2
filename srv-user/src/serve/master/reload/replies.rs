//! The outcome of reloads: what is logged, and what the commands that asked are told.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::control::Reply;
use crate::serve::master::Master;

/// The commands that asked for a reload through the control socket and wait for its outcome.
pub(super) type Askers = Vec<oneshot::Sender<Reply>>;

/// How long a command that asked for a reload waits for workers to take it over.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(3);

/// A reload that the master has made and that workers take over.
pub(super) struct Unsettled {
    askers: Askers,
    what: String,
    deadline: Instant,
}

impl Unsettled {
    /// When to answer, whatever the workers have done until then.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// Logs what a reload has changed. It is answered once workers have taken it over.
pub(super) fn settle(unsettled: &mut Vec<Unsettled>, askers: Askers, what: String) {
    tracing::info!("{what}");
    if !askers.is_empty() {
        unsettled.push(Unsettled {
            askers,
            what,
            deadline: Instant::now() + TAKEN_OVER_WITHIN,
        });
    }
}

/// Logs why a reload has failed, and answers with that.
pub(super) fn refuse(askers: Askers, error: &anyhow::Error) {
    tracing::error!("reload: {error:#}; the old configuration stays in force");
    answer(askers, &|| Reply::Refused(format!("{error:#}")));
}

impl Master {
    /// Answers the commands whose reloads all workers have taken over, or not in time.
    pub(in crate::serve::master) fn settle_reloads(&mut self) {
        if self.reloads.unsettled.is_empty() {
            return;
        }
        let behind = self.staff.slots_behind();
        let now = Instant::now();
        let is_due = |reload: &mut Unsettled| behind.is_empty() || reload.deadline <= now;
        for Unsettled { askers, what, .. } in self.reloads.unsettled.extract_if(.., is_due) {
            let reply = match behind.as_slice() {
                [] => what,
                [slot] => format!("{what}; worker {slot} has not taken it over yet"),
                slots => format!("{what}; workers {slots:?} have not taken it over yet"),
            };
            answer(askers, &|| Reply::Done(reply.clone()));
        }
    }
}

fn answer(askers: Askers, reply: &dyn Fn() -> Reply) {
    for asker in askers {
        // The process that asked may have ended.
        let _ = asker.send(reply());
    }
}
