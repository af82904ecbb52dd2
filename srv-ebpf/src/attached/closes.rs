//! Counts how many connections of one port each thread closes. `srv observe` derives the shares of
//! the workers from these counts. The kernel has no tracepoint for an accept, and a program at each
//! system call would slow down all processes of the machine. A close is one change of state for each
//! connection.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::{btf_tracepoint, map};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::BtfTracePointContext;
use srv_common::observed::{MAX_CLOSERS, Observed};

use crate::kernel::read;

#[unsafe(no_mangle)]
static OBSERVED: Observed = Observed {
    port: 0,
    skc_num: 0,
};

/// A field of [`OBSERVED`]. The read is volatile, because user space sets the value after the
/// compiler has seen it.
macro_rules! observed {
    ($field:ident) => {
        // SAFETY: a reference to a static.
        unsafe { core::ptr::read_volatile(&raw const OBSERVED.$field) }
    };
}

/// The number of connections that each thread has closed. The key is the process id (upper half) and
/// the thread id, in the first PID namespace. Only that thread writes its entry.
#[map]
static CLOSES: HashMap<u64, u64> = HashMap::with_max_entries(MAX_CLOSERS, 0);

const TCP_ESTABLISHED: i32 = 1;
const TCP_FIN_WAIT1: i32 = 4;
const TCP_CLOSE_WAIT: i32 = 8;
const TCP_LAST_ACK: i32 = 9;

/// `inet_sock_set_state(sk, oldstate, newstate)` (include/trace/events/sock.h).
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn count_closes(ctx: BtfTracePointContext) -> i32 {
    let socket: u64 = ctx.arg(0);
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    if !is_close(old, new) {
        return 0;
    }
    let port = read::<u16>(socket + u64::from(observed!(skc_num)));
    if port.map(u32::from) == Some(observed!(port)) {
        count(bpf_get_current_pid_tgid());
    }
    0
}

/// Whether the running thread closes the connection or shuts down its sending side. No other change
/// leads to these states (tcp_close_state, net/ipv4/tcp.c). A reset of either side leads to CLOSE,
/// and can arrive while any thread runs.
#[inline(always)]
fn is_close(old: i32, new: i32) -> bool {
    matches!(
        (old, new),
        (TCP_ESTABLISHED, TCP_FIN_WAIT1) | (TCP_CLOSE_WAIT, TCP_LAST_ACK)
    )
}

#[inline(always)]
fn count(thread: u64) {
    match CLOSES.get_ptr_mut(thread) {
        // SAFETY: the map's value, which no other thread writes; map values live as long
        // as the program runs.
        Some(count) => unsafe { *count += 1 },
        // The map may be full.
        None => drop(CLOSES.insert(thread, 1, 0)),
    }
}
