//! What a worker is to do, as a whole and numbered. The master sends it anew whenever it
//! changes, one at a time, and the worker says which number it has reached: an order that is
//! lost, or that a worker cannot follow, shows. State and not steps, so that orders that a
//! worker missed do not matter and one that comes twice does no harm.

use serde::{Deserialize, Serialize};

use crate::serve::config::Serving;
use crate::serve::tickets::TicketKeys;

/// All that a worker is told after its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// Higher with each change.
    pub revision: u64,
    /// Whether to serve on.
    pub task: Task,
    /// From the next request on; the roots are what they were.
    pub serving: Serving,
    /// The keys of TLS session tickets.
    pub tickets: TicketKeys,
    /// Another server serves here, too: should the master die, leave the listeners to that.
    pub beside: bool,
    /// Slots that have listeners; those that the worker did not inherit came before this.
    pub listeners: u32,
    /// In the ring: wait on the siblings' listeners as well.
    pub in_ring: bool,
    /// By slot: how many workers have come to wait on its listeners. Its newest worker is to be
    /// the first in line there.
    pub newcomers: Vec<u32>,
    /// Without a ring: slots whose listeners belong to no worker. Wait on them, too.
    pub adopted: Vec<u32>,
    /// How often to have looked at the listeners where a sibling that died or hangs may have
    /// been the one that was woken.
    pub rescans: u32,
}

/// What becomes of a worker. A later one replaces an earlier one, and never the other way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Task {
    /// Accept and serve.
    Serve,
    /// Finish what there is and exit: no worker accepts any more.
    Drain,
    /// Finish what there is and exit, while the others go on.
    Retire,
    /// As `Retire`, and be silent: the slot has another worker already.
    Yield,
}

impl Orders {
    /// What a worker does from its start on.
    pub fn initial(serving: Serving, beside: bool, listeners: u32) -> Self {
        Self {
            revision: 0,
            task: Task::Serve,
            serving,
            tickets: TicketKeys::default(),
            beside,
            listeners,
            in_ring: false,
            newcomers: Vec::new(),
            adopted: Vec::new(),
            rescans: 0,
        }
    }

    /// The slots to which workers have come since `before`.
    pub fn newcomers_since(&self, before: &Self) -> impl Iterator<Item = u32> {
        let before = before.newcomers.iter().chain(std::iter::repeat(&0));
        let slots = (0..).zip(self.newcomers.iter().zip(before));
        slots
            .filter(|(_, (now, before))| now != before)
            .map(|(slot, _)| slot)
    }
}
