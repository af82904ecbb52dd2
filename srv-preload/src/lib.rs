//! The library that `srv run` preloads into each process of a server, whatever the server is: it
//! carries srv's ring into processes that do not know of it.
//!
//! It takes the place of the C library's functions by which servers wait for and accept
//! connections ([`exports`]). When a process begins to wait at a listener, the library claims a
//! slot for it ([`claiming`]) and registers its siblings' listeners beside it ([`claim`]). When the
//! application accepts, it gets a connection from any of them ([`ring`]). What the application
//! sees of its event loop stays what it was: its own event data, and no descriptor that it must
//! know of.
//!
//! Without a coordinator, or in a program that `srv run` did not start, every function does what
//! the C library's does. The library needs no C library of its own and allocates nothing on the
//! path of a call.

#![cfg_attr(not(test), no_std)]
// In a test program the exported functions do not take the place of anything.
#![cfg_attr(
    test,
    allow(dead_code, reason = "no test calls what applications call")
)]

extern crate alloc;

mod c_library;
mod capacity;
mod channel;
mod claim;
mod claiming;
mod exports;
mod files;
#[cfg(not(test))]
mod heap;
mod memory;
mod process;
mod published;
mod requests;
mod ring;
mod state;
mod sys;
mod timer;
mod waiting;

/// The dynamic loader calls this before the program's own code.
extern "C" fn construct() {
    exports::find();
    process::begin();
    if let Some(told) = process::told() {
        if told.capacity != 0 {
            published::expect_threads();
            requests::limit_to(told.capacity);
        }
        exports::inherit();
    }
}

#[cfg(not(test))]
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = construct;

// The precompiled parts of Rust's library name it, and nothing calls it: a panic ends the process.
#[cfg(not(test))]
core::arch::global_asm!(
    ".globl rust_eh_personality",
    ".hidden rust_eh_personality",
    "rust_eh_personality:",
    "ret"
);

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    const ABORTED: i32 = 134;
    sys::write(
        2,
        b"srv run: the preloaded library met a state that it does not expect\n",
    );
    loop {
        sys::passed!(__NR_exit_group, ABORTED);
    }
}
