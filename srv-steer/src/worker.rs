//! One worker's part of a group, for threads and for other processes: its listeners, and its
//! load signal.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use srv_common::layout::NOT_ELIGIBLE;

use crate::accept_mode::AcceptMode;
use crate::clock::monotonic_ns;
use crate::error::{Error, ErrorKind, Result, Tried as _};
use crate::load::Load;
use crate::memory::Mapping;
use crate::ring::Ring;

/// A worker of this process in a slot that may have others before and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tenure {
    pub(crate) slot: u32,
    /// How many workers had started in the slot when this one did, itself included.
    pub(crate) starts: u32,
}

impl Tenure {
    /// Whether no other worker has started in the slot since.
    pub(crate) fn is_current(self, memory: &srv_common::Group) -> bool {
        memory.steering[self.slot as usize].starts.get() == self.starts
    }
}

/// The workers of this process that have ended since the group looked.
#[derive(Default)]
pub(crate) struct Departures(Mutex<Vec<Tenure>>);

impl Departures {
    fn add(&self, tenure: Tenure) {
        let mut ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push(tenure);
    }

    pub(crate) fn take(&self) -> Vec<Tenure> {
        let mut ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *ended)
    }
}

/// A worker of a listener group: its listener, its siblings' listeners, and its [`Load`]. It can
/// move to another thread. If it was made in this process ([`Group::worker`](crate::Group::worker)),
/// the group steers around its slot as soon as it is dropped. The group keeps the listeners open,
/// so what waits there waits for the slot's next worker, or for a sibling's ring.
pub struct Worker {
    mode: AcceptMode,
    listeners: Vec<TcpListener>,
    load: Load,
    departure: Option<Departure>,
}

/// Tells the group that a worker of this process has ended.
struct Departure {
    tenure: Tenure,
    memory: Mapping<srv_common::Group>,
    departures: Arc<Departures>,
}

impl Drop for Departure {
    fn drop(&mut self) {
        // If the slot has its next worker already, that one goes on.
        if !self.tenure.is_current(&self.memory) {
            return;
        }
        // This takes effect at once for the policies that compare all workers. The others use the
        // list of the group, which follows when the group is maintained.
        let steering = &self.memory.steering[self.tenure.slot as usize];
        steering.eligible.set(NOT_ELIGIBLE);
        self.departures.add(self.tenure);
    }
}

impl Worker {
    /// A worker of this process.
    pub(crate) fn here(
        tenure: Tenure,
        mode: AcceptMode,
        listeners: Vec<TcpListener>,
        memory: Mapping<srv_common::Group>,
        departures: Arc<Departures>,
    ) -> Self {
        Self {
            mode,
            listeners,
            load: Load::new(vec![memory.clone()], tenure.slot),
            departure: Some(Departure {
                tenure,
                memory,
                departures,
            }),
        }
    }

    /// A worker of one group from what its group's process has handed over: the memory, and the
    /// listeners by slot.
    ///
    /// # Errors
    /// If the memory is no memory of a group, or there is no listener of that slot.
    pub(crate) fn from_fds(
        slot: u32,
        mode: AcceptMode,
        memory: OwnedFd,
        listeners: Vec<OwnedFd>,
    ) -> Result<Self> {
        let own = if mode.has_own_listeners() { slot } else { 0 };
        if own as usize >= listeners.len() {
            let count = listeners.len();
            let tried = format!("be the worker in slot {slot}: there are {count} listeners");
            return Err(Error::new(ErrorKind::Handover, tried));
        }
        Ok(Self {
            mode,
            listeners: listeners.into_iter().map(TcpListener::from).collect(),
            load: Load::attach(slot, [memory])?,
            departure: None,
        })
    }

    /// The worker's number in the group, from 0.
    pub fn slot(&self) -> u32 {
        self.load.slot()
    }

    /// The load signal. [`Self::accept`] writes it, too.
    pub fn load(&self) -> &Load {
        &self.load
    }

    fn own(&self) -> u32 {
        match self.mode.has_own_listeners() {
            true => self.slot(),
            false => 0,
        }
    }

    /// The worker's own listener. A program that accepts from it directly calls
    /// [`Load::accepted`] and [`Load::waited`] for each connection.
    pub fn listener(&self) -> &TcpListener {
        &self.listeners[self.own() as usize]
    }

    /// The listeners of the other slots.
    pub fn siblings(&self) -> impl Iterator<Item = (u32, &TcpListener)> {
        let own = self.own();
        let listeners = (0..).zip(&self.listeners);
        listeners.filter(move |(slot, _)| *slot != own)
    }

    /// Accepts a connection from the worker's own listener. While it waits, the worker counts as
    /// idle; from its return to the next call, as busy.
    ///
    /// # Errors
    /// As [`TcpListener::accept`].
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.load.sleeps();
        let accepted = self.listener().accept();
        self.load.wakes(monotonic_ns());
        if let Ok((_, client)) = &accepted {
            self.load.accepted(0, self.own());
            self.load.waited(0, self.own(), Some(*client));
        }
        accepted
    }

    /// For a program with its own epoll loop: the ring of all listeners of the group, which are
    /// made non-blocking (with the listeners of all other workers, as they are the same sockets).
    ///
    /// # Errors
    /// If a listener cannot be made non-blocking.
    pub fn into_ring(self) -> Result<(Ring, RingLoad)> {
        for listener in &self.listeners {
            let nonblocking = listener.set_nonblocking(true);
            nonblocking.tried(ErrorKind::Socket, "make a listener non-blocking")?;
        }
        let slot = self.slot();
        let listeners = self.listeners.into_iter().map(OwnedFd::from).collect();
        let load = RingLoad {
            load: self.load,
            _departure: self.departure,
        };
        Ok((Ring::new(self.mode, slot, vec![listeners]), load))
    }
}

/// The [`Load`] of a worker that has a [`Ring`]. When it is dropped, the worker has ended.
pub struct RingLoad {
    load: Load,
    _departure: Option<Departure>,
}

impl std::ops::Deref for RingLoad {
    type Target = Load;

    fn deref(&self) -> &Load {
        &self.load
    }
}
