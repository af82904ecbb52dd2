//! A stop that is under way: how far the workers are, and what becomes of the listeners. What the
//! master does then is in [`super::stop`].

use std::time::{Duration, Instant};

/// How long the end of a process that was killed may take. The kernel needs milliseconds, unless
/// the process waits for a disk or a file server that does not answer.
pub(super) const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// If a second request to stop comes this soon, it is the first one again: `timeout` signals its
/// command, and then all of the command's process group.
pub(super) const SAME_REQUEST: Duration = Duration::from_millis(300);

/// A stop that is under way.
pub(super) struct Stopping {
    since: Instant,
    pub(super) drain: Drain,
    pub(super) listeners: Listeners,
}

/// How far the workers are.
pub(super) enum Drain {
    /// They finish what they have.
    UnderWay {
        /// When they are killed; `None`: they have as long as they need.
        deadline: Option<Instant>,
    },
    /// They were killed. At this time, their ends are not awaited any more.
    Killed { give_up: Instant },
}

/// What becomes of the listeners when a server stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listeners {
    /// The kernel answers no SYN there any more, and workers answer what waits.
    Close,
    /// Another server has them, or the next one will.
    Leave,
    /// The secondary was told to take them and has not done so yet.
    Offer,
}

impl Stopping {
    /// Begins now. After `grace`, workers are killed.
    pub(super) fn new(grace: Option<Duration>, listeners: Listeners) -> Self {
        Self {
            since: Instant::now(),
            drain: Drain::UnderWay {
                deadline: grace.map(|grace| Instant::now() + grace),
            },
            listeners,
        }
    }

    /// When workers are killed; once they were, when their ends are not awaited any more.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.drain {
            Drain::UnderWay { deadline } => deadline,
            Drain::Killed { give_up } => Some(give_up),
        }
    }

    /// The workers have as long as they need from now on, unless they were killed.
    pub(super) fn lift_deadline(&mut self) {
        if let Drain::UnderWay { deadline } = &mut self.drain {
            *deadline = None;
        }
    }

    pub(super) fn has_killed(&self) -> bool {
        matches!(self.drain, Drain::Killed { .. })
    }

    /// Whether a request to stop that comes now is the one that this stop began with. A stop after
    /// SIGQUIT has no deadline, so SIGTERM then asks for something else.
    pub(super) fn is_same_request(&self) -> bool {
        self.deadline().is_some() && self.since.elapsed() < SAME_REQUEST
    }
}
