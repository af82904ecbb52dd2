//! What a process gives up: a worker everything but what it serves with, the
//! master what it has no more use for. Each part is one file; who is confined,
//! and when, is the worker's and the master's business.

pub mod capabilities;
pub mod paths;
pub mod syscalls;
pub mod user;

use std::os::fd::BorrowedFd;

use anyhow::Context;
use rustix::thread::CapabilitySet;

use crate::control::SandboxStatus;
pub use user::User;

/// The first step: from now on this process is `user` (`None`: who it was), and
/// nothing that it executes can have a capability. It must have no other thread.
///
/// # Errors
/// What the kernel says.
pub fn become_user(user: Option<User>) -> anyhow::Result<()> {
    // Another user may not do that any more.
    capabilities::bound(CapabilitySet::empty()).context("empty the capability bounding set")?;
    user.map_or(Ok(()), User::become_it)
}

/// The second: confines this process for the rest of its life to what it has
/// open, and to reading beneath `root`.
///
/// # Errors
/// If the kernel refuses what every kernel has. What a kernel may lack is said
/// in what is returned.
pub fn confine(root: Option<BorrowedFd<'_>>) -> anyhow::Result<SandboxStatus> {
    capabilities::drop_all().context("drop all capabilities")?;
    rustix::thread::set_no_new_privs(true).context("set no_new_privs")?;
    Ok(SandboxStatus {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        landlock_abi: paths::read_beneath(root).context("restrict file access with Landlock")?,
        // Last: from here on there is little that can be asked for.
        seccomp: syscalls::allow_few().context("install the seccomp filter")?,
    })
}
