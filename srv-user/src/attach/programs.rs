//! The BPF programs that steer one listener group of another server: loading,
//! the sockets, attaching, what they have counted. Knows slots and sockets, no
//! processes.
//!
//! The select program and its maps live with the group: it goes on steering
//! when this process ends, however it ends, and leaves a group that has changed
//! since to the kernel's hash. The tracepoint program that counts live
//! connections ends with this process. It is not pinned: nobody would be left
//! to take the pin away when the server ends. The select program notices, and
//! goes by queues and sleepers alone.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd as _};

use anyhow::{Context as _, bail, ensure};
use aya::maps::{MapData, ReusePortSockArray, SkStorage};
use aya::programs::{BtfTracePoint, SkReuseport};
use aya::{Btf, Ebpf, Pod};
use srv_common::Policy;
use srv_common::attached::{AttachedGroup, MAX_LISTENERS, Reason, Sleep, Tag};
use srv_common::policy::About;

use super::select::{self, Loaded, Reads, SELECT};
use super::signals::{Signal, Signals};
use crate::values::policies;
use srv_steer::program;

/// The programs with their memory, for one listener group. Dropping it detaches
/// nothing: the select program stays as long as the group has it.
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
    /// Runs of the select program: assigned or left to the hash.
    pub runs: u64,
    /// Connections assigned to a listener that was idle and empty.
    pub idle: u64,
    /// Connections assigned to the least outstanding work, nobody being idle.
    pub shortest: u64,
    /// How often the chain from a listener to its epoll was walked.
    pub walks: u64,
    /// Runs left to the kernel's hash, by reason.
    pub fallbacks: BTreeMap<String, u64>,
}

/// One listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotSnapshot {
    /// Whether it is in the socket array.
    pub is_member: bool,
    /// Connections assigned to it.
    pub steered: u64,
    /// Live connections that came through it since it was inserted; 0 if they
    /// are not counted.
    pub live: u64,
    /// Connections that came through it since the program was loaded.
    pub established: u64,
    /// Accept queue when the program last looked.
    pub queued: u32,
    /// Half-open connections when the program last looked.
    pub half_open: u32,
    /// `asleep`, `busy`, `gone` (nobody waits there any more) or `unknown`
    /// (nobody waits there by epoll) when the program last looked.
    pub sleep: &'static str,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct TagValue(Tag);

// SAFETY: four integers without implicit padding.
unsafe impl Pod for TagValue {}

impl Programs {
    /// Loads the programs; they steer nothing yet. A signal that cannot be had
    /// is left out ([`Programs::signals`]).
    ///
    /// # Errors
    /// This build carries no program, the kernel refuses the select program
    /// even without signals, or `policy` needs what only srv's own workers tell.
    pub fn load(policy: Policy) -> anyhow::Result<Self> {
        Self::load_reading(policy, Reads::Directly)
    }

    /// The same, but kernel memory is read at best so.
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
        signals.live = count_live(&mut ebpf).into();
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

    /// What the program goes by.
    pub fn signals(&self) -> &Signals {
        &self.signals
    }

    /// Makes `socket`, whose `SO_COOKIE` is `cookie`, the listener of `slot`.
    /// The kernel keeps no reference: close the copy at once, or a dead worker's
    /// listener would live on in it.
    ///
    /// # Errors
    /// `EINVAL` if the socket does not listen or was bound without
    /// `SO_REUSEPORT`, `EBUSY` if another array has it already, or `slot` is
    /// beyond [`MAX_LISTENERS`].
    pub fn insert(&mut self, slot: u32, socket: &impl AsFd, cookie: u64) -> anyhow::Result<()> {
        let nth = slot as usize;
        ensure!(
            nth < MAX_LISTENERS,
            "insert listener {slot}: srv steers groups of up to {MAX_LISTENERS}"
        );
        let fd = socket.as_fd();
        // Whose connections count in the slot from now on.
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

    /// `slot` has no listener any more (it is gone from the array by itself if
    /// it was closed).
    pub fn remove(&mut self, slot: u32) {
        let nth = slot as usize;
        if nth >= MAX_LISTENERS {
            return;
        }
        if let Ok(mut listeners) = listeners(&mut self.ebpf) {
            // ENOENT: it was closed before.
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

    /// The group has this many listeners, all of them inserted: from now on the
    /// program chooses, as long as the group is that. 0: the kernel chooses.
    pub fn set_members(&mut self, members: u32) {
        let config = &self.memory.config;
        config.members.set(0);
        config.generation.bump(1);
        config.members.set(members);
    }

    /// From now on the program decides for the group of `socket`, and for no
    /// other. Replaces whatever program the group had.
    ///
    /// # Errors
    /// What `SO_ATTACH_REUSEPORT_EBPF` says.
    pub fn attach(&mut self, socket: &impl AsFd) -> anyhow::Result<()> {
        let program = self.program(SELECT)?;
        program.attach(socket).context("attach the select program")
    }

    /// Leaves the choice to the kernel's hash again, whoever attached what.
    ///
    /// # Errors
    /// What `SO_DETACH_REUSEPORT_BPF` says: `ENOENT` if nothing is attached.
    pub fn detach(socket: &impl AsFd) -> anyhow::Result<()> {
        SkReuseport::detach(socket).context("detach the select program")
    }

    /// Chooses by `policy` from now on.
    ///
    /// # Errors
    /// It needs what only srv's own workers tell.
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
        let assigned: u64 = self
            .memory
            .slots
            .iter()
            .map(|slot| slot.seen.steered.get())
            .sum();
        Snapshot {
            runs: assigned + fallbacks.clone().sum::<u64>(),
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

    /// The program of that name, loaded: `steer_attached`, or `empty` for benches.
    ///
    /// # Errors
    /// If there is none, or the kernel refuses it.
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
            live: self.memory.live.0[slot].get(),
            established: at.connections.established.get(),
            queued: at.seen.queued.get(),
            half_open: at.seen.half_open.get(),
            sleep: Sleep::name(at.seen.sleep.get()),
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
        // Its program's link ends here; the select program may go on.
        self.memory.config.counts_live.set(0);
    }
}

/// Has the kernel run the program that counts live connections.
fn count_live(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    let btf = Btf::from_sys_fs().context("read the kernel's BTF")?;
    let program = ebpf.program_mut("count_live");
    let program: &mut BtfTracePoint = program.context("find program count_live")?.try_into()?;
    program
        .load("inet_sock_set_state", &btf)
        .context("load the program that counts connections (needs CAP_PERFMON)")?;
    program
        .attach()
        .context("attach to tracepoint inet_sock_set_state")?;
    Ok(())
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
