//! The master's side of one worker's [`Orders`]: what was ordered, what is on its way and
//! what was obeyed. One message at a time is on its way, so that a worker that is stopped for
//! a while finds its newest orders and not hundreds of old ones, and its channel does not fill.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use crate::kernel::packets;
use crate::kernel::packets::FDS_MAX;
use crate::serve::channel::ToWorker;
use crate::serve::orders::Orders;
use srv_steer::Group;
use srv_steer::monotonic_ns;

/// After so many looks, orders that a worker does not answer are sent once more: its answer
/// may have been lost.
const LOOKS_BEFORE_AGAIN: u32 = 4;

/// See the module.
pub struct Dispatch {
    channel: UnixDatagram,
    orders: Orders,
    obeyed: u64,
    refused: Option<u64>,
    is_on_its_way: bool,
    /// When it was sent, ns of `CLOCK_MONOTONIC`.
    sent_ns: u64,
    /// Listeners that the worker inherited or was sent: slot by slot, each group's.
    handed: usize,
    /// Since it last was up to date.
    looks: u32,
}

impl Dispatch {
    /// To the worker at the other end of `channel`, which does `orders` from its start on.
    pub fn new(channel: UnixDatagram, orders: Orders, groups: &[Group]) -> Self {
        Self {
            channel,
            handed: orders.listeners as usize * groups.len(),
            orders,
            obeyed: 0,
            refused: None,
            is_on_its_way: false,
            sent_ns: 0,
            looks: 0,
        }
    }

    /// What the worker was ordered last.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Whether the worker has not yet said that it does what it was ordered.
    pub fn is_behind(&self) -> bool {
        self.obeyed < self.orders.revision
    }

    /// How many looks ago it was up to date.
    pub fn looks_behind(&self) -> u32 {
        self.looks
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
        let packet = serde_json::to_vec(message)?;
        packets::send_with_fds(&self.channel, &packet, fds)
    }

    /// Orders `next`, whatever its revision says.
    pub fn order(&mut self, mut next: Orders, groups: &[Group]) {
        next.revision = self.orders.revision;
        if next != self.orders {
            next.revision += 1;
            self.orders = next;
        }
        self.deliver(groups);
    }

    /// The worker does what it was ordered with that revision.
    pub fn is_obeyed(&mut self, revision: u64, groups: &[Group]) {
        // What it says is not believed beyond what it can know.
        self.obeyed = self.obeyed.max(revision.min(self.orders.revision));
        self.is_on_its_way = false;
        if !self.is_behind() {
            self.looks = 0;
        }
        self.deliver(groups);
    }

    /// The worker cannot follow the orders of that revision. See [`Self::note_refusal`].
    pub fn is_refused(&mut self, revision: u64, groups: &[Group]) -> bool {
        let is_news = self.note_refusal(revision);
        self.is_on_its_way = false;
        self.deliver(groups);
        is_news
    }

    /// Takes note of a refusal. Whether it is of orders that were given, and the first of
    /// them: a compromised worker may say so without end.
    pub fn note_refusal(&mut self, revision: u64) -> bool {
        let is_news = revision <= self.orders.revision && self.refused < Some(revision);
        if is_news {
            self.refused = Some(revision);
        }
        is_news
    }

    /// A look at a worker that is behind: sends again what could not be sent, or has not been
    /// answered, ever more rarely.
    pub fn look(&mut self, groups: &[Group]) {
        self.looks = self.looks.saturating_add(1);
        if self.looks >= LOOKS_BEFORE_AGAIN && self.looks.is_power_of_two() {
            self.is_on_its_way = false;
        }
        self.deliver(groups);
    }

    fn deliver(&mut self, groups: &[Group]) {
        let is_refused = self.refused == Some(self.orders.revision);
        if self.is_on_its_way || is_refused || !self.is_behind() {
            return;
        }
        // Before: the worker may wake, and sleep again, before this process goes on.
        let now_ns = monotonic_ns();
        match self
            .hand_listeners(groups)
            .and_then(|()| self.send_orders())
        {
            Ok(()) => (self.is_on_its_way, self.sent_ns) = (true, now_ns),
            // If the worker is gone, its death is told elsewhere; else the next look tries.
            Err(error) => tracing::debug!("give a worker its orders: {error}"),
        }
    }

    fn send_orders(&self) -> io::Result<()> {
        self.send(&ToWorker::Orders(self.orders.clone()))
    }

    /// Sends the listeners that the worker has not been sent. A packet brings a bounded number
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
