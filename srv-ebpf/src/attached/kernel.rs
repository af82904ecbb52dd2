//! Reading the running kernel's structures: at offsets that user space took
//! from its BTF, each a constant to the verifier.

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

/// One of [`OFFSETS`]; what the compiler knows of it is not what will be there.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a reference to a static.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::offsets().$field) }
    };
}
pub(crate) use offset;

#[inline(always)]
pub fn offsets() -> &'static Offsets {
    &OFFSETS
}

/// Whether what is read costs a load, or else a helper's call.
#[inline(always)]
pub fn reads_directly() -> bool {
    offset!(reads_directly) != 0
}

/// The integer at `address` in the kernel's memory; `None`, or 0 if it is read
/// directly, if nothing is mapped there.
#[inline(always)]
pub fn read<T: Copy>(address: u64) -> Option<T> {
    if reads_directly() {
        return Some(load(address));
    }
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes as many bytes as `T` has, zeroes if it fails,
    // and takes any address. Callers ask for integers and arrays of them.
    unsafe {
        let failed = bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const _,
        );
        (failed == 0).then(|| value.assume_init())
    }
}

/// The integer at `address` by a plain load, 0 if nothing is mapped there. Only
/// where the program [reads directly](reads_directly).
#[inline(always)]
pub fn load<T: Copy>(address: u64) -> T {
    // SAFETY: a function of the kernel that takes any address, and 0 for "of no
    // type", and returns the address; any load from there is allowed, and one that
    // faults gives 0. The verifier makes a move of the call.
    unsafe {
        let cast: extern "C" fn(u64, u32) -> *const T = core::mem::transmute(RDONLY_CAST as usize);
        core::ptr::read_volatile(cast(address, 0))
    }
}

/// `bytes` bytes from `address` on, into `to`.
#[inline(always)]
pub fn read_into<T>(to: *mut T, bytes: u32, address: u64) -> Option<()> {
    // SAFETY: the verifier refuses a length that `to` has not room for.
    let failed = unsafe { bpf_probe_read_kernel(to.cast(), bytes, address as *const _) };
    (failed == 0).then_some(())
}
