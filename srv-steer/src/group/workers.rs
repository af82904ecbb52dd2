//! The workers of a group: handing them out, and the states of their slots.

use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::time::Duration;

use srv_common::State;
use srv_common::layout::{ELIGIBLE, LAST_RESORT, NOT_ELIGIBLE, eligibility};

use super::{Group, Stall};
use crate::clock::monotonic_ns;
use crate::error::{Error, ErrorKind, Result, Tried as _};
use crate::handover;
use crate::syn_cookies;
use crate::worker::{Tenure, Worker};

/// How often the waiting counts are reconciled with the kernel's, ns: longer than a handshake
/// takes.
const RECONCILED_EVERY_NS: u64 = 2_000_000_000;

impl Group {
    /// How often to call [`Self::maintain`].
    pub const MAINTENANCE_INTERVAL: Duration = Duration::from_millis(20);

    /// The worker in `slot`, for a thread of this process. It gets connections from now on. The
    /// slot's worker before it must accept no more.
    ///
    /// # Errors
    /// If there is no listener of that slot, or the process is out of file descriptors.
    pub fn worker(&mut self, slot: u32) -> Result<Worker> {
        self.ensure_listener(slot)?;
        let listeners = self.listeners.sockets.iter().map(|socket| {
            let clone = socket.try_clone();
            clone
                .map(TcpListener::from)
                .tried(ErrorKind::Socket, "duplicate a listener")
        });
        let listeners = listeners.collect::<Result<Vec<_>>>()?;
        let (memory, departures) = (self.memory.clone(), self.departures.clone());
        let starts = self.steering_of(slot).starts.get().wrapping_add(1);
        let tenure = Tenure { slot, starts };
        let worker = Worker::here(tenure, self.accept, listeners, memory, departures);
        self.worker_begins(slot, std::process::id());
        Ok(worker)
    }

    /// A worker for each listener, for threads of this process.
    ///
    /// # Errors
    /// As [`Self::worker`].
    pub fn workers(&mut self) -> Result<Vec<Worker>> {
        let slots = 0..self.ordered.workers;
        slots.map(|slot| self.worker(slot)).collect()
    }

    /// Sends the worker in `slot` to a process at the other end of `channel`, a Unix stream
    /// socket, where [`Worker::receive`] takes it. It gets connections from now on; they wait
    /// until the process accepts them. `pid` is that process. When it has ended, call
    /// [`Self::worker_ended`].
    ///
    /// # Errors
    /// If there is no listener of that slot, or the kernel refuses to send it.
    pub fn send_worker(&mut self, slot: u32, pid: u32, channel: impl AsFd) -> Result<()> {
        self.send_to(slot, channel.as_fd())?;
        self.worker_begins(slot, pid);
        Ok(())
    }

    /// Has the process that `command` starts inherit the worker in `slot`, which
    /// [`Worker::inherited`] takes there. When the process has started, call
    /// [`Self::worker_begins`]; when it has ended, [`Self::worker_ended`].
    ///
    /// # Errors
    /// As [`Self::send_worker`].
    pub fn pass_worker(&mut self, slot: u32, command: &mut Command) -> Result<()> {
        handover::pass(command, |channel| self.send_to(slot, channel))
    }

    fn send_to(&self, slot: u32, channel: BorrowedFd<'_>) -> Result<()> {
        self.ensure_listener(slot)?;
        let listeners: Vec<_> = self.listeners.sockets.iter().map(AsFd::as_fd).collect();
        let memory = self.shared.as_fd();
        handover::send(channel, slot, self.accept, memory, &listeners)
    }

    fn ensure_listener(&self, slot: u32) -> Result<()> {
        let (count, slots) = (self.listeners.sockets.len(), self.slots.used().end);
        let has_one = match self.accept.has_own_listeners() {
            true => (slot as usize) < count,
            false => slot < slots,
        };
        if has_one {
            return Ok(());
        }
        let tried = format!("make a worker of slot {slot}: there are {slots} slots, from 0");
        Err(Error::new(ErrorKind::Handover, tried))
    }

    /// Records that the worker in `slot` accepts connections from now on, in the process `pid`.
    pub fn worker_begins(&self, slot: u32, pid: u32) {
        self.number(slot, pid);
        self.slot(slot).reset_gauges();
        self.memory.sum_up(slot);
        self.set_state(slot, State::Ready);
    }

    /// Records that the worker in `slot` has ended and that its process has been reaped. Its
    /// listener stays open. What waits there waits for the slot's next worker, or for a sibling's
    /// ring.
    pub fn worker_ended(&self, slot: u32) {
        self.worker_died(slot, State::Absent);
    }

    /// Maintains the group: steers around workers that have ended, have stalled or whose accept
    /// queue is full, reconciles the counts with the kernel's, and repairs listeners. Call it every
    /// [`Self::MAINTENANCE_INTERVAL`]. Returns the workers that have stalled, and those that may
    /// have.
    pub fn maintain(&mut self) -> Vec<Stall> {
        for tenure in self.departures.take() {
            if tenure.is_current(&self.memory) {
                self.worker_ended(tenure.slot);
            }
        }
        let now_ns = monotonic_ns();
        if now_ns.saturating_sub(self.reconciled_ns) >= RECONCILED_EVERY_NS {
            self.reconciled_ns = now_ns;
            self.reconcile();
            for found in self.inspect() {
                crate::log::error!("{found}");
            }
        }
        self.detect_stalls()
    }

    /// The slots that have, or had, a worker.
    pub fn slots(&self) -> std::ops::Range<u32> {
        self.slots.used()
    }

    /// Records that the worker process `pid` starts in `slot`. No other process may write there.
    pub fn worker_starts(&self, slot: u32, pid: u32) {
        self.number(slot, pid);
        self.set_state(slot, State::Starting);
    }

    fn number(&self, slot: u32, pid: u32) {
        if !self.is_anothers() {
            let steering = self.steering_of(slot);
            steering.pid.set(pid);
            steering.starts.bump(1);
        }
    }

    /// Records that the worker process `pid` has taken over `slot` from one that publishes no more.
    pub fn worker_replaced(&self, slot: u32, pid: u32) {
        self.number(slot, pid);
        self.slot(slot).reset_gauges();
        self.memory.sum_up(slot);
    }

    /// Records that the worker in `slot` has died and been reaped, and resets what it published
    /// about itself. `then` is the state of the slot from now on.
    pub fn worker_died(&self, slot: u32, then: State) {
        self.set_state(slot, then);
        if !self.is_anothers() {
            self.steering_of(slot).pid.set(0);
        }
        self.slot(slot).reset_gauges();
        self.slot(slot).figures.busy.returns(monotonic_ns());
        let load = &self.slot(slot).load;
        load.busy_since_ns.set(0);
        load.woke_ns.set(0);
        self.memory.sum_up(slot);
        self.memory.idle.0[slot as usize].set(0);
    }

    /// Whether the worker in `slot` accepts and has not stalled.
    pub fn is_ready(&self, slot: u32) -> bool {
        self.slots[slot].state.get() == State::Ready
    }

    /// Whether the worker in `slot` is away from `epoll_wait`.
    pub fn is_busy(&self, slot: u32) -> bool {
        self.slot(slot).load.busy_since_ns.get() != 0
    }

    /// Whether the worker in `slot` has come back from `epoll_wait` after `since_ns` of
    /// `CLOCK_MONOTONIC`, and is there again.
    pub fn has_woken_since(&self, slot: u32, since_ns: u64) -> bool {
        !self.is_busy(slot) && self.slot(slot).load.woke_ns.get() > since_ns
    }

    /// Sets a slot's state and with it the list of those that can be chosen.
    pub fn set_state(&self, slot: u32, state: State) {
        self.slots[slot].state.set(state);
        if self.is_anothers() {
            return;
        }
        let steering = self.steering_of(slot);
        steering.state.set(state as u32);
        steering.eligible.set(eligible(state, slot));
        self.list_best();
        self.pose_hermes();
    }

    /// A worker that has stalled gets connections only if all workers have stalled.
    fn list_best(&self) {
        let some_slot_is = |state: &State| self.slots.iter().any(|at| at.state.get() == *state);
        let best = [State::Ready, State::Full, State::Hung];
        let best = best.into_iter().find(some_slot_is);
        self.list(best.unwrap_or(State::Ready));
    }

    /// Makes the slots in that state the ones to choose from.
    fn list(&self, state: State) {
        let mut count = 0;
        for (slot, record) in self.slots.iter().enumerate() {
            if record.state.get() == state {
                self.memory.ready[count as usize].set(slot as u16);
                count += 1;
            }
        }
        self.memory.config.ready_count.set(count);
    }

    /// Writes what was ordered.
    pub(super) fn write_config(&self) {
        if self.is_anothers() {
            return;
        }
        let (config, ordered) = (&self.memory.config, &self.ordered);
        config.policy.set(ordered.policy);
        config.workers.set(ordered.workers);
        config.hang_after_ns.set(ordered.stall_after_ns);
        self.look_at_cookies();
    }

    /// Tells the program whether a connection begins with its SYN or with its ACK. The setting can
    /// change at any time, so the owner looks again whenever it reconciles.
    pub(super) fn look_at_cookies(&self) {
        let always = syn_cookies::begin_each_handshake();
        self.memory.config.cookies_always.set(always.into());
    }
}

/// How the program may choose a slot in that state.
fn eligible(state: State, slot: u32) -> u64 {
    let how = match state {
        State::Ready => ELIGIBLE,
        State::Hung | State::Full => LAST_RESORT,
        _ => NOT_ELIGIBLE,
    };
    eligibility(how, slot)
}
