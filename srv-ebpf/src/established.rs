//! Records when each connection to the group's listeners was established, in the table
//! [`srv_common::established`]. Knows nothing of steering: the kernel may refuse this program and
//! load the other.

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext};
use srv_common::Group;
use srv_common::established::{Client, Recorded, SocketOffsets};

use crate::GROUP;

#[unsafe(no_mangle)]
static SOCKET_OFFSETS: SocketOffsets = SocketOffsets {
    family: 0,
    port: 0,
    client_port: 0,
    address_v4: 0,
    client_v4: 0,
    address_v6: 0,
    client_v6: 0,
    namespace: 0,
    cookie: 0,
    socket: 0,
};

/// A field of [`SOCKET_OFFSETS`]. The read is volatile, because user space sets the value after the
/// compiler has seen it.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a reference to a static.
        unsafe { core::ptr::read_volatile(&raw const SOCKET_OFFSETS.$field) }
    };
}

const TCP_ESTABLISHED: i32 = 1;
const TCP_SYN_RECV: i32 = 3;
const AF_INET6: u32 = 10;

/// `inet_sock_set_state(sk, oldstate, newstate)` (include/trace/events/sock.h). The program runs at
/// each change of state of each socket of the machine.
///
/// Each connection of a listener takes this step, with a SYN cookie, too: the kernel makes its socket
/// in the state `SYN_RECV`, puts it into the accept queue, and processes the segment that completes
/// the handshake, while it holds the socket's lock, which `accept` waits for (tcp_child_process,
/// net/ipv4/tcp_minisocks.c). With deferred accept, that is the segment with the first data.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn record_established(ctx: BtfTracePointContext) -> i32 {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    if (old, new) != (TCP_SYN_RECV, TCP_ESTABLISHED) {
        return 0;
    }
    let socket: *const u8 = ctx.arg(0);
    let Some(group) = GROUP.get(0) else { return 0 };
    if is_of(&group.recorded, socket) {
        record(group, socket);
    }
    0
}

// Does nothing. Benches subtract what a run of it costs.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn empty_established(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// Whether the socket is of a connection to the group's listeners that no worker has accepted. A
/// connection by TCP Fast Open can be accepted before it is established.
#[inline(always)]
fn is_of(recorded: &Recorded, socket: *const u8) -> bool {
    u32::from(load::<u16>(socket, offset!(port))) == recorded.port.get()
        && u32::from(load::<u16>(socket, offset!(family))) == recorded.family.get()
        && load::<*const u8>(socket, offset!(socket)).is_null()
        && load::<u64>(
            load::<*const u8>(socket, offset!(namespace)),
            offset!(cookie),
        ) == recorded.namespace.get()
        && (recorded.any_address.get() != 0 || has_address(recorded, socket))
}

#[inline(always)]
fn has_address(recorded: &Recorded, socket: *const u8) -> bool {
    let [first, second] = [recorded.address[0].get(), recorded.address[1].get()];
    if recorded.family.get() == AF_INET6 {
        load::<u64>(socket, offset!(address_v6)) == first
            && load::<u64>(socket, offset!(address_v6) + 8) == second
    } else {
        u64::from(load::<u32>(socket, offset!(address_v4))) == first
    }
}

#[inline(always)]
fn record(group: &Group, socket: *const u8) {
    let port = load::<u16>(socket, offset!(client_port));
    let client = if group.recorded.family.get() == AF_INET6 {
        let halves = [
            load::<u64>(socket, offset!(client_v6)),
            load::<u64>(socket, offset!(client_v6) + 8),
        ];
        Client::of_ipv6(halves, port)
    } else {
        Client::of_ipv4(load::<u32>(socket, offset!(client_v4)), port)
    };
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    group.established.record(client, now_ns);
}

/// The field at `offset` of a structure of the kernel. The verifier knows the structure and the
/// offset, and refuses the program if no field of this size is there. If the structure is gone, the
/// field is 0.
#[inline(always)]
fn load<T: Copy>(structure: *const u8, offset: u32) -> T {
    // SAFETY: see above.
    unsafe { structure.add(offset as usize).cast::<T>().read_volatile() }
}
