//! One steered group: which of its sockets has which slot, and how the program learns that the
//! group has changed.
//!
//! In no order of these steps does a socket get no connections, or is a connection refused. If the
//! group differs from what the program was told, the program leaves the choice to the kernel's
//! hash until [`Following::refresh`] has told it the new state.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use srv_common::Policy;
use srv_common::attached::MAX_LISTENERS;

use super::detach::{self, Detached};
use super::group::Target;
use super::programs::{Programs, Snapshot};
use super::refusal::{Refusal, errno, of_option};
use super::take::take;
use crate::control::attached::Signal;
use crate::kernel::owners::Owners;
use crate::kernel::sock_diag::{Listener, SockDiag};

/// A group to which the program is attached.
pub(crate) struct Following {
    target: Target,
    diag: SockDiag,
    programs: Programs,
    /// The slot of each socket, by `SO_COOKIE`.
    slots: BTreeMap<u64, u32>,
}

/// What a refresh found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Sockets that joined and that are in the array now.
    pub(crate) joined: usize,
    /// Sockets that are gone.
    pub(crate) left: usize,
    /// Sockets that joined and that srv cannot take yet.
    pub(crate) pending: usize,
}

/// What becomes of a program that has the sockets already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormerProgram {
    /// It stays, and this one is not attached.
    Keep,
    /// It is detached.
    Replace,
}

/// Whether a socket is in the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Insertion {
    Inserted,
    /// The socket was closed, or the process that had it has ended.
    SocketGone,
}

/// How long the kernel may take to free the array of a former program.
const FREED_WITHIN: Duration = Duration::from_secs(5);
const FREED_CHECK_EVERY: Duration = Duration::from_millis(5);

impl Following {
    /// Attaches `programs` to the group.
    ///
    /// # Errors
    /// The reason why the group cannot be steered.
    pub(crate) fn begin(
        target: Target,
        mut diag: SockDiag,
        programs: Programs,
        former: FormerProgram,
    ) -> anyhow::Result<Self> {
        let listeners = target.listeners(&mut diag)?;
        let mut this = Self {
            target,
            diag,
            programs,
            slots: BTreeMap::new(),
        };
        let owners = owners_of(&listeners);
        for listener in &listeners {
            this.insert(listener, &owners, former)?;
        }
        this.attach(&listeners, &owners)?;
        Ok(this)
    }

    /// Scans the group and tells the program what has changed.
    ///
    /// # Errors
    /// The kernel's error; the next call tries again.
    pub(crate) fn refresh(&mut self) -> anyhow::Result<Change> {
        let listeners = self.diag.listeners_on(self.target.address)?;
        let mut change = Change::default();
        let is_there = |cookie: &u64| listeners.iter().any(|each| each.cookie == *cookie);
        let gone: Vec<u64> = self
            .slots
            .keys()
            .copied()
            .filter(|it| !is_there(it))
            .collect();
        for cookie in gone {
            if let Some(slot) = self.slots.remove(&cookie) {
                self.programs.remove(slot);
                change.left += 1;
            }
        }
        // When the last socket of a group closes, the kernel frees the group and its program.
        let is_new_group = self.slots.is_empty();
        self.join(&listeners, &mut change)?;
        if change.joined > 0 && is_new_group {
            self.attach(&listeners, &owners_of(&listeners))?;
        } else if change != Change::default() {
            self.programs.set_members(self.slots.len() as u32);
        }
        Ok(change)
    }

    fn join(&mut self, listeners: &[Listener], change: &mut Change) -> anyhow::Result<()> {
        let is_new = |each: &&Listener| !self.slots.contains_key(&each.cookie);
        let new: Vec<Listener> = listeners.iter().filter(is_new).cloned().collect();
        if new.is_empty() {
            return Ok(());
        }
        let owners = owners_of(&new);
        for listener in &new {
            match self.insert(listener, &owners, FormerProgram::Keep)? {
                Insertion::Inserted => change.joined += 1,
                Insertion::SocketGone => change.pending += 1,
            }
        }
        Ok(())
    }

    /// Detaches the program, so that the kernel's hash chooses.
    ///
    /// # Errors
    /// srv can take no socket of the group.
    pub(crate) fn detach(&mut self) -> anyhow::Result<Detached> {
        detach::detach(&self.target, &mut self.diag)
    }

    /// The address and the namespace of the group.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// The socket with which to ask the kernel about the group.
    pub(crate) fn diag(&mut self) -> &mut SockDiag {
        &mut self.diag
    }

    /// The processes that have the group's sockets now.
    ///
    /// # Errors
    /// The kernel does not list the sockets.
    pub(crate) fn owners(&mut self) -> anyhow::Result<Owners> {
        Ok(owners_of(&self.diag.listeners_on(self.target.address)?))
    }

    /// The slot of the socket with this cookie.
    pub(crate) fn slot(&self, cookie: u64) -> Option<u32> {
        self.slots.get(&cookie).copied()
    }

    /// `SO_COOKIE` of the sockets that the program chooses between.
    pub(crate) fn cookies(&self) -> Vec<u64> {
        self.slots.keys().copied().collect()
    }

    /// What the program has counted.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.programs.snapshot()
    }

    /// As [`Programs::program_id`].
    pub(crate) fn program_id(&self) -> u32 {
        self.programs.program_id()
    }

    /// The signals that the program goes by, by name.
    pub(crate) fn signals(&self) -> BTreeMap<String, Signal> {
        self.programs.signals().named()
    }

    /// Makes the program choose by `policy` from now on.
    ///
    /// # Errors
    /// Attached servers do not have this policy.
    pub(crate) fn steer_by(&mut self, policy: Policy) -> anyhow::Result<()> {
        self.programs.set_policy(policy)
    }

    /// Puts the socket of a listener into a free slot.
    fn insert(
        &mut self,
        listener: &Listener,
        owners: &Owners,
        former: FormerProgram,
    ) -> anyhow::Result<Insertion> {
        let Some(slot) = self.free_slot() else {
            let (address, listeners) = (self.target.address, MAX_LISTENERS + 1);
            return Err(Refusal::TooMany { address, listeners }.into());
        };
        let deadline = Instant::now() + FREED_WITHIN;
        loop {
            let Some(socket) = take(listener, owners)? else {
                return Ok(Insertion::SocketGone);
            };
            let inserted = self.programs.insert(slot, &socket, listener.cookie);
            drop(socket);
            let Err(error) = inserted else {
                self.slots.insert(listener.cookie, slot);
                return Ok(Insertion::Inserted);
            };
            if errno(&error) != Some(Errno::BUSY) {
                return Err(error);
            }
            if former == FormerProgram::Keep || Instant::now() > deadline {
                let command = owners.command().unwrap_or_default().to_owned();
                let address = self.target.address;
                return Err(Refusal::OtherProgram { address, command }.into());
            }
            // The kernel frees the array a moment after the program is detached.
            self.detach()?;
            std::thread::sleep(FREED_CHECK_EVERY);
        }
    }

    fn attach(&mut self, listeners: &[Listener], owners: &Owners) -> anyhow::Result<()> {
        self.programs.set_members(self.slots.len() as u32);
        for listener in listeners {
            if self.slots.contains_key(&listener.cookie)
                && let Some(socket) = take(listener, owners)?
            {
                let attached = self.programs.attach(&socket);
                return attached.map_err(|error| of_option(error, "4.19"));
            }
        }
        Err(Refusal::NoListener {
            address: self.target.address,
            instead: Vec::new(),
        }
        .into())
    }

    fn free_slot(&self) -> Option<u32> {
        let is_free = |slot: &u32| !self.slots.values().any(|taken| taken == slot);
        (0..MAX_LISTENERS as u32).find(is_free)
    }
}

fn owners_of(listeners: &[Listener]) -> Owners {
    Owners::of(&listeners.iter().map(|listener| listener.inode).collect())
}
