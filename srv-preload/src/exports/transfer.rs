//! `read`, `write` and their relatives. If requests in service are limited, what goes through a
//! connection is noted. Otherwise, and for all other descriptors, the C library's function does
//! all.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::c_library::{self, outcome};
use crate::files::{self, File};
use crate::sys::passed;
use crate::{requests, state};

/// Something may have been read from a descriptor.
fn note_read(fd: c_int, returned: isize) {
    if returned > 0
        && requests::limit().is_some()
        && matches!(files::get(fd), File::Connection(_))
        && requests::read(fd)
    {
        state::with(state::State::apply_capacity);
    }
}

/// Something may have been written to a descriptor.
fn note_written(fd: c_int, returned: isize) {
    if returned > 0
        && requests::limit().is_some()
        && let File::Connection(claim) = files::get(fd)
        && requests::written(fd, claim)
    {
        state::with(state::State::apply_capacity);
    }
}

/// A function of the C library, found by the constructor. Before that, or if it cannot be found,
/// the system call takes its place.
struct Next(AtomicPtr<c_void>);

impl Next {
    fn find(&self, name: &core::ffi::CStr) {
        if let Some(found) = c_library::next(name) {
            self.0.store(found, Ordering::Relaxed);
        }
    }
}

/// Defines functions that do what the C library's do and note the outcome.
macro_rules! noted {
    ($($note:ident: $name:ident($($argument:ident: $type:ty),*) => $call:expr;)*) => {
        mod next {
            use super::Next;

            $(
                #[allow(non_upper_case_globals, reason = "named like the functions")]
                pub(super) static $name: Next =
                    Next(core::sync::atomic::AtomicPtr::new(core::ptr::null_mut()));
            )*
        }

        /// Finds the C library's functions. The constructor calls this.
        pub(crate) fn find() {
            $(
                const { assert!(stringify!($name).len() < NAME_MAX) };
                let mut name = [0_u8; NAME_MAX];
                name[..stringify!($name).len()].copy_from_slice(stringify!($name).as_bytes());
                if let Ok(name) = core::ffi::CStr::from_bytes_until_nul(&name) {
                    next::$name.find(name);
                }
            )*
        }

        $(
            #[cfg_attr(not(test), unsafe(no_mangle))]
            extern "C" fn $name($($argument: $type),*) -> isize {
                type Function = extern "C" fn($($type),*) -> isize;
                let found = next::$name.0.load(Ordering::Relaxed);
                let returned = if found.is_null() {
                    outcome($call)
                } else {
                    // SAFETY: the C library's function of that name has this type.
                    let function = unsafe { core::mem::transmute::<*mut c_void, Function>(found) };
                    function($($argument),*)
                };
                noted!(@first $note, returned, $($argument),*);
                returned
            }
        )*
    };
    (@first $note:ident, $returned:ident, $first:ident $(, $rest:ident)*) => {
        $note($first, $returned)
    };
}

const NAME_MAX: usize = 24;

noted! {
    note_read: read(fd: c_int, to: usize, bytes: usize) => passed!(__NR_read, fd, to, bytes);
    note_read: readv(fd: c_int, to: usize, count: c_int) => passed!(__NR_readv, fd, to, count);
    note_read: recv(fd: c_int, to: usize, bytes: usize, flags: c_int)
        => passed!(__NR_recvfrom, fd, to, bytes, flags);
    note_read: recvfrom(
        fd: c_int, to: usize, bytes: usize, flags: c_int, address: usize, length: usize
    ) => passed!(__NR_recvfrom, fd, to, bytes, flags, address, length);
    note_read: recvmsg(fd: c_int, message: usize, flags: c_int)
        => passed!(__NR_recvmsg, fd, message, flags);
    note_written: write(fd: c_int, from: usize, bytes: usize)
        => passed!(__NR_write, fd, from, bytes);
    note_written: writev(fd: c_int, from: usize, count: c_int)
        => passed!(__NR_writev, fd, from, count);
    note_written: send(fd: c_int, from: usize, bytes: usize, flags: c_int)
        => passed!(__NR_sendto, fd, from, bytes, flags);
    note_written: sendto(
        fd: c_int, from: usize, bytes: usize, flags: c_int, address: usize, length: u32
    ) => passed!(__NR_sendto, fd, from, bytes, flags, address, length);
    note_written: sendmsg(fd: c_int, message: usize, flags: c_int)
        => passed!(__NR_sendmsg, fd, message, flags);
    note_written: sendfile(to: c_int, from: c_int, offset: usize, bytes: usize)
        => passed!(__NR_sendfile, to, from, offset, bytes);
    note_written: sendfile64(to: c_int, from: c_int, offset: usize, bytes: usize)
        => passed!(__NR_sendfile, to, from, offset, bytes);
    // What programs call that were compiled with checks of buffers.
    note_read: __read_chk(fd: c_int, to: usize, bytes: usize, room: usize)
        => { let _ = room; passed!(__NR_read, fd, to, bytes) };
    note_read: __recv_chk(fd: c_int, to: usize, bytes: usize, room: usize, flags: c_int)
        => { let _ = room; passed!(__NR_recvfrom, fd, to, bytes, flags) };
}
