//! How a ring changes while it works: listeners come, and workers go or stall.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll;
use srv_common::acceptance::Place;

use super::{Incoming, Ring};
use crate::error::Result;
use crate::load::Load;

impl Ring {
    /// Adds the listeners of `slot` in the groups from `first_group` on. If the ring has a listener
    /// already, or if it would leave a gap, the listener is closed again.
    pub fn add(&mut self, slot: u32, first_group: usize, sockets: Vec<OwnedFd>) {
        let groups = self.listeners.iter_mut().enumerate().skip(first_group);
        for ((group, listeners), socket) in groups.zip(sockets) {
            if listeners.len() == slot as usize {
                listeners.push(socket);
                self.acceptance.add_listener(group);
            }
        }
    }

    /// The number of slots of which the ring has the listeners of every group.
    pub fn slots(&self) -> u32 {
        self.listeners.iter().map(Vec::len).min().unwrap_or(0) as u32
    }

    /// Watches the listeners of `slot`, if the worker does not watch them already.
    ///
    /// # Errors
    /// If `epoll_ctl` refuses a listener.
    pub fn adopt(&self, epoll: impl AsFd, slot: u32) -> Result<()> {
        self.release(&epoll, slot);
        self.watch_all(epoll.as_fd(), slot)
    }

    /// Leaves the listeners of `slot` to other workers. Accepts and returns the connections for
    /// which the kernel may have woken this worker and no other.
    pub fn give_up(&self, epoll: impl AsFd, load: &Load, slot: u32) -> Vec<Incoming> {
        self.release(&epoll, slot);
        let groups = 0..self.listeners.len();
        let places = groups.map(|group| Place {
            group,
            listener: slot,
        });
        // One each: in its sleep it was woken once.
        self.accept_each(load, places)
    }

    fn release(&self, epoll: &impl AsFd, slot: u32) {
        for listeners in &self.listeners {
            // Not every one was registered.
            let _ = epoll::delete(epoll, &listeners[slot as usize]);
        }
    }

    /// Leaves all listeners while other workers stay. Accepts and returns the connections for which
    /// the kernel may have woken this worker and no other.
    pub fn resign(&mut self, epoll: impl AsFd, load: &Load) -> Vec<Incoming> {
        for listener in self.listeners.iter().flatten() {
            // Not every one was registered.
            let _ = epoll::delete(&epoll, listener);
        }
        let groups = self.listeners.iter().enumerate();
        let places = groups.flat_map(|(group, listeners)| {
            (0..listeners.len() as u32).map(move |listener| Place { group, listener })
        });
        // One each: in its sleep it was woken once.
        let last = self.accept_each(load, places.filter(|_| !self.mode.is_blocking()));
        self.leave(epoll);
        last
    }

    /// Registers every listener again at which the kernel may have woken another worker that then
    /// died or stalled. The kernel woke no other worker, and only a new registration asks what
    /// waits there. This worker is the first at its own listener, and has not missed anything
    /// there.
    ///
    /// # Errors
    /// If `epoll_ctl` refuses a listener.
    pub fn rescan(&self, epoll: impl AsFd) -> Result<()> {
        let own = self.mode.has_own_listeners().then_some(self.slot);
        for (group, listeners) in self.listeners.iter().enumerate() {
            let others = (0..listeners.len() as u32).filter(|listener| Some(*listener) != own);
            for listener in others {
                self.watch_anew(epoll.as_fd(), Place { group, listener })?;
            }
        }
        Ok(())
    }
}
