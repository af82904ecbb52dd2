//! The steering policies: given a [`Group`] as it stands, which slot gets the
//! next connection? Pure over the group and a [`Host`], which supplies the
//! clock, the random numbers and what is known of the packet. The BPF program,
//! the unit tests and the simulator all call [`choose`].
//!
//! No policy ever returns a slot whose worker is not ready; with none ready
//! the answer is a [`Reason`] and the kernel hashes.

use crate::layout::{Group, Reason, Slot, State};

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
}

impl Policy {
    /// All policies with the names that users give them.
    pub const NAMED: [(&'static str, Self); 7] = [
        ("hash", Self::Hash),
        ("random", Self::Random),
        ("round-robin", Self::RoundRobin),
        ("cpu", Self::Cpu),
        ("source", Self::Source),
        ("p2c", Self::P2c),
        ("least", Self::Least),
    ];

    /// The policy's name.
    pub fn name(self) -> &'static str {
        Self::NAMED[self as usize].0
    }

    /// The policy of that name, or of that number in [`crate::layout::Config`].
    pub fn from_number(number: u32) -> Option<Self> {
        Self::NAMED.get(number as usize).map(|(_, policy)| *policy)
    }
}

/// What a policy may ask of the place where it runs. Each is asked only when
/// needed: in BPF each costs a helper call.
pub trait Host {
    /// Uniform over all 32 bits.
    fn random(&mut self) -> u32;
    /// ns of `CLOCK_MONOTONIC`, some milliseconds old at worst.
    fn now_ns(&mut self) -> u64;
    /// The CPU that handles the packet.
    fn cpu(&mut self) -> u32;
    /// A hash of the client's address, the same for each of its packets.
    fn source_hash(&mut self) -> u32;
    /// Returns [`crate::layout::Program::cursor`] and advances it by one.
    fn advance_cursor(&mut self) -> u32;
}

/// Up to this many workers, `least` looks at every one.
pub const SCAN_ALL_MAX: u32 = 16;
/// Beyond [`SCAN_ALL_MAX`]: how many idle workers `least` compares.
const IDLE_SAMPLE: u32 = 2;
/// Beyond [`SCAN_ALL_MAX`]: how many workers `least` compares when none is idle.
const BUSY_SAMPLE: u32 = 8;
/// Most workers that a policy passes over in search of a ready one.
const PROBE_MAX: u32 = 32;

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
    if policy == 0 || policy > Policy::Least as u32 {
        return Err(Reason::NoPolicy);
    }
    if ready == 0 {
        return Err(Reason::NoneReady);
    }
    if policy == Policy::Source as u32 {
        return source(group, host);
    }
    if policy == Policy::P2c as u32 {
        return better_of_two(group, ready, host);
    }
    let nth = if policy == Policy::Random as u32 {
        scale(host.random(), ready)
    } else if policy == Policy::RoundRobin as u32 {
        remainder(host.advance_cursor(), ready)
    } else {
        remainder(host.cpu(), ready)
    };
    checked_ready(group, nth_ready(group, nth))
}

/// How much work a slot has outstanding; the lowest wins.
#[derive(Clone, Copy)]
struct Score {
    /// Hung (bit 63), then waiting + running + busy (bits 32..63), then open
    /// connections (bits 0..32).
    load: u64,
    /// Accepts so far, wrapping: equals are dealt out in turn.
    turn: u32,
    slot: u32,
}

impl Score {
    /// Worse than every slot's score.
    const NONE: Self = Self { load: u64::MAX, turn: 0, slot: 0 };

    #[inline(always)]
    fn beats(&self, other: &Self) -> bool {
        self.load < other.load
            || (self.load == other.load && (self.turn.wrapping_sub(other.turn) as i32) < 0)
    }
}

/// `None` for a slot that is not ready.
#[inline(always)]
fn score<const N: usize>(group: &Group<N>, slot: u32, clock: &mut Clock<impl Host>) -> Option<Score> {
    let at = slot_at(group, slot);
    if at.steering.state.get() != State::Ready as u32 {
        return None;
    }
    let busy_since_ns = at.load.busy_since_ns.get();
    let mut outstanding = at.waiting() as u64 + (at.load.running.get() & 0xfff_ffff) as u64;
    let mut hung = 0;
    if busy_since_ns != 0 {
        outstanding += 1;
        hung = clock.is_hung(busy_since_ns) as u64;
    }
    Some(Score {
        load: hung << 63 | outstanding << 32 | at.load.active.get() as u64,
        turn: at.load.turn.get(),
        slot,
    })
}

/// Reads the clock once, and only if a worker is busy at all.
struct Clock<'a, H> {
    host: &'a mut H,
    hang_after_ns: u64,
    now_ns: u64,
}

impl<'a, H: Host> Clock<'a, H> {
    #[inline(always)]
    fn new<const N: usize>(group: &Group<N>, host: &'a mut H) -> Self {
        let hang_after_ns = group.config.hang_after_ns.get();
        Self { host, hang_after_ns, now_ns: 0 }
    }

    #[inline(always)]
    fn is_hung(&mut self, busy_since_ns: u64) -> bool {
        if self.hang_after_ns == 0 {
            return false;
        }
        if self.now_ns == 0 {
            self.now_ns = self.host.now_ns();
        }
        // The clock may be behind the worker's: that is no hang.
        self.now_ns > busy_since_ns && self.now_ns - busy_since_ns > self.hang_after_ns
    }
}

#[inline(always)]
fn least<const N: usize>(group: &Group<N>, host: &mut impl Host) -> Result<u32, Reason> {
    let workers = group.config.workers.get();
    if workers == 0 || workers > N as u32 {
        return Err(Reason::NoneReady);
    }
    if workers > SCAN_ALL_MAX {
        return least_of_many(group, workers, host);
    }
    let mut clock = Clock::new(group, host);
    let mut best = Score::NONE;
    for slot in 0..SCAN_ALL_MAX {
        if slot >= workers {
            break;
        }
        if let Some(score) = score(group, slot, &mut clock)
            && score.beats(&best)
        {
            best = score;
        }
    }
    found(best)
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
    let mut clock = Clock::new(group, host);
    let mut best = Score::NONE;
    let mut from = start;
    for _ in 0..IDLE_SAMPLE {
        let Some(slot) = next_idle(group, workers, from) else {
            break;
        };
        if let Some(score) = score(group, slot, &mut clock)
            && score.beats(&best)
        {
            best = score;
        }
        from = wrap(slot + 1, workers);
    }
    if best.load < 1 << 32 {
        return Ok(best.slot);
    }
    for step in 0..BUSY_SAMPLE {
        if let Some(score) = score(group, wrap(start + step, workers), &mut clock)
            && score.beats(&best)
        {
            best = score;
        }
    }
    if best.load != u64::MAX {
        return Ok(best.slot);
    }
    // A whole neighbourhood is down: the ready list knows who is not.
    let ready = group.config.ready_count.get();
    if ready == 0 {
        return Err(Reason::NoneReady);
    }
    checked_ready(group, nth_ready(group, remainder(start, ready)))
}

#[inline(always)]
fn found(best: Score) -> Result<u32, Reason> {
    if best.load == u64::MAX { Err(Reason::NoneReady) } else { Ok(best.slot) }
}

/// The first slot from `from` on, around the end, whose worker sleeps.
#[inline(always)]
fn next_idle<const N: usize>(group: &Group<N>, workers: u32, from: u32) -> Option<u32> {
    let words = workers.div_ceil(8);
    // The lanes of the first word below `from` come last, after the wrap.
    let first = from / 8;
    let skipped = (1u64 << (8 * (from % 8))) - 1;
    for step in 0..=N as u32 / 8 {
        if step > words {
            break;
        }
        let mut word = idle_word(group, wrap(first + step, words));
        if step == 0 {
            word &= !skipped;
        }
        if word != 0 {
            return Some(wrap(first + step, words) * 8 + lowest_lane(word));
        }
    }
    None
}

/// Eight workers' idle bytes.
#[inline(always)]
fn idle_word<const N: usize>(group: &Group<N>, word: u32) -> u64 {
    let lanes = group.idle.0.as_ptr().cast::<u64>();
    // SAFETY: the array is 64-byte aligned and the masked index is inside it.
    // Each lane is written whole by its worker.
    let word = unsafe { lanes.add(word as usize & (N / 8 - 1)).read_volatile() };
    u64::from_le(word) & 0x0101_0101_0101_0101
}

/// Index of the lowest byte that is 1, of bytes that are 0 or 1 and not all 0.
/// (BPF has no instruction that counts trailing zeros.)
#[inline(always)]
fn lowest_lane(word: u64) -> u32 {
    let lowest = word & word.wrapping_neg();
    (lowest.wrapping_mul(0x0001_0203_0405_0607) >> 56) as u32
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
        let random = random.wrapping_mul(0x9e37_79b1) ^ random >> 15;
        second = wrap(first + 1 + scale(random, ready - 1), ready);
    }
    let mut clock = Clock::new(group, host);
    let mut best = Score::NONE;
    for nth in [first, second] {
        if let Some(score) = score(group, nth_ready(group, nth), &mut clock)
            && score.beats(&best)
        {
            best = score;
        }
    }
    found(best)
}

/// By slot number, not by place in the ready list: a worker's death moves only
/// its own clients.
#[inline(always)]
fn source<const N: usize>(group: &Group<N>, host: &mut impl Host) -> Result<u32, Reason> {
    let workers = group.config.workers.get();
    if workers == 0 || workers > N as u32 {
        return Err(Reason::NoneReady);
    }
    let hash = host.source_hash();
    let home = scale(hash, workers);
    for step in 0..PROBE_MAX {
        if step >= workers {
            break;
        }
        if let Ok(slot) = checked_ready(group, wrap(home + step, workers)) {
            return Ok(slot);
        }
    }
    // Many are down at once: any ready one, the same while the list stays.
    let ready = group.config.ready_count.get();
    if ready == 0 {
        return Err(Reason::NoneReady);
    }
    checked_ready(group, nth_ready(group, scale(hash, ready)))
}

#[inline(always)]
fn nth_ready<const N: usize>(group: &Group<N>, nth: u32) -> u32 {
    group.ready[nth as usize & (N - 1)].get() as u32
}

/// The list of ready slots may be a moment old.
#[inline(always)]
fn checked_ready<const N: usize>(group: &Group<N>, slot: u32) -> Result<u32, Reason> {
    if slot_at(group, slot).steering.state.get() == State::Ready as u32 {
        Ok(slot)
    } else {
        Err(Reason::NoneReady)
    }
}

/// Masked, so that the verifier sees a bound.
#[inline(always)]
fn slot_at<const N: usize>(group: &Group<N>, slot: u32) -> &Slot {
    &group.slots[slot as usize & (N - 1)]
}

/// Maps a 32-bit random number evenly to `0..n` (multiply and shift; no division).
#[inline(always)]
fn scale(random: u32, n: u32) -> u32 {
    (random as u64 * n as u64 >> 32) as u32
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
