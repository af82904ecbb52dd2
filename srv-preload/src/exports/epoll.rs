//! `epoll_ctl` and the functions that wait in an epoll instance.

use core::ffi::c_int;

use linux_raw_sys::general::{EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLIN, EPOLLONESHOT};

use crate::c_library::outcome_int;
use crate::files::{self, File};
use crate::state::{self, State};
use crate::sys::{self, Returned, Timespec, epoll_event, errno, passed};
use crate::{process, published, waiting};

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn epoll_create(size: c_int) -> c_int {
    if size <= 0 {
        return outcome_int(sys::failure(errno::EINVAL));
    }
    epoll_create1(0)
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn epoll_create1(flags: c_int) -> c_int {
    let created = passed!(__NR_epoll_create1, flags);
    if created >= 0 && process::told().is_some() {
        files::set(created as i32, File::Epoll);
    }
    outcome_int(created)
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn epoll_ctl(
    epoll: c_int,
    operation: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    let operation = operation as u32;
    let is_listener = matches!(files::get(fd), File::Listener { .. } | File::Claimed(_));
    if is_listener && (operation == EPOLL_CTL_DEL || !event.is_null()) {
        // SAFETY: the application passes an event, except to delete one.
        let event = (operation != EPOLL_CTL_DEL).then(|| unsafe { event.read() });
        let done = state::with(|state| state.control(epoll, operation, fd, event));
        if let Some(returned) = done.flatten() {
            return outcome_int(returned);
        }
    }
    outcome_int(passed!(__NR_epoll_ctl, epoll, operation, fd, event))
}

impl State {
    /// Does what the application asks for a listener. `None` if the listener is none of this
    /// library's: the caller makes the system call.
    fn control(
        &mut self,
        epoll: i32,
        operation: u32,
        fd: i32,
        event: Option<epoll_event>,
    ) -> Option<Returned> {
        let (events, data) = event.map_or((0, 0), |event| (event.events, event.data));
        let nth = match files::get(fd) {
            File::Claimed(nth) => nth,
            File::Listener { .. } if operation == EPOLL_CTL_ADD && is_followed(events) => {
                self.claim(fd)?
            }
            _ => return None,
        };
        let at = self.claims[nth].epoll().filter(|at| *at != self.waiting);
        let published = published::of(nth);
        match (operation, at) {
            (EPOLL_CTL_ADD, Some(at)) if at == epoll && published.is_removed() => {
                published.set_removed(false);
                if self.claims[nth].registered() == Some((events, data)) {
                    return Some(0);
                }
                self.unregister(nth);
                Some(self.register(nth, epoll, events, data))
            }
            (EPOLL_CTL_MOD | EPOLL_CTL_DEL, Some(_)) if published.is_removed() => {
                Some(sys::failure(errno::ENOENT))
            }
            (EPOLL_CTL_ADD, Some(at)) if at == epoll => Some(sys::failure(errno::EEXIST)),
            (EPOLL_CTL_ADD, Some(_)) => {
                // Several threads of the application wait at one listener, each in an epoll
                // instance of its own. With siblings' listeners beside it, each of them would get
                // the others' events.
                self.leave_alone(nth);
                None
            }
            (EPOLL_CTL_ADD, None) => {
                self.unregister(nth);
                Some(self.register(nth, epoll, events, data))
            }
            (EPOLL_CTL_MOD, Some(at)) if at == epoll => {
                self.unregister(nth);
                Some(self.register(nth, epoll, events, data))
            }
            (EPOLL_CTL_DEL, Some(at)) if at == epoll => {
                // nginx removes its listener and adds it again at every sixteenth connection. A
                // new registration would be the last in line at its own listener, so this one
                // stays until the application waits.
                match published.waits_here() {
                    true => published.set_removed(true),
                    false => self.unregister(nth),
                }
                Some(0)
            }
            _ => None,
        }
    }
}

/// Whether the application wants to know of connections, each time.
fn is_followed(events: u32) -> bool {
    events & EPOLLIN != 0 && events & EPOLLONESHOT == 0
}

/// Whether a claimed listener is registered in that epoll instance.
#[inline(always)]
fn concerns(epoll: i32) -> bool {
    files::get(epoll) == File::Epoll && published::has_claims(epoll)
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn epoll_wait(
    epoll: c_int,
    events: *mut epoll_event,
    count: c_int,
    timeout_ms: c_int,
) -> c_int {
    epoll_pwait(epoll, events, count, timeout_ms, core::ptr::null())
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn epoll_pwait(
    epoll: c_int,
    events: *mut epoll_event,
    count: c_int,
    timeout_ms: c_int,
    mask: *const u8,
) -> c_int {
    if !concerns(epoll) {
        return outcome_int(sys::epoll_wait(epoll, events, count, timeout_ms, mask));
    }
    let timeout_ns = u64::try_from(timeout_ms).ok().map(|ms| ms * 1_000_000);
    outcome_int(waiting::wait(epoll, events, count, timeout_ns, mask))
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn epoll_pwait2(
    epoll: c_int,
    events: *mut epoll_event,
    count: c_int,
    timeout: *const Timespec,
    mask: *const u8,
) -> c_int {
    if !concerns(epoll) {
        let bytes = sys::SIGNAL_SET_BYTES;
        return outcome_int(passed!(
            __NR_epoll_pwait2,
            epoll,
            events,
            count,
            timeout,
            mask,
            bytes
        ));
    }
    // SAFETY: the application passes a time span, or null.
    let timeout_ns = unsafe { timeout.as_ref() }.map(|timeout| timeout.ns());
    outcome_int(waiting::wait(epoll, events, count, timeout_ns, mask))
}
