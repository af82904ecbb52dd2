//! `listen`, `accept`, `accept4` and `shutdown`.

use core::ffi::{c_int, c_void};

use linux_raw_sys::general::POLLIN;
use linux_raw_sys::net::{AF_INET, AF_INET6, SO_REUSEPORT};

use crate::c_library::outcome_int;
use crate::files::{self, File};
use crate::ring::Arguments;
use crate::sys::{self, Returned, errno, passed, pollfd};
use crate::{process, state, waiting};

/// A copy of a server shares each port that it binds with the other copies.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn bind(fd: c_int, address: *const [u8; 4], length: u32) -> c_int {
    let shares_ports = process::told().is_some_and(|told| told.shares_ports);
    if shares_ports && !address.is_null() && length as usize >= size_of::<[u8; 4]>() {
        // SAFETY: the application passes an address of that length. It begins with its family
        // and, if that is of IP, the port.
        let [family, port] = *unsafe { address.read_unaligned() }.as_chunks::<2>().0 else {
            return outcome_int(passed!(__NR_bind, fd, address, length));
        };
        let family = u32::from(u16::from_ne_bytes(family));
        if [AF_INET, AF_INET6].contains(&family) && port != [0, 0] {
            sys::set_socket_option(fd, SO_REUSEPORT, 1);
        }
    }
    outcome_int(passed!(__NR_bind, fd, address, length))
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn listen(fd: c_int, backlog: c_int) -> c_int {
    let returned = passed!(__NR_listen, fd, backlog);
    let is_new = returned == 0 && files::get(fd) == File::Other && process::told().is_some();
    if is_new {
        let blocks = sys::is_blocking(fd);
        files::set(fd, File::Listener { blocks });
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
        File::Listener { blocks } => accept_unclaimed(fd, blocks, arguments),
        File::Claimed(nth) => accept_claimed(fd, nth, arguments),
        File::Plain { blocks } => accept_plain(fd, blocks, arguments),
        file => {
            let returned = arguments.accept(fd);
            let is_new = file == File::Other && process::told().is_some();
            if is_new && (returned >= 0 || returned == sys::failure(errno::EAGAIN)) {
                // Such as a listener that another process has sent.
                let blocks = sys::is_blocking(fd);
                files::set(fd, File::Listener { blocks });
            }
            returned
        }
    };
    outcome_int(returned)
}

/// A listener that blocks is waited at here. One that does not is accepted from before the
/// application waits elsewhere, or by a process that does not wait for connections.
fn accept_unclaimed(fd: i32, blocks: bool, arguments: Arguments) -> Returned {
    let claimed = match blocks {
        true => state::with(|state| state.claim(fd)).flatten(),
        false => None,
    };
    match claimed {
        Some(nth) => accept_claimed(fd, nth, arguments),
        None => accept_plain(fd, blocks, arguments),
    }
}

/// A listener that this process has not claimed. If it blocks for the application, another process
/// that shares it may have claimed it, and so have made it non-blocking.
fn accept_plain(fd: i32, blocks: bool, arguments: Arguments) -> Returned {
    loop {
        let accepted = arguments.accept(fd);
        let is_wrong = accepted == sys::failure(errno::EAGAIN) && blocks && !sys::is_blocking(fd);
        if !is_wrong {
            return accepted;
        }
        let mut polled = pollfd {
            fd,
            events: POLLIN as i16,
            revents: 0,
        };
        let waited = sys::poll_for_ms(&raw mut polled, 1, -1);
        if waited < 0 {
            return waited;
        }
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
            return match files::get(fd) {
                File::Listener { blocks } => accept_unclaimed(fd, blocks, arguments),
                _ => arguments.accept(fd),
            };
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
                let blocks = state.claims[nth].blocks;
                state.release(nth);
                files::set(fd, File::Plain { blocks });
            }
        });
    }
    outcome_int(passed!(__NR_shutdown, fd, how))
}
