//! `execl`, `execlp` and `execle`, whose arguments are listed in the call. A function of Rust cannot
//! take so many as the caller likes, so a few instructions put the arguments that came in registers
//! into memory. There and on the stack the arguments can be read like an array each.

use core::arch::naked_asm;
use core::ffi::{c_char, c_int};

use super::execution::{Strings, execv, execve, execvp};
use crate::c_library::outcome_int;
use crate::sys::{self, errno};

/// Arguments that come in registers (System V ABI; AAPCS64).
#[cfg(target_arch = "x86_64")]
const REGISTERS: usize = 6;
#[cfg(target_arch = "aarch64")]
const REGISTERS: usize = 8;

/// Defines a function with any number of arguments, all of them pointers, which calls `collected`
/// with the addresses of those that came in registers and of those on the stack.
macro_rules! listed {
    ($(#[$attribute:meta])* $name:ident => $collected:path) => {
        $(#[$attribute])*
        #[cfg(target_arch = "x86_64")]
        #[unsafe(naked)]
        extern "C" fn $name() -> c_int {
            // The stack pointer is 8 below a multiple of 16 when a function begins.
            naked_asm!(
                "sub rsp, 56",
                "mov [rsp], rdi",
                "mov [rsp + 8], rsi",
                "mov [rsp + 16], rdx",
                "mov [rsp + 24], rcx",
                "mov [rsp + 32], r8",
                "mov [rsp + 40], r9",
                "mov rdi, rsp",
                "lea rsi, [rsp + 64]",
                "call {collected}",
                "add rsp, 56",
                "ret",
                collected = sym $collected,
            )
        }

        $(#[$attribute])*
        #[cfg(target_arch = "aarch64")]
        #[unsafe(naked)]
        extern "C" fn $name() -> c_int {
            naked_asm!(
                "stp x29, x30, [sp, #-80]!",
                "mov x29, sp",
                "stp x0, x1, [sp, #16]",
                "stp x2, x3, [sp, #32]",
                "stp x4, x5, [sp, #48]",
                "stp x6, x7, [sp, #64]",
                "add x0, sp, #16",
                "add x1, sp, #80",
                "bl {collected}",
                "ldp x29, x30, [sp], #80",
                "ret",
                collected = sym $collected,
            )
        }
    };
}

listed!(#[cfg_attr(not(test), unsafe(no_mangle))] execl => execute_path);
listed!(#[cfg_attr(not(test), unsafe(no_mangle))] execlp => execute_file);
listed!(#[cfg_attr(not(test), unsafe(no_mangle))] execle => execute_with);

/// The arguments of a call.
#[derive(Clone, Copy)]
struct Listed {
    registers: *const *const c_char,
    stack: *const *const c_char,
}

impl Listed {
    /// # Safety
    /// The caller has passed more than `nth` arguments.
    unsafe fn get(self, nth: usize) -> *const c_char {
        // SAFETY: as the caller says.
        unsafe {
            match nth.checked_sub(REGISTERS) {
                None => self.registers.add(nth).read(),
                Some(on_stack) => self.stack.add(on_stack).read(),
            }
        }
    }

    /// The arguments of the program, in an array, and the one that follows their null pointer.
    ///
    /// # Safety
    /// After the first argument there is a null pointer. If `is_followed`, there is one more.
    unsafe fn collect(self, is_followed: bool) -> Option<(Strings, *const c_char)> {
        let mut count = 0;
        // SAFETY: the null pointer has not come yet.
        while !unsafe { self.get(1 + count) }.is_null() {
            count += 1;
        }
        // The memory is used until the program begins, which ends the mapping. Fresh memory ends
        // the array with a null pointer.
        let bytes = (count + 1) * size_of::<*const c_char>();
        let array = sys::map(None, bytes, true, None)?.cast::<*const c_char>();
        for nth in 0..count {
            // SAFETY: there is room for all, which are before the null pointer.
            unsafe { array.add(nth).write(self.get(1 + nth)) };
        }
        let following = match is_followed {
            // SAFETY: as the caller says.
            true => unsafe { self.get(count + 2) },
            false => core::ptr::null(),
        };
        Some((array.cast_const(), following))
    }
}

const NO_MEMORY: sys::Returned = sys::failure(errno::ENOMEM);

extern "C" fn execute_path(registers: Strings, stack: Strings) -> c_int {
    let listed = Listed { registers, stack };
    // SAFETY: the application ends its arguments with a null pointer, in all three.
    match unsafe { listed.collect(false) } {
        // SAFETY: the path comes first.
        Some((arguments, _)) => execv(unsafe { listed.get(0) }, arguments),
        None => outcome_int(NO_MEMORY),
    }
}

extern "C" fn execute_file(registers: Strings, stack: Strings) -> c_int {
    let listed = Listed { registers, stack };
    // SAFETY: as in `execute_path`.
    match unsafe { listed.collect(false) } {
        // SAFETY: likewise.
        Some((arguments, _)) => execvp(unsafe { listed.get(0) }, arguments),
        None => outcome_int(NO_MEMORY),
    }
}

extern "C" fn execute_with(registers: Strings, stack: Strings) -> c_int {
    let listed = Listed { registers, stack };
    // SAFETY: as in `execute_path`; the environment follows the null pointer.
    match unsafe { listed.collect(true) } {
        Some((arguments, environment)) => {
            // SAFETY: likewise.
            let path = unsafe { listed.get(0) };
            execve(path, arguments, environment.cast())
        }
        None => outcome_int(NO_MEMORY),
    }
}

#[cfg(test)]
mod tests {
    use core::ffi::CStr;

    use super::*;

    /// Returns the number of arguments, if they are "0", "1" and so on, and the environment's first
    /// entry is "A=1".
    extern "C" fn check(registers: Strings, stack: Strings) -> c_int {
        let listed = Listed { registers, stack };
        let text = |at: *const c_char| {
            // SAFETY: the test passes strings.
            unsafe { CStr::from_ptr(at) }.to_str().expect("ASCII")
        };
        // SAFETY: the test passes a path, arguments, a null pointer and an environment.
        let (path, collected) = unsafe { (listed.get(0), listed.collect(true)) };
        assert_eq!(text(path), "path");
        let (arguments, environment) = collected.expect("memory");
        // SAFETY: the array ends with a null pointer, and the environment has an entry.
        unsafe {
            assert_eq!(text(environment.cast::<*const c_char>().read()), "A=1");
            let mut count = 0;
            while !arguments.add(count).read().is_null() {
                assert_eq!(text(arguments.add(count).read()), count.to_string());
                count += 1;
            }
            c_int::try_from(count).expect("few")
        }
    }

    listed!(checked => check);

    #[test]
    fn all_arguments_arrive_whether_in_registers_or_on_the_stack() {
        type Function = unsafe extern "C" fn(*const c_char, ...) -> c_int;
        let address = checked as extern "C" fn() -> c_int;
        // SAFETY: the function takes any number of pointers.
        let function: Function = unsafe { core::mem::transmute(address) };
        let environment = [c"A=1".as_ptr(), core::ptr::null()];
        let (path, end, environment) = (
            c"path".as_ptr(),
            core::ptr::null::<c_char>(),
            environment.as_ptr(),
        );
        let [a, b, c, d, e, f, g, h, i] =
            [c"0", c"1", c"2", c"3", c"4", c"5", c"6", c"7", c"8"].map(CStr::as_ptr);
        // SAFETY: as `check` reads them.
        unsafe {
            assert_eq!(function(path, end, environment), 0);
            assert_eq!(function(path, a, b, c, end, environment), 3);
            assert_eq!(function(path, a, b, c, d, end, environment), 4);
            assert_eq!(function(path, a, b, c, d, e, end, environment), 5);
            assert_eq!(function(path, a, b, c, d, e, f, end, environment), 6);
            assert_eq!(
                function(path, a, b, c, d, e, f, g, h, i, end, environment),
                9
            );
        }
    }
}
