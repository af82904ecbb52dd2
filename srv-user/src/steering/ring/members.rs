//! How a ring changes while it works: listeners come, workers go or hang.

use std::io;
use std::os::fd::OwnedFd;

use anyhow::Context as _;

use super::{Listener, Place, Ring};
use crate::kernel::reactor::Reactor;
use crate::steering::published::Published;

impl Ring {
    /// Listeners of `slot` in the groups from the first on. Those that it has already, or that
    /// leave a gap, are closed again.
    pub fn add(&mut self, slot: u32, first_group: usize, sockets: Vec<OwnedFd>) {
        for (listeners, socket) in self.listeners.iter_mut().skip(first_group).zip(sockets) {
            if listeners.len() == slot as usize {
                listeners.push(Listener { socket, turn: 0 });
            }
        }
    }

    /// The slots of which it has the listeners of every group.
    pub fn slots(&self) -> u32 {
        self.listeners.iter().map(Vec::len).min().unwrap_or(0) as u32
    }

    /// Watches the listeners of `slot`, if it does not already.
    ///
    /// # Errors
    /// What epoll says.
    pub fn adopt(&self, reactor: &Reactor, slot: u32) -> anyhow::Result<()> {
        self.release(reactor, slot);
        self.watch_all(reactor, slot)
    }

    /// Leaves the listeners of `slot` to others, and accepts what this worker may have
    /// been woken for and nobody else was told of.
    pub fn give_up(&self, reactor: &Reactor, published: &Published, slot: u32) -> Vec<OwnedFd> {
        self.release(reactor, slot);
        let groups = 0..self.listeners.len();
        let places = groups.map(|group| Place { group, nth: slot });
        // One each: in its sleep it was woken once.
        self.accept_each(published, places)
    }

    fn release(&self, reactor: &Reactor, slot: u32) {
        for listeners in &self.listeners {
            // Not every one was registered.
            let _ = reactor.forget(&listeners[slot as usize].socket);
        }
    }

    /// Leaves all listeners while others stay, and accepts what this worker may
    /// have been woken for and nobody else was told of.
    pub fn resign(&mut self, reactor: &Reactor, published: &Published) -> Vec<OwnedFd> {
        let listeners = self.listeners.iter().flatten();
        listeners.for_each(|listener| {
            // Not every one was registered.
            let _ = reactor.forget(&listener.socket);
        });
        let groups = self.listeners.iter().enumerate();
        let places = groups.flat_map(|(group, listeners)| {
            (0..listeners.len() as u32).map(move |nth| Place { group, nth })
        });
        // One each: in its sleep it was woken once.
        let last = self.accept_each(published, places.filter(|_| !self.mode.is_blocking()));
        self.leave(reactor);
        last
    }

    /// Looks at every listener where somebody else may have been woken in this
    /// worker's stead and then died or hung: the kernel woke nobody else, and
    /// only a new registration asks again. Its own it is first at, and has not
    /// missed anything.
    ///
    /// # Errors
    /// What epoll says.
    pub fn look_around(&self, reactor: &Reactor) -> anyhow::Result<()> {
        let own = self.mode.has_own_listeners().then_some(self.slot);
        for (group, listeners) in self.listeners.iter().enumerate() {
            let others = (0..listeners.len() as u32).filter(|nth| Some(*nth) != own);
            for nth in others {
                self.watch_anew(reactor, Place { group, nth })?;
            }
        }
        Ok(())
    }

    /// Registers a listener as the last in line, if it is registered at all: it
    /// may be left alone for a moment, and will be watched later.
    fn watch_anew(&self, reactor: &Reactor, place: Place) -> anyhow::Result<()> {
        match reactor.forget(self.socket(place)) {
            Ok(()) => self.watch(reactor, place),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).context(format!("leave listener {}", place.nth)),
        }
    }
}
