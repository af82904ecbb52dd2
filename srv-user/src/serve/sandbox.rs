//! What a process gives up. A worker gives up everything but what it serves with. The
//! master gives up what it does not need any more. Each part is one file. The worker and
//! the master decide when they enter the sandbox.

pub mod capabilities;
pub mod paths;
pub mod syscalls;
pub mod user;

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use anyhow::Context;
use rustix::thread::CapabilitySet;

use crate::control::SandboxStatus;
use crate::values::ApplicationAddr;
pub use user::User;

/// The first step: from now on this process runs as `user` (`None`: as before), and
/// no program that it executes can have a capability. It must have no other thread.
///
/// # Errors
/// What the kernel says.
pub fn become_user(user: Option<User>) -> anyhow::Result<()> {
    // This comes first: after the change of user, this process may not do it any more.
    capabilities::bound(CapabilitySet::empty()).context("empty the capability bounding set")?;
    user.map_or(Ok(()), User::become_it)
}

/// The second step: for the rest of its life, this process can use only what it has
/// open, can read only beneath `roots`, and can connect only to `applications`. If there is
/// none, it can open no socket.
///
/// # Errors
/// If the kernel refuses what every kernel has. The result says what this kernel
/// lacks.
pub fn confine(
    roots: &[BorrowedFd<'_>],
    applications: &BTreeSet<&ApplicationAddr>,
) -> anyhow::Result<SandboxStatus> {
    capabilities::drop_all().context("drop all capabilities")?;
    rustix::thread::set_no_new_privs(true).context("set no_new_privs")?;
    Ok(SandboxStatus {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        landlock_abi: paths::reach(roots, applications)
            .context("restrict file access with Landlock")?,
        // This comes last: after it, the filter refuses the system calls of the other steps.
        seccomp: syscalls::allow_few(!applications.is_empty())
            .context("install the seccomp filter")?,
    })
}
