//! The memory that the select program for attached servers shares with user space: one
//! [`AttachedGroup`] for each listener group of an attached server. The workers of such a server
//! publish nothing. The program reads the kernel's own state, and keeps here what it needs to read
//! less often, so that it works without an agent.
//!
//! The rules of growth are those of [`crate::layout`]. If two words belong together ([`Place`]), the
//! second says what the first has to be. If two CPUs write them at the same time, the program
//! notices that they do not match, and does not use them.

use crate::layout::Line;
use crate::shared::Shared;

/// The most listeners that an attached group can have. It is a power of two, so that the program can
/// bound an index with a mask.
pub const MAX_LISTENERS: usize = 256;

/// Everything about one attached group.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct AttachedGroup {
    /// What user space configures.
    pub config: Config,
    /// What the program counts.
    pub program: Program,
    /// The state of the tracepoint program.
    pub tracepoint: Line<Tracepoint>,
    /// The slots that have a listener: the first `config.members` entries. Written by user space.
    pub list: [Shared<u16>; MAX_LISTENERS],
    /// `SO_COOKIE` of the listener of each slot, 0 if there is none. Written by user space. The
    /// program identifies a socket by it.
    pub cookies: [Shared<u64>; MAX_LISTENERS],
    /// What the program remembers of each place in the kernel's `sock_reuseport.socks`. The order of
    /// the places changes when a member closes.
    pub places: [Place; MAX_LISTENERS],
    /// Connections that came through the listener of each slot since it was inserted, and that the
    /// server has not closed. They are side by side, since each choice reads many. Written by the
    /// tracepoint program, with atomic additions from any CPU, and by user space, which stores 0
    /// when the listener of the slot changes. User space changes [`Connections::tag`] first, so that
    /// connections of the former listener do not count any more. If the state of such a connection
    /// changes at that moment, the number can be one too low until the listener changes again.
    pub live: Line<[Shared<u64>; MAX_LISTENERS]>,
    /// One slot for each listener.
    pub slots: [Slot; MAX_LISTENERS],
}

/// Written by user space only.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Config {
    /// The number of a [`crate::Policy`]. With 0 the kernel chooses.
    pub policy: Shared<u32>,
    /// The number of listeners in the socket array. The group must have as many. With 0 the kernel
    /// chooses.
    pub members: Shared<u32>,
    /// Changes with each change of members. The program does not use what it has learned in another
    /// generation.
    pub generation: Shared<u32>,
    /// 1 while the tracepoint program counts connections.
    pub counts_live: Shared<u32>,
}

/// Written by the select program only.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Program {
    /// SYNs for which the program chose by rotation. Together with `skipped` this is the turn of
    /// round robin, and the place at which a scan starts.
    pub cursor: Shared<u64>,
    /// The address of the `struct sock_reuseport` of the group.
    pub reuseport: Shared<u64>,
    /// The generation that was found to differ from the group, plus one.
    pub outdated: Shared<u32>,
    /// How that was found: the number of a [`Reason`], which is counted for each run since then.
    pub outdated_by: Shared<u32>,
    /// Choices of `least` for a listener with an idle worker and an empty queue.
    pub idle: Shared<u64>,
    /// Choices of `least` for the least outstanding work, because no worker was idle.
    pub shortest: Shared<u64>,
    /// How often the program followed the pointers from a listener to its epoll instance.
    pub walks: Shared<u64>,
    /// Places that scans passed over, because their listeners were not chosen.
    pub skipped: Shared<u64>,
    /// The turn of rotation at ACKs, with what their scans passed over. They have a rotation of
    /// their own: if both the SYN and the ACK of a connection moved one rotation, only every other
    /// listener would get a connection.
    pub ack_cursor: Shared<u64>,
    /// Runs that left the choice to the kernel, by [`Reason`].
    pub fallbacks: Line<[Shared<u64>; Reason::COUNT]>,
}

/// Written by the tracepoint program only, by plain stores from any CPU.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Tracepoint {
    /// [`Program::cursor`] when a connection was last established.
    pub cursor: Shared<u64>,
}

/// After more SYNs than this without an established connection, the select program assumes that the
/// tracepoint program no longer runs. Its link ends with the agent, and the counts that it left are
/// wrong from then on.
pub const LIVE_STALE_AFTER_SYNS: u64 = 128;

impl AttachedGroup {
    /// Whether [`AttachedGroup::live`] is kept up to date.
    #[inline(always)]
    pub fn counts_live(&self) -> bool {
        let seen = self.tracepoint.0.cursor.get();
        let since = self.program.cursor.get().wrapping_sub(seen);
        self.config.counts_live.get() != 0 && since <= LIVE_STALE_AFTER_SYNS
    }
}

impl AttachedGroup {
    /// Called by the program: from now on the kernel chooses, until user space tells the new members.
    /// Returns `reason`.
    #[inline(always)]
    pub fn set_outdated(&self, reason: Reason) -> Reason {
        let generation = self.config.generation.get();
        self.program.outdated_by.set(reason as u32);
        self.program.outdated.set(generation.wrapping_add(1));
        reason
    }
}

/// A place in the kernel's array of the group's sockets. Written by the program.
#[repr(C, align(32))]
#[derive(Debug, Default)]
pub struct Place {
    /// The socket there: address of a `struct sock`.
    pub socket: Shared<u64>,
    /// [`Place::key`] of that socket, its slot and the generation.
    pub key: Shared<u64>,
    /// The epoll instance that waits for it: the address of a `struct eventpoll`, 0 if the listener
    /// has none.
    pub epoll: Shared<u64>,
    /// The address of the epoll instance, exclusive-or the address of the socket.
    pub epoll_key: Shared<u64>,
}

impl Place {
    /// The word that proves that `socket` is in `slot`. The addresses of two sockets differ by more
    /// than the bits of the slot, so that a torn pair does not look valid.
    #[inline(always)]
    pub fn key(socket: u64, slot: u32, generation: u32) -> u64 {
        socket ^ (u64::from(generation & 0x7fff_ffff) << 8 | u64::from(slot & SLOT_MASK) | GIVEN)
    }

    /// The slot in which `socket` was last found, if that was at this place and in this generation.
    #[inline(always)]
    pub fn slot_of(&self, socket: u64, generation: u32) -> Option<u32> {
        let told = self.key.get() ^ socket;
        let slot = told as u32 & SLOT_MASK;
        let expected = Self::key(socket, slot, generation) ^ socket;
        (self.socket.get() == socket && told == expected).then_some(slot)
    }
}

/// Set in every key. Memory that is all zeros therefore contains no key.
const GIVEN: u64 = 1 << 63;
const SLOT_MASK: u32 = MAX_LISTENERS as u32 - 1;

/// One listener of an attached group.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Slot {
    /// The cache line of the select program.
    pub seen: Seen,
    /// The cache line of the tracepoint program.
    pub connections: Connections,
}

/// Written by the select program. When the listener of the slot is removed, user space stores
/// [`Sleep::Unknown`] in `sleep` and 0 in `epoll_seen`. A run at that moment may write what it saw of
/// the former listener; the next look replaces it.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Seen {
    /// SYNs assigned to this listener. Written by atomic additions, from any CPU.
    pub steered: Shared<u64>,
    /// ACKs that belong to no connection and that the program gave to this listener: SYN cookies
    /// that come back, whose connections are accepted here, and strays. Written like `steered`.
    pub acks: Shared<u64>,
    /// Connections in the accept queue at the last look.
    pub queued: Shared<u32>,
    /// Half-open connections at the last look.
    pub half_open: Shared<u32>,
    /// The number of a [`Sleep`], at the last look.
    pub sleep: Shared<u32>,
    /// 1 after the program has found an epoll instance that waits for this listener.
    pub epoll_seen: Shared<u32>,
}

/// Written by the tracepoint program (by atomic additions, from any CPU), except `tag`,
/// which user space writes.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Connections {
    /// Connections that came through this listener since the program was loaded.
    pub established: Shared<u64>,
    /// Connections with this tag count. Connections of a listener that was in the slot before have
    /// another tag. Written by user space.
    pub tag: Shared<u32>,
}

/// The tag of a socket of the group (`BPF_MAP_TYPE_SK_STORAGE`). User space gives it to the listener,
/// and the connections that come through the listener inherit it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// The listener's slot.
    pub slot: u32,
    /// [`Connections::tag`] at that time.
    pub tag: u32,
    /// 1 while the connection is counted in [`AttachedGroup::live`].
    pub is_counted: u32,
    /// Explicit padding.
    pub _pad: u32,
}

/// Whether the worker of a listener sleeps in `epoll_wait`. Memory that is all zeros means
/// `Unknown`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// The program cannot tell: a process waits for the listener in another way (`poll`, a blocking
    /// accept, io_uring), or the program could read nothing.
    Unknown = 0,
    /// The worker is in `epoll_wait`, so it accepts a connection at once.
    Asleep = 1,
    /// The worker is not in `epoll_wait`.
    Busy = 2,
    /// An epoll instance waited for the listener and does not any more: the worker has died, or it
    /// does not accept for now.
    Gone = 3,
}

impl Sleep {
    /// The state with this number; `Unknown` for a number that is no state.
    pub fn of(number: u32) -> Self {
        match number {
            1 => Self::Asleep,
            2 => Self::Busy,
            3 => Self::Gone,
            _ => Self::Unknown,
        }
    }
}

/// Why the program left the choice to the kernel's hash.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The configuration asks for no policy, or for one that needs the server's help.
    NoPolicy = 0,
    /// The segment is a stray one: neither a SYN nor an ACK that may bring a SYN cookie back.
    NotSyn = 1,
    /// The TCP header could not be read.
    Truncated = 2,
    /// The configuration names no listener.
    NoMembers = 3,
    /// The group has more or fewer sockets than the configuration says, because one joined or left.
    GroupSize = 4,
    /// The group has a socket that is not in the array.
    UnknownMember = 5,
    /// The chosen slot of the socket array is empty (`ENOENT`).
    EmptySlot = 6,
    /// The select helper failed in another way.
    SelectFailed = 7,
}

impl Reason {
    /// Number of reasons.
    pub const COUNT: usize = 8;
    /// The names of the reasons, in the order of their numbers.
    pub const NAMES: [&'static str; Self::COUNT] = [
        "no_policy",
        "not_syn",
        "truncated",
        "no_members",
        "group_size",
        "unknown_member",
        "empty_slot",
        "select_failed",
    ];
}

/// The number under which the program calls `bpf_rdonly_cast`. The kernel has no helper of this
/// number. User space replaces the call by one of the kernel's function
/// ([`Offsets::reads_directly`]); if it does not, the verifier never reaches the call.
pub const RDONLY_CAST: u32 = 0x7cad_5700;

/// Where the running kernel keeps the fields that the program reads, in bytes from the start of the
/// structure. They are constants of the program, which user space sets at load. If all are 0, the
/// program reads nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// 1 if the program reads kernel memory with plain loads, since its calls of `bpf_rdonly_cast`
    /// were prepared for this kernel; 0 if it reads with a helper.
    pub reads_directly: u32,
    /// 1 if the fields down to `qlen` are known and may be read.
    pub reads_queues: u32,
    /// `sk_reuseport_kern.sk`.
    pub context_sk: u32,
    /// `sock.sk_reuseport_cb`.
    pub sk_reuseport_cb: u32,
    /// `sock_reuseport.num_socks`, a u16.
    pub num_socks: u32,
    /// `sock_reuseport.max_socks`, a u16.
    pub max_socks: u32,
    /// `sock_reuseport.socks`.
    pub socks: u32,
    /// `sock.__sk_common.skc_cookie`.
    pub skc_cookie: u32,
    /// `sock.sk_ack_backlog`, a u32.
    pub sk_ack_backlog: u32,
    /// `inet_connection_sock.icsk_accept_queue.qlen`, an i32.
    pub qlen: u32,
    /// 1 if the fields below are known and may be read.
    pub reads_sleep: u32,
    /// `sock.sk_wq`.
    pub sk_wq: u32,
    /// `socket_wq.wait`, a `wait_queue_head`.
    pub wq_wait: u32,
    /// `wait_queue_head.head`.
    pub wait_head: u32,
    /// `eppoll_entry.base`.
    pub entry_base: u32,
    /// `eppoll_entry.wait.entry`.
    pub entry_link: u32,
    /// `eppoll_entry.whead`.
    pub entry_whead: u32,
    /// `epitem.ep`.
    pub item_ep: u32,
    /// `epitem.pwqlist`.
    pub item_pwqlist: u32,
    /// `eventpoll.wq.head`.
    pub ep_wq_head: u32,
    /// `eventpoll.rbr`.
    pub ep_rbr: u32,
}

impl Offsets {
    /// The number of fields.
    pub const COUNT: usize = 21;

    /// All fields, in their order.
    #[rustfmt::skip]
    pub fn words(&self) -> [u32; Self::COUNT] {
        [
            self.reads_directly, self.reads_queues, self.context_sk, self.sk_reuseport_cb,
            self.num_socks, self.max_socks, self.socks, self.skc_cookie, self.sk_ack_backlog,
            self.qlen, self.reads_sleep, self.sk_wq, self.wq_wait, self.wait_head,
            self.entry_base, self.entry_link, self.entry_whead, self.item_ep,
            self.item_pwqlist, self.ep_wq_head, self.ep_rbr,
        ]
    }
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Config>() == 64);
    assert!(size_of::<Program>() == 128);
    assert!(offset_of!(Program, fallbacks) == 64);
    assert!(size_of::<Place>() == 32);
    assert!(size_of::<Slot>() == 128);
    assert!(offset_of!(Slot, connections) == 64);
    assert!(size_of::<Tag>() == 16);
    assert!(size_of::<Offsets>() == 4 * Offsets::COUNT);
    assert!(offset_of!(AttachedGroup, program) == 64);
    assert!(offset_of!(AttachedGroup, tracepoint) == 192);
    assert!(offset_of!(AttachedGroup, list) == 256);
    assert!(offset_of!(AttachedGroup, cookies) == 256 + 2 * MAX_LISTENERS);
    assert!(offset_of!(AttachedGroup, places) == 256 + 10 * MAX_LISTENERS);
    assert!(offset_of!(AttachedGroup, live) == 256 + 42 * MAX_LISTENERS);
    assert!(offset_of!(AttachedGroup, slots) == 256 + 50 * MAX_LISTENERS);
    assert!(size_of::<AttachedGroup>() == 256 + 178 * MAX_LISTENERS);
    assert!(MAX_LISTENERS.is_power_of_two());
};
