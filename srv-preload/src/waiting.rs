//! Waits on behalf of applications that have no epoll instance of their own: in `poll`, `select`
//! and a blocking `accept`. The wait is one in a private epoll instance: only there do exclusive
//! registrations wake one process and not all.

use core::slice;

use linux_raw_sys::general as nr;

use crate::c_library::monotonic_ns;
use crate::files::{self, File};
use crate::published;
use crate::state::{self, State};
use crate::sys::{self, Returned, epoll_event, errno, pollfd};

/// Data of events that come from no claim. (That of a claim is its number.)
const OF_BELL: u64 = u64::MAX;
const OF_OTHERS: u64 = u64::MAX - 1;

/// Events taken at once. More of them only mean another wait.
const EVENTS: usize = 16;

/// Waits in an epoll instance that claims are registered in, and publishes that the process waits.
/// A wait that must end because a listener is to be watched again goes on after that.
pub(crate) fn wait(
    epoll: i32,
    events: *mut epoll_event,
    count: i32,
    timeout_ns: Option<u64>,
    mask: *const u8,
) -> Returned {
    if published::has_removed(epoll) {
        state::with(|state| state.unregister_removed(epoll));
    }
    if timeout_ns == Some(0) {
        let returned = sys::epoll_wait(epoll, events, count, 0, mask);
        published::wakes(epoll, monotonic_ns());
        put_listeners_last(epoll, events, returned);
        return returned;
    }
    let deadline_ns = timeout_ns.map(|ns| monotonic_ns().saturating_add(ns));
    loop {
        let due_ns = published::sleeps(epoll);
        let slept_from_ns = match due_ns.or(deadline_ns) {
            Some(_) => monotonic_ns(),
            None => 0,
        };
        let until_ns = [due_ns, deadline_ns].into_iter().flatten().min();
        let timeout_ms =
            until_ns.map_or(-1, |until_ns| to_ms(until_ns.saturating_sub(slept_from_ns)));
        let returned = sys::epoll_wait(epoll, events, count, timeout_ms, mask);
        let now_ns = monotonic_ns();
        published::wakes(epoll, now_ns);
        if due_ns.is_some_and(|due_ns| due_ns <= now_ns) {
            state::with(|state| state.watch_again(epoll, slept_from_ns, now_ns));
        }
        let is_over = deadline_ns.is_some_and(|deadline_ns| deadline_ns <= now_ns);
        if returned != 0 || is_over || due_ns.is_none() {
            put_listeners_last(epoll, events, returned);
            return returned;
        }
    }
}

fn put_listeners_last(epoll: i32, events: *mut epoll_event, returned: Returned) {
    if returned > 1 {
        // SAFETY: the kernel has written so many events there.
        let events = unsafe { slice::from_raw_parts_mut(events, returned as usize) };
        published::put_listeners_last(epoll, events);
    }
}

/// Rounded up: a wait must not end before its time.
fn to_ms(ns: u64) -> i32 {
    i32::try_from(ns.div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

/// What `ppoll` does, for descriptors of which some are listeners that can be claimed. `None` if
/// none is: the caller then makes the system call.
pub(crate) fn poll(
    fds: &mut [pollfd],
    timeout_ns: Option<u64>,
    mask: *const u8,
) -> Option<Returned> {
    let prepared = state::with(|state| state.prepare(fds)).flatten()?;
    let timeout_ns = match prepared.is_immediate {
        true => Some(0),
        false => timeout_ns,
    };
    let mut events = [epoll_event { events: 0, data: 0 }; EVENTS];
    let deadline_ns = timeout_ns.map(|ns| monotonic_ns().saturating_add(ns));
    loop {
        let left_ns = deadline_ns.map(|deadline_ns| deadline_ns.saturating_sub(monotonic_ns()));
        let returned = wait(
            prepared.epoll,
            events.as_mut_ptr(),
            EVENTS as i32,
            left_ns,
            mask,
        );
        let reported = &events[..usize::try_from(returned).unwrap_or(0)];
        if reported.iter().any(|event| event.data == OF_BELL) {
            state::with(State::follow_all);
            if reported.len() == 1 {
                continue;
            }
        }
        state::with(|state| state.forget_others(&prepared, fds));
        if returned < 0 {
            return Some(returned);
        }
        return Some(fill(fds, reported));
    }
}

/// What [`State::prepare`] has done.
struct Prepared {
    epoll: i32,
    /// A descriptor that epoll cannot watch, such as that of a file on disk, is always ready.
    is_immediate: bool,
}

impl State {
    /// Registers what is polled in the private epoll instance: the listeners, which stay there
    /// until they are not polled, and the other descriptors.
    fn prepare(&mut self, fds: &[pollfd]) -> Option<Prepared> {
        let asks = |polled: &&pollfd| polled.events & nr::POLLIN as i16 != 0;
        let mut polled_claims = 0_u64;
        for polled in fds.iter().filter(asks) {
            if let Some(nth) = self.claim_to_wait(polled.fd) {
                polled_claims |= 1 << nth;
            }
        }
        if polled_claims == 0 {
            return None;
        }
        let epoll = self.waiting()?;
        for nth in 0..self.claims.len() {
            let is_polled = polled_claims & 1 << nth != 0;
            match self.claims[nth].epoll() {
                None if is_polled => self.register_to_wait(nth)?,
                Some(at) if at == epoll && !is_polled => self.unregister(nth),
                _ => {}
            }
        }
        let mut is_immediate = false;
        for polled in fds
            .iter()
            .filter(|polled| polled.fd >= 0 && !is_claimed(polled.fd))
        {
            let events = polled.events as u16 as u32;
            let added = sys::epoll_add(epoll, polled.fd, events, OF_OTHERS);
            is_immediate |= added < 0 && added != sys::failure(errno::EEXIST);
        }
        Some(Prepared {
            epoll,
            is_immediate,
        })
    }

    /// The claim of a listener that is waited at here, which is made if there is none.
    fn claim_to_wait(&mut self, fd: i32) -> Option<usize> {
        match files::get(fd) {
            File::Listener { .. } => self.claim(fd),
            File::Claimed(nth) => {
                let epoll = self.claims[nth].epoll();
                epoll
                    .is_none_or(|epoll| epoll == self.waiting)
                    .then_some(nth)
            }
            _ => None,
        }
    }

    fn register_to_wait(&mut self, nth: usize) -> Option<()> {
        let epoll = self.waiting()?;
        let registered = self.register(nth, epoll, nr::EPOLLIN, nth as u64);
        // So that an event of the bell is not taken for one of a claim.
        if let Some(bell) = self.channel.bell() {
            let mut event = epoll_event {
                events: nr::EPOLLIN,
                data: OF_BELL,
            };
            sys::epoll_ctl(epoll, nr::EPOLL_CTL_MOD, bell, &mut event);
        }
        (registered >= 0).then_some(())
    }

    fn forget_others(&mut self, prepared: &Prepared, fds: &[pollfd]) {
        for polled in fds
            .iter()
            .filter(|polled| polled.fd >= 0 && !is_claimed(polled.fd))
        {
            sys::epoll_delete(prepared.epoll, polled.fd);
        }
    }
}

fn is_claimed(fd: i32) -> bool {
    matches!(files::get(fd), File::Claimed(_))
}

/// Says of each descriptor what is ready, and returns of how many something is.
fn fill(fds: &mut [pollfd], reported: &[epoll_event]) -> Returned {
    // The kernel leaves out negative numbers.
    let hide = |fds: &mut [pollfd]| {
        for polled in fds.iter_mut().filter(|polled| is_claimed(polled.fd)) {
            polled.fd = !polled.fd;
        }
    };
    hide(fds);
    let others = sys::poll(fds, Some(0));
    let mut count = others.max(0);
    for polled in fds
        .iter_mut()
        .filter(|polled| polled.fd < 0 && is_claimed(!polled.fd))
    {
        polled.fd = !polled.fd;
        let File::Claimed(nth) = files::get(polled.fd) else {
            continue;
        };
        let is_ready = reported.iter().any(|event| event.data == nth as u64);
        polled.revents = if is_ready { nr::POLLIN as i16 } else { 0 };
        count += isize::from(is_ready);
    }
    count
}

/// Waits until a connection may be accepted for a claim that waits in `accept`.
pub(crate) fn wait_to_accept(fd: i32) -> Returned {
    let mut polled = [pollfd {
        fd,
        events: nr::POLLIN as i16,
        revents: 0,
    }];
    if let Some(returned) = poll(&mut polled, None, core::ptr::null()) {
        return returned;
    }
    // The application registered its listener in an instance of its own, and does not wait there,
    // as Apache's prefork does with a single listener.
    let elsewhere = state::with(|state| match files::get(fd) {
        File::Claimed(nth) => state.claims[nth].epoll(),
        _ => None,
    });
    let Some(epoll) = elsewhere.flatten() else {
        return 0;
    };
    let mut event = epoll_event { events: 0, data: 0 };
    wait(epoll, &raw mut event, 1, None, core::ptr::null())
}
