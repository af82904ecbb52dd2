//! The select program: the kernel runs it for every new TCP connection to a
//! listener group and it names the worker's socket ([`steer`]).
//!
//! Whatever goes wrong is counted by reason and left to the kernel's hash:
//! the program only ever returns `SK_PASS`, since anything else would reset
//! the client's connection.
//!
//! It logs nothing: user space loads it with a constant log level of zero, and
//! the verifier removes the calls. `RUST_LOG=srv_ebpf=debug` loads it with them.

#![no_std]
#![no_main]
// The attribute macro documents nothing of the functions that it generates.
#![allow(missing_docs)]
#![allow(internal_features)]
#![feature(core_intrinsics)]

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, sk_action::SK_PASS},
    helpers::{bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_skb_load_bytes_relative},
    macros::{map, sk_reuseport},
    maps::{Array, ReusePortSockArray},
    programs::SkReuseportContext,
};
use aya_log_ebpf::debug;
use srv_common::{Group, Host, MAX_WORKERS, Reason, Shared, choose};

/// The one group that this copy of the program steers, mapped by user space.
#[map]
static GROUP: Array<Group> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Slot number to listening socket.
#[map]
static LISTENERS: ReusePortSockArray = ReusePortSockArray::with_max_entries(MAX_WORKERS as u32, 0);

#[sk_reuseport]
pub fn select(ctx: SkReuseportContext) -> u32 {
    let Some(group) = GROUP.get(0) else {
        return SK_PASS;
    };
    match steer(&ctx, group) {
        Ok(slot) => {
            add_one(
                &group.slots[slot as usize & (MAX_WORKERS - 1)]
                    .steering
                    .steered,
            );
            debug!(&ctx, "steered to slot {}", slot);
        }
        Err(reason) => {
            add_one(&group.program.fallbacks[reason as usize]);
            debug!(&ctx, "left to the hash, reason {}", reason as u32);
        }
    }
    SK_PASS
}

// Does nothing; benches subtract what a run of it costs.
#[sk_reuseport]
pub fn empty(_ctx: SkReuseportContext) -> u32 {
    SK_PASS
}

// Always selects slot 0: benches tell by it what the select helper costs.
#[sk_reuseport]
pub fn first(ctx: SkReuseportContext) -> u32 {
    let _ = LISTENERS.select_reuseport(&ctx, 0);
    SK_PASS
}

#[inline(always)]
fn steer(ctx: &SkReuseportContext, group: &Group) -> Result<u32, Reason> {
    if !is_connection_request(ctx)? {
        return Err(Reason::NotSyn);
    }
    let slot = choose(group, &mut Kernel { ctx, group })?;
    match LISTENERS.select_reuseport(ctx, slot) {
        Ok(()) => Ok(slot),
        Err(ENOENT) => Err(Reason::EmptySlot),
        Err(EBADFD) => Err(Reason::OtherGroup),
        Err(_) => Err(Reason::SelectFailed),
    }
}

const ENOENT: i64 = -2;
const EBADFD: i64 = -77;

/// Listener lookups also happen for stray segments and for the ACK of a SYN
/// cookie; only a SYN is a connection to be assigned.
#[inline(always)]
fn is_connection_request(ctx: &SkReuseportContext) -> Result<bool, Reason> {
    const FLAGS_OFFSET: usize = 13;
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    // The data start at the TCP header.
    let data = ctx.data();
    if data + FLAGS_OFFSET + 1 > ctx.data_end() {
        return Err(Reason::Truncated);
    }
    // SAFETY: bounds checked above, as the verifier demands.
    let flags = unsafe { *((data + FLAGS_OFFSET) as *const u8) };
    Ok(flags & (SYN | ACK) == SYN)
}

/// The policies' view of the running kernel.
struct Kernel<'a> {
    ctx: &'a SkReuseportContext,
    group: &'a Group,
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
        const ETH_P_IP: u32 = 0x0800;
        const IPV4_SOURCE_OFFSET: u32 = 12;
        const IPV6_SOURCE_OFFSET: u32 = 8;
        let mut address = [0u32; 4];
        if self.ctx.eth_protocol() == u32::from((ETH_P_IP as u16).to_be()) {
            self.load_from_ip_header(IPV4_SOURCE_OFFSET, address.as_mut_ptr(), 4);
        } else {
            self.load_from_ip_header(IPV6_SOURCE_OFFSET, address.as_mut_ptr(), 16);
        }
        let mut hash = 0x9e37_79b9u32;
        for word in address {
            hash = (hash ^ word).wrapping_mul(0x85eb_ca6b);
            hash ^= hash >> 15;
        }
        hash.wrapping_mul(0xc2b2_ae35)
    }

    #[inline(always)]
    fn flow_hash(&mut self) -> u32 {
        self.ctx.hash()
    }

    #[inline(always)]
    fn advance_cursor(&mut self) -> u32 {
        add_one(&self.group.program.cursor) as u32
    }
}

impl Kernel<'_> {
    /// An address that cannot be read hashes as zero: every packet agrees.
    #[inline(always)]
    fn load_from_ip_header(&self, offset: u32, to: *mut u32, bytes: u32) {
        const BPF_HDR_START_NET: u32 = 1;
        // SAFETY: `to` points to 16 bytes, `bytes` is 4 or 16.
        unsafe {
            bpf_skb_load_bytes_relative(
                self.ctx.md.cast(),
                offset,
                to.cast(),
                bytes,
                BPF_HDR_START_NET,
            )
        };
    }
}

/// Adds one and returns what was there before. Runs on any CPU at once, so it
/// has to be atomic.
///
/// SeqCst on purpose: with Relaxed, LLVM 22 emits the non-fetching `lock +=`
/// and takes the operand for the result. `tests` looks for that.
#[inline(always)]
fn add_one(counter: &Shared<u64>) -> u64 {
    // SAFETY: the pointer comes from a reference.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
            counter.as_ptr(),
            1,
        )
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
