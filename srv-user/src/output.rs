//! What a command prints. In this crate `println!`, `print!` and `eprintln!` are these,
//! not std's: std's panic where the other end of a pipe has gone or a disk is full, and a
//! panic aborts srv, whatever it had begun.

pub mod json;
pub mod table;
pub(crate) mod whole_file;

use std::fmt;
use std::io::{self, Write as _};
use std::sync::OnceLock;

/// As std's, but what cannot be printed is left out ([`failure`]).
#[macro_export]
macro_rules! println {
    () => { $crate::output::print(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::print(format_args!("{}\n", format_args!($($text)*))) };
}

/// As std's, but what cannot be printed is left out ([`failure`]).
#[macro_export]
macro_rules! print {
    ($($text:tt)*) => { $crate::output::print(format_args!($($text)*)) };
}

/// As std's, but what cannot be printed is left out; in a process that logs it is a line
/// of its log ([`crate::logging`]).
#[macro_export]
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::logging::complain(format_args!($($text)*)) };
}

static FAILURE: OnceLock<io::Error> = OnceLock::new();

/// Prints to standard output, unless that has failed before.
pub fn print(text: fmt::Arguments<'_>) {
    if FAILURE.get().is_some() {
        return;
    }
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_fmt(text).and_then(|()| stdout.flush()) {
        // Of several the first counts.
        let _ = FAILURE.set(error);
    }
}

/// Why something was not printed, if that is so. `BrokenPipe` is no failure of the
/// command: its reader wanted no more.
pub fn failure() -> Option<&'static io::Error> {
    FAILURE.get()
}
