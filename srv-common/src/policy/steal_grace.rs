//! For how long a worker leaves a connection at a sibling's listener to that sibling. No part of
//! the BPF program: workers call it, and the simulator.

use crate::layout::{Group, State};

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
pub fn steal_grace_ns<const N: usize>(
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
