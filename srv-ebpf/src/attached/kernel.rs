//! Reading the structures of the running kernel, at offsets that user space took from its BTF. To
//! the verifier each offset is a constant.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use srv_common::attached::{Offsets, RDONLY_CAST};

#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets {
    reads_directly: 0,
    reads_queues: 0,
    context_sk: 0,
    sk_reuseport_cb: 0,
    num_socks: 0,
    max_socks: 0,
    socks: 0,
    skc_cookie: 0,
    sk_ack_backlog: 0,
    qlen: 0,
    reads_sleep: 0,
    sk_wq: 0,
    wq_wait: 0,
    wait_head: 0,
    entry_base: 0,
    entry_link: 0,
    entry_whead: 0,
    item_ep: 0,
    item_pwqlist: 0,
    ep_wq_head: 0,
    ep_rbr: 0,
};

/// A field of [`OFFSETS`]. The read is volatile, because user space sets the value after the compiler
/// has seen it.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a reference to a static.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::offsets().$field) }
    };
}
pub(crate) use offset;

#[inline(always)]
pub(crate) fn offsets() -> &'static Offsets {
    &OFFSETS
}

/// Whether a read is a plain load. If not, it is a call of a helper.
#[inline(always)]
pub(crate) fn reads_directly() -> bool {
    offset!(reads_directly) != 0
}

/// The integer at `address` in the kernel's memory. If nothing is mapped there, a helper gives `None`,
/// and a plain load gives 0.
#[inline(always)]
pub(crate) fn read<T: Copy>(address: u64) -> Option<T> {
    if reads_directly() {
        return Some(load(address));
    }
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes as many bytes as `T` has (zeros if it fails) and accepts any
    // address. Callers read integers and arrays of integers.
    unsafe {
        let failed = bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const _,
        );
        (failed == 0).then(|| value.assume_init())
    }
}

/// The integer at `address`, by a plain load; 0 if nothing is mapped there. Call it only if the
/// program [reads directly](reads_directly).
#[inline(always)]
pub(crate) fn load<T: Copy>(address: u64) -> T {
    // SAFETY: this function of the kernel accepts any address, and 0 for "no type". It returns the
    // address. Any load from there is allowed, and a load that faults gives 0. The verifier replaces
    // the call by a move.
    unsafe {
        let cast: extern "C" fn(u64, u32) -> *const T = core::mem::transmute(RDONLY_CAST as usize);
        core::ptr::read_volatile(cast(address, 0))
    }
}

/// Copies `bytes` bytes from `address` to `to`.
#[inline(always)]
pub(crate) fn read_into<T>(to: *mut T, bytes: u32, address: u64) -> Option<()> {
    // SAFETY: the verifier refuses a length that is larger than the memory at `to`.
    let failed = unsafe { bpf_probe_read_kernel(to.cast(), bytes, address as *const _) };
    (failed == 0).then_some(())
}
