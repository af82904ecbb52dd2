//! Which sockets an epoll instance watches, by its `/proc/PID/fdinfo`. A worker
//! may have a listener only because it was forked; the one that polls it is
//! the one that will accept from it.

use std::collections::BTreeSet;

/// Inode numbers of what is registered, from an epoll instance's fdinfo: lines
/// `tfd: 5 events: 2001 data: … pos:0 ino:1f sdev:8` (ep_show_fdinfo,
/// fs/eventpoll.c; the inode since Linux 4.13, in hexadecimal).
pub fn watched(fdinfo: &str) -> BTreeSet<u64> {
    let registered = fdinfo.lines().filter(|line| line.starts_with("tfd:"));
    let inode = |line: &str| {
        let (_, rest) = line.split_once("ino:")?;
        let digits = rest.split_whitespace().next()?;
        u64::from_str_radix(digits, 16).ok()
    };
    registered.filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mutation::{config, mutated_text};

    #[test]
    fn inodes_are_hexadecimal() {
        let fdinfo = "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1057\n\
            tfd:       11 events:       19 data:     7f2fd3e6e010  pos:0 ino:1ab sdev:8\n\
            tfd:       12 events: 80002019 data:     7f2fd3e6e1e0  pos:0 ino:10 sdev:8\n";
        assert_eq!(watched(fdinfo), BTreeSet::from([0x1ab, 0x10]));
    }

    #[test]
    fn a_kernel_without_inodes_tells_nothing() {
        assert!(watched("tfd:       11 events:       19 data:     7f2fd3e6e010\n").is_empty());
    }

    #[test]
    fn hostile_lines_hide_no_other() {
        let line = "tfd:       11 events:       19 data:     7f2fd3e6e010  pos:0 ino:1ab sdev:8\n";
        let seeds = [
            line,
            "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1057\n",
            "ino: tfd:\n",
        ];
        proptest!(config(), |(before in mutated_text(seeds), after in mutated_text(seeds))| {
            let text = [&before, "\n", line, &after].concat();
            prop_assert!(watched(&text).contains(&0x1ab));
        });
    }
}
