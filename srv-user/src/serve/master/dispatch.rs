//! The master's side of one worker's [`Orders`]: what was ordered, what was sent, and
//! what the worker follows. At most one message is on its way, so that a worker that was stopped
//! for a while finds its newest orders and not hundreds of old ones, and its channel does not fill.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use crate::kernel::packets;
use crate::kernel::packets::FDS_MAX;
use crate::serve::channel::ToWorker;
use crate::serve::orders::Orders;
use srv_steer::Group;
use srv_steer::monotonic_ns;

/// After so many checks, orders that a worker has not answered are sent once more: its answer
/// may have been lost.
const CHECKS_BEFORE_AGAIN: u32 = 4;

/// The orders of one worker, and the channel to it.
pub struct Dispatch {
    channel: UnixDatagram,
    orders: Orders,
    /// The revision that the worker follows.
    followed: u64,
    /// The last revision that it has refused.
    refused: Option<u64>,
    is_on_its_way: bool,
    /// When it was sent, ns of `CLOCK_MONOTONIC`.
    sent_ns: u64,
    /// Listeners that the worker inherited or was sent: slot by slot, each group's.
    handed: usize,
    /// Checks since it was last up to date.
    checks: u32,
}

impl Dispatch {
    /// For the worker at the other end of `channel`, which follows `orders` from its start on.
    pub fn new(channel: UnixDatagram, orders: Orders, groups: &[Group]) -> Self {
        Self {
            channel,
            handed: orders.listeners as usize * groups.len(),
            orders,
            followed: 0,
            refused: None,
            is_on_its_way: false,
            sent_ns: 0,
            checks: 0,
        }
    }

    /// What the worker was ordered last.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Whether the worker has not said yet that it follows its orders.
    pub fn is_behind(&self) -> bool {
        self.followed < self.orders.revision
    }

    /// How many checks ago it was up to date.
    pub fn checks_behind(&self) -> u32 {
        self.checks
    }

    /// When the orders that are on their way were sent, ns of `CLOCK_MONOTONIC`.
    pub fn sent_ns(&self) -> Option<u64> {
        self.is_on_its_way.then_some(self.sent_ns)
    }

    /// Sends a message that may be lost.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send(&self, message: &ToWorker) -> io::Result<()> {
        self.send_with(message, &[])
    }

    fn send_with(&self, message: &ToWorker, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let (packet, file) = message.packet()?;
        // A message with descriptors of its own is short.
        let sealed = file.as_ref().map(|file| [file.as_fd()]);
        let fds = sealed.as_ref().map_or(fds, |sealed| &sealed[..]);
        packets::send_with_fds(&self.channel, &packet, fds)
    }

    /// Orders `next`. Its revision is not used.
    pub fn order(&mut self, mut next: Orders, groups: &[Group]) {
        next.revision = self.orders.revision;
        if next != self.orders {
            next.revision += 1;
            self.orders = next;
        }
        self.deliver(groups);
    }

    /// The worker says that it follows the orders of that revision.
    pub fn obeyed(&mut self, revision: u64, groups: &[Group]) {
        // It cannot follow orders that it was not given.
        self.followed = self.followed.max(revision.min(self.orders.revision));
        self.is_on_its_way = false;
        if !self.is_behind() {
            self.checks = 0;
        }
        self.deliver(groups);
    }

    /// The worker says that it cannot follow the orders of that revision. See [`Self::note_refusal`].
    pub fn refused(&mut self, revision: u64, groups: &[Group]) -> bool {
        let is_new = self.note_refusal(revision);
        self.is_on_its_way = false;
        self.deliver(groups);
        is_new
    }

    /// Takes note of a refusal. True if it is the first refusal of orders that were given: a
    /// compromised worker may send refusals without end.
    pub fn note_refusal(&mut self, revision: u64) -> bool {
        let is_new = revision <= self.orders.revision && self.refused < Some(revision);
        if is_new {
            self.refused = Some(revision);
        }
        is_new
    }

    /// Checks a worker that is behind: sends again what could not be sent, or has not been
    /// answered, at growing intervals.
    pub fn check(&mut self, groups: &[Group]) {
        self.checks = self.checks.saturating_add(1);
        if self.checks >= CHECKS_BEFORE_AGAIN && self.checks.is_power_of_two() {
            self.is_on_its_way = false;
        }
        self.deliver(groups);
    }

    fn deliver(&mut self, groups: &[Group]) {
        let is_refused = self.refused == Some(self.orders.revision);
        if self.is_on_its_way || is_refused || !self.is_behind() {
            return;
        }
        // Read before sending: the worker may wake, and sleep again, before this process goes on.
        let now_ns = monotonic_ns();
        match self
            .hand_listeners(groups)
            .and_then(|()| self.send_orders())
        {
            Ok(()) => (self.is_on_its_way, self.sent_ns) = (true, now_ns),
            // If the worker is gone, its end is handled elsewhere. Otherwise the next check tries again.
            Err(error) => tracing::debug!("give a worker its orders: {error}"),
        }
    }

    fn send_orders(&self) -> io::Result<()> {
        self.send(&ToWorker::Orders(self.orders.clone()))
    }

    /// Sends the listeners that were not sent to the worker yet. A packet carries a bounded number
    /// of descriptors, all of one slot.
    fn hand_listeners(&mut self, groups: &[Group]) -> io::Result<()> {
        while self.handed < self.orders.listeners as usize * groups.len() {
            let (slot, first) = (self.handed / groups.len(), self.handed % groups.len());
            let sockets = groups[first..].iter().take(FDS_MAX);
            let sockets = sockets.filter_map(|group| group.listeners.sockets.get(slot));
            let fds: Vec<_> = sockets.map(|socket| socket.as_fd()).collect();
            let message = ToWorker::Listeners {
                slot: slot as u32,
                first_group: first as u32,
            };
            self.send_with(&message, &fds)?;
            self.handed += fds.len().max(1);
        }
        Ok(())
    }
}
