//! What another thread may know of a run in progress, and do to it: see how far
//! it is, and end it early.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use rustix::event::{EventfdFlags, eventfd};

/// A window on one run.
#[derive(Debug)]
pub struct Watch {
    /// Readable once the run is to end. A descriptor, not a flag: the run
    /// sleeps in epoll, and a flag could be set just before it does.
    stop: OwnedFd,
    finished: AtomicUsize,
}

impl Watch {
    /// A watch for a run that has yet to start.
    ///
    /// # Errors
    /// No more files.
    pub fn new() -> Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            stop: eventfd(0, flags).context("create eventfd")?,
            finished: AtomicUsize::new(0),
        })
    }

    /// Ends the run: nothing more is sent, nothing more is awaited.
    pub fn stop(&self) {
        // It can only fail if the counter overflows, and then it is set.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }

    /// How many requests have their outcome.
    pub fn finished(&self) -> usize {
        self.finished.load(Ordering::Relaxed)
    }

    pub(crate) fn stopper(&self) -> &OwnedFd {
        &self.stop
    }

    pub(crate) fn add_finished(&self) {
        self.finished.fetch_add(1, Ordering::Relaxed);
    }
}
