//! The steering policies: which slot gets the next connection. The choice is a pure function of
//! a [`Group`] and a [`Host`], which supplies random numbers, a cursor, and what is known of the
//! packet and its CPU. It reads no clock. The BPF program, the unit tests and the simulator all
//! call [`choose`].
//!
//! No policy returns a slot whose worker is not ready. If no worker is ready, the answer is a
//! [`Reason`], and the kernel hashes.

pub mod attached;
#[cfg(not(target_arch = "bpf"))]
pub mod hand_over;
pub mod hermes;
mod idle;
mod least;
mod score;
mod steal_grace;

use crate::branchless::{bounded, lower};
use crate::layout::{Group, MAX_WORKERS, NOT_ELIGIBLE, Reason};
pub use least::SCAN_ALL_MAX;
pub use score::Score;
use score::{Scoring, found};
pub use steal_grace::steal_grace_ns;

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
    /// One of the workers that their own filter lets pass ([`hermes`]).
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

/// What a policy may ask of the place where it runs. A policy asks only for what it needs: in
/// BPF each answer costs a call of a helper.
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
    /// Advances the cursor by the number of places that a scan from it has passed over. If the
    /// cursor stayed, the worker behind one that does not sleep would get the share of both.
    fn skip(&mut self, places: u32);
    /// Which bits of the number of waiting connections count: all, or none. Unless each handshake
    /// begins with a SYN cookie, an ACK that brings one back comes during a flood. What waits then
    /// is handshakes that never complete, which say nothing about the load of a worker.
    #[inline(always)]
    fn waiting_mask(&mut self) -> u64 {
        u64::MAX
    }
}

/// Chooses the slot for a new connection.
///
/// # Errors
/// The reason why the kernel should choose.
#[inline(always)]
pub fn choose<const N: usize>(group: &Group<N>, host: &mut impl Host) -> Result<u32, Reason> {
    let policy = group.config.policy.get();
    if policy == Policy::Least as u32 {
        return least::choose(group, host);
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

#[inline(always)]
fn better_of_two<const N: usize>(
    group: &Group<N>,
    ready: u32,
    host: &mut impl Host,
) -> Result<u32, Reason> {
    let random = host.random();
    let first = scale(random, ready);
    // Two distinct workers, if there are two.
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

/// By slot number, not by place in the ready list: if a worker dies, only its own clients move,
/// and all of them come back to its replacement.
#[inline(always)]
fn source<const N: usize>(
    group: &Group<N>,
    ready: u32,
    host: &mut impl Host,
) -> Result<u32, Reason> {
    let workers = group.config.workers.get();
    let hash = host.source_hash();
    let home = checked_ready(group, scale(hash, workers));
    // Other bits of the hash: with the same bits, all clients of a dead worker would go to one
    // worker.
    home.or_else(|_| checked_ready(group, nth_ready(group, scale(mix(hash), ready))))
}

#[inline(always)]
fn nth_ready<const N: usize>(group: &Group<N>, nth: u32) -> u32 {
    group.ready[bounded(nth, N)].get() as u32
}

/// The slot, if its worker is ready now: the list of ready slots may be a moment old.
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
