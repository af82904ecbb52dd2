//! The functions that execute another program with an environment of the caller's making: they
//! put back what `srv run` has set, or a server that replaces its own binary would lose the
//! library.

use core::ffi::{CStr, c_char, c_int};

use linux_raw_sys::general::AT_EMPTY_PATH;
use srv_common::claim::VARIABLE;

use crate::c_library::{self, outcome_int};
use crate::process;
use crate::sys::{self, Returned, errno, passed};

pub(super) type Strings = *const *const c_char;

/// The environment with what `srv run` has set, if it lacks that.
fn complete(environment: Strings) -> Strings {
    let Some(told) = process::told() else {
        return match process::has_retired() {
            true => without(environment, VARIABLE),
            false => environment,
        };
    };
    let lacks = |name: &str| !strings(environment).any(|entry| is_of(entry, name));
    let missing = [
        lacks(VARIABLE).then_some(told.entry.as_ptr()),
        lacks("LD_PRELOAD").then_some(told.preload.as_ptr()),
    ];
    if missing == [None, None] {
        return environment;
    }
    let count = strings(environment).count();
    let bytes = (count + missing.len() + 1) * size_of::<*const c_char>();
    // The memory is used until the program begins, which ends the mapping.
    let Some(longer) = sys::map(None, bytes, true, None) else {
        return environment;
    };
    let longer = longer.cast::<*const c_char>();
    let added = missing.into_iter().flatten().map(<*const u8>::cast);
    let all = strings(environment).chain(added);
    for (nth, entry) in all.enumerate() {
        // SAFETY: there is room for all, and for the null pointer that fresh memory has.
        unsafe { longer.add(nth).write(entry) };
    }
    longer
}

/// The environment without that variable: the library then does nothing in the program, whose
/// system calls are restricted.
fn without(environment: Strings, name: &str) -> Strings {
    let others = || strings(environment).filter(|entry| !is_of(*entry, name));
    let bytes = (others().count() + 1) * size_of::<*const c_char>();
    let Some(shorter) = sys::map(None, bytes, true, None) else {
        return environment;
    };
    let shorter = shorter.cast::<*const c_char>();
    for (nth, entry) in others().enumerate() {
        // SAFETY: there is room for all, and for the null pointer that fresh memory has.
        unsafe { shorter.add(nth).write(entry) };
    }
    shorter
}

/// The entries of an environment, which may be null.
fn strings(environment: Strings) -> impl Iterator<Item = *const c_char> {
    let mut at = environment;
    core::iter::from_fn(move || {
        if at.is_null() {
            return None;
        }
        // SAFETY: the array ends with a null pointer.
        let entry = unsafe { at.read() };
        // SAFETY: likewise.
        at = unsafe { at.add(1) };
        (!entry.is_null()).then_some(entry)
    })
}

fn is_of(entry: *const c_char, name: &str) -> bool {
    // SAFETY: each entry is a string that ends with a zero byte.
    let entry = unsafe { CStr::from_ptr(entry) }.to_bytes();
    entry
        .strip_prefix(name.as_bytes())
        .is_some_and(|rest| rest.starts_with(b"="))
}

fn execute(path: *const c_char, arguments: Strings, environment: Strings) -> Returned {
    passed!(__NR_execve, path, arguments, complete(environment))
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub(super) extern "C" fn execve(
    path: *const c_char,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    outcome_int(execute(path, arguments, environment))
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub(super) extern "C" fn execv(path: *const c_char, arguments: Strings) -> c_int {
    outcome_int(execute(path, arguments, c_library::environment()))
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn fexecve(fd: c_int, arguments: Strings, environment: Strings) -> c_int {
    let environment = complete(environment);
    let (path, flags) = (c"".as_ptr(), AT_EMPTY_PATH);
    outcome_int(passed!(
        __NR_execveat,
        fd,
        path,
        arguments,
        environment,
        flags
    ))
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn execveat(
    folder: c_int,
    path: *const c_char,
    arguments: Strings,
    environment: Strings,
    flags: c_int,
) -> c_int {
    let environment = complete(environment);
    outcome_int(passed!(
        __NR_execveat,
        folder,
        path,
        arguments,
        environment,
        flags
    ))
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub(super) extern "C" fn execvp(file: *const c_char, arguments: Strings) -> c_int {
    execvpe(file, arguments, c_library::environment())
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn execvpe(file: *const c_char, arguments: Strings, environment: Strings) -> c_int {
    let environment = complete(environment);
    // SAFETY: the application passes a string.
    let name = unsafe { CStr::from_ptr(file) }.to_bytes();
    if name.contains(&b'/') {
        return outcome_int(execute_or_interpret(file, arguments, environment));
    }
    let path = strings(c_library::environment()).find(|entry| is_of(*entry, "PATH"));
    // SAFETY: each entry is a string.
    let path = path.map(|entry| unsafe { CStr::from_ptr(entry) }.to_bytes());
    let path = path.map_or(&b"/bin:/usr/bin"[..], |entry| &entry[b"PATH=".len()..]);
    let mut outcome = sys::failure(errno::ENOENT);
    for folder in path.split(|byte| *byte == b':') {
        let mut candidate = [0_u8; 4096];
        let needed = folder.len() + 1 + name.len();
        if name.is_empty() || needed >= candidate.len() {
            continue;
        }
        let folder = if folder.is_empty() { &b"."[..] } else { folder };
        candidate[..folder.len()].copy_from_slice(folder);
        candidate[folder.len()] = b'/';
        candidate[folder.len() + 1..][..name.len()].copy_from_slice(name);
        let tried = execute_or_interpret(candidate.as_ptr().cast(), arguments, environment);
        const GOES_ON: [u32; 4] = [errno::ENOENT, errno::ENOTDIR, errno::ESTALE, errno::ENODEV];
        if tried == sys::failure(errno::EACCES) {
            outcome = tried;
        } else if !GOES_ON.map(sys::failure).contains(&tried) {
            return outcome_int(tried);
        }
    }
    outcome_int(outcome)
}

/// As a shell does: a file that the kernel cannot execute is a script.
fn execute_or_interpret(path: *const c_char, arguments: Strings, environment: Strings) -> Returned {
    let tried = passed!(__NR_execve, path, arguments, environment);
    if tried != sys::failure(errno::ENOEXEC) {
        return tried;
    }
    let count = strings(arguments).count().max(1);
    let bytes = (count + 2) * size_of::<*const c_char>();
    let Some(longer) = sys::map(None, bytes, true, None) else {
        return tried;
    };
    let longer = longer.cast::<*const c_char>();
    let shell = c"/bin/sh".as_ptr();
    let all = [shell, path].into_iter().chain(strings(arguments).skip(1));
    for (nth, argument) in all.enumerate() {
        // SAFETY: there is room for one more than the arguments, and for the null pointer.
        unsafe { longer.add(nth).write(argument) };
    }
    passed!(__NR_execve, shell, longer.cast_const(), environment)
}

type Spawn =
    extern "C" fn(*mut i32, *const c_char, *const u8, *const u8, Strings, Strings) -> c_int;

fn spawn_next(name: &CStr) -> Option<Spawn> {
    let next = c_library::next(name)?;
    // SAFETY: the C library's function of that name has this type.
    Some(unsafe { core::mem::transmute::<*mut core::ffi::c_void, Spawn>(next) })
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn posix_spawn(
    pid: *mut i32,
    path: *const c_char,
    actions: *const u8,
    attributes: *const u8,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    let Some(spawn) = spawn_next(c"posix_spawn") else {
        return errno::ENOSYS as c_int;
    };
    spawn(
        pid,
        path,
        actions,
        attributes,
        arguments,
        complete(environment),
    )
}

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn posix_spawnp(
    pid: *mut i32,
    file: *const c_char,
    actions: *const u8,
    attributes: *const u8,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    let Some(spawn) = spawn_next(c"posix_spawnp") else {
        return errno::ENOSYS as c_int;
    };
    spawn(
        pid,
        file,
        actions,
        attributes,
        arguments,
        complete(environment),
    )
}
