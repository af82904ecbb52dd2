//! One group under steering: which of its sockets has which slot, and bringing
//! the program up to date with a group that changes.
//!
//! No order of these steps can starve a socket or refuse a connection: a
//! program that finds its group otherwise than it was told leaves the choice
//! to the kernel's hash, and does so until [`Following::refresh`] has told it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use srv_common::Policy;
use srv_common::attached::MAX_LISTENERS;

use super::detach::{self, Detached};
use super::group::Target;
use super::programs::{Programs, Snapshot};
use super::refusal::{Refusal, errno, of_option};
use super::signals::Signal;
use super::take::take;
use crate::kernel::owners::Owners;
use crate::kernel::sock_diag::{Listener, SockDiag};

/// A group that the program chooses for.
pub struct Following {
    target: Target,
    diag: SockDiag,
    programs: Programs,
    /// Slot by `SO_COOKIE`.
    slots: BTreeMap<u64, u32>,
}

/// What a refresh found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Sockets that joined and are in the array now.
    pub joined: usize,
    /// Sockets that are gone.
    pub left: usize,
    /// Sockets that joined and could not be taken yet.
    pub pending: usize,
}

/// How long the kernel may take to free a former program's array.
const FREED_WITHIN: Duration = Duration::from_secs(5);
const FREED_CHECK_EVERY: Duration = Duration::from_millis(5);

impl Following {
    /// Attaches `programs` to the group. `replaces` says whether a program
    /// that has the sockets already may be taken off.
    ///
    /// # Errors
    /// Why it cannot be steered.
    pub fn begin(
        target: Target,
        mut diag: SockDiag,
        programs: Programs,
        replaces: bool,
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
            this.insert(listener, &owners, replaces)?;
        }
        this.attach(&listeners, &owners)?;
        Ok(this)
    }

    /// Looks what has become of the group and tells the program.
    ///
    /// # Errors
    /// What the kernel says; the next call tries again.
    pub fn refresh(&mut self) -> anyhow::Result<Change> {
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
        // With its last socket the group is gone, and the program with it.
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
            match self.insert(listener, &owners, false)? {
                true => change.joined += 1,
                false => change.pending += 1,
            }
        }
        Ok(())
    }

    /// Back to the kernel's hash.
    ///
    /// # Errors
    /// No socket of the group can be taken.
    pub fn detach(&mut self) -> anyhow::Result<Detached> {
        detach::detach(&self.target, &mut self.diag)
    }

    /// Its address and namespace.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// To look at the group with.
    pub fn diag(&mut self) -> &mut SockDiag {
        &mut self.diag
    }

    /// The processes that have the group's sockets now.
    ///
    /// # Errors
    /// The kernel cannot be asked about sockets.
    pub fn owners(&mut self) -> anyhow::Result<Owners> {
        Ok(owners_of(&self.diag.listeners_on(self.target.address)?))
    }

    /// The slot of the socket with this cookie.
    pub fn slot(&self, cookie: u64) -> Option<u32> {
        self.slots.get(&cookie).copied()
    }

    /// `SO_COOKIE` of the sockets that the program chooses between.
    pub fn cookies(&self) -> Vec<u64> {
        self.slots.keys().copied().collect()
    }

    /// What the program has counted.
    pub fn snapshot(&self) -> Snapshot {
        self.programs.snapshot()
    }

    /// As [`Programs::program_id`].
    pub fn program_id(&self) -> u32 {
        self.programs.program_id()
    }

    /// What the program goes by, and why not by more.
    pub fn signals(&self) -> BTreeMap<String, String> {
        let signals = self.programs.signals();
        let named = [
            ("queues", &signals.queues),
            ("sleep", &signals.sleep),
            ("live", &signals.live),
        ];
        let say = |signal: &Signal| match signal {
            Signal::Known => "known".to_owned(),
            Signal::Missing(why) => why.clone(),
        };
        named
            .into_iter()
            .map(|(name, signal)| (name.to_owned(), say(signal)))
            .collect()
    }

    /// Chooses by `policy` from now on.
    ///
    /// # Errors
    /// It is not one for other people's servers.
    pub fn steer_by(&mut self, policy: Policy) -> anyhow::Result<()> {
        self.programs.set_policy(policy)
    }

    /// Whether the socket was there to be inserted.
    fn insert(
        &mut self,
        listener: &Listener,
        owners: &Owners,
        replaces: bool,
    ) -> anyhow::Result<bool> {
        let Some(slot) = self.free_slot() else {
            let (address, listeners) = (self.target.address, MAX_LISTENERS + 1);
            return Err(Refusal::TooMany { address, listeners }.into());
        };
        let deadline = Instant::now() + FREED_WITHIN;
        loop {
            let Some(socket) = take(listener, owners)? else {
                return Ok(false);
            };
            let inserted = self.programs.insert(slot, &socket, listener.cookie);
            drop(socket);
            let Err(error) = inserted else {
                self.slots.insert(listener.cookie, slot);
                return Ok(true);
            };
            if errno(&error) != Some(Errno::BUSY) {
                return Err(error);
            }
            if !replaces || Instant::now() > deadline {
                let command = owners.command().unwrap_or_default().to_owned();
                let address = self.target.address;
                return Err(Refusal::OtherProgram { address, command }.into());
            }
            // The array goes with the program, a moment after it.
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
