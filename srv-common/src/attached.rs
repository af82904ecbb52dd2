//! The memory that the select program for attached servers shares with user space: one
//! [`AttachedGroup`] per group of listeners that belong to somebody else's server.
//! Its workers publish nothing; the program reads the kernel's own state and
//! keeps here what it may read less often, so that it needs no agent.
//!
//! The rules of growth are [`crate::layout`]'s. Where two words belong together
//! ([`Place`]) the second says what the first has to be, so that a pair torn by
//! two CPUs is noticed and not believed.

use crate::layout::Line;
use crate::shared::Shared;

/// Most listeners that an attached group can have; a power of two, so that the
/// program can bound an index with a mask.
pub const MAX_LISTENERS: usize = 256;

/// Everything about one attached group.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct AttachedGroup {
    /// What user space asks for.
    pub config: Config,
    /// What the program counts.
    pub program: Program,
    /// What the tracepoint program says of itself.
    pub tracepoint: Line<Tracepoint>,
    /// Slots with a listener, the first `config.members` entries. Written by
    /// user space.
    pub list: [Shared<u16>; MAX_LISTENERS],
    /// `SO_COOKIE` of each slot's listener, 0 if there is none. Written by user
    /// space. The program knows a socket by it.
    pub cookies: [Shared<u64>; MAX_LISTENERS],
    /// What the program remembers of each place in the kernel's
    /// `sock_reuseport.socks`, whose order changes when a member closes.
    pub places: [Place; MAX_LISTENERS],
    /// Connections that came through each slot's listener since it was inserted
    /// and that the server has not closed; side by side, since each choice reads many.
    /// Written by the tracepoint program, by atomic additions from any CPU, and by user
    /// space, which stores 0 when the slot's listener changes. It changes
    /// [`Connections::tag`] first, so that connections of the former listener count no
    /// more; one whose state changes in that very moment may leave the number one too
    /// low until the listener changes again.
    pub live: Line<[Shared<u64>; MAX_LISTENERS]>,
    /// One slot per listener.
    pub slots: [Slot; MAX_LISTENERS],
}

/// Written by user space only.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Config {
    /// A [`crate::Policy`] as number; 0 leaves the choice to the kernel.
    pub policy: Shared<u32>,
    /// Listeners in the socket array: as many as the group has to have. 0
    /// leaves the choice to the kernel.
    pub members: Shared<u32>,
    /// Changes with every change of members: what the program has learned of
    /// another generation does not count.
    pub generation: Shared<u32>,
    /// 1 while the tracepoint program counts connections.
    pub counts_live: Shared<u32>,
}

/// Written by the select program only.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Program {
    /// SYNs that were chosen for in turn. With `skipped`: turns of round robin, and where a
    /// scan starts.
    pub cursor: Shared<u64>,
    /// Address of the group's `struct sock_reuseport`.
    pub reuseport: Shared<u64>,
    /// The generation found not to be the group's members, plus one.
    pub outdated: Shared<u32>,
    /// How it was found: a [`Reason`] as number, counted for each run since.
    pub outdated_by: Shared<u32>,
    /// Choices of `least` that ended at a listener that was idle and empty.
    pub idle: Shared<u64>,
    /// Choices of `least` of the least outstanding work, none being idle.
    pub shortest: Shared<u64>,
    /// How often a chain from a listener to its epoll was walked.
    pub walks: Shared<u64>,
    /// Places that scans passed over, since no connection was for them.
    pub skipped: Shared<u64>,
    /// Runs that ended in the kernel's own choice, by [`Reason`].
    pub fallbacks: Line<[Shared<u64>; Reason::COUNT]>,
}

/// Written by the tracepoint program only, by plain stores from any CPU.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Tracepoint {
    /// [`Program::cursor`] when a connection was last established.
    pub cursor: Shared<u64>,
}

/// So many SYNs in a row without an established connection, and the tracepoint
/// program is taken for gone: its link dies with the agent, and what it left
/// behind would mislead for ever.
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
    /// For the program: from now on the kernel chooses, until user space says
    /// what the group is now. Returns `reason`.
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
    /// The epoll that waits for it: address of a `struct eventpoll`, 0 if the
    /// listener has none.
    pub epoll: Shared<u64>,
    /// The epoll's address exclusive-or the socket's.
    pub epoll_key: Shared<u64>,
}

impl Place {
    /// What proves that `socket` is in `slot`: two sockets' addresses differ by
    /// more than the slot's bits, so that no torn pair passes for a valid one.
    #[inline(always)]
    pub fn key(socket: u64, slot: u32, generation: u32) -> u64 {
        socket ^ (u64::from(generation & 0x7fff_ffff) << 8 | u64::from(slot & SLOT_MASK) | GIVEN)
    }

    /// The slot that `socket` was last found to be in, if that was here and in
    /// this generation.
    #[inline(always)]
    pub fn slot_of(&self, socket: u64, generation: u32) -> Option<u32> {
        let told = self.key.get() ^ socket;
        let slot = told as u32 & SLOT_MASK;
        let expected = Self::key(socket, slot, generation) ^ socket;
        (self.socket.get() == socket && told == expected).then_some(slot)
    }
}

/// Set in every key, so that zeroed memory holds none.
const GIVEN: u64 = 1 << 63;
const SLOT_MASK: u32 = MAX_LISTENERS as u32 - 1;

/// One listener of an attached group.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Slot {
    /// The select program's line.
    pub seen: Seen,
    /// The tracepoint program's line.
    pub connections: Connections,
}

/// Written by the select program. When the slot's listener is removed, user space stores
/// [`Sleep::Unknown`] in `sleep` and 0 in `epoll_seen`: a run that looks at that moment may
/// write what it saw of the former listener, and the next look writes anew.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Seen {
    /// SYNs assigned to this listener: atomic additions, from any CPU.
    pub steered: Shared<u64>,
    /// Connections in the accept queue when last looked at.
    pub queued: Shared<u32>,
    /// Half-open connections when last looked at.
    pub half_open: Shared<u32>,
    /// A [`Sleep`] as number, when last looked at.
    pub sleep: Shared<u32>,
    /// 1 once an epoll was found to wait for this listener.
    pub epoll_seen: Shared<u32>,
}

/// Written by the tracepoint program (by atomic additions, from any CPU), except `tag`,
/// which user space writes.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Connections {
    /// Connections that came through this listener since the program was loaded.
    pub established: Shared<u64>,
    /// Whose connections count: those of a listener that was in the slot before
    /// carry another tag. Written by user space.
    pub tag: Shared<u32>,
}

/// What a socket of the group carries (`BPF_MAP_TYPE_SK_STORAGE`): given to the
/// listener by user space, inherited by what it accepts.
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

/// Whether a listener's worker sleeps in `epoll_wait`. Zero, as of fresh
/// memory, is not to be believed.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Not to be told: somebody waits for the listener in another way (`poll`,
    /// a blocking accept, io_uring), or nothing could be read.
    Unknown = 0,
    /// In `epoll_wait`: a connection is accepted at once.
    Asleep = 1,
    /// Not in `epoll_wait`, or not waiting for anything.
    Busy = 2,
    /// There was an epoll, and no longer is: the worker died, or accepts no
    /// more for now.
    Gone = 3,
}

impl Sleep {
    /// The state's name; `unknown` for a number that is no state.
    pub fn name(number: u32) -> &'static str {
        ["unknown", "asleep", "busy", "gone"]
            .get(number as usize)
            .copied()
            .unwrap_or("unknown")
    }
}

/// Why the program left the choice to the kernel's hash.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The configuration asks for no policy, or for one that needs the server's help.
    NoPolicy = 0,
    /// Not a connection request: a stray segment or a SYN-cookie ACK.
    NotSyn = 1,
    /// The TCP header could not be read.
    Truncated = 2,
    /// The configuration names no listener.
    NoMembers = 3,
    /// The group has more or fewer sockets than the configuration says: one
    /// joined or left.
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
    /// Their names, in order of number.
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

/// The number under which the program calls `bpf_rdonly_cast`. The kernel has no
/// such helper: user space puts a call of the kernel's function there
/// ([`Offsets::reads_directly`]), or the verifier never comes to it.
pub const RDONLY_CAST: u32 = 0x7cad_5700;

/// Where the running kernel keeps what the program reads: bytes from the start
/// of the structure. Constants of the program, given at load; all zero: nothing
/// is read.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// 1 if kernel memory is read by plain loads, 0 if by a helper's copies: the
    /// program's calls of `bpf_rdonly_cast` were made ready for this kernel.
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
    /// Number of fields.
    pub const COUNT: usize = 21;

    /// All fields in order.
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
