//! The steal grace period: for how long a worker leaves a connection at the listener of a
//! sibling to that sibling. Workers and the simulator call it; the BPF program does not.

use crate::layout::{Group, State};

/// The steal grace period, ns, that the worker in slot `thief` grants the worker in slot `owner`
/// for a connection at the listener of the latter. `now_ns` is of the clock of
/// [`crate::layout::Load::busy_since_ns`].
///
/// A burst wakes all workers. The worker that runs first could take most of it, while the others
/// are about to run. Therefore the thief waits in two cases:
///
/// - It would end up with more connections than the owner has, those that wait for each
///   included. This keeps long-lived connections even.
/// - It has lately had more than its share ([`crate::turns`]), and the owner sleeps: the kernel
///   has then woken the owner. This keeps short connections even. If the owner is at work, the
///   thief does not wait in this case.
///
/// The period is zero if the owner is not ready, or has been away from `epoll_wait` for longer
/// than 2 ms.
pub fn steal_grace_ns<const N: usize>(
    group: &Group<N>,
    thief: u32,
    owner: u32,
    now_ns: u64,
) -> u64 {
    const PER_CONNECTION_NS: u64 = 10_000_000;
    const MAX_CONNECTIONS: u64 = 2;
    /// Longer than a worker waits for its next time slice if there are more workers than cores.
    const AWAY_MAX_NS: u64 = 2_000_000;
    let (thief, owner) = (thief as usize, owner as usize);
    let busy_since_ns = group.slots[owner].load.busy_since_ns.get();
    let is_away = busy_since_ns != 0 && now_ns.saturating_sub(busy_since_ns) > AWAY_MAX_NS;
    if is_away || group.steering[owner].state.get() != State::Ready as u32 {
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
