//! Which processes have a socket open, and how often. A socket that only the ring's own copies
//! keep open is one that the server has closed.

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::Pid;

use crate::kernel::owners;

/// The result of a look at all processes.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders {
    /// The inode numbers that were looked for.
    inodes: BTreeSet<u64>,
    /// How many descriptors of each a process has, by inode number and process.
    descriptors: BTreeMap<(u64, u32), usize>,
    /// Processes whose files this one may not see.
    hidden: BTreeSet<u32>,
}

impl Holders {
    /// Looks through all processes but this one and its keeper, which has what this one has.
    pub(super) fn of(inodes: BTreeSet<u64>, keeper: Option<Pid>) -> Self {
        let mut found = Self::default();
        let this = rustix::process::getpid();
        let is_other = |pid: &Pid| *pid != this && Some(*pid) != keeper;
        for pid in owners::all_processes().into_iter().filter(is_other) {
            let number = pid.as_raw_nonzero().get().unsigned_abs();
            match owners::descriptors_of(pid, &inodes) {
                Ok(counts) => {
                    let counts = counts.into_iter();
                    let counts = counts.map(|(inode, count)| ((inode, number), count));
                    found.descriptors.extend(counts);
                }
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    found.hidden.insert(number);
                }
                // It has ended.
                Err(_) => {}
            }
        }
        found.inodes = inodes;
        found
    }

    /// The processes that have any of the sockets open.
    pub(super) fn pids(&self) -> BTreeSet<u32> {
        self.descriptors.keys().map(|(_, pid)| *pid).collect()
    }

    /// Whether one of these processes has one of these sockets open.
    pub(super) fn is_open_in(inodes: &BTreeSet<u64>, pids: &BTreeSet<u32>) -> bool {
        let pids = pids.iter().filter_map(|pid| Pid::from_raw(*pid as i32));
        let mut counts = pids.map(|pid| owners::descriptors_of(pid, inodes));
        counts.any(|counts| counts.is_ok_and(|counts| !counts.is_empty()))
    }

    /// Those of the sockets that this process does not have open, as far as it can be seen.
    pub(super) fn not_open_in(pid: u32, mut inodes: BTreeSet<u64>) -> BTreeSet<u64> {
        let counts = Pid::from_raw(pid as i32).map(|pid| owners::descriptors_of(pid, &inodes));
        if let Some(Ok(counts)) = counts {
            inodes.retain(|inode| !counts.contains_key(inode));
        }
        inodes
    }

    /// Whether the server has the socket: a process has more descriptors of it than the ring gave
    /// it (`copies`, by process), or a process of the server (`members`) cannot be seen.
    /// `None` if it was not looked for.
    pub(super) fn has(
        &self,
        inode: u64,
        copies: &BTreeMap<u32, usize>,
        members: &BTreeSet<u32>,
    ) -> Option<bool> {
        if !self.inodes.contains(&inode) {
            return None;
        }
        let counts = self.descriptors.range((inode, 0)..=(inode, u32::MAX));
        let mut beyond = counts.filter(|((_, pid), count)| {
            let given = copies.get(pid).copied().unwrap_or(0);
            **count > given
        });
        Some(beyond.next().is_some() || !self.hidden.is_disjoint(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copies_of_the_ring_do_not_count() {
        let holders = Holders {
            inodes: [7, 8, 9].into(),
            descriptors: [((7, 100), 1), ((7, 101), 2), ((8, 100), 1)].into(),
            hidden: [500].into(),
        };
        let has = |inode, copies: &[(u32, usize)], members: &[u32]| {
            let copies = copies.iter().copied().collect();
            holders.has(inode, &copies, &members.iter().copied().collect())
        };
        assert_eq!(
            has(7, &[(100, 1), (101, 1)], &[]),
            Some(true),
            "101 has its own"
        );
        assert_eq!(has(7, &[(100, 1), (101, 2)], &[]), Some(false));
        assert_eq!(has(8, &[(101, 1)], &[]), Some(true), "100 got none");
        assert_eq!(has(8, &[(100, 1)], &[100]), Some(false));
        assert_eq!(has(9, &[], &[]), Some(false));
        assert_eq!(has(9, &[], &[500]), Some(true), "it cannot be seen");
        assert_eq!(has(10, &[], &[]), None, "it was not looked for");
    }
}
