//! A kernel that lacks something, for one child process: seccomp answers its calls
//! as an older kernel does. What a call's pointers point to is out of its sight, so
//! that of `bpf` whole commands are lacking, and not single types or flags.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// A system call that the kernel does not know, or not with this argument.
#[derive(Clone, Copy, Debug)]
pub struct Lacking {
    /// Number of the call.
    pub call: libc::c_long,
    /// Only where this argument, by its number, has this value.
    pub argument: Option<(u8, u64)>,
    /// What the kernel says instead.
    pub errno: i32,
}

impl Lacking {
    /// A call as a whole: `ENOSYS`.
    pub fn call(call: libc::c_long) -> Self {
        Self {
            call,
            argument: None,
            errno: libc::ENOSYS,
        }
    }

    /// A command of `bpf`, or what it is asked to make: `EINVAL`.
    pub fn bpf(command: u64) -> Self {
        Self {
            call: libc::SYS_bpf,
            argument: Some((0, command)),
            errno: libc::EINVAL,
        }
    }

    /// An option of sockets, to be set (`SYS_setsockopt`) or asked for: `ENOPROTOOPT`.
    pub fn socket_option(call: libc::c_long, option: libc::c_int) -> Self {
        Self {
            call,
            argument: Some((2, option as u64)),
            errno: libc::ENOPROTOOPT,
        }
    }

    fn filter(self) -> BpfProgram {
        let is_it = |(number, value)| {
            let equal = SeccompCmpOp::Eq;
            SeccompCondition::new(number, SeccompCmpArgLen::Dword, equal, value).unwrap()
        };
        let conditions: Vec<_> = self.argument.map(is_it).into_iter().collect();
        let rules = match conditions.is_empty() {
            true => Vec::new(),
            false => vec![SeccompRule::new(conditions).unwrap()],
        };
        let filter = SeccompFilter::new(
            BTreeMap::from([(self.call, rules)]),
            SeccompAction::Allow,
            SeccompAction::Errno(self.errno as u32),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        filter.unwrap().try_into().unwrap()
    }
}

/// `command`, when it runs, and its children are on a kernel that lacks these.
pub fn lack(command: &mut Command, lacking: &[Lacking]) {
    let filters: Vec<BpfProgram> = lacking.iter().map(|each| each.filter()).collect();
    let apply = move || {
        let mut filters = filters.iter();
        filters.try_for_each(|filter| apply_filter(filter).map_err(io::Error::other))
    };
    // SAFETY: two system calls for each filter, all of which are compiled already.
    unsafe { command.pre_exec(apply) };
}
