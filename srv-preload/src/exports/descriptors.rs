//! `close` and its relatives, `dup` and its relatives, and what changes whether a descriptor
//! blocks. This library's own descriptors are protected, a connection that is closed is counted,
//! and a listener that is closed gives its slot back.

use core::ffi::{c_int, c_uint, c_ulong};

use linux_raw_sys::general::{F_DUPFD, F_DUPFD_CLOEXEC, F_GETFL, F_SETFL, O_CLOEXEC, O_NONBLOCK};

use crate::c_library::outcome_int;
use crate::files::{self, File};
use crate::sys::{self, Returned, errno, passed};
use crate::{process, published, requests, state};

/// The request that makes a descriptor block or not (include/uapi/asm-generic/ioctls.h).
const FIONBIO: u32 = 0x5421;

#[cfg_attr(not(test), unsafe(no_mangle))]
pub(super) extern "C" fn close(fd: c_int) -> c_int {
    match files::get(fd) {
        File::Other => {}
        File::Private => return 0,
        file => forget(fd, file),
    }
    outcome_int(sys::close(fd))
}

/// The application closes that descriptor.
fn forget(fd: i32, file: File) {
    match file {
        File::Other | File::Private => return,
        File::Connection(nth) => {
            let closed = requests::closed(fd);
            published::of(nth).closed(closed.is_answered);
            if closed.is_changed {
                state::with(state::State::apply_capacity);
            }
        }
        File::Listener { .. } | File::Plain { .. } => {}
        // A child that runs in this memory closes its own copy.
        File::Claimed(_) | File::Epoll if process::borrows_memory() && process::is_own() => return,
        File::Claimed(nth) => {
            state::with(|state| {
                if files::get(fd) == File::Claimed(nth) {
                    state.release(nth);
                }
            });
        }
        File::Epoll => {
            state::with(|state| {
                loop {
                    let registered = state.registered_at(fd).next();
                    let Some(nth) = registered else {
                        return;
                    };
                    state.claims[nth].forget_registration();
                    published::of(nth).leaves();
                }
            });
        }
    }
    files::set(fd, File::Other);
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub(super) extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    outcome_int(close_all(first, last, flags as u32))
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn closefrom(first: c_int) {
    close_all(first.max(0) as c_uint, c_uint::MAX, 0);
}

/// Closes all descriptors from `first` to `last` but this library's own.
fn close_all(first: c_uint, last: c_uint, flags: u32) -> Returned {
    /// `CLOSE_RANGE_CLOEXEC` (include/uapi/linux/close_range.h).
    const MARKS_ONLY: u32 = 1 << 2;
    let known = files::last();
    let changes_nothing_here = process::is_own() && process::borrows_memory();
    let mut from = first;
    let mut returned = 0;
    for fd in first..=last.min(known.max(0) as c_uint) {
        match files::get(fd as i32) {
            File::Private => {
                if from < fd {
                    returned = close_raw(from, fd - 1, flags);
                }
                from = fd + 1;
            }
            file if flags & MARKS_ONLY == 0 && !changes_nothing_here => forget(fd as i32, file),
            _ => {}
        }
    }
    match from <= last {
        true => close_raw(from, last, flags),
        false => returned,
    }
}

fn close_raw(first: c_uint, last: c_uint, flags: u32) -> Returned {
    let returned = passed!(__NR_close_range, first, last, flags);
    if returned != sys::failure(errno::ENOSYS) || flags != 0 {
        return returned;
    }
    // Linux before 5.9.
    const NUMBERS_MAX: c_uint = 1 << 16;
    for fd in first..=last.min(NUMBERS_MAX) {
        sys::close(fd as i32);
    }
    0
}

/// What a copy of a descriptor is.
fn mark_copy(of: i32, copy: Returned) -> Returned {
    let file = match files::get(of) {
        file @ (File::Listener { .. } | File::Epoll) => file,
        File::Claimed(nth) => File::Listener {
            blocks: state::with(|state| state.claims[nth].blocks) == Some(true),
        },
        File::Plain { blocks } => File::Listener { blocks },
        File::Other | File::Private | File::Connection(_) => return copy,
    };
    if let Ok(copy) = i32::try_from(copy)
        && copy >= 0
    {
        files::set(copy, file);
    }
    copy
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn dup(fd: c_int) -> c_int {
    outcome_int(mark_copy(fd, passed!(__NR_dup, fd)))
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    if old == new {
        let is_open = sys::fcntl(old, linux_raw_sys::general::F_GETFD, 0);
        return outcome_int(if is_open < 0 {
            is_open
        } else {
            new as Returned
        });
    }
    outcome_int(duplicate_over(old, new, || sys::dup2(old, new)))
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    let flags = flags as u32 & O_CLOEXEC;
    outcome_int(duplicate_over(old, new, || sys::dup3(old, new, flags)))
}

fn duplicate_over(old: i32, new: i32, call: impl FnOnce() -> Returned) -> Returned {
    match files::get(new) {
        File::Private => return sys::failure(errno::EBADF),
        file if old != new => forget(new, file),
        _ => {}
    }
    mark_copy(old, call())
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn fcntl(fd: c_int, command: c_int, argument: c_ulong) -> c_int {
    let returned = match (command as u32, files::get(fd)) {
        (_, File::Other) => sys::fcntl(fd, command as u32, argument as usize),
        (F_DUPFD | F_DUPFD_CLOEXEC, _) => {
            mark_copy(fd, sys::fcntl(fd, command as u32, argument as usize))
        }
        (F_SETFL, File::Claimed(nth)) => {
            block(fd, nth, argument as u32 & O_NONBLOCK == 0);
            sys::set_status_flags(fd, argument as u32 | O_NONBLOCK)
        }
        (F_SETFL, File::Listener { .. }) => {
            let blocks = argument as u32 & O_NONBLOCK == 0;
            files::set(fd, File::Listener { blocks });
            sys::set_status_flags(fd, argument as u32)
        }
        (F_SETFL, File::Plain { .. }) => {
            let blocks = argument as u32 & O_NONBLOCK == 0;
            files::set(fd, File::Plain { blocks });
            sys::set_status_flags(fd, argument as u32)
        }
        (F_GETFL, File::Listener { blocks: true } | File::Plain { blocks: true }) => {
            let flags = sys::status_flags(fd);
            if flags >= 0 {
                flags & !(O_NONBLOCK as Returned)
            } else {
                flags
            }
        }
        (F_GETFL, File::Claimed(nth)) => {
            let flags = sys::status_flags(fd);
            let blocks = state::with(|state| state.claims[nth].blocks) == Some(true);
            if blocks && flags >= 0 {
                flags & !(O_NONBLOCK as Returned)
            } else {
                flags
            }
        }
        _ => sys::fcntl(fd, command as u32, argument as usize),
    };
    outcome_int(returned)
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn fcntl64(fd: c_int, command: c_int, argument: c_ulong) -> c_int {
    fcntl(fd, command, argument)
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_int) -> c_int {
    if request as u32 == FIONBIO && !argument.is_null() {
        // SAFETY: the application passes an integer with this request.
        let blocks = unsafe { argument.read() } == 0;
        match files::get(fd) {
            File::Claimed(nth) => {
                block(fd, nth, blocks);
                return 0;
            }
            File::Listener { .. } => files::set(fd, File::Listener { blocks }),
            File::Plain { .. } => files::set(fd, File::Plain { blocks }),
            _ => {}
        }
    }
    outcome_int(passed!(__NR_ioctl, fd, request, argument))
}

/// The application says whether its listener blocks. The socket itself never does.
fn block(fd: i32, nth: usize, blocks: bool) {
    state::with(|state| {
        if files::get(fd) == File::Claimed(nth) {
            state.claims[nth].blocks = blocks;
        }
    });
}
