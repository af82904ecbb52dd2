//! `poll`, `ppoll`, `select` and `pselect`.

use core::ffi::{c_int, c_ulong};
use core::slice;

use linux_raw_sys::general::{POLLIN, POLLOUT, POLLPRI};

use crate::c_library::{monotonic_ns, outcome_int};
use crate::files::{self, File};
use crate::sys::{self, Returned, Timespec, passed, pollfd};
use crate::waiting;

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn poll(fds: *mut pollfd, count: c_ulong, timeout_ms: c_int) -> c_int {
    let timeout_ns = u64::try_from(timeout_ms).ok().map(|ms| ms * 1_000_000);
    let polled = poll_listeners(fds, count, timeout_ns, core::ptr::null());
    outcome_int(polled.unwrap_or_else(|| sys::poll_for_ms(fds, count as usize, timeout_ms)))
}

/// What programs call that were compiled with checks of buffers.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __poll_chk(fds: *mut pollfd, count: c_ulong, timeout_ms: c_int, _: usize) -> c_int {
    poll(fds, count, timeout_ms)
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn ppoll(
    fds: *mut pollfd,
    count: c_ulong,
    timeout: *const Timespec,
    mask: *const u8,
) -> c_int {
    // SAFETY: the application passes a time span, or null.
    let timeout_ns = unsafe { timeout.as_ref() }.map(|timeout| timeout.ns());
    let polled = poll_listeners(fds, count, timeout_ns, mask);
    outcome_int(polled.unwrap_or_else(|| {
        // The kernel changes its copy.
        let mut timeout = timeout_ns.map(Timespec::from_ns);
        let timeout = timeout
            .as_mut()
            .map_or(core::ptr::null_mut(), core::ptr::from_mut);
        passed!(__NR_ppoll, fds, count, timeout, mask, sys::SIGNAL_SET_BYTES)
    }))
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __ppoll_chk(
    fds: *mut pollfd,
    count: c_ulong,
    timeout: *const Timespec,
    mask: *const u8,
    _: usize,
) -> c_int {
    ppoll(fds, count, timeout, mask)
}

fn is_listener(fd: i32) -> bool {
    matches!(files::get(fd), File::Listener { .. } | File::Claimed(_))
}

/// `None` if no listener is polled that concerns this library.
fn poll_listeners(
    fds: *mut pollfd,
    count: c_ulong,
    timeout_ns: Option<u64>,
    mask: *const u8,
) -> Option<Returned> {
    if fds.is_null() || count == 0 {
        return None;
    }
    // SAFETY: the application passes that many entries.
    let fds = unsafe { slice::from_raw_parts_mut(fds, count as usize) };
    let mut polled = fds.iter();
    let has_listener = polled.any(|polled| is_listener(polled.fd));
    has_listener.then(|| waiting::poll(fds, timeout_ns, mask))?
}

/// `FD_SETSIZE`: an `fd_set` has this many bits.
const SET_BITS: usize = 1024;

/// An application's `fd_set`, or none.
struct Set<'a>(Option<&'a mut [u64; SET_BITS / 64]>);

impl Set<'_> {
    /// # Safety
    /// The address is null, or that of an `fd_set` that nothing else uses.
    unsafe fn at(address: *mut u64) -> Self {
        // SAFETY: as the caller says.
        Self(unsafe { address.cast::<[u64; SET_BITS / 64]>().as_mut() })
    }

    fn has(&self, fd: usize) -> bool {
        self.0
            .as_ref()
            .is_some_and(|set| set[fd / 64] & 1 << (fd % 64) != 0)
    }

    fn keep(&mut self, fd: usize, is_ready: bool) -> isize {
        let is_kept = is_ready && self.has(fd);
        if let Some(set) = &mut self.0
            && !is_kept
        {
            set[fd / 64] &= !(1 << (fd % 64));
        }
        isize::from(is_kept)
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Timeval {
    seconds: i64,
    microseconds: i64,
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn select(
    count: c_int,
    reads: *mut u64,
    writes: *mut u64,
    exceptions: *mut u64,
    timeout: *mut Timeval,
) -> c_int {
    // SAFETY: the application passes a time span, or null.
    let timeout = unsafe { timeout.as_mut() };
    let began_ns = monotonic_ns();
    let timeout_ns = timeout.as_ref().map(|timeout| {
        let nanoseconds = timeout.microseconds.saturating_mul(1_000);
        Timespec {
            seconds: timeout.seconds,
            nanoseconds,
        }
        .ns()
    });
    let returned = select_for(
        count,
        [reads, writes, exceptions],
        timeout_ns,
        core::ptr::null(),
    );
    if let (Some(timeout), Some(ns)) = (timeout, timeout_ns) {
        // Linux says how much of the time is left.
        let left = Timespec::from_ns(ns.saturating_sub(monotonic_ns() - began_ns));
        *timeout = Timeval {
            seconds: left.seconds,
            microseconds: left.nanoseconds / 1_000,
        };
    }
    outcome_int(returned)
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn pselect(
    count: c_int,
    reads: *mut u64,
    writes: *mut u64,
    exceptions: *mut u64,
    timeout: *const Timespec,
    mask: *const u8,
) -> c_int {
    // SAFETY: the application passes a time span, or null.
    let timeout_ns = unsafe { timeout.as_ref() }.map(|timeout| timeout.ns());
    outcome_int(select_for(
        count,
        [reads, writes, exceptions],
        timeout_ns,
        mask,
    ))
}

fn select_for(
    count: c_int,
    sets: [*mut u64; 3],
    timeout_ns: Option<u64>,
    mask: *const u8,
) -> Returned {
    let bits = usize::try_from(count).unwrap_or(0);
    if bits <= SET_BITS && !sets[0].is_null() {
        // SAFETY: the application passes sets, or null.
        let sets = sets.map(|set| unsafe { Set::at(set) });
        let mut reads = (0..bits).filter(|fd| sets[0].has(*fd));
        if reads.any(|fd| is_listener(fd as i32))
            && let Some(returned) = select_listeners(bits, sets, timeout_ns, mask)
        {
            return returned;
        }
    }
    let mut timeout = timeout_ns.map(Timespec::from_ns);
    let timeout = timeout
        .as_mut()
        .map_or(core::ptr::null_mut(), core::ptr::from_mut);
    // The kernel takes the signal set with its length.
    let mask = [mask as usize, sys::SIGNAL_SET_BYTES];
    let [reads, writes, exceptions] = sets;
    passed!(
        __NR_pselect6,
        count,
        reads,
        writes,
        exceptions,
        timeout,
        mask.as_ptr()
    )
}

fn select_listeners(
    bits: usize,
    mut sets: [Set<'_>; 3],
    timeout_ns: Option<u64>,
    mask: *const u8,
) -> Option<Returned> {
    const MEANINGS: [u32; 3] = [POLLIN, POLLOUT, POLLPRI];
    let mut fds = [pollfd {
        fd: -1,
        events: 0,
        revents: 0,
    }; SET_BITS];
    let mut count = 0;
    for fd in 0..bits {
        let asked = sets.iter().zip(MEANINGS).filter(|(set, _)| set.has(fd));
        let events = asked.fold(0, |events, (_, meaning)| events | meaning);
        if events != 0 {
            fds[count].fd = fd as i32;
            fds[count].events = events as i16;
            count += 1;
        }
    }
    let returned = waiting::poll(&mut fds[..count], timeout_ns, mask)?;
    if returned < 0 {
        return Some(returned);
    }
    let mut ready = 0;
    for polled in &fds[..count] {
        // An error or a hang-up makes a descriptor readable and writable.
        let revents = polled.revents as u32;
        let is_broken = revents & !(POLLIN | POLLOUT | POLLPRI) != 0;
        for (set, meaning) in sets.iter_mut().zip(MEANINGS) {
            let is_ready = revents & meaning != 0 || is_broken && meaning != POLLPRI;
            ready += set.keep(polled.fd as usize, is_ready);
        }
    }
    Some(ready)
}
