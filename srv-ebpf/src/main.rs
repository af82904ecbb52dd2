//! The select program: the kernel runs it for every new TCP connection to a listener group, and
//! the program selects the socket of a worker ([`steer`]). Beside it, a program records when
//! connections were established (`established`).
//!
//! If anything fails, the program counts the reason and leaves the choice to the kernel's hash. It
//! returns nothing but `SK_PASS`, since any other verdict would reset the client's connection.
//!
//! The program logs nothing by default: user space loads it with a constant log level of zero, and
//! the verifier removes the calls. `RUST_LOG=srv_ebpf=debug` loads it with them.

#![no_std]
#![no_main]
// The attribute macro documents nothing of the functions that it generates.
#![allow(missing_docs)]
#![allow(internal_features)]
#![feature(core_intrinsics)]

mod counter;
mod established;
mod packet;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, sk_action::SK_PASS},
    helpers::{bpf_get_prandom_u32, bpf_get_smp_processor_id},
    macros::{map, sk_reuseport},
    maps::{Array, ReusePortSockArray},
    programs::SkReuseportContext,
};
use aya_log_ebpf::debug;
use counter::{add, add_one};
use srv_common::{Group, Host, MAX_WORKERS, Reason, choose};

/// The one group that this copy of the program steers, mapped by user space.
#[map]
static GROUP: Array<Group> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Slot number to listening socket.
#[map]
static LISTENERS: ReusePortSockArray = ReusePortSockArray::with_max_entries(MAX_WORKERS as u32, 0);

#[sk_reuseport]
pub(crate) fn select(ctx: SkReuseportContext) -> u32 {
    let Some(group) = GROUP.get(0) else {
        return SK_PASS;
    };
    match steer(&ctx, group) {
        Ok((slot, Kind::Connection)) => {
            let steering = &group.steering[slot as usize & (MAX_WORKERS - 1)];
            group.deal_ticket(slot, add_one(&steering.steered));
            debug!(&ctx, "steered to slot {}", slot);
        }
        Ok((_, Kind::Forgotten)) => {}
        Ok((slot, Kind::Returning)) => {
            let steering = &group.steering[slot as usize & (MAX_WORKERS - 1)];
            add_one(&steering.acks);
        }
        Err(reason) => {
            add_one(&group.program.fallbacks[reason as usize]);
            debug!(&ctx, "left to the hash, reason {}", reason as u32);
        }
    }
    SK_PASS
}

// Does nothing. Benches subtract what a run of it costs.
#[sk_reuseport]
pub(crate) fn empty(_ctx: SkReuseportContext) -> u32 {
    SK_PASS
}

// Always selects slot 0. Benches measure by it what the select helper costs.
#[sk_reuseport]
pub(crate) fn first(ctx: SkReuseportContext) -> u32 {
    let _ = LISTENERS.select_reuseport(&ctx, 0);
    SK_PASS
}

/// What a segment means for which the kernel looks up a listener.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A connection to be assigned: a SYN, or, if each handshake begins with a SYN cookie, the ACK
    /// that brings the cookie back.
    Connection,
    /// A SYN that the kernel answers with a SYN cookie and forgets, as each if `cookies_always` is
    /// set. The choice matters only if the accept queue of the listener is full: the kernel then
    /// drops the SYN.
    Forgotten,
    /// An ACK that may bring back a SYN cookie of a flood. Its connection is accepted from the
    /// listener that the program selects now, but was counted when its SYN came.
    Returning,
}

impl Kind {
    #[inline(always)]
    fn of(flags: u8, group: &Group) -> Option<Self> {
        let begins_with_cookie = group.config.cookies_always.get() != 0;
        match (packet::is_syn(flags), packet::is_ack(flags)) {
            (true, _) if begins_with_cookie => Some(Self::Forgotten),
            (_, true) if !begins_with_cookie => Some(Self::Returning),
            (false, false) => None,
            _ => Some(Self::Connection),
        }
    }

    /// [`Host::waiting_mask`].
    #[inline(always)]
    fn waiting_mask(self) -> u64 {
        if self == Self::Returning { 0 } else { u64::MAX }
    }

    /// Which bits of a movement of the cursor count. If both the SYN and the ACK of a connection
    /// moved it, only every other worker would get a connection.
    #[inline(always)]
    fn cursor_mask(self) -> u64 {
        if self == Self::Forgotten { 0 } else { u64::MAX }
    }
}

#[inline(always)]
fn steer(ctx: &SkReuseportContext, group: &Group) -> Result<(u32, Kind), Reason> {
    let flags = packet::flags(ctx).map_err(|_| Reason::Truncated)?;
    let kind = Kind::of(flags, group).ok_or(Reason::NotSyn)?;
    let mut kernel = Kernel {
        ctx,
        group,
        waiting_mask: kind.waiting_mask(),
        cursor_mask: kind.cursor_mask(),
    };
    let slot = choose(group, &mut kernel)?;
    match LISTENERS.select_reuseport(ctx, slot) {
        Ok(()) => {
            if kind != Kind::Forgotten {
                group.advance_virtual_time(slot);
            }
            Ok((slot, kind))
        }
        Err(ENOENT) => Err(Reason::EmptySlot),
        Err(EBADFD) => Err(Reason::OtherGroup),
        Err(_) => Err(Reason::SelectFailed),
    }
}

const ENOENT: i64 = -2;
const EBADFD: i64 = -77;

/// What the policies ask of the running kernel.
struct Kernel<'a> {
    ctx: &'a SkReuseportContext,
    group: &'a Group,
    waiting_mask: u64,
    cursor_mask: u64,
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
        add(&self.group.program.cursor, 1 & self.cursor_mask) as u32
    }

    #[inline(always)]
    fn skip(&mut self, places: u32) {
        let places = u64::from(places) & self.cursor_mask;
        add(&self.group.program.cursor, places);
    }

    #[inline(always)]
    fn waiting_mask(&mut self) -> u64 {
        self.waiting_mask
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Without a GPL-compatible licence the kernel withholds helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
