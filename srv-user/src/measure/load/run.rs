//! Runs a load: on this thread, which meanwhile has the highest priority that it may have.

use anyhow::Result;

use super::closed::Closed;
use super::generator::Generator;
use super::record::Run;
use super::spec::{Load, Pace};
use super::watch::Watch;
use crate::measure::arrivals::Draw;

impl Load {
    /// Sends `draws`, which are in order of arrival, and waits for every outcome.
    ///
    /// # Errors
    /// As for [`Self::run_watched`].
    pub fn run(&self, draws: &[Draw]) -> Result<Run> {
        self.run_watched(Pace::Open(draws), &Watch::new()?)
    }

    /// Lets clients send, each as soon as its former request has its outcome.
    ///
    /// # Errors
    /// As for [`Self::run_watched`].
    pub fn run_closed(&self, closed: &Closed) -> Result<Run> {
        self.run_watched(Pace::Closed(closed), &Watch::new()?)
    }

    /// Sends requests at their `pace` and waits for every outcome, or until
    /// `watch` says stop. Meanwhile this thread has the highest priority that
    /// it may have.
    ///
    /// # Errors
    /// This process cannot generate the load: no more files, a pool that cannot
    /// be opened, or clients that would have nothing to do.
    pub fn run_watched(&self, pace: Pace<'_>, watch: &Watch) -> Result<Run> {
        let generator = Generator::new(self, pace, watch)?;
        let _precedence = Precedence::take();
        generator.run()
    }
}

/// Clients of a server have cores of their own; these share the server's, and
/// must not wait behind it. Ends with the value, so that no child inherits it.
struct Precedence {
    before: i32,
}

impl Precedence {
    /// `None` where the user may not, which then shows as lateness.
    fn take() -> Option<Self> {
        const HIGHEST: i32 = -20;
        let before = rustix::process::getpriority_process(None).ok()?;
        rustix::process::setpriority_process(None, HIGHEST).ok()?;
        Some(Self { before })
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        // Lowering is always allowed.
        let _ = rustix::process::setpriority_process(None, self.before);
    }
}
