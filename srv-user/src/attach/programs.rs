//! The BPF programs that steer one listener group of an attached server: loading them, giving
//! them the sockets, attaching, and reading what they have counted. Knows slots and sockets, and
//! no processes.
//!
//! The select program and its maps live as long as the group. When this process ends, in
//! whichever way, the program goes on steering. If the group changes after that, the program
//! leaves the choice to the kernel's hash.
//!
//! The tracepoint program that counts live connections ends with this process. It is not pinned,
//! because no process would remove the pin when the server ends. The select program notices that
//! the counts have stopped, and goes by queues and sleeping workers alone.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd as _};

use anyhow::{Context as _, bail, ensure};
use aya::maps::{MapData, ReusePortSockArray, SkStorage};
use aya::programs::SkReuseport;
use aya::{Ebpf, Pod};
use srv_common::Policy;
use srv_common::attached::{AttachedGroup, MAX_LISTENERS, Reason, Sleep, Tag};
use srv_common::policy::About;

use super::select::{self, Loaded, Reads, SELECT};
use super::signals::Signals;
use super::tracepoint;
use crate::control::attached::Signal;
use crate::values::policies;
use srv_steer::program;

/// The programs with their memory, for one listener group. Dropping this detaches nothing: the
/// select program stays as long as the group.
pub struct Programs {
    ebpf: Ebpf,
    memory: &'static AttachedGroup,
    reads: Reads,
    signals: Signals,
    /// Slots that have a listener.
    slots: [bool; MAX_LISTENERS],
}

/// What the programs have counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// One per slot, up to the last one in use.
    pub slots: Vec<SlotSnapshot>,
    /// Runs of the select program: assigned, given an ACK, or left to the hash.
    pub runs: u64,
    /// SYNs assigned to a listener.
    pub steered: u64,
    /// ACKs given to a listener ([`SlotSnapshot::acks`]).
    pub acks: u64,
    /// SYNs and ACKs assigned to a listener that was idle and empty.
    pub idle: u64,
    /// SYNs and ACKs assigned to the listener with the least outstanding work, because no worker
    /// was idle.
    pub shortest: u64,
    /// How often the program followed the pointers from a listener to its epoll instance.
    pub walks: u64,
    /// Runs that left the choice to the kernel's hash, by reason.
    pub fallbacks: BTreeMap<String, u64>,
}

/// What the programs have counted and seen of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSnapshot {
    /// Whether it is in the socket array.
    pub is_member: bool,
    /// SYNs assigned to it.
    pub steered: u64,
    /// ACKs that belong to no connection and were given to it: SYN cookies that come back, whose
    /// connections are accepted here, and strays.
    pub acks: u64,
    /// Live connections that came through it since it was inserted; 0 if the program does not
    /// count them.
    pub live: u64,
    /// Connections that came through it since the program was loaded.
    pub established: u64,
    /// Length of the accept queue when the program last looked.
    pub queued: u32,
    /// Half-open connections when the program last looked.
    pub half_open: u32,
    /// What its worker did when the program last looked.
    pub sleep: Sleep,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct TagValue(Tag);

// SAFETY: four integers without implicit padding.
unsafe impl Pod for TagValue {}

impl Programs {
    /// Loads the programs; they steer nothing yet. If the kernel cannot give a signal, the
    /// programs go without it ([`Programs::signals`]).
    ///
    /// # Errors
    /// This build carries no program, the kernel refuses the select program even without signals,
    /// or attached servers do not have `policy`.
    pub fn load(policy: Policy) -> anyhow::Result<Self> {
        Self::load_reading(policy, Reads::Directly)
    }

    /// As [`Programs::load`], but the program reads kernel memory in no better way than `at_best`.
    ///
    /// # Errors
    /// As [`Programs::load`].
    pub fn load_reading(policy: Policy, at_best: Reads) -> anyhow::Result<Self> {
        let Loaded {
            mut ebpf,
            reads,
            mut signals,
        } = select::load(at_best)?;
        let memory = map(&ebpf)?;
        signals.live = tracepoint::attach(&mut ebpf, "count_live").into();
        let is_counted = signals.live == Signal::Known;
        memory.config.counts_live.set(is_counted.into());
        let mut programs = Self {
            ebpf,
            memory,
            reads,
            signals,
            slots: [false; MAX_LISTENERS],
        };
        programs.set_policy(policy)?;
        Ok(programs)
    }

    /// How the program reads kernel memory.
    pub fn reads(&self) -> Reads {
        self.reads
    }

    /// Which signals the program goes by.
    pub fn signals(&self) -> &Signals {
        &self.signals
    }

    /// Makes `socket`, which has the `SO_COOKIE` `cookie`, the listener of `slot`. The kernel
    /// keeps no reference to `socket`. Close it at once: a copy that stays open keeps the listener
    /// of a dead worker open.
    ///
    /// # Errors
    /// `EINVAL` if the socket does not listen or was bound without `SO_REUSEPORT`, `EBUSY` if it
    /// is in another array already, or `slot` is not below [`MAX_LISTENERS`].
    pub fn insert(&mut self, slot: u32, socket: &impl AsFd, cookie: u64) -> anyhow::Result<()> {
        let nth = slot as usize;
        ensure!(
            nth < MAX_LISTENERS,
            "insert the listener of slot {slot}: srv steers groups of at most {MAX_LISTENERS} sockets; \
             start fewer workers"
        );
        let fd = socket.as_fd();
        // Only connections with this tag count in the slot from now on.
        let connections = &self.memory.slots[nth].connections;
        let tag = connections.tag.get().wrapping_add(1);
        connections.tag.set(tag);
        self.memory.live.0[nth].set(0);
        if self.signals.live == Signal::Known {
            let value = TagValue(Tag {
                slot,
                tag,
                ..Tag::default()
            });
            tags(&mut self.ebpf)?
                .insert(&fd.as_raw_fd(), value, 0)
                .with_context(|| format!("mark the listener of slot {slot}"))?;
        }
        listeners(&mut self.ebpf)?
            .set(slot, &fd.as_raw_fd(), 0)
            .with_context(|| format!("insert the listener of slot {slot} into the socket array"))?;
        self.memory.cookies[nth].set(cookie);
        self.slots[nth] = true;
        self.publish_list();
        Ok(())
    }

    /// Records that `slot` has no listener any more. If the listener was closed, the kernel has
    /// removed it from the array already.
    pub fn remove(&mut self, slot: u32) {
        let nth = slot as usize;
        if nth >= MAX_LISTENERS {
            return;
        }
        if let Ok(mut listeners) = listeners(&mut self.ebpf) {
            // ENOENT means that the kernel has removed it.
            let _ = listeners.clear_index(&slot);
        }
        self.memory.cookies[nth].set(0);
        let seen = &self.memory.slots[nth].seen;
        seen.epoll_seen.set(0);
        seen.sleep.set(Sleep::Unknown as u32);
        let connections = &self.memory.slots[nth].connections;
        connections.tag.bump(1);
        self.memory.live.0[nth].set(0);
        self.slots[nth] = false;
        self.publish_list();
    }

    /// Tells the program that the group has this many listeners and that all of them are
    /// inserted. From now on the program chooses, as long as the group has exactly these
    /// listeners. With 0 the kernel chooses.
    pub fn set_members(&mut self, members: u32) {
        let config = &self.memory.config;
        config.members.set(0);
        config.generation.bump(1);
        config.members.set(members);
    }

    /// Attaches the select program to the group of `socket`. If the group has another program,
    /// this replaces it.
    ///
    /// # Errors
    /// The error of `SO_ATTACH_REUSEPORT_EBPF`.
    pub fn attach(&mut self, socket: &impl AsFd) -> anyhow::Result<()> {
        let program = self.program(SELECT)?;
        program.attach(socket).context("attach the select program")
    }

    /// Removes the program of the group of `socket`, also one that another process attached. From
    /// now on the kernel's hash chooses.
    ///
    /// # Errors
    /// The error of `SO_DETACH_REUSEPORT_BPF`; `ENOENT` if no program is attached.
    pub fn detach(socket: &impl AsFd) -> anyhow::Result<()> {
        SkReuseport::detach(socket).context("detach the select program")
    }

    /// Makes the program choose by `policy` from now on.
    ///
    /// # Errors
    /// Attached servers do not have this policy.
    pub fn set_policy(&mut self, policy: Policy) -> anyhow::Result<()> {
        let About { name, attached, .. } = policy.about();
        // Under hash the program leaves each choice to the kernel.
        if policy != Policy::Hash
            && let Err(why) = attached
        {
            let names = policies::of_attached().join(", ");
            bail!("steer by {name}: it {why}; choose one of {names}");
        }
        self.memory.config.policy.set(policy as u32);
        Ok(())
    }

    /// What the programs have counted so far.
    pub fn snapshot(&self) -> Snapshot {
        let program = &self.memory.program;
        let used = self.slots.iter().rposition(|is_member| *is_member);
        let slots: Vec<_> = (0..used.map_or(0, |last| last + 1))
            .map(|slot| self.slot_snapshot(slot))
            .collect();
        let fallbacks = program.fallbacks.0.iter().map(|count| count.get());
        let seen = || self.memory.slots.iter().map(|slot| &slot.seen);
        let steered: u64 = seen().map(|seen| seen.steered.get()).sum();
        let acks: u64 = seen().map(|seen| seen.acks.get()).sum();
        Snapshot {
            runs: steered + acks + fallbacks.clone().sum::<u64>(),
            steered,
            acks,
            idle: program.idle.get(),
            shortest: program.shortest.get(),
            walks: program.walks.get(),
            fallbacks: Reason::NAMES
                .map(str::to_owned)
                .into_iter()
                .zip(fallbacks)
                .collect(),
            slots,
        }
    }

    /// Loads the program of that name, if it is not loaded yet: `steer_attached`, or `empty` for
    /// benches.
    ///
    /// # Errors
    /// There is no such program, or the kernel refuses it.
    pub fn program(&mut self, name: &str) -> anyhow::Result<&mut SkReuseport> {
        Ok(program::program(&mut self.ebpf, name)?)
    }

    /// The kernel's id of the select program; 0 if the kernel does not tell.
    pub fn program_id(&self) -> u32 {
        let program = self.ebpf.program(SELECT);
        program
            .and_then(|program| program.info().ok())
            .map_or(0, |info| info.id())
    }

    fn slot_snapshot(&self, slot: usize) -> SlotSnapshot {
        let at = &self.memory.slots[slot];
        SlotSnapshot {
            is_member: self.slots[slot],
            steered: at.seen.steered.get(),
            acks: at.seen.acks.get(),
            live: self.memory.live.0[slot].get(),
            established: at.connections.established.get(),
            queued: at.seen.queued.get(),
            half_open: at.seen.half_open.get(),
            sleep: Sleep::of(at.seen.sleep.get()),
        }
    }

    fn publish_list(&self) {
        let used = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, is_member)| **is_member);
        for (entry, (slot, _)) in self.memory.list.iter().zip(used) {
            entry.set(slot as u16);
        }
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        // The link of the tracepoint program ends here. The select program may go on.
        self.memory.config.counts_live.set(0);
    }
}

fn map(ebpf: &Ebpf) -> anyhow::Result<&'static AttachedGroup> {
    let memory = program::shared_array::<AttachedGroup>(ebpf, "ATTACHED")?;
    Ok(memory.map().context("map array ATTACHED")?.leak())
}

fn listeners(ebpf: &mut Ebpf) -> anyhow::Result<ReusePortSockArray<&mut MapData>> {
    let map = ebpf.map_mut("LISTENERS").context("find map LISTENERS")?;
    Ok(ReusePortSockArray::try_from(map)?)
}

fn tags(ebpf: &mut Ebpf) -> anyhow::Result<SkStorage<&mut MapData, TagValue>> {
    let map = ebpf.map_mut("TAGS").context("find map TAGS")?;
    Ok(SkStorage::try_from(map)?)
}
