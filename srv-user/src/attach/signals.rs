//! The signals that the programs for an attached server can go by, and why the others are
//! missing. How a signal is told to others is [`crate::control::attached`]'s.

use std::collections::BTreeMap;

use crate::control::attached::Signal;

/// Which of the kernel's own facts the select program goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signals {
    /// Accept queues, half-open connections and the size of the group. If it is missing, the
    /// program does not notice a socket that joins the group.
    pub queues: Signal,
    /// Whether a worker sleeps in `epoll_wait`.
    pub sleep: Signal,
    /// Live connections of each listener.
    pub live: Signal,
}

impl Signals {
    /// By name.
    pub fn named(&self) -> BTreeMap<String, Signal> {
        [
            ("queues", &self.queues),
            ("sleep", &self.sleep),
            ("live", &self.live),
        ]
        .map(|(name, signal)| (name.to_owned(), signal.clone()))
        .into()
    }

    /// Records that the kernel refused the program that reads its memory.
    pub(super) fn set_unreadable(&mut self, error: &anyhow::Error) {
        let why = format!(
            "the kernel refuses the program that reads its memory: {}",
            error.root_cause()
        );
        self.queues = Signal::Missing(why.clone());
        self.sleep = Signal::Missing(why);
    }
}

impl From<anyhow::Result<()>> for Signal {
    fn from(result: anyhow::Result<()>) -> Self {
        match result {
            Ok(()) => Self::Known,
            Err(error) => Self::Missing(format!("{error:#}")),
        }
    }
}
