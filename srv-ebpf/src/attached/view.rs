//! The state of an attached group as the policies see it, for one run of the program.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_get_smp_processor_id};
use aya_ebpf::programs::SkReuseportContext;
use srv_common::Host;
use srv_common::attached::{AttachedGroup, MAX_LISTENERS, Reason};
use srv_common::branchless::bounded;
use srv_common::policy::attached::{Found, Listeners, Look, View, Window};

use crate::counter::{add, add_one};
use crate::kernel::{offset, read, reads_directly};
use crate::listener::FAILED;
use crate::packet;
use crate::scratch::Scratch;
use crate::search::{Group, NONE, search_idle, search_shortest};

/// The state of the group and the packet, for one run.
pub(crate) struct Kernel<'a> {
    ctx: &'a SkReuseportContext,
    group: &'a AttachedGroup,
    scratch: Scratch,
    listeners: Group<'a>,
    is_ack: bool,
}

impl<'a> Kernel<'a> {
    /// The view for a SYN, or for an ACK that may bring a SYN cookie back.
    ///
    /// # Errors
    /// This does not happen, since an array always has its first entry.
    #[inline(always)]
    pub(crate) fn new(
        ctx: &'a SkReuseportContext,
        group: &'a AttachedGroup,
        is_ack: bool,
    ) -> Result<Self, Reason> {
        let half_open_mask = if is_ack { 0 } else { u32::MAX };
        Ok(Self {
            ctx,
            group,
            scratch: Scratch::of_this_cpu().ok_or(Reason::NoMembers)?,
            listeners: Group::new(group, 0, half_open_mask),
            is_ack,
        })
    }

    /// Reads the group at `address`: whether it has the expected number of sockets, and room for more.
    /// If a full group grows, the kernel replaces it by a larger one at another address.
    #[inline(always)]
    fn read_group(&mut self, address: u64, members: u32) -> Option<Size> {
        let (num, max) = self.scratch.sizes(address)?;
        Some(Size {
            is_expected: u32::from(num) == members,
            is_full: num >= max,
        })
    }

    /// Whether the remembered address is still that of the group, which saves two reads. If reads are
    /// plain loads, the program does not use the remembered address.
    #[inline(always)]
    fn remembers_group(&mut self, members: u32) -> bool {
        let known = self.group.program.reuseport.get();
        !reads_directly()
            && self
                .read_group(known, members)
                .is_some_and(|size| size.is_expected && !size.is_full)
    }
}

/// The number of sockets of the group, compared with the expected number and with its room.
struct Size {
    is_expected: bool,
    is_full: bool,
}

impl View for Kernel<'_> {
    #[inline(always)]
    fn members(&mut self) -> Result<u32, Reason> {
        let members = self.group.config.members.get();
        if members == 0 {
            return Err(Reason::NoMembers);
        }
        let program = &self.group.program;
        if program.outdated.get() == self.group.config.generation.get().wrapping_add(1) {
            return Err(if program.outdated_by.get() == Reason::EmptySlot as u32 {
                Reason::EmptySlot
            } else {
                Reason::UnknownMember
            });
        }
        if offset!(reads_queues) == 0 {
            return Ok(members);
        }
        if self.remembers_group(members) {
            return Ok(members);
        }
        let context = self.ctx.md as u64 + u64::from(offset!(context_sk));
        let socket = read::<u64>(context).ok_or(Reason::GroupSize)?;
        let group = read::<u64>(socket + u64::from(offset!(sk_reuseport_cb)));
        let group = group.ok_or(Reason::GroupSize)?;
        program.reuseport.set(group);
        match self.read_group(group, members) {
            Some(size) if size.is_expected => Ok(members),
            _ => Err(Reason::GroupSize),
        }
    }

    #[inline(always)]
    fn idle(&mut self, window: Window) -> Result<Option<Found>, Reason> {
        let Group {
            turn,
            half_open_mask,
            ..
        } = self.listeners;
        match search_idle(window.start, window.members, turn, half_open_mask) {
            NONE => Ok(None),
            found if found & FAILED != 0 => Err(Reason::UnknownMember),
            found => Ok(Some(Found(found))),
        }
    }

    #[inline(always)]
    fn shortest(&mut self, window: Window) -> Result<Found, Reason> {
        let half_open_mask = self.listeners.half_open_mask;
        match search_shortest(window.start, window.members, half_open_mask) {
            found if found & FAILED != 0 => Err(Reason::UnknownMember),
            found => Ok(Found(found)),
        }
    }

    #[inline(always)]
    fn is_member(&mut self, slot: u32) -> bool {
        self.group.cookies[bounded(slot, MAX_LISTENERS)].get() != 0
    }
}

impl Listeners for Kernel<'_> {
    #[inline(always)]
    fn look(&mut self, place: u32, window: Window) -> Result<Look, Reason> {
        self.listeners.look(place, window)
    }

    #[inline(always)]
    fn waiting(&mut self, place: u32, window: Window) -> Result<Look, Reason> {
        self.listeners.waiting(place, window)
    }

    #[inline(always)]
    fn live(&mut self, slot: u32) -> u32 {
        self.listeners.live(slot)
    }

    #[inline(always)]
    fn nth_slot(&mut self, nth: u32) -> u32 {
        self.listeners.nth_slot(nth)
    }
}

impl Host for Kernel<'_> {
    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn cpu(&mut self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_smp_processor_id() }
    }

    #[inline(always)]
    fn source_hash(&mut self) -> u32 {
        packet::source_hash(self.ctx)
    }

    #[inline(always)]
    fn flow_hash(&mut self) -> u32 {
        self.ctx.hash()
    }

    #[inline(always)]
    fn advance_cursor(&mut self) -> u32 {
        let program = &self.group.program;
        let (cursor, skipped) = if self.is_ack {
            (add_one(&program.ack_cursor), 0)
        } else {
            (add_one(&program.cursor), program.skipped.get())
        };
        self.listeners.turn = (cursor as u32).wrapping_mul(0x9e37_79b1);
        cursor.wrapping_add(skipped) as u32
    }

    // At a SYN this is not added to the cursor, which counts SYNs (`AttachedGroup::counts_live`).
    #[inline(always)]
    fn skip(&mut self, places: u32) {
        let program = &self.group.program;
        let skipped = if self.is_ack {
            &program.ack_cursor
        } else {
            &program.skipped
        };
        add(skipped, places.into());
    }
}
