//! The memory that the BPF program, the master and the workers share: one
//! [`Group`] per listener group, in a `BPF_F_MMAPABLE` array (or, without BPF,
//! in a memfd of the same shape).
//!
//! Rules of growth: every field says who writes it, and has one writer (but for
//! [`Summary::taken`] and [`Group::hermes`]); each
//! field means something on its own, so there are no locks and no seqlocks.
//! No `bool`, no `enum`: a value read from shared memory may be anything.
//! What the program writes never shares a cache line with what workers write.
//! Zeroed memory is valid and means "let the kernel hash".
//!
//! A new figure of a worker goes to the end of [`Figures`], a new refusal to the end of
//! [`Refusal`]. Two servers that share a group may then be of different versions: what one of
//! them does not know stays zero. Any other change of the layout raises `PROTOCOL` of the
//! master's `join`.

use core::mem::offset_of;

use crate::branchless::sign;
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

/// The smallest page that the machines have which srv runs on.
const PAGE_BYTES: usize = 4096;

/// Where a page begins.
#[repr(C, align(4096))]
#[derive(Debug, Default)]
pub struct PageStart;

/// Everything about one listener group. `N` is a power of two; the BPF
/// program uses the default, the simulator larger ones.
///
/// In three parts, each of whole pages, so that a worker can be kept from
/// writing what is not its own ([`Group::writable_by`]).
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
    /// In which order connections came, and whose turn it was.
    pub tickets: Tickets<N>,
    /// By slot, what program and master know of it.
    pub steering: [Steering; N],

    /// From here on every worker may write.
    pub all_workers: PageStart,
    /// 1 where a worker sleeps in `epoll_wait`. Each worker writes its byte.
    pub idle: Line<[Shared<u8>; N]>,
    /// Of [`crate::policy::hermes::filter`]. Written by any worker at its loop's
    /// end and by the master, whole and not read before: the last writer
    /// wins, as published. Workers write it only while that is the policy.
    pub hermes: Line<Shared<u64>>,
    /// What the program reads of each slot's worker.
    pub summaries: [Summary; N],

    /// What each worker says of itself. It may write one of these.
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
    /// Explicit padding.
    pub _pad: Shared<u32>,
    /// A worker away from `epoll_wait` for longer hangs, ns; 0: none ever does.
    pub hang_after_ns: Shared<u64>,
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

/// A worker in its own words. The page is for nothing else.
#[repr(C, align(4096))]
#[derive(Debug, Default)]
pub struct Slot {
    /// What it is doing.
    pub load: Load,
    /// What it has done, for status alone.
    pub figures: Figures,
}

/// What a worker counts, and no policy reads: a write here is no part of a score. Written by
/// the worker only. Counters (`u64`) go on from one worker of the slot to the next; gauges
/// (`u32`) do not ([`Slot::reset_gauges`]).
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Figures {
    /// Refused requests by [`Refusal`]. The line has room for eight reasons.
    pub refused: Line<[Shared<u64>; Refusal::COUNT]>,
}

/// The program's and the master's line of a slot.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Steering {
    /// SYNs that the program assigned to this listener. Written by the program.
    pub steered: Shared<u64>,
    /// What of [`Summary::taken`] nobody accepted (two's complement): half-open
    /// connections that never completed, less connections that the kernel hashed
    /// here. Written by the master.
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
    /// ACKs of no connection that the program gave to this listener: SYN cookies
    /// that come back, and strays. Not among `steered`: the SYN was. Written by
    /// the program.
    pub acks: Shared<u64>,
}

/// All that the program reads of a slot's worker, on one line: another CPU has
/// written to it since.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Summary {
    /// What the policies compare of [`Load`]: `busy_since_ns`, `running`, `active`
    /// and `turn` in one word ([`Group::sum_up`]). Written by whoever writes those.
    pub load: Shared<u64>,
    /// Connections accepted from this slot's *listener*, by whichever worker, and
    /// what the master writes off (atomic add: all of them write here).
    pub taken: Shared<u64>,
}

/// Not at all: no worker is ready there.
pub const NOT_ELIGIBLE: u64 = 0;
/// Only if all others are worse: its worker hangs. As much as a
/// [`crate::policy::Score`] takes off for it.
pub const LAST_RESORT: u64 = 1 << 61;
/// Like any other.
pub const ELIGIBLE: u64 = 2 << 61;

/// What [`Steering::eligible`] holds of a slot that may be chosen `how` ([`NOT_ELIGIBLE`],
/// [`LAST_RESORT`] or [`ELIGIBLE`]). Less the slot's number, which so gets into the
/// score without an instruction of its own, from one whom workers cannot overwrite.
pub const fn eligibility(how: u64, slot: u32) -> u64 {
    how.saturating_sub(slot as u64)
}

/// The worker's own line of a slot. The master resets `active`, `running`,
/// `pending` and `busy_since_ns` after it has reaped the worker, when nobody else writes.
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
    /// Events that the last `epoll_wait` returned and that are not done with.
    pub pending: Shared<u32>,
    /// Connections accepted from the worker's own listener.
    pub own: Shared<u64>,
    /// Connections accepted from a sibling's listener.
    pub stolen: Shared<u64>,
    /// Requests answered.
    pub served: Shared<u64>,
    /// When the worker last left `epoll_wait`, ns of `CLOCK_MONOTONIC`: one
    /// that sleeps while siblings take what came for it does not only sleep.
    pub woke_ns: Shared<u64>,
}

impl Slot {
    /// The slot's worker is gone, and so is what it had open. For the master, when no process
    /// writes here; [`Group::sum_up`] must follow.
    pub fn reset_gauges(&self) {
        self.load.active.set(0);
        self.load.running.set(0);
        self.load.pending.set(0);
    }
}

impl Load {
    /// Connections accepted, from whichever listener.
    pub fn accepts(&self) -> u64 {
        self.own.get().wrapping_add(self.stolen.get())
    }
}

/// State of a slot; zero, the state of fresh memory, is `Absent`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No worker was ever here.
    Absent = 0,
    /// A worker was spawned and has not yet said that it accepts.
    Starting = 1,
    /// The worker accepts connections.
    Ready = 2,
    /// The worker finishes what it has.
    Draining = 3,
    /// The worker has died and its replacement has not been spawned.
    Dead = 4,
    /// The worker accepted connections and has been stuck for too long.
    Hung = 5,
    /// The worker accepts, but its accept queue is full: the kernel drops what comes.
    Full = 6,
}

impl State {
    /// The state's name; `unknown` for a number that is no state.
    pub fn name(number: u32) -> &'static str {
        [
            "absent", "starting", "ready", "draining", "dead", "hung", "full",
        ]
        .get(number as usize)
        .copied()
        .unwrap_or("unknown")
    }
}

/// Why the program left the choice to the kernel's hash.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The configuration asks for no policy (or for one unknown here).
    NoPolicy = 0,
    /// No connection request, nor an ACK that may bring a SYN cookie back: a
    /// stray segment. The lookup runs the program for these too.
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

impl<const N: usize> Group<N> {
    /// Connections that wait at the slot's listener, half-open ones included.
    #[inline(always)]
    pub fn waiting(&self, slot: usize) -> u64 {
        let steered = self.steering[slot].steered.get();
        let waiting = steered.wrapping_sub(self.summaries[slot].taken.get());
        // Zero if it is negative, which it is where the kernel hashed.
        waiting & !sign(waiting)
    }

    /// So many connections, assigned to the slot and never accepted, are not waited for
    /// any longer; with a negative number, so many that were accepted were never
    /// assigned. For the master.
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

    /// The bytes of a group that the worker in `slot` writes, page by page: what all
    /// of them write, and its own.
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

/// Tickets remembered per listener; a power of two. Of a longer accept queue
/// the first is taken to be as old as the oldest that is remembered.
pub const REMEMBERED: usize = 64;

/// The order of arrival ([`crate::tickets`]). Written by the BPF program only.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Tickets<const N: usize = MAX_WORKERS> {
    /// The last ticket. Two CPUs may write the same: an order among equals.
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
