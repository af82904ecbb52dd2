//! The steering policies: given a [`Group`] as it stands, which slot gets the
//! next connection? Pure over the group and a [`Host`], which supplies random
//! numbers, a cursor and what is known of the packet and its CPU. There is no
//! clock. The BPF program, the unit tests and the simulator all call [`choose`].
//!
//! No policy ever returns a slot whose worker is not ready; with none ready
//! the answer is a [`Reason`] and the kernel hashes.

pub mod attached;
pub mod hermes;
mod idle;

use crate::branchless::{bounded, lower, up_to};
use crate::layout::{ELIGIBLE, Group, MAX_WORKERS, NOT_ELIGIBLE, Reason, State};
use crate::turns::{self, TURN_FIELD, TURN_FIELD_BITS};
use idle::{LANES, NO_SLOT, next_idle};

/// How the program chooses a worker.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The kernel's own choice: a hash over addresses and ports.
    Hash = 0,
    /// Any ready worker, evenly.
    Random = 1,
    /// Each ready worker in turn.
    RoundRobin = 2,
    /// The worker of the CPU that handled the SYN.
    Cpu = 3,
    /// The same client address, the same worker.
    Source = 4,
    /// The better of two random workers ([`Score`]).
    P2c = 5,
    /// The worker with the least outstanding work ([`Score`]).
    Least = 6,
    /// One of those that the workers' own filter lets pass ([`hermes`]).
    Hermes = 7,
}

/// What users are told of a policy. Command lines, help texts and messages take it from
/// [`Policy::TABLE`], so that a policy is described in one place. The BPF program contains
/// numbers that the compiler computes from the table, and none of its texts.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Which policy.
    pub policy: Policy,
    /// The name that users give it.
    pub name: &'static str,
    /// Which worker it chooses, as the help and docs/serve.md say it.
    pub chooses: &'static str,
    /// Most workers that it can choose between.
    pub workers_max: u32,
    /// Whether attached servers have it. If they have, [`attached::choose`] implements it.
    /// If not, the reason, as what follows the policy's name in a sentence.
    pub attached: Result<(), &'static str>,
}

impl Policy {
    /// All policies, in the order of their numbers.
    pub const TABLE: &[About] = &[
        About {
            policy: Self::Hash,
            name: "hash",
            chooses: "the kernel's own choice; no program is attached",
            workers_max: MAX_WORKERS as u32,
            attached: Err("is the kernel's own choice, to which `srv detach` returns"),
        },
        About {
            policy: Self::Random,
            name: "random",
            chooses: "any",
            workers_max: MAX_WORKERS as u32,
            attached: Ok(()),
        },
        About {
            policy: Self::RoundRobin,
            name: "round-robin",
            chooses: "each in turn",
            workers_max: MAX_WORKERS as u32,
            attached: Ok(()),
        },
        About {
            policy: Self::Cpu,
            name: "cpu",
            chooses: "the worker of the CPU that handled the SYN",
            workers_max: MAX_WORKERS as u32,
            attached: Ok(()),
        },
        About {
            policy: Self::Source,
            name: "source",
            chooses: "the same client address, the same worker",
            workers_max: MAX_WORKERS as u32,
            attached: Ok(()),
        },
        About {
            policy: Self::P2c,
            name: "p2c",
            chooses: "the better of two random ones",
            workers_max: MAX_WORKERS as u32,
            attached: Ok(()),
        },
        About {
            policy: Self::Least,
            name: "least",
            chooses: "the one with the least outstanding work",
            workers_max: MAX_WORKERS as u32,
            attached: Ok(()),
        },
        About {
            policy: Self::Hermes,
            name: "hermes",
            chooses: "any that the workers' own filter lets pass (SIGCOMM 2025), for comparison",
            workers_max: hermes::WORKERS_MAX,
            attached: Err("needs workers that run its filter, which only srv's own do"),
        },
    ];

    /// How many policies there are: each number below this is a policy's.
    pub const COUNT: u32 = Self::TABLE.len() as u32;

    /// All policies with the names that users give them.
    pub const NAMED: [(&'static str, Self); Self::TABLE.len()] = {
        let mut named = [("", Self::Hash); Self::TABLE.len()];
        let mut number = 0;
        while number < named.len() {
            let about = Self::TABLE[number];
            assert!(
                about.policy as usize == number,
                "a policy's line is not at its number"
            );
            named[number] = (about.name, about.policy);
            number += 1;
        }
        named
    };

    /// One bit for each policy that attached servers have.
    const ATTACHED: u32 = {
        assert!(Self::COUNT <= u32::BITS, "a policy has no bit");
        let mut bits = 0;
        let mut number = 0;
        while number < Self::TABLE.len() {
            bits |= (Self::TABLE[number].attached.is_ok() as u32) << number;
            number += 1;
        }
        bits
    };

    /// Whether attached servers have the policy of that number.
    #[inline(always)]
    fn is_for_attached(number: u32) -> bool {
        number < u32::BITS && Self::ATTACHED >> number & 1 == 1
    }

    /// What is said of it.
    pub fn about(self) -> &'static About {
        &Self::TABLE[self as usize]
    }

    /// The policy's name.
    pub fn name(self) -> &'static str {
        self.about().name
    }

    /// Most workers that it can choose between.
    pub fn workers_max(self) -> u32 {
        self.about().workers_max
    }

    /// The policy of that number in [`crate::layout::Config`]; `None` if there is none.
    pub fn from_number(number: u32) -> Option<Self> {
        let about = Self::TABLE.get(number as usize)?;
        Some(about.policy)
    }
}

/// What a policy may ask of the place where it runs. Each is asked only when
/// needed: in BPF each costs a helper call.
pub trait Host {
    /// Uniform over all 32 bits.
    fn random(&mut self) -> u32;
    /// The CPU that handles the packet.
    fn cpu(&mut self) -> u32;
    /// A hash of the client's address, the same for each of its packets.
    fn source_hash(&mut self) -> u32;
    /// The kernel's hash of the connection's addresses and ports.
    fn flow_hash(&mut self) -> u32;
    /// Returns the cursor ([`crate::layout::Program::cursor`]) and advances it by one.
    fn advance_cursor(&mut self) -> u32;
    /// A scan that began at the cursor passed over so many places: it is that much
    /// further on next time. If it were not, the worker behind one that is away would
    /// get the share of both.
    fn skip(&mut self, places: u32);
    /// Taken of what waits: all bits, or none. An ACK that brings a SYN cookie
    /// back comes amid a flood, and what waits then is handshakes that never
    /// complete: it says nothing of a worker's load.
    #[inline(always)]
    fn waiting_mask(&mut self) -> u64 {
        u64::MAX
    }
}

/// Up to this many workers, `least` looks at every one.
pub const SCAN_ALL_MAX: u32 = 16;
/// Beyond [`SCAN_ALL_MAX`]: how many idle workers `least` compares.
const IDLE_SAMPLE: u32 = 2;

/// Chooses the slot for a new connection.
///
/// # Errors
/// The reason why the kernel should choose.
#[inline(always)]
pub fn choose<const N: usize>(group: &Group<N>, host: &mut impl Host) -> Result<u32, Reason> {
    let policy = group.config.policy.get();
    if policy == Policy::Least as u32 {
        return least(group, host);
    }
    let ready = group.config.ready_count.get();
    if policy == Policy::Hash as u32 || policy >= Policy::COUNT {
        return Err(Reason::NoPolicy);
    }
    if ready == 0 {
        return Err(Reason::NoneReady);
    }
    if policy == Policy::Source as u32 {
        return source(group, ready, host);
    }
    if policy == Policy::P2c as u32 {
        return better_of_two(group, ready, host);
    }
    if policy == Policy::Hermes as u32 {
        return hermes::choose(group, host);
    }
    let nth = if policy == Policy::Random as u32 {
        scale(host.random(), ready)
    } else if policy == Policy::RoundRobin as u32 {
        remainder(host.advance_cursor(), ready)
    } else if policy == Policy::Cpu as u32 {
        remainder(host.cpu(), ready)
    } else {
        // A policy without a branch must not choose by another one's.
        return Err(Reason::NoPolicy);
    };
    checked_ready(group, nth_ready(group, nth))
}

/// How much work a slot has outstanding, as one integer; the lowest wins.
///
/// Below what [`crate::layout::Steering::eligible`] takes off, from the top: waiting +
/// running + busy (16 bits), open connections (16), a guard, the worker's turn relative
/// to the virtual time of [`crate::turns`] (28 less the slot's bits), slot. A count beyond its
/// bits wraps, which costs one imperfect choice.
///
/// One integer, and no branch on the way to it: the verifier follows every
/// path through a scan, and a function call costs more than a score (with
/// return thunks about 20 ns). What a worker adds to it the worker itself has put
/// together ([`Group::sum_up`]).
pub type Score = u64;

/// Whatever is eligible is below this, in the order of [`lower`].
const NOT_READY: Score = 0;
const OUTSTANDING_MAX: u64 = (1 << 15) - 1;
const OUTSTANDING_SHIFT: u32 = 45;
const ACTIVE_SHIFT: u32 = 29;
const ACTIVE_MAX: u64 = (1 << (OUTSTANDING_SHIFT - ACTIVE_SHIFT)) - 1;
/// What a smaller turn borrows from when a larger one is subtracted.
const TURN_GUARD: u64 = 1 << TURN_FIELD_BITS;
/// Where what is running and open is.
const LOAD_FIELD: u64 = OUTSTANDING_MAX << OUTSTANDING_SHIFT | ACTIVE_MAX << ACTIVE_SHIFT;

impl<const N: usize> Group<N> {
    /// Puts together what scores are made of. For whoever has written to the slot's
    /// `busy_since_ns`, `running`, `active` or `turn`, after that.
    pub fn sum_up(&self, slot: u32) {
        let load = &self.slots[slot as usize].load;
        let is_busy = u64::from(load.busy_since_ns.get() != 0);
        let outstanding = (u64::from(load.running.get()) + is_busy).min(OUTSTANDING_MAX);
        let active = u64::from(load.active.get()).min(ACTIVE_MAX);
        let turn = u64::from(load.turn.get()) << N.trailing_zeros() & TURN_FIELD;
        let sum = outstanding << OUTSTANDING_SHIFT | active << ACTIVE_SHIFT | turn;
        self.summaries[slot as usize].load.set(sum);
    }
}

/// The same for all scores that are compared.
#[derive(Clone, Copy)]
struct Scoring {
    /// What no turn is ahead of, less the guard: to subtract it is to set the guard.
    /// What is compared is how far each turn is behind that. A worker that was away for
    /// longer than the field can tell therefore comes first all the same, or, once in
    /// 100,000 times, after a few rounds.
    turns_from: u64,
    /// [`Host::waiting_mask`].
    waiting_mask: u64,
}

impl Scoring {
    #[inline(always)]
    fn new<const N: usize>(group: &Group<N>, host: &mut impl Host) -> Self {
        let ahead_max = u64::from(turns::AHEAD_MAX) << N.trailing_zeros();
        let ahead_of_all = group.tickets.virtual_time.get().wrapping_add(ahead_max);
        Self {
            turns_from: (ahead_of_all & TURN_FIELD).wrapping_sub(TURN_GUARD),
            waiting_mask: host.waiting_mask() & OUTSTANDING_MAX,
        }
    }

    #[inline(always)]
    fn score<const N: usize>(self, group: &Group<N>, slot: usize) -> Score {
        // Equals are dealt out in turn. Not one bit more than is the worker's: it may
        // have written anything.
        let sum = group.summaries[slot]
            .load
            .get()
            .wrapping_sub(self.turns_from);
        let load = sum & (LOAD_FIELD | TURN_FIELD & !(N as u64 - 1));
        let waiting = (group.waiting(slot) & self.waiting_mask) << OUTSTANDING_SHIFT;
        (load + waiting).wrapping_sub(group.steering[slot].eligible.get())
    }

    #[inline(always)]
    fn score_at<const N: usize>(self, group: &Group<N>, slot: u32) -> Score {
        self.score(group, bounded(slot, N))
    }
}

#[inline(always)]
fn least<const N: usize>(group: &Group<N>, host: &mut impl Host) -> Result<u32, Reason> {
    let workers = group.config.workers.get();
    if workers > N as u32 {
        return Err(Reason::NoneReady);
    }
    if workers > SCAN_ALL_MAX {
        return least_of_many(group, workers, host);
    }
    let scoring = Scoring::new(group, host);
    let mut best = NOT_READY;
    for slot in up_to::<SCAN_ALL_MAX>(workers) {
        // The bound is the loop's; the mask is for the compiler, and costs nothing.
        best = lower(best, scoring.score(group, slot as usize & (N - 1)));
    }
    found::<N>(best)
}

/// Idle workers first, a few of them from a rotating start; if none is idle,
/// the best of a bounded sample.
#[inline(always)]
fn least_of_many<const N: usize>(
    group: &Group<N>,
    workers: u32,
    host: &mut impl Host,
) -> Result<u32, Reason> {
    let start = remainder(host.advance_cursor(), workers);
    let scoring = Scoring::new(group, host);
    let mut best = NOT_READY;
    let mut from = start;
    let mut skipped = 0;
    for nth in 0..IDLE_SAMPLE {
        let slot = next_idle(group, from);
        if slot == NO_SLOT {
            break;
        }
        if nth == 0 {
            // Around the end, there is nothing beyond the last worker.
            let around = if slot < start { workers } else { 0 };
            skipped = (slot + around).wrapping_sub(start);
        }
        best = lower(best, scoring.score_at(group, slot));
        from = slot + 1;
    }
    if is_idle(best) {
        if skipped > 0 {
            host.skip(skipped);
        }
        return found::<N>(best);
    }
    // The eight slots around the start: as each slot is the start equally
    // often, so is each among those compared, in a smaller last block too.
    let block = start / LANES * LANES;
    // A number of lanes that the compiler does not know: unrolled, with all slots'
    // words at once in ten registers, the loop takes longer.
    let lanes = bounded(LANES, MAX_WORKERS) as u32;
    for lane in 0..SCAN_ALL_MAX {
        if lane >= lanes {
            break;
        }
        best = lower(best, scoring.score_at(group, block + lane));
    }
    if is_eligible(best) {
        return found::<N>(best);
    }
    // A whole block is down: the ready list knows who is not.
    let ready = group.config.ready_count.get();
    if ready == 0 {
        return Err(Reason::NoneReady);
    }
    checked_ready(group, nth_ready(group, remainder(start, ready)))
}

/// Whether the score is of a slot that may be chosen.
#[inline(always)]
fn is_eligible(score: Score) -> bool {
    (score as i64) < NOT_READY as i64
}

/// Whether the score is of a slot without reserve that has nothing to do.
#[inline(always)]
fn is_idle(score: Score) -> bool {
    score.wrapping_add(ELIGIBLE) < 1 << OUTSTANDING_SHIFT
}

#[inline(always)]
fn found<const N: usize>(best: Score) -> Result<u32, Reason> {
    if is_eligible(best) {
        Ok(best as u32 & (N as u32 - 1))
    } else {
        Err(Reason::NoneReady)
    }
}

#[inline(always)]
fn better_of_two<const N: usize>(
    group: &Group<N>,
    ready: u32,
    host: &mut impl Host,
) -> Result<u32, Reason> {
    let random = host.random();
    let first = scale(random, ready);
    // Two distinct ones where there are two.
    let mut second = first;
    if ready > 1 {
        second = wrap(first + 1 + scale(mix(random), ready - 1), ready);
    }
    let first = nth_ready(group, first);
    let second = nth_ready(group, second);
    let scoring = Scoring::new(group, host);
    let one = scoring.score_at(group, first);
    found::<N>(lower(one, scoring.score_at(group, second)))
}

/// By slot number, not by place in the ready list: a worker's death moves only
/// its own clients, and all of them come back with its replacement.
#[inline(always)]
fn source<const N: usize>(
    group: &Group<N>,
    ready: u32,
    host: &mut impl Host,
) -> Result<u32, Reason> {
    let workers = group.config.workers.get();
    let hash = host.source_hash();
    let home = checked_ready(group, scale(hash, workers));
    // Other bits of the hash, or the clients of one would all go to one.
    home.or_else(|_| checked_ready(group, nth_ready(group, scale(mix(hash), ready))))
}

#[inline(always)]
fn nth_ready<const N: usize>(group: &Group<N>, nth: u32) -> u32 {
    group.ready[bounded(nth, N)].get() as u32
}

/// The list of ready slots may be a moment old.
#[inline(always)]
fn checked_ready<const N: usize>(group: &Group<N>, slot: u32) -> Result<u32, Reason> {
    if group.steering[bounded(slot, N)].eligible.get() != NOT_ELIGIBLE {
        Ok(slot)
    } else {
        Err(Reason::NoneReady)
    }
}

/// Maps a 32-bit random number evenly to `0..n` (multiply and shift; no division).
#[inline(always)]
fn scale(random: u32, n: u32) -> u32 {
    ((u64::from(random) * u64::from(n)) >> 32) as u32
}

/// Other bits from the same random number.
#[inline(always)]
fn mix(random: u32) -> u32 {
    let mixed = (random ^ (random >> 16)).wrapping_mul(0x9e37_79b1);
    mixed ^ (mixed >> 15)
}

/// For how long, ns, the worker in slot `thief` should leave a connection that
/// waits at the listener of slot `owner` to the owner; `now_ns` is of the clock of
/// [`crate::layout::Load::busy_since_ns`].
///
/// A burst wakes all workers, and the one that runs first could take most of it, while
/// the others are about to run. Therefore the thief waits if it would end up with more
/// connections than the owner has, those that wait for each included: this keeps
/// long-lived connections even. It also waits if it has lately had more than its share
/// ([`crate::turns`]) and the owner sleeps, as the kernel has then woken the owner: this
/// keeps short ones even. An owner that is at work is not waited for in the second case.
/// The time is zero if the owner is not ready, or has been at one thing for too long.
pub fn steal_patience_ns<const N: usize>(
    group: &Group<N>,
    thief: u32,
    owner: u32,
    now_ns: u64,
) -> u64 {
    const PER_CONNECTION_NS: u64 = 10_000_000;
    const MAX_CONNECTIONS: u64 = 2;
    /// Longer than a worker with more workers than cores waits for its next turn.
    const STUCK_NS: u64 = 2_000_000;
    let (thief, owner) = (thief as usize, owner as usize);
    let busy_since_ns = group.slots[owner].load.busy_since_ns.get();
    let is_stuck = busy_since_ns != 0 && now_ns.saturating_sub(busy_since_ns) > STUCK_NS;
    if is_stuck || group.steering[owner].state.get() != State::Ready as u32 {
        return 0;
    }
    let connections =
        |slot: usize| u64::from(group.slots[slot].load.active.get()) + group.waiting(slot);
    let excess = (connections(thief) + 1).saturating_sub(connections(owner));
    let owner_sleeps = group.idle.0[owner].get() == 1;
    if excess == 0 && owner_sleeps && group.is_ahead(thief as u32, owner as u32) {
        return PER_CONNECTION_NS;
    }
    excess.min(MAX_CONNECTIONS) * PER_CONNECTION_NS
}

/// `x mod n` for `n` ≠ 0, without the panic branch that the verifier refuses.
#[inline(always)]
fn remainder(x: u32, n: u32) -> u32 {
    x.checked_rem(n).unwrap_or(0)
}

/// `x mod n` for `x < 2n`.
#[inline(always)]
fn wrap(x: u32, n: u32) -> u32 {
    if x >= n { x - n } else { x }
}

#[cfg(test)]
mod tests;
