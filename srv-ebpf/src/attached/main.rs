//! The programs for attached servers, which publish nothing: [`steer_attached`] selects the listener
//! for a new connection by what the kernel knows of each, and [`count_live`] counts the connections
//! of each.
//!
//! If anything fails, the program counts the reason, and the kernel's hash chooses. The program also
//! notices by itself if the group differs from what user space said. Then the hash chooses, too, so
//! that a new worker gets connections with and without an agent.

#![no_std]
#![no_main]
// The attribute macro documents nothing of the functions that it generates.
#![allow(missing_docs)]
#![allow(internal_features)]
#![feature(core_intrinsics)]

mod closes;
#[path = "../counter.rs"]
mod counter;
mod kernel;
mod listener;
mod live;
#[path = "../packet.rs"]
mod packet;
mod scratch;
mod search;
mod view;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, sk_action::SK_PASS},
    macros::{map, sk_reuseport},
    maps::{Array, ReusePortSockArray},
    programs::SkReuseportContext,
};
use counter::add_one;
use srv_common::attached::{AttachedGroup, MAX_LISTENERS, Reason};
use srv_common::policy::attached::{How, choose};

/// The group that this copy of the program steers. User space maps it.
#[map]
static ATTACHED: Array<AttachedGroup> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The listening socket of each slot.
#[map]
static LISTENERS: ReusePortSockArray =
    ReusePortSockArray::with_max_entries(MAX_LISTENERS as u32, 0);

#[sk_reuseport]
pub(crate) fn steer_attached(ctx: SkReuseportContext) -> u32 {
    let Some(group) = ATTACHED.get(0) else {
        return SK_PASS;
    };
    match steer(&ctx, group) {
        Ok((slot, kind)) => {
            let seen = &group.slots[slot as usize & (MAX_LISTENERS - 1)].seen;
            match kind {
                Kind::Syn => add_one(&seen.steered),
                Kind::Ack => add_one(&seen.acks),
            };
        }
        Err(reason) => {
            add_one(&group.program.fallbacks.0[reason as usize]);
        }
    }
    SK_PASS
}

// Does nothing. Benches subtract the cost of a run of it.
#[sk_reuseport]
pub(crate) fn empty(_ctx: SkReuseportContext) -> u32 {
    SK_PASS
}

/// The segments for which the program chooses. If each handshake begins with a SYN cookie, both
/// have a run, and the choice at the ACK is the one that counts.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A connection request.
    Syn,
    /// An ACK that may bring a SYN cookie back.
    Ack,
}

#[inline(always)]
fn steer(ctx: &SkReuseportContext, group: &AttachedGroup) -> Result<(u32, Kind), Reason> {
    let flags = packet::flags(ctx).map_err(|_| Reason::Truncated)?;
    let kind = if packet::is_syn(flags) {
        Kind::Syn
    } else if packet::is_ack(flags) {
        Kind::Ack
    } else {
        return Err(Reason::NotSyn);
    };
    let mut view = view::Kernel::new(ctx, group, kind == Kind::Ack)?;
    let (slot, how) = choose(group.config.policy.get(), &mut view)?;
    match LISTENERS.select_reuseport(ctx, slot) {
        Ok(()) => {
            match how {
                How::Unseen => 0,
                How::Idle => add_one(&group.program.idle),
                How::Shortest => add_one(&group.program.shortest),
            };
            Ok((slot, kind))
        }
        Err(ENOENT) => Err(group.set_outdated(Reason::EmptySlot)),
        Err(_) => Err(Reason::SelectFailed),
    }
}

const ENOENT: i64 = -2;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel gives some helpers only to a program with a GPL-compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
