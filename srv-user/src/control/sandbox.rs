//! What a worker has given up, as a server reports it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The sandbox of a worker, as the worker itself has found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// Its user.
    pub uid: u32,
    /// Its group. It has no supplementary groups.
    pub gid: u32,
    /// A seccomp filter allows the system calls that it needs and no others.
    pub seccomp: bool,
    /// Landlock's ABI, by which it reads beneath its root and nowhere else; 0 without Landlock.
    pub landlock_abi: u32,
}

impl fmt::Display for SandboxStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "user {}, group {}; no capabilities, ",
            self.uid, self.gid
        )?;
        f.write_str(match self.seccomp {
            true => "system calls filtered, ",
            false => "system calls not filtered (the kernel has no seccomp), ",
        })?;
        match self.landlock_abi {
            0 => f.write_str("files not restricted (the kernel has no Landlock)"),
            abi => write!(f, "files restricted to the root (Landlock ABI {abi})"),
        }
    }
}
