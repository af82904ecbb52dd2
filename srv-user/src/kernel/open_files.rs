//! `RLIMIT_NOFILE`: raising it, and what a master needs of it. The soft limit that most systems
//! start a process with, 1024, is for programs that call `select`; srv does not.

use std::io;

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, for this process and those that it starts. Returns the
/// limit that holds now; `None` is unlimited.
///
/// # Errors
/// What the kernel says.
pub fn raise() -> io::Result<Option<u64>> {
    let hard = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: hard,
        maximum: hard,
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok(hard)
}

/// Descriptors that a master with so many workers, and so many listeners in each of its groups,
/// needs at least: while it starts a worker it has a second one of each that the worker inherits
/// (the listeners and the memory of each group), and each worker has a channel with two ends, the memory
/// of its ring for the access log, and the pipe beside that.
pub fn of_master(workers: u32, groups: u64, listeners: u64) -> u64 {
    2 * groups * (listeners + 1) + 4 * u64::from(workers)
}

/// Raises the limit, for a master with so many workers, groups, and listeners in each group.
///
/// # Errors
/// If the hard limit is too low for them.
pub fn raise_for_master(workers: u32, groups: u64, listeners: u64) -> anyhow::Result<()> {
    let limit = raise().context("raise RLIMIT_NOFILE")?;
    let needed = of_master(workers, groups, listeners);
    ensure!(
        limit.is_none_or(|limit| needed <= limit),
        "{workers} workers on {groups} addresses need {needed} open files, and the hard \
         RLIMIT_NOFILE is {}: raise it (ulimit -Hn, LimitNOFILE= in the unit), or use fewer workers",
        limit.unwrap_or(u64::MAX)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_with_1024_needs_more() {
        assert!(of_master(256, 1, 256) > 1024);
        assert!(of_master(64, 8, 64) > 1024);
        assert!(of_master(8, 2, 8) < 1024);
        let refusal = raise_for_master(u32::MAX, 1, u64::MAX / 4).unwrap_err();
        let said = refusal.to_string();
        assert!(
            said.contains("LimitNOFILE=") && said.contains("4294967295 workers"),
            "{said}"
        );
    }
}
