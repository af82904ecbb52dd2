//! What the select programs read from the packet of a new connection.

use aya_ebpf::helpers::bpf_skb_load_bytes_relative;
use aya_ebpf::programs::SkReuseportContext;

/// The packet ends before its TCP flags.
pub(crate) struct Truncated;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Whether TCP flags ask for a connection. The kernel also looks up listeners for stray segments
/// and for the ACK of a SYN cookie ([`is_ack`]).
#[inline(always)]
pub(crate) fn is_syn(flags: u8) -> bool {
    flags & (SYN | ACK) == SYN
}

/// Whether a segment with these TCP flags may bring a SYN cookie back. Without a cookie, the
/// kernel finds the half-open connection of an ACK, and looks up no listener. With a cookie, the
/// connection is accepted from the listener that is selected for the ACK (net/ipv4/syncookies.c:
/// cookie_v4_check).
#[inline(always)]
pub(crate) fn is_ack(flags: u8) -> bool {
    flags & (FIN | SYN | RST | ACK) == ACK
}

/// The packet's TCP flags.
#[inline(always)]
pub(crate) fn flags(ctx: &SkReuseportContext) -> Result<u8, Truncated> {
    const FLAGS_OFFSET: usize = 13;
    // The data begin with the TCP header.
    let data = ctx.data();
    if data + FLAGS_OFFSET + 1 > ctx.data_end() {
        return Err(Truncated);
    }
    // SAFETY: the bounds are checked above, as the verifier demands.
    Ok(unsafe { *((data + FLAGS_OFFSET) as *const u8) })
}

/// A hash of the client's address. If the address cannot be read, its words stay zero, and the
/// hash is the same for each such packet.
#[inline(always)]
pub(crate) fn source_hash(ctx: &SkReuseportContext) -> u32 {
    const ETH_P_IP: u32 = 0x0800;
    const IPV4_SOURCE_OFFSET: u32 = 12;
    const IPV6_SOURCE_OFFSET: u32 = 8;
    let mut address = [0u32; 4];
    if ctx.eth_protocol() == u32::from((ETH_P_IP as u16).to_be()) {
        load_from_ip_header(ctx, IPV4_SOURCE_OFFSET, address.as_mut_ptr(), 4);
    } else {
        load_from_ip_header(ctx, IPV6_SOURCE_OFFSET, address.as_mut_ptr(), 16);
    }
    let mut hash = 0x9e37_79b9u32;
    for word in address {
        hash = (hash ^ word).wrapping_mul(0x85eb_ca6b);
        hash ^= hash >> 15;
    }
    hash.wrapping_mul(0xc2b2_ae35)
}

#[inline(always)]
fn load_from_ip_header(ctx: &SkReuseportContext, offset: u32, to: *mut u32, bytes: u32) {
    const BPF_HDR_START_NET: u32 = 1;
    // SAFETY: `to` points to 16 bytes, `bytes` is 4 or 16.
    unsafe {
        bpf_skb_load_bytes_relative(ctx.md.cast(), offset, to.cast(), bytes, BPF_HDR_START_NET)
    };
}
