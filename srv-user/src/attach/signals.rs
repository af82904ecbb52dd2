//! What the programs for an attached server can go by, and why they cannot go by the rest.

/// Which of the kernel's own facts the program goes by. Each missing one says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signals {
    /// Accept queues, half-open connections and the group's size. Without it a
    /// socket that joins the group is not noticed by the program.
    pub queues: Signal,
    /// Whether a worker sleeps in `epoll_wait`.
    pub sleep: Signal,
    /// Live connections of each listener.
    pub live: Signal,
}

/// Whether something can be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// It is.
    Known,
    /// It is not, and why.
    Missing(String),
}

impl Signals {
    /// The kernel refused the program that reads its memory.
    pub(super) fn nothing_is_read(&mut self, error: &anyhow::Error) {
        let why = format!(
            "the kernel refuses to have its memory read: {}",
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
