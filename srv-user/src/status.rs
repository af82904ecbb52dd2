//! The memory in which master, workers and the BPF program see each other's
//! state: mapping it, and a worker's side of publishing to it. The meaning of
//! every field is srv-common's; the only mmap is here.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use anyhow::Context;
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};
use srv_common::foreign::Foreign;
use srv_common::layout::Load;
use srv_common::policy::{Policy, hermes, steal_patience_ns};
use srv_common::{Group, MAX_WORKERS, Refusal, Slot};

/// Maps a group for the rest of a master's life. `fd` is a
/// `BPF_F_MMAPABLE` array of one [`Group`], or [`memfd`].
///
/// # Errors
/// What `mmap` says, for example `EPERM` for an array that cannot be mapped.
pub fn map(fd: impl AsFd) -> io::Result<&'static Group> {
    // SAFETY: both kinds of file are at least as long as a group.
    unsafe { map_as(fd) }
}

/// As [`map`], for the worker in `slot`: it can write only what
/// [`Group::writable_by`] says, and since the kernel never lets a mapping of an array
/// be written that was made to be read (kernel/bpf/syscall.c, `bpf_map_mmap`), not
/// give itself more either once `fd` is closed. Where pages are larger than that
/// takes for granted, all of it can be written.
///
/// # Errors
/// What `mmap` says.
pub fn map_for_worker(fd: impl AsFd, slot: u32) -> io::Result<&'static Group> {
    let writable = Group::<MAX_WORKERS>::writable_by(slot);
    let page_bytes = rustix::param::page_size();
    if !writable
        .iter()
        .all(|bytes| bytes.start.is_multiple_of(page_bytes))
    {
        return map(fd);
    }
    let read_write = ProtFlags::READ | ProtFlags::WRITE;
    let length = size_of::<Group>();
    // SAFETY: as in `map_as`; what is put over parts of the mapping is the same.
    unsafe {
        let fd = fd.as_fd();
        let flags = MapFlags::SHARED;
        let address =
            rustix::mm::mmap(std::ptr::null_mut(), length, ProtFlags::READ, flags, fd, 0)?;
        for bytes in writable {
            let (at, offset) = (address.byte_add(bytes.start), bytes.start as u64);
            rustix::mm::mmap(
                at,
                bytes.len(),
                read_write,
                flags | MapFlags::FIXED,
                fd,
                offset,
            )?;
        }
        Ok(&*address.cast())
    }
}

/// As [`map`], for the array of a [`Foreign`] group.
///
/// # Errors
/// What `mmap` says.
pub fn map_foreign(fd: impl AsFd) -> io::Result<&'static Foreign> {
    // SAFETY: the array's value is a foreign group.
    unsafe { map_as(fd) }
}

/// # Safety
/// `fd` is at least as long as a `T`, all of whose fields accept any bits and
/// are only accessed atomically.
unsafe fn map_as<T>(fd: impl AsFd) -> io::Result<&'static T> {
    // SAFETY: a fresh shared mapping, never unmapped, page-aligned and zeroed;
    // the rest is the caller's promise.
    unsafe {
        let address = rustix::mm::mmap(
            std::ptr::null_mut(),
            size_of::<T>(),
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            fd,
            0,
        )?;
        Ok(&*address.cast())
    }
}

/// Memory for a group that no BPF program reads.
///
/// # Errors
/// If the kernel refuses a memfd of the group's size.
pub fn memfd() -> anyhow::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("srv-group", MemfdFlags::CLOEXEC)
        .context("create shared memory for the workers' status")?;
    let file = File::from(fd);
    file.set_len(size_of::<Group>() as u64)
        .context("size shared memory for the workers' status")?;
    Ok(file.into())
}

/// What a worker tells the world: plain stores to its slot in every group, no
/// system call.
#[derive(Clone)]
pub struct Published {
    groups: Vec<&'static Group>,
    slot: usize,
    running: Rc<Cell<u32>>,
    /// Another process publishes in the slot now.
    is_silent: Rc<Cell<bool>>,
}

impl Published {
    /// For the worker in `slot`, which appears in each of `groups`.
    pub fn new(groups: Vec<&'static Group>, slot: u32) -> Self {
        let published = Self {
            groups,
            slot: slot as usize,
            running: Rc::default(),
            is_silent: Rc::default(),
        };
        for group in &published.groups {
            group.slots[slot as usize].load.turn.set(latest_turn(group));
            group.sum_up(slot);
        }
        published
    }

    /// The slot is its successor's: from now on nothing is published.
    pub fn fall_silent(&self) {
        self.is_silent.set(true);
    }

    /// The worker is about to enter `epoll_wait`.
    pub fn sleeps(&self) {
        self.each_load(|load| load.busy_since_ns.set(0));
        self.each_idle(1);
    }

    /// The worker has left `epoll_wait` at `now_ns` of `CLOCK_MONOTONIC`.
    pub fn wakes(&self, now_ns: u64) {
        self.each_idle(0);
        self.each_load(|load| {
            load.busy_since_ns.set(now_ns);
            load.woke_ns.set(now_ns);
        });
    }

    /// Of the events of the last `epoll_wait`, this many are not done with.
    pub fn pending(&self, events: u32) {
        self.each(|slot| slot.load.pending.set(events));
    }

    /// The worker's loop ends: under the policy `hermes`, its filter runs.
    pub fn turns(&self) {
        for group in self.groups().iter().filter(|group| steers_by_hermes(group)) {
            group.hermes.0.set(hermes::filter(group, monotonic_ns()));
        }
    }

    /// For how long, ns, the policy lets the worker sleep, if there is a bound.
    pub fn turns_within_ns(&self) -> Option<u64> {
        let is_hermes = self.groups.iter().any(|group| steers_by_hermes(group));
        is_hermes.then_some(HERMES_TURN_NS)
    }

    /// A connection was accepted from the listener of `listener` in `group`.
    pub fn accepted(&self, group: usize, listener: u32) {
        let group = self.groups[group];
        let load = &group.slots[self.slot].load;
        // Siblings accept from this listener too: the one atomic addition.
        group.summaries[listener as usize]
            .taken
            .atomic()
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if listener as usize == self.slot {
            &load.own
        } else {
            &load.stolen
        }
        .bump(1);
        load.turn.bump(1);
        group.sum_up(self.slot as u32);
    }

    /// How often the owner of `listener` in `group` has accepted ([`Load::turn`]).
    pub fn turn_of_owner(&self, group: usize, listener: u32) -> u32 {
        self.groups[group].slots[listener as usize].load.turn.get()
    }

    /// See [`steal_patience_ns`].
    pub fn patience_ns(&self, group: usize, listener: u32, now_ns: u64) -> u64 {
        steal_patience_ns(self.groups[group], self.slot as u32, listener, now_ns)
    }

    /// Requests in service.
    #[cfg(test)]
    pub fn running(&self) -> u32 {
        self.running.get()
    }

    /// See [`Group::age_of_first`]; `None` while the kernel hashes.
    pub fn age_of_first(&self, group: usize, listener: u32) -> Option<u32> {
        let group = self.groups[group];
        let is_steered = group.config.policy.get() != Policy::Hash as u32;
        is_steered.then(|| group.age_of_first(listener))
    }

    /// This many connections are open.
    pub fn active(&self, connections: u32) {
        self.each_load(|load| load.active.set(connections));
    }

    /// A request has been read and is being served.
    pub fn started(&self) {
        self.running.set(self.running.get() + 1);
        self.each_load(|load| load.running.set(self.running.get()));
    }

    /// A request is done with, be it answered or abandoned.
    pub fn finished(&self) {
        self.running.set(self.running.get().saturating_sub(1));
        self.each_load(|load| {
            load.running.set(self.running.get());
            load.served.bump(1);
        });
    }

    /// A request or connection was refused.
    pub fn refused(&self, refusal: Refusal) {
        self.each(|slot| slot.refused.0[refusal as usize].bump(1));
    }

    fn each(&self, write: impl Fn(&Slot)) {
        for group in self.groups() {
            write(&group.slots[self.slot]);
        }
    }

    fn each_idle(&self, idle: u8) {
        for group in self.groups() {
            group.idle.0[self.slot].set(idle);
        }
    }

    /// What scores are made of.
    fn each_load(&self, write: impl Fn(&Load)) {
        for group in self.groups() {
            write(&group.slots[self.slot].load);
            group.sum_up(self.slot as u32);
        }
    }

    /// Where to publish.
    fn groups(&self) -> &[&'static Group] {
        match self.is_silent.get() {
            true => &[],
            false => &self.groups,
        }
    }
}

/// Under the policy `hermes`: if all slept on, nobody would notice that the one
/// who got the last connection hangs.
const HERMES_TURN_NS: u64 = 5_000_000;

fn steers_by_hermes(group: &Group) -> bool {
    group.config.policy.get() == Policy::Hermes as u32
}

/// Where a starting worker joins the turns: with its siblings, or it would get
/// every connection until it had caught up with their past.
fn latest_turn(group: &Group) -> u32 {
    let workers = group.slots.iter().take(group.config.workers.get() as usize);
    let turns = workers.map(|slot| slot.load.turn.get());
    // Wrapping order, as the policies compare.
    turns
        .reduce(|a, b| if (a.wrapping_sub(b) as i32) < 0 { b } else { a })
        .unwrap_or(0)
}

/// `CLOCK_MONOTONIC` in ns, the clock of `bpf_ktime_get_ns`; read through the
/// vDSO, so without a system call.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_published_is_summed_up() {
        let group: &'static Group = Box::leak(Group::boxed());
        let published = Published::new(vec![group], 3);
        let steps: [fn(&Published); 7] = [
            |worker| worker.wakes(5),
            |worker| worker.accepted(0, 3),
            |worker| worker.active(2),
            Published::started,
            Published::finished,
            |worker| worker.active(0),
            Published::sleeps,
        ];
        let sum = &group.summaries[3].load;
        for (nth, step) in steps.iter().enumerate() {
            let before = sum.get();
            step(&published);
            let after = sum.get();
            assert_ne!(after, before, "step {nth} changes what scores are made of");
            group.sum_up(3);
            assert_eq!(after, sum.get(), "step {nth} has summed up");
        }
    }
}
