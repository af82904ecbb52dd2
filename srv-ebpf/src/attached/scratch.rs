//! Reads of several fields of the kernel in one piece, and the memory for them. If each read is a
//! call of a helper, few large reads are cheaper than many small ones. If reads are plain loads, the
//! program does not use this memory.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use srv_common::attached::AttachedGroup;
use srv_common::branchless::bounded;
use srv_common::policy::attached::LOOK_MAX;

use crate::kernel::{load, offset, read_into, reads_directly};

/// The memory of this CPU for what is read in one piece. It is too large for the stack of the
/// program, and its content is kept from one function to the next.
#[derive(Clone, Copy)]
pub(crate) struct Scratch(*mut Room);

#[repr(C)]
pub(crate) struct Room {
    /// `struct sock_reuseport`, with the sockets of a block of places.
    group: [u64; 32],
    /// A listener, from `sk_ack_backlog` to `qlen`.
    listener: [u32; 256],
    /// A `struct eppoll_entry`, or a `struct eventpoll` from its wait queue on.
    entry: [u64; 16],
    /// The first place of the block in `group`.
    block_at: u32,
}

/// The size of the sockets in [`Room::group`].
const BLOCK_BYTES: u32 = 8 * LOOK_MAX;

#[map]
static SCRATCH: PerCpuArray<Room> = PerCpuArray::with_max_entries(1, 0);

// SAFETY of all accesses below: each CPU has a `Room` of its own, and the program does not interrupt
// itself. The verifier refuses an access outside of it.
impl Scratch {
    #[inline(always)]
    pub(crate) fn of_this_cpu() -> Option<Self> {
        SCRATCH.get_ptr_mut(0).map(Self)
    }

    /// The number of sockets of the `struct sock_reuseport` at `address`, and the number for which it
    /// has room. The same read gets its first block of places.
    #[inline(always)]
    pub(crate) fn sizes(&mut self, address: u64) -> Option<(u16, u16)> {
        let (num, max) = (offset!(num_socks), offset!(max_socks));
        if reads_directly() {
            return Some((
                load(address + u64::from(num)),
                load(address + u64::from(max)),
            ));
        }
        read_into(self.group(0), offset!(socks) + BLOCK_BYTES, address)?;
        // SAFETY: see above.
        unsafe {
            (*self.0).block_at = 0;
            Some((*self.group(num).cast(), *self.group(max).cast()))
        }
    }

    #[inline(always)]
    fn group(&self, offset: u32) -> *mut u8 {
        // SAFETY: see above.
        unsafe { (&raw mut (*self.0).group).cast::<u8>().add(offset as usize) }
    }

    /// The socket at a place, which is read with the block of places from `first` on.
    #[inline(always)]
    pub(crate) fn socket_at(
        &mut self,
        group: &AttachedGroup,
        place: u32,
        first: u32,
    ) -> Option<u64> {
        if reads_directly() {
            let sockets = group.program.reuseport.get() + u64::from(offset!(socks));
            return Some(load(sockets + 8 * u64::from(place)));
        }
        // SAFETY: see above.
        if first != unsafe { (*self.0).block_at } {
            let sockets = group.program.reuseport.get() + u64::from(offset!(socks));
            let address = sockets + 8 * u64::from(first);
            read_into(self.group(offset!(socks)), BLOCK_BYTES, address)?;
            // SAFETY: see above.
            unsafe { (*self.0).block_at = first };
        }
        let nth = bounded(place.wrapping_sub(first), LOOK_MAX as usize) as u32;
        let socket = self.group(offset!(socks) + 8 * nth).cast::<u64>();
        // SAFETY: see above.
        Some(unsafe { *socket })
    }

    /// Two integers: at `address`, and `apart` bytes behind it.
    #[inline(always)]
    pub(crate) fn two_u32(&mut self, address: u64, apart: u32) -> Option<(u32, u32)> {
        if reads_directly() {
            return Some((load(address), load(address + u64::from(apart))));
        }
        // SAFETY: see above.
        unsafe {
            let to = (&raw mut (*self.0).listener).cast::<u8>();
            read_into(to, apart + 4, address)?;
            Some((*to.cast(), *to.add(apart as usize).cast()))
        }
    }

    /// Two pointers: at `address`, and `apart` bytes behind it.
    #[inline(always)]
    pub(crate) fn two_u64(&mut self, address: u64, apart: u32) -> Option<(u64, u64)> {
        if reads_directly() {
            return Some((load(address), load(address + u64::from(apart))));
        }
        // SAFETY: see above.
        unsafe {
            let to = (&raw mut (*self.0).entry).cast::<u8>();
            read_into(to, apart + 8, address)?;
            Some((*to.cast(), *to.add(apart as usize).cast()))
        }
    }
}
