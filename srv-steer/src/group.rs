//! A listener group: its sockets, the memory that it shares with workers and the BPF program,
//! the program, and the states of the slots. Knows no processes.

mod inspection;
mod membership;
mod reconciliation;
mod stalls;
mod status;
mod workers;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use srv_common::layout;
use srv_common::policy::hermes;
use srv_common::{Policy, Slot, State};

use crate::accept_mode::AcceptMode;
use crate::clock::monotonic_ns;
use crate::error::{Error, ErrorKind, Result, Tried as _};
use crate::listeners::{ListenerGroup, accept_queue};
use crate::memory::{Mapping, SharedMemory};
use crate::options::{GroupOptions, ensure_workers_fit};
use crate::program::{self, SelectProgram};
use crate::slots::SlotTable;
use crate::stall::StallWatch;
use crate::worker::Departures;
use inspection::Inspection;
use reconciliation::Reconciliation;
pub use stalls::{Stage, Stall};
pub use status::{GroupState, HashingReason, ProgramCounts};

/// A listener group with all that belongs to it.
pub struct Group {
    /// Its sockets.
    pub listeners: ListenerGroup,
    accept: AcceptMode,
    memory: Mapping<srv_common::Group>,
    shared: SharedMemory<srv_common::Group>,
    program: Result<SelectProgram, HashingReason>,
    /// Slots whose listeners the program's socket array does not hold yet ([`membership`]).
    outside: BTreeSet<u32>,
    ordered: Ordered,
    reconciliation: Reconciliation,
    inspection: Inspection,
    slots: SlotTable<SlotRecord>,
    /// Limit of each accept queue, as the kernel cut it.
    backlog: u32,
    owner: Owner,
    departures: Arc<Departures>,
    /// When it was last reconciled by [`Group::maintain`], ns.
    reconciled_ns: u64,
}

/// Which process writes the configuration and the states of the slots, and steers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// This process.
    This,
    /// The process of another server, which this one has joined or has handed the group over to.
    Another,
}

/// What the owner writes to the memory. If another process is the owner, what this process would
/// write.
#[derive(Default)]
struct Ordered {
    policy: u32,
    workers: u32,
    stall_after_ns: u64,
}

/// What is known of one slot in this group.
struct SlotRecord {
    /// The state that was ordered. It is in the memory, or would be if this process were the owner.
    state: Cell<State>,
    /// The least surplus (`reconciliation`) since the last [`Group::reconcile`].
    surplus_min: i64,
    stall: StallWatch,
}

impl Default for SlotRecord {
    fn default() -> Self {
        Self {
            state: Cell::new(State::Absent),
            surplus_min: 0,
            stall: StallWatch::default(),
        }
    }
}

impl Group {
    /// Binds `address` with one listener for each of `workers` workers, and steers by
    /// [`Policy::Least`] if the kernel permits it; [`Self::state`] says whether it does. Otherwise
    /// the options are [`GroupOptions::default`].
    ///
    /// # Errors
    /// As [`Self::bind_with`].
    pub fn bind(address: SocketAddr, workers: u32) -> Result<Self> {
        let options = GroupOptions {
            workers,
            ..GroupOptions::default()
        };
        Self::bind_with(address, &options)
    }

    /// Binds `address` as `options` say, and steers if the kernel permits it.
    ///
    /// # Errors
    /// If the address is taken, not local or forbidden, or memory cannot be shared. Never for
    /// lack of BPF.
    pub fn bind_with(address: SocketAddr, options: &GroupOptions) -> Result<Self> {
        Self::open_and_steer(ListenerGroup::bind(address, options)?, options)
    }

    /// Steers between listeners that exist already, one for each worker. They must listen on the
    /// same address, and must have been bound with `SO_REUSEPORT`, or the kernel hashes.
    ///
    /// # Errors
    /// If there is none, they listen on different addresses, or memory cannot be shared. Never
    /// for lack of BPF.
    pub fn from_listeners(listeners: Vec<TcpListener>) -> Result<Self> {
        let options = GroupOptions {
            workers: listeners.len() as u32,
            ..GroupOptions::default()
        };
        let sockets = listeners.into_iter().map(Into::into).collect();
        Self::open_and_steer(ListenerGroup::of_existing(sockets)?, &options)
    }

    fn open_and_steer(listeners: ListenerGroup, options: &GroupOptions) -> Result<Self> {
        let mut group = Self::open(listeners, options)?;
        group.insert_listeners();
        if group.program.is_ok()
            && let Err(error) = group.steer(options.policy)
        {
            group.program = Err(HashingReason::Refused(Arc::new(error)));
        }
        Ok(group)
    }

    /// Prepares steering for `listeners`, which begins with
    /// [`Self::insert_listeners`] and [`Self::steer`]. Without a loadable program
    /// the group works unsteered.
    ///
    /// # Errors
    /// If memory cannot be shared.
    pub fn open(listeners: ListenerGroup, options: &GroupOptions) -> Result<Self> {
        Self::open_with(listeners, Self::load_program(options), options)
    }

    /// As [`Self::open`], with a program that [`Self::load_program`] has loaded before.
    ///
    /// # Errors
    /// If memory cannot be shared.
    pub fn open_with(
        listeners: ListenerGroup,
        program: Result<SelectProgram, HashingReason>,
        options: &GroupOptions,
    ) -> Result<Self> {
        let shared = match &program {
            Ok(program) => program.memory().try_clone()?,
            Err(_) => SharedMemory::new()?,
        };
        let mut group = Self::new(listeners, shared, program, options.accept)?;
        group.apply(options, options.workers);
        group.start_recording();
        Ok(group)
    }

    /// Does everything of steering that takes long, or that the kernel is likely to refuse, before
    /// a worker exists.
    ///
    /// # Errors
    /// Why the kernel's hash chooses for a group with these options.
    pub fn load_program(options: &GroupOptions) -> Result<SelectProgram, HashingReason> {
        if !options.accept.has_own_listeners() {
            return Err(HashingReason::SharedListener);
        }
        if !options.steer {
            return Err(HashingReason::SwitchedOff);
        }
        SelectProgram::load().map_err(|error| {
            crate::log::debug!("{error}");
            HashingReason::Refused(Arc::new(error))
        })
    }

    /// Joins another server's group, which that server owns and steers until [`Self::take_over`].
    ///
    /// # Errors
    /// If the memory cannot be mapped.
    pub fn join(
        listeners: ListenerGroup,
        shared: SharedMemory<srv_common::Group>,
        program: Result<SelectProgram, HashingReason>,
        options: &GroupOptions,
    ) -> Result<Self> {
        let slots = listeners.sockets.len() as u32;
        let mut group = Self::new(listeners, shared, program, options.accept)?;
        group.owner = Owner::Another;
        group.apply(options, slots);
        Ok(group)
    }

    fn new(
        listeners: ListenerGroup,
        shared: SharedMemory<srv_common::Group>,
        program: Result<SelectProgram, HashingReason>,
        accept: AcceptMode,
    ) -> Result<Self> {
        let memory = shared.map()?;
        let backlog = listeners.sockets.first().map(accept_queue);
        let backlog = backlog
            .and_then(std::io::Result::ok)
            .map_or(u32::MAX, |(_, limit)| limit);
        let inspection = Inspection::new(&listeners);
        Ok(Self {
            backlog,
            listeners,
            accept,
            memory,
            shared,
            program,
            outside: BTreeSet::new(),
            ordered: Ordered::default(),
            reconciliation: Reconciliation::new(),
            inspection,
            slots: SlotTable::default(),
            owner: Owner::This,
            departures: Arc::default(),
            reconciled_ns: monotonic_ns(),
        })
    }

    /// Has the kernel record when connections are established, if it can and the group has a
    /// listener.
    fn start_recording(&mut self) {
        let first = self.listeners.sockets.first();
        if let (Ok(program), Some(listener)) = (&mut self.program, first) {
            program.start_recording(&self.memory.recorded, self.listeners.address, listener);
        }
    }

    fn is_anothers(&self) -> bool {
        self.owner == Owner::Another
    }

    /// The address, with the port that the kernel chose if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.listeners.address
    }

    /// Takes over the group of another server that has gone: this server owns it from now on,
    /// steers it by `policy`, and has the workers in the slots of `own`. If the kernel hashes
    /// instead, returns why.
    pub fn take_over(&mut self, own: Range<u32>, policy: Policy) -> Option<Error> {
        self.owner = Owner::This;
        self.reconciliation.acks = reconciliation::acks(&self.memory);
        self.ordered.workers = own.end;
        for slot in self.slots.used() {
            match own.contains(&slot) {
                true => self.set_state(slot, self.slots[slot].state.get()),
                false => self.worker_died(slot, State::Absent),
            }
        }
        if self.program.is_err() {
            let first = self.listeners.sockets.first();
            first.into_iter().for_each(program::take_off);
        }
        if self.why_not_recording().is_some() {
            // The program that recorded has ended with the other server.
            self.memory.recorded.port.set(0);
        }
        self.write_config();
        let why = self.steer(policy).err()?;
        let _ = self.steer(Policy::Hash);
        Some(why)
    }

    /// Leaves memory and program, as they are, to another server.
    pub fn hand_over(&mut self) {
        self.owner = Owner::Another;
        if let Ok(program) = &mut self.program {
            program.leave_attached();
        }
    }

    /// What another server needs to join, beside the listeners: the memory, then
    /// what [`SelectProgram::handles`] has, if there is a program.
    pub fn handles(&self) -> Vec<BorrowedFd<'_>> {
        let program = self.program.as_ref().ok().map(SelectProgram::handles);
        let memory = std::iter::once(self.shared.as_fd());
        memory.chain(program.into_iter().flatten()).collect()
    }

    /// Makes the listeners known to the program; they must be in no other array.
    /// If the kernel refuses one, the group is unsteered from now on.
    pub fn insert_listeners(&mut self) {
        let Ok(program) = &mut self.program else {
            return;
        };
        let mut sockets = self.listeners.sockets.by_slot();
        let inserted = sockets.try_for_each(|(slot, socket)| program.set_listener(slot, socket));
        if let Err(error) = inserted {
            self.program = Err(HashingReason::Refused(Arc::new(error)));
        }
    }

    /// Leaves the listeners to another program, and until then to the hash.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn release(&mut self) -> Result<()> {
        self.steer(Policy::Hash)?;
        if let Ok(program) = &mut self.program {
            program.clear_listeners();
        }
        Ok(())
    }

    /// Opens a listener for each of the first `slots` slots that has none.
    ///
    /// # Errors
    /// If the kernel refuses one. In that case nothing has changed.
    pub fn open_listeners(&mut self, slots: u32, options: &GroupOptions) -> Result<()> {
        if !options.accept.has_own_listeners() {
            return Ok(());
        }
        let before = self.listeners.sockets.len();
        self.listeners.grow(slots, options)?;
        if let Ok(program) = &mut self.program {
            for (slot, socket) in self.listeners.sockets.by_slot().skip(before) {
                program.set_listener(slot, socket)?;
            }
        }
        Ok(())
    }

    /// Takes over the settings that workers need not know; workers are in the first
    /// `slots` slots. Those beyond keep their counts and their listeners.
    pub fn apply(&mut self, options: &GroupOptions, slots: u32) {
        let stall_after_ns = u64::try_from(options.stall_after.as_nanos()).unwrap_or(u64::MAX);
        self.ordered.stall_after_ns = stall_after_ns;
        self.ordered.workers = slots;
        self.write_config();
        self.slots.use_until(slots);
    }

    /// The memory to be inherited by workers.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.shared.as_fd()
    }

    /// Why there is no program to steer with, if there is none.
    pub fn why_unsteered(&self) -> Option<&HashingReason> {
        self.program.as_ref().err()
    }

    /// Steers by `policy` from now on. Connections that exist are not touched.
    ///
    /// # Errors
    /// If there is no program to do it, or the kernel refuses to attach it.
    pub fn steer(&mut self, policy: Policy) -> Result<()> {
        if self.is_anothers() {
            return Ok(());
        }
        self.pose_hermes();
        let tried = format!("steer by {}", policy.name());
        let program = match &mut self.program {
            Ok(program) => program,
            Err(_) if policy == Policy::Hash => return Ok(()),
            Err(why) => return Err(Error::new(ErrorKind::Program, format!("{tried}: {why}"))),
        };
        ensure_workers_fit(policy, self.ordered.workers)
            .map_err(|error| error.while_trying(tried))?;
        if policy == Policy::Hash {
            program.detach()?;
        }
        self.ordered.policy = policy as u32;
        self.memory.config.policy.set(policy as u32);
        self.attach_if_ordered()
    }

    /// Stops new connections and ends steering. The workers of the group finish the connections
    /// that have come.
    ///
    /// # Errors
    /// What the kernel says to either.
    pub fn close(&mut self) -> Result<()> {
        let stopped = self.listeners.stop_new_connections();
        self.steer(Policy::Hash)?;
        stopped.tried(ErrorKind::Socket, "drop new SYNs")
    }

    /// Writes what the policy `hermes` uses until a worker's next turn of its loop.
    fn pose_hermes(&self) {
        let passed = hermes::filter(&self.memory, monotonic_ns());
        self.memory.hermes.0.set(passed);
    }

    fn steering_of(&self, slot: u32) -> &layout::Steering {
        &self.memory.steering[slot as usize]
    }

    fn slot(&self, slot: u32) -> &Slot {
        &self.memory.slots[slot as usize]
    }
}

#[cfg(test)]
mod tests;
