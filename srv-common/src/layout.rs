//! The memory that the BPF program, the master and the workers share: one
//! [`Group`] per listener group, in a `BPF_F_MMAPABLE` array (or, without BPF,
//! in a memfd of the same shape).
//!
//! Rules of growth:
//!
//! - Every field says which process or program writes it. It has one writer; only
//!   [`Summary::taken`], [`Group::hermes`] and [`Group::established`] have several.
//! - Each field means something on its own, so there are no locks and no seqlocks.
//! - No field is a `bool` or an `enum`, because a value read from shared memory may be anything.
//! - What the program writes never shares a cache line with what workers write, except in
//!   [`Group::established`].
//! - Memory that is all zeros is valid: the kernel's hash then chooses.
//!
//! A new figure of a worker goes to the end of [`Figures`], a new refusal to the end of
//! [`Refusal`]. If two servers that share a group are of different versions, a field that one of
//! them does not know stays zero. Any other change of the layout raises `PROTOCOL` of the master's
//! `join`.

use core::mem::offset_of;

use crate::branchless::sign;
use crate::busy::BusyTime;
use crate::established::{Established, Recorded};
use crate::histogram::Histogram;
use crate::shared::Shared;

/// Most workers that one listener group can have; a power of two, so that the
/// program can bound an index with a mask.
pub const MAX_WORKERS: usize = 256;

/// Bytes in a cache line on the machines that srv runs on.
const CACHE_LINE_BYTES: usize = 64;

/// A field's own cache line.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Line<T>(pub T);

/// The smallest page size of the machines that srv runs on, bytes.
const PAGE_BYTES: usize = 4096;

/// Where a page begins.
#[repr(C, align(4096))]
#[derive(Debug, Default)]
pub struct PageStart;

/// Everything about one listener group. `N` is a power of two; the BPF
/// program uses the default, the simulator larger ones.
///
/// It has three parts, each of whole pages, so that a worker can be prevented from writing what is
/// not its own ([`Group::writable_by`]).
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Group<const N: usize = MAX_WORKERS> {
    /// What the master asks for.
    pub config: Config,
    /// Slots in state ready (or, if none is, full or hung), the first
    /// `config.ready_count` entries. Written
    /// by the master; a reader that races with it may see a slot twice or
    /// not at all for a moment, which costs one imperfect choice.
    pub ready: [Shared<u16>; N],
    /// What the program counts.
    pub program: Program,
    /// The order in which connections came, and the group's virtual time.
    pub tickets: Tickets<N>,
    /// What the program and the master know of each slot.
    pub steering: [Steering; N],
    /// Which connections are in [`Self::established`].
    pub recorded: Recorded,

    /// From here on every worker may write.
    pub all_workers: PageStart,
    /// 1 where a worker sleeps in `epoll_wait`. Each worker writes its byte.
    pub idle: Line<[Shared<u8>; N]>,
    /// The result of [`crate::policy::hermes::filter`]. Any worker writes it at the end of its
    /// loop, and the master writes it, too. A writer sets the whole word without reading it, so the
    /// last writer wins, as in the publication. Workers write it only while the policy is `hermes`.
    pub hermes: Line<Shared<u64>>,
    /// What the program reads of each slot's worker.
    pub summaries: [Summary; N],
    /// When the connections were established that wait to be accepted.
    pub established: Established,

    /// What each worker publishes about itself. A worker can write its own slot and no other.
    pub slots: [Slot; N],
}

/// Written by the master only.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Config {
    /// A [`crate::Policy`] as number; 0 leaves the choice to the kernel.
    pub policy: Shared<u32>,
    /// Slots in use: 0..workers.
    pub workers: Shared<u32>,
    /// Valid entries in [`Group::ready`].
    pub ready_count: Shared<u32>,
    /// How often the coordinator of `srv run` has sent something to processes of the group
    /// ([`crate::claim`]): a process looks at its connection when this has changed.
    pub notices: Shared<u32>,
    /// If a worker is away from `epoll_wait` for longer than this, it has stalled, ns; 0: no worker
    /// ever has.
    pub hang_after_ns: Shared<u64>,
    /// 1 if each handshake begins with a SYN cookie (`net.ipv4.tcp_syncookies=2`). The kernel then
    /// keeps nothing of a SYN, and the program assigns a connection when its ACK comes.
    pub cookies_always: Shared<u32>,
}

/// Written by the BPF program only.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Program {
    /// Turns of round robin, and where a partial scan starts ([`crate::Host::skip`]).
    pub cursor: Shared<u64>,
    /// Runs that ended in the kernel's own choice, by [`Reason`].
    pub fallbacks: [Shared<u64>; Reason::COUNT],
}

/// What one worker publishes about itself. The page contains nothing else.
#[repr(C, align(4096))]
#[derive(Debug, Default)]
pub struct Slot {
    /// What it is doing.
    pub load: Load,
    /// What it has done, for status alone.
    pub figures: Figures,
}

/// What a worker counts for status alone. No policy reads it, so a write here does not change a
/// score. Written by the worker only. Counters (`u64`) continue when another worker gets the slot;
/// gauges (`u32`) do not ([`Slot::reset_gauges`]).
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Figures {
    /// Refused requests by [`Refusal`]. The line has room for eight reasons.
    pub refused: Line<[Shared<u64>; Refusal::COUNT]>,
    /// How often the worker left all listeners, because it had as many requests in service as it
    /// may have (`srv run --capacity`).
    pub full: Shared<u64>,
    /// How often it went on accepting all the same, because no worker answered a request.
    pub overfull: Shared<u64>,
    /// How long it has been away from `epoll_wait`.
    pub busy: BusyTime,
    /// Requests that have ended, by [`StatusClass`].
    pub ended: Line<[Shared<u64>; StatusClass::COUNT]>,
    /// How long these requests took.
    pub request_duration: Histogram,
    /// Requests that are missing in the access log, because the log writer had left no room.
    pub unlogged: Shared<u64>,
    /// For how long connections waited until the worker accepted them.
    pub accept_delay: AcceptDelay,
}

/// For how long the connections that a worker accepted had waited: from the moment at which they
/// could be accepted (they were established; with deferred accept, their first data had come) until
/// `accept` returned them.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct AcceptDelay {
    /// Of the connections from the worker's own listener.
    pub own: Histogram,
    /// Of the connections from a sibling's listener.
    pub stolen: Histogram,
    /// Connections of which that is not known, although the program records.
    pub unknown: Shared<u64>,
}

/// The program's and the master's line of a slot.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Steering {
    /// Connections that the program assigned to this listener: SYNs, or ACKs if
    /// [`Config::cookies_always`] is set. Written by the program.
    pub steered: Shared<u64>,
    /// The part of [`Summary::taken`] that no worker accepted (two's complement): half-open
    /// connections that never completed, minus connections that the kernel hashed here. Written by
    /// the master.
    pub written_off: Shared<u64>,
    /// A [`State`] as number. Written by the master.
    pub state: Shared<u32>,
    /// Process id of the worker, 0 if none. Written by the master.
    pub pid: Shared<u32>,
    /// How often a worker was started in this slot. Written by the master.
    pub starts: Shared<u32>,
    /// Explicit padding.
    pub _pad: Shared<u32>,
    /// How the program may choose the slot: an [`eligibility`]. Written by the master.
    pub eligible: Shared<u64>,
    /// ACKs that belong to no connection and that the program gave to this listener, unless
    /// [`Config::cookies_always`] is set: SYN cookies that come back, and strays. They are not
    /// counted in `steered`, because the SYN was. Written by the program.
    pub acks: Shared<u64>,
}

/// All that the program reads of a slot's worker. It is on one cache line, because another CPU has
/// written to it since the program's last read.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Summary {
    /// What the policies compare of [`Load`]: `busy_since_ns`, `running`, `active`
    /// and `turn` in one word ([`Group::sum_up`]). Written by the process that writes those.
    pub load: Shared<u64>,
    /// Connections that any worker accepted from this slot's *listener*, plus what the master
    /// writes off. The master and all workers write here, by an atomic addition.
    pub taken: Shared<u64>,
}

/// The program never chooses the slot: no worker is ready there.
pub const NOT_ELIGIBLE: u64 = 0;
/// Only if all others are worse: its worker hangs. As much as a
/// [`crate::policy::Score`] takes off for it.
pub const LAST_RESORT: u64 = 1 << 61;
/// The program chooses the slot like any other.
pub const ELIGIBLE: u64 = 2 << 61;

/// The value of [`Steering::eligible`] for a slot that may be chosen `how` ([`NOT_ELIGIBLE`],
/// [`LAST_RESORT`] or [`ELIGIBLE`]): `how` minus the slot's number. In this way the number gets
/// into the score without an instruction of its own, from memory that workers cannot write.
pub const fn eligibility(how: u64, slot: u32) -> u64 {
    how.saturating_sub(slot as u64)
}

/// The worker's own line of a slot. After the master has reaped the worker, no other process writes
/// here, and the master resets `active`, `running`, `pending` and `busy_since_ns`.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Load {
    /// When the worker left `epoll_wait`, ns of `CLOCK_MONOTONIC` (the clock
    /// of `bpf_ktime_get_ns`); 0 while it sleeps there.
    pub busy_since_ns: Shared<u64>,
    /// Open connections.
    pub active: Shared<u32>,
    /// Requests in service.
    pub running: Shared<u32>,
    /// Breaks ties: the worker's turn in virtual time ([`crate::turns`]). Wraps.
    pub turn: Shared<u32>,
    /// Events that the last `epoll_wait` returned and that the worker has not finished.
    pub pending: Shared<u32>,
    /// Connections accepted from the worker's own listener.
    pub own: Shared<u64>,
    /// Connections accepted from a sibling's listener.
    pub stolen: Shared<u64>,
    /// Requests answered.
    pub served: Shared<u64>,
    /// When the worker last left `epoll_wait`, ns of `CLOCK_MONOTONIC`. If siblings take what came
    /// for a worker that sleeps, this says whether the worker woke up in between.
    pub woke_ns: Shared<u64>,
}

impl Slot {
    /// Sets the gauges to zero, because the slot's worker is gone, and with it what it had open.
    /// The master calls this when no process writes here; [`Group::sum_up`] must follow.
    pub fn reset_gauges(&self) {
        self.load.active.set(0);
        self.load.running.set(0);
        self.load.pending.set(0);
    }
}

impl Load {
    /// Connections that the worker accepted, from any listener.
    pub fn accepts(&self) -> u64 {
        self.own.get().wrapping_add(self.stolen.get())
    }
}

/// State of a slot; zero, the state of fresh memory, is `Absent`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The slot never had a worker.
    Absent = 0,
    /// A worker was spawned and has not yet said that it accepts.
    Starting = 1,
    /// The worker accepts connections.
    Ready = 2,
    /// The worker finishes what it has.
    Draining = 3,
    /// The worker has died and its replacement has not been spawned.
    Dead = 4,
    /// The worker accepted connections and has stalled for too long.
    Hung = 5,
    /// The worker accepts, but its accept queue is full, and the kernel drops new connections.
    Full = 6,
}

impl State {
    /// All states, in order of number, with the names that users see.
    pub const NAMED: [(&'static str, Self); 7] = [
        ("absent", Self::Absent),
        ("starting", Self::Starting),
        ("ready", Self::Ready),
        ("draining", Self::Draining),
        ("dead", Self::Dead),
        ("hung", Self::Hung),
        ("full", Self::Full),
    ];

    /// The state's name.
    pub fn name(self) -> &'static str {
        Self::NAMED[self as usize].0
    }

    /// The state of that number in [`Steering::state`]; `None` if there is none.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::NAMED.get(number as usize).map(|(_, state)| *state)
    }
}

/// Why the program left the choice to the kernel's hash.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The configuration asks for no policy (or for one that the program does not know).
    NoPolicy = 0,
    /// The segment is a stray: neither a connection request nor an ACK that may bring a SYN cookie
    /// back. The kernel's lookup runs the program for these, too.
    NotSyn = 1,
    /// The TCP header could not be read.
    Truncated = 2,
    /// No worker is ready, or none passed the filter that the policy asks for.
    NoneReady = 3,
    /// The chosen slot of the socket array is empty (`ENOENT`).
    EmptySlot = 4,
    /// The chosen socket is in another group (`EBADFD`).
    OtherGroup = 5,
    /// The select helper failed in another way.
    SelectFailed = 6,
}

impl Reason {
    /// Number of reasons.
    pub const COUNT: usize = 7;
    /// Their names, in order of number.
    pub const NAMES: [&'static str; Self::COUNT] = [
        "no_policy",
        "not_syn",
        "truncated",
        "none_ready",
        "empty_slot",
        "other_group",
        "select_failed",
    ];
}

/// Why a worker refused a request or a connection.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Malformed HTTP: 400.
    Malformed = 0,
    /// The request took too long to arrive: 408.
    Timeout = 1,
    /// The body is too large: 413.
    BodyTooLarge = 2,
    /// The header is too large: 431 or 414.
    HeaderTooLarge = 3,
    /// The client took too long to read the response: reset.
    WriteTimeout = 4,
    /// The worker has as many connections as it may: closed.
    TooManyConnections = 5,
}

impl Refusal {
    /// Number of refusals.
    pub const COUNT: usize = 6;
    /// Their names, in order of number.
    pub const NAMES: [&'static str; Self::COUNT] = [
        "malformed",
        "timeout",
        "body_too_large",
        "header_too_large",
        "write_timeout",
        "too_many_connections",
    ];
}

/// How a request has ended: the class of its answer's status.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusClass {
    /// It had no answer: the client, or an application, went before one began.
    Unanswered = 0,
    /// 1xx as the final answer, which srv never sends.
    Informational = 1,
    /// 2xx.
    Success = 2,
    /// 3xx.
    Redirection = 3,
    /// 4xx.
    ClientError = 4,
    /// 5xx.
    ServerError = 5,
}

impl StatusClass {
    /// Number of classes.
    pub const COUNT: usize = 6;
    /// Their names, in order of number.
    pub const NAMES: [&'static str; Self::COUNT] =
        ["unanswered", "1xx", "2xx", "3xx", "4xx", "5xx"];

    /// The class of a status; 0 for a request without an answer.
    #[inline(always)]
    pub const fn of(status: u16) -> Self {
        match status / 100 {
            1 => Self::Informational,
            2 => Self::Success,
            3 => Self::Redirection,
            4 => Self::ClientError,
            5 => Self::ServerError,
            _ => Self::Unanswered,
        }
    }
}

impl<const N: usize> Group<N> {
    /// Connections that wait at the slot's listener, half-open ones included.
    #[inline(always)]
    pub fn waiting(&self, slot: usize) -> u64 {
        let steered = self.steering[slot].steered.get();
        let waiting = steered.wrapping_sub(self.summaries[slot].taken.get());
        // If the kernel hashed connections here, the difference can be negative. It then counts as
        // zero.
        waiting & !sign(waiting)
    }

    /// Counts so many connections as waiting no longer: they were assigned to the slot and will
    /// never be accepted. If the number is negative, so many that were accepted were never
    /// assigned. Only the master calls this.
    #[cfg(not(target_arch = "bpf"))]
    pub fn write_off(&self, slot: usize, connections: i64) {
        self.steering[slot].written_off.bump(connections as u64);
        let taken = self.summaries[slot].taken.atomic();
        taken.fetch_add(connections as u64, core::sync::atomic::Ordering::Relaxed);
    }

    /// Connections accepted from the slot's listener.
    pub fn accepted(&self, slot: usize) -> u64 {
        let written_off = self.steering[slot].written_off.get();
        self.summaries[slot].taken.get().wrapping_sub(written_off)
    }

    /// The ranges of bytes of a group, in whole pages, that the worker in `slot` writes: what all
    /// workers write, and its own slot.
    pub const fn writable_by(slot: u32) -> [core::ops::Range<usize>; 2] {
        let slots = offset_of!(Self, slots);
        let own = slots + slot as usize * size_of::<Slot>();
        [
            offset_of!(Self, all_workers)..slots,
            own..own + size_of::<Slot>(),
        ]
    }

    /// A zeroed group on the heap, for tests and the simulator: with thousands
    /// of slots it is too large for a stack.
    #[cfg(not(target_arch = "bpf"))]
    pub fn boxed() -> alloc::boxed::Box<Self> {
        use alloc::alloc::{Layout, alloc_zeroed, handle_alloc_error};
        let layout = Layout::new::<Self>();
        // SAFETY: the layout's size is not zero; the memory came from the
        // global allocator with the type's own layout; all fields are
        // integers, for which zero is valid.
        unsafe {
            let group = alloc_zeroed(layout).cast::<Self>();
            if group.is_null() {
                handle_alloc_error(layout);
            }
            alloc::boxed::Box::from_raw(group)
        }
    }
}

/// Tickets remembered per listener; a power of two. If an accept queue is longer, its first
/// connection counts as being as old as the oldest one that is remembered.
pub const REMEMBERED: usize = 64;

/// The order of arrival ([`crate::tickets`]). Written by the BPF program only.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Tickets<const N: usize = MAX_WORKERS> {
    /// The last ticket. Two CPUs may write the same number; which of the two connections is first
    /// then does not matter.
    pub last: Shared<u32>,
    /// Explicit padding.
    pub _pad: Shared<u32>,
    /// The group's virtual time ([`crate::turns`]), where [`crate::layout::Summary::load`]
    /// has a worker's turn.
    pub virtual_time: Shared<u64>,
    /// Explicit padding.
    pub _pad_line: [Shared<u64>; 6],
    /// The ticket of the `n`th connection steered to a slot, at `n` modulo
    /// [`REMEMBERED`].
    pub of: [[Shared<u32>; REMEMBERED]; N],
}

const _: () = {
    assert!(size_of::<Config>() == CACHE_LINE_BYTES);
    assert!(size_of::<Program>() == CACHE_LINE_BYTES);
    assert!(size_of::<Steering>() == CACHE_LINE_BYTES);
    assert!(size_of::<Load>() == CACHE_LINE_BYTES);
    assert!(offset_of!(Group, ready) == 64);
    assert!(offset_of!(Group, program) == 64 + 2 * MAX_WORKERS);
    assert!(offset_of!(Group, tickets) == 128 + 2 * MAX_WORKERS);
    assert!(size_of::<Tickets>() == 64 + 4 * REMEMBERED * MAX_WORKERS);
    assert!(offset_of!(Group, steering) == offset_of!(Group, tickets) + size_of::<Tickets>());
    assert!(offset_of!(Group, idle) == offset_of!(Group, all_workers));
    assert!(size_of::<Summary>() == CACHE_LINE_BYTES);
    assert!(size_of::<Slot>() == PAGE_BYTES);
    assert!(offset_of!(Slot, figures) == CACHE_LINE_BYTES);
    assert!(offset_of!(Figures, refused) == 0);
    assert!(size_of::<Line<[Shared<u64>; Refusal::COUNT]>>() == CACHE_LINE_BYTES);
    assert!(offset_of!(Group, slots).is_multiple_of(PAGE_BYTES));
    assert!(MAX_WORKERS.is_power_of_two());
};
