//! Counts the live connections of each listener. A connection carries the tag of the listener that it
//! came through.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE},
    helpers::generated::bpf_sk_storage_get,
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};
use srv_common::attached::{MAX_LISTENERS, Tag};

use crate::ATTACHED;
use crate::counter::add;

const BPF_F_CLONE: usize = 1 << 9;
const FLAGS: usize = BPF_F_NO_PREALLOC as usize | BPF_F_CLONE;

/// A socket storage map with values that connections inherit from their listener. It is like
/// `SkStorage` of aya, which cannot set `BPF_F_CLONE`.
#[repr(C)]
pub(crate) struct Tags {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const Tag,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the pointers are placeholders that the loader replaces. No code dereferences them.
unsafe impl Sync for Tags {}

#[btf_map]
static TAGS: Tags = Tags {
    r#type: core::ptr::null(),
    key: core::ptr::null(),
    value: core::ptr::null(),
    max_entries: core::ptr::null(),
    map_flags: core::ptr::null(),
};

const TCP_ESTABLISHED: i32 = 1;
const TCP_CLOSE_WAIT: i32 = 8;

/// `inet_sock_set_state(sk, oldstate, newstate)` (include/trace/events/sock.h). The program runs for
/// every socket of the machine. Sockets of other servers have no tag.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn count_live(ctx: BtfTracePointContext) -> i32 {
    let socket: *mut core::ffi::c_void = ctx.arg(0);
    let state: i32 = ctx.arg(2);
    // SAFETY: the tracepoint passes the socket. Without a flag the helper creates nothing.
    let tag = unsafe {
        bpf_sk_storage_get(
            (&raw const TAGS).cast_mut().cast(),
            socket,
            core::ptr::null_mut(),
            0,
        )
    }
    .cast::<Tag>();
    // SAFETY: the pointer is null, or points to the value of the socket. The kernel changes states
    // under the lock of the socket.
    if let Some(tag) = unsafe { tag.as_mut() } {
        count(tag, state);
    }
    0
}

/// A connection counts until the server has closed it. Segments that the client still sends after
/// that cost no worker anything.
#[inline(always)]
fn count(tag: &mut Tag, state: i32) {
    let Some(group) = ATTACHED.get(0) else { return };
    let nth = tag.slot as usize & (MAX_LISTENERS - 1);
    let (slot, live) = (&group.slots[nth].connections, &group.live.0[nth]);
    if slot.tag.get() != tag.tag {
        return;
    }
    if state == TCP_ESTABLISHED {
        tag.is_counted = 1;
        add(&slot.established, 1);
        add(live, 1);
        group.tracepoint.0.cursor.set(group.program.cursor.get());
    } else if state != TCP_CLOSE_WAIT && tag.is_counted != 0 {
        tag.is_counted = 0;
        add(live, u64::MAX);
    }
}
