//! `listen`, `accept`, `accept4` and `shutdown`.

use core::ffi::{c_int, c_void};

use linux_raw_sys::general::O_NONBLOCK;

use crate::c_library::outcome_int;
use crate::claiming::Waits;
use crate::files::{self, File};
use crate::ring::Arguments;
use crate::sys::{self, Returned, errno, passed};
use crate::{process, state, waiting};

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn listen(fd: c_int, backlog: c_int) -> c_int {
    let returned = passed!(__NR_listen, fd, backlog);
    let is_new = returned == 0 && files::get(fd) == File::Other && process::told().is_some();
    if is_new {
        files::set(fd, File::Listener);
    }
    outcome_int(returned)
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn accept(fd: c_int, address: *mut c_void, length: *mut u32) -> c_int {
    accept4(fd, address, length, 0)
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn accept4(fd: c_int, address: *mut c_void, length: *mut u32, flags: c_int) -> c_int {
    let arguments = Arguments {
        address: address as usize,
        length: length as usize,
        flags: flags as u32,
    };
    let returned = match files::get(fd) {
        File::Listener => accept_unclaimed(fd, arguments),
        File::Claimed(nth) => accept_claimed(fd, nth, arguments),
        file => {
            let returned = arguments.accept(fd);
            let is_new = file == File::Other && process::told().is_some();
            if is_new && (returned >= 0 || returned == sys::failure(errno::EAGAIN)) {
                // Such as a listener that another process has sent.
                files::set(fd, File::Listener);
            }
            returned
        }
    };
    outcome_int(returned)
}

/// A listener that blocks is waited at here. One that does not is accepted from before the
/// application waits elsewhere, or by a process that does not wait for connections.
fn accept_unclaimed(fd: i32, arguments: Arguments) -> Returned {
    let blocks = sys::status_flags(fd) & O_NONBLOCK as Returned == 0;
    let claimed = match blocks {
        true => state::with(|state| state.claim(fd, Waits::OneAtATime)).flatten(),
        false => None,
    };
    match claimed {
        Some(nth) => accept_claimed(fd, nth, arguments),
        None => arguments.accept(fd),
    }
}

fn accept_claimed(fd: i32, nth: usize, arguments: Arguments) -> Returned {
    const NOTHING: Returned = sys::failure(errno::EAGAIN);
    loop {
        let accepted = state::with(|state| {
            // In a process that was forked, the claim was its parent's.
            (files::get(fd) == File::Claimed(nth))
                .then(|| (state.accept(nth, arguments), state.claims[nth].blocks))
        });
        let Some((accepted, blocks)) = accepted.flatten() else {
            return accept_unclaimed(fd, arguments);
        };
        if accepted != NOTHING || !blocks {
            return accepted;
        }
        let waited = waiting::wait_to_accept(fd);
        if waited < 0 {
            return waited;
        }
    }
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn shutdown(fd: c_int, how: c_int) -> c_int {
    if let File::Claimed(nth) = files::get(fd) {
        state::with(|state| {
            if files::get(fd) == File::Claimed(nth) {
                state.release(nth);
                files::set(fd, File::Plain);
            }
        });
    }
    outcome_int(passed!(__NR_shutdown, fd, how))
}
