//! `prctl` and what else installs a filter of system calls (seccomp). Such a filter may kill the
//! process for a call that only this library makes, and it cannot be asked what it permits. So the
//! library leaves the process just before.

use core::ffi::{c_int, c_ulong};

use linux_raw_sys::general::{__NR_prctl, __NR_seccomp};
use linux_raw_sys::prctl::PR_SET_SECCOMP;

use crate::c_library::outcome_int;
use crate::files::{self, File};
use crate::sys::{self, passed};
use crate::{process, state};

/// Operations of `seccomp` that install a filter (include/uapi/linux/seccomp.h).
const SECCOMP_SET_MODE_STRICT: usize = 0;
const SECCOMP_SET_MODE_FILTER: usize = 1;

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn prctl(
    option: c_int,
    first: c_ulong,
    second: c_ulong,
    third: c_ulong,
    fourth: c_ulong,
) -> c_int {
    before_call(__NR_prctl, option as usize);
    outcome_int(passed!(__NR_prctl, option, first, second, third, fourth))
}

/// To be called before a system call of which the first argument is `first`.
pub(super) fn before_call(number: u32, first: usize) {
    let installs = [SECCOMP_SET_MODE_STRICT, SECCOMP_SET_MODE_FILTER];
    let restricts = number == __NR_prctl && first == PR_SET_SECCOMP as usize
        || number == __NR_seccomp && installs.contains(&first);
    if restricts && process::told().is_some() {
        leave();
    }
}

fn leave() {
    let mut all = 0..=files::last();
    let listens = all.any(|fd| matches!(files::get(fd), File::Listener { .. } | File::Claimed(_)));
    state::with(|state| state.leave_all_alone());
    process::retire();
    if listens {
        sys::write(
            2,
            b"srv run: a process restricts its system calls (seccomp): it accepts from its own \
              socket alone, as without srv\n",
        );
    }
}
