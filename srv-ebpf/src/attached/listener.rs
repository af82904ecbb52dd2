//! The state of one listener in the running kernel. The functions are global, so that the verifier
//! checks each of them once. Inside the loop of the policy it checked more than a million
//! instructions.

use srv_common::attached::{AttachedGroup, MAX_LISTENERS, Place, Reason, Seen, Sleep};
use srv_common::branchless::bounded;
use srv_common::policy::attached::Look;

use crate::ATTACHED;
use crate::counter::add_one;
use crate::kernel::{offset, read};
use crate::scratch::Scratch;

/// Set in a result if the function failed.
pub(crate) const FAILED: u64 = 1 << 63;

/// Whether the worker sleeps that waits for the listener at `place`, and if so, how many connections
/// wait: a [`Look`], or [`FAILED`]. The place is read with the block of places from `first` on.
/// `turn` is pseudo-random. `half_open_mask` is as in [`Listener::waiting`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn look_at_worker(
    place: u32,
    first: u32,
    turn: u32,
    half_open_mask: u32,
) -> u64 {
    let Some(mut listener) = Listener::at(place, first) else {
        return FAILED;
    };
    let sleep = listener.sleep(turn) as u32;
    listener.seen().sleep.set(sleep);
    let look = Look::new(listener.slot, sleep, 0);
    if !look.may_be_idle() {
        return look.0;
    }
    Look::new(listener.slot, sleep, listener.waiting(half_open_mask)).0
}

/// How many connections wait at the listener at `place`: a [`Look`], or [`FAILED`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn look_at_queue(place: u32, first: u32, half_open_mask: u32) -> u64 {
    let Some(mut listener) = Listener::at(place, first) else {
        return FAILED;
    };
    let waiting = listener.waiting(half_open_mask);
    Look::new(listener.slot, listener.seen().sleep.get(), waiting).0
}

/// The slot of the listener with this `SO_COOKIE`, or [`FAILED`]. It is a global function, because the
/// verifier would otherwise check all later code once for each slot that it can return.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn slot_of_cookie(cookie: u64) -> u64 {
    let slot = ATTACHED
        .get(0)
        .and_then(|group| group.slot_of_cookie(cookie));
    slot.map_or(FAILED, u64::from)
}

struct Listener<'a> {
    group: &'a AttachedGroup,
    scratch: Scratch,
    at: &'a Place,
    /// The address of its `struct sock`.
    socket: u64,
    slot: u32,
}

/// One look in 2^4 follows the pointers to the epoll instance again.
const WALK_BITS: u32 = 4;

impl Listener<'_> {
    #[inline(always)]
    fn at(place: u32, first: u32) -> Option<Self> {
        let group = ATTACHED.get(0)?;
        let mut scratch = Scratch::of_this_cpu()?;
        let socket = scratch.socket_at(group, place, first)?;
        let at = &group.places[bounded(place, MAX_LISTENERS)];
        let mut listener = Self {
            group,
            scratch,
            at,
            socket,
            slot: 0,
        };
        let generation = group.config.generation.get();
        listener.slot = match at.slot_of(socket, generation) {
            Some(slot) => slot,
            None => listener.learn(generation)?,
        };
        Some(listener)
    }

    /// Reads how many connections wait. `half_open_mask` says which bits of the number of half-open
    /// connections count: all, or none.
    #[inline(always)]
    fn waiting(&mut self, half_open_mask: u32) -> u32 {
        let from = offset!(sk_ack_backlog);
        let address = self.socket + u64::from(from);
        let found = self.scratch.two_u32(address, offset!(qlen) - from);
        let (queued, half_open) = found.unwrap_or((0, 0));
        let seen = self.seen();
        seen.queued.set(queued);
        seen.half_open.set(half_open);
        queued.wrapping_add(half_open & half_open_mask)
    }

    #[inline(always)]
    fn sleep(&mut self, turn: u32) -> Sleep {
        if offset!(reads_sleep) == 0 {
            return Sleep::Unknown;
        }
        let was_seen = self.seen().epoll_seen.get() != 0;
        let epoll = self.epoll(was_seen, turn);
        if epoll != 0 {
            self.sleeps_in(epoll)
        } else if was_seen {
            Sleep::Gone
        } else {
            Sleep::Unknown
        }
    }

    /// Finds the slot of a socket that was not at this place before.
    #[inline(always)]
    fn learn(&self, generation: u32) -> Option<u32> {
        let cookie = read::<u64>(self.socket + u64::from(offset!(skc_cookie)))?;
        let slot = slot_of_cookie(cookie);
        if slot & FAILED != 0 {
            self.group.set_outdated(Reason::UnknownMember);
            return None;
        }
        let slot = slot as u32;
        self.at.socket.set(self.socket);
        self.at.key.set(Place::key(self.socket, slot, generation));
        Some(slot)
    }

    /// The address of the epoll instance that waits for the listener, remembered or found again; 0 if
    /// there is none.
    #[inline(always)]
    fn epoll(&mut self, was_seen: bool, turn: u32) -> u64 {
        let known = self.at.epoll.get();
        let is_known = self.at.epoll_key.get() == known ^ self.socket;
        let is_gone = known == 0 && was_seen;
        let is_due = turn >> (32 - WALK_BITS) == 0;
        if is_known && !is_gone && !is_due {
            return known;
        }
        add_one(&self.group.program.walks);
        let epoll = self.walk().unwrap_or(0);
        self.at.epoll.set(epoll);
        self.at.epoll_key.set(epoll ^ self.socket);
        if epoll != 0 {
            self.seen().epoll_seen.set(1);
        }
        epoll
    }

    /// The epoll instance that has the first entry in the wait queue of the listener. `None` if no
    /// process waits there, or if the first one waits in another way.
    ///
    /// The program recognises the entry of an epoll instance by its shape: it points to its queue,
    /// and to an item that points back to the entry (fs/eventpoll.c: ep_ptable_queue_proc). The
    /// entries of `poll`, a blocking accept and io_uring do not. This needs no address of a symbol,
    /// which the kernel may hide.
    #[inline(always)]
    fn walk(&mut self) -> Option<u64> {
        let wq = read::<u64>(self.socket + u64::from(offset!(sk_wq)))?;
        let queue = wq + u64::from(offset!(wq_wait));
        let head = queue + u64::from(offset!(wait_head));
        let first = read::<u64>(head)?;
        if first == head {
            return None;
        }
        let entry = first - u64::from(offset!(entry_link));
        let from = offset!(entry_base);
        let address = entry + u64::from(from);
        let (item, whead) = self.scratch.two_u64(address, offset!(entry_whead) - from)?;
        if whead != queue {
            return None;
        }
        let its_entry = read::<u64>(item + u64::from(offset!(item_pwqlist)))?;
        if its_entry != entry {
            return None;
        }
        read::<u64>(item + u64::from(offset!(item_ep)))
    }

    /// Whether a thread waits in the epoll instance's own queue, that is, sleeps in `epoll_wait`.
    #[inline(always)]
    fn sleeps_in(&mut self, epoll: u64) -> Sleep {
        let from = offset!(ep_wq_head);
        let head = epoll + u64::from(from);
        let Some((first, root)) = self.scratch.two_u64(head, offset!(ep_rbr) - from) else {
            return Sleep::Unknown;
        };
        if root == 0 {
            // The epoll instance watches nothing, so it may have been freed. The next look follows
            // the pointers again.
            self.at.epoll_key.set(0);
        }
        if first == head {
            Sleep::Busy
        } else if first != 0 {
            Sleep::Asleep
        } else {
            // This is no list head, so nothing was mapped there.
            Sleep::Unknown
        }
    }

    #[inline(always)]
    fn seen(&self) -> &Seen {
        &self.group.slots[bounded(self.slot, MAX_LISTENERS)].seen
    }
}
