//! How this process becomes COMMAND: with the signal handling and the signal mask that it was
//! started with. Rust's runtime ignores SIGPIPE, which an executed program inherits, and std's
//! `exec` clears the mask.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::null;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether SIGPIPE was ignored when this process began.
static IGNORES_PIPE: AtomicBool = AtomicBool::new(false);

/// The C library calls this before `main`, and so before Rust's runtime.
#[used]
#[unsafe(link_section = ".init_array")]
static REMEMBER: extern "C" fn() = remember;

extern "C" fn remember() {
    // SAFETY: all zeros is a valid action, and the call only reads the current one into it.
    let is_ignored = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let known = libc::sigaction(libc::SIGPIPE, null(), &raw mut action);
        known == 0 && action.sa_sigaction == libc::SIG_IGN
    };
    IGNORES_PIPE.store(is_ignored, Ordering::Relaxed);
}

/// Executes the program in this process. Returns only if the kernel refuses.
pub(super) fn replace(
    program: &Path,
    arguments: &[OsString],
    environment: &[(OsString, OsString)],
) -> io::Error {
    let strings = |words: &mut dyn Iterator<Item = OsString>| {
        let words = words.map(|word| CString::new(word.as_bytes()));
        words.collect::<Result<Vec<_>, _>>()
    };
    let program = strings(&mut std::iter::once(program.into()));
    let arguments = strings(&mut arguments.iter().cloned());
    let environment = strings(&mut environment.iter().map(|(name, value)| {
        let mut word = name.clone();
        word.push(OsStr::new("="));
        word.push(value);
        word
    }));
    let (Ok(program), Ok(arguments), Ok(environment)) = (program, arguments, environment) else {
        return io::ErrorKind::InvalidInput.into();
    };
    let pointers = |words: &[CString]| {
        let words = words.iter().map(|word| word.as_ptr());
        words.chain(std::iter::once(null())).collect::<Vec<_>>()
    };
    let (argv, envp) = (pointers(&arguments), pointers(&environment));
    // SAFETY: the strings live until the end of the call, and both lists end with a null pointer.
    unsafe {
        if !IGNORES_PIPE.load(Ordering::Relaxed) {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        }
        libc::execve(program[0].as_ptr(), argv.as_ptr(), envp.as_ptr());
    }
    let error = io::Error::last_os_error();
    // What this process still writes must not end it.
    // SAFETY: the call changes how a signal is handled, and nothing else.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    error
}
