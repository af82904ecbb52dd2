//! The time between a request to stop and the stop (`--drain-wait`): the server serves as before, and
//! reports that it is stopping, so that load balancers send their connections elsewhere.

use std::time::{Duration, Instant};

use super::Master;
use super::stopping::SAME_REQUEST;
use crate::control::ServerPhase;
use crate::serve::systemd;

/// A stop that is announced and has not begun.
pub(super) struct Leaving {
    since: Instant,
    until: Instant,
    /// How long workers then have; `None`: as long as they need.
    grace: Option<Duration>,
}

impl Leaving {
    /// Whether a request that comes now is the one that this began with.
    fn is_same_request(&self) -> bool {
        self.since.elapsed() < SAME_REQUEST
    }
}

impl Master {
    /// A signal asks this server to stop. A second one ends the wait.
    pub(super) fn asked_to_stop(&mut self, grace: Option<Duration>) {
        let wait = self.settings.drain_wait;
        if self.leaving.as_ref().is_some_and(Leaving::is_same_request) {
            return;
        }
        if wait.is_zero() || self.phase.is_stopping() || self.leaving.is_some() {
            self.leaving = None;
            return self.stop(grace);
        }
        self.abandon_upgrade();
        tracing::info!(
            "stopping in {wait:?}: from now on, /readyz says that the server is not ready"
        );
        systemd::stopping();
        self.leaving = Some(Leaving {
            since: Instant::now(),
            until: Instant::now() + wait,
            grace,
        });
    }

    /// When the stop begins.
    pub(super) fn leaves_at(&self) -> Option<Instant> {
        self.leaving.as_ref().map(|leaving| leaving.until)
    }

    /// The wait is over.
    pub(super) fn leave(&mut self) {
        if let Some(Leaving { grace, .. }) = self.leaving.take() {
            self.stop(grace);
        }
    }

    /// For `srv status`.
    pub(super) fn reported_phase(&self) -> ServerPhase {
        match self.leaving {
            Some(_) => ServerPhase::Stopping,
            None => self.phase.reported(),
        }
    }
}
