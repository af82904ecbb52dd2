//! How a server was started: its first process, what that executes, and its command line. Reads
//! `/proc`, and judges nothing.

use std::collections::BTreeSet;
use std::fs::{self, File};

use procfs::process::Process;

use crate::kernel::elf::{Linkage, linkage};
use crate::kernel::owners::Owners;

/// A longer command line is not repeated.
const COMMAND_BYTES_MAX: usize = 300;
/// What nginx puts before the command line of its master, which it writes over the original.
const NGINX_TITLE: &str = "nginx: master process ";

/// How a server was started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Started {
    /// Its command line, quoted for a shell; `None` if the process hides it, or if it is too long.
    pub command: Option<String>,
    /// How its binary is started; `None` if that is unknown.
    pub linkage: Option<Linkage>,
    /// Whether the processes that accept are children of a process of the same server.
    pub has_master: bool,
    /// How many of its processes were started by something else than the server.
    pub starts: usize,
}

impl Started {
    /// How the server was started whose processes `workers` accept.
    pub(crate) fn of(workers: &BTreeSet<i32>, owners: &Owners) -> Self {
        let first: BTreeSet<i32> = workers.iter().map(|pid| first(*pid, owners)).collect();
        let Some(pid) = first.first() else {
            return Self::default();
        };
        let binary = File::open(path(*pid, "exe")).ok();
        Self {
            command: line(*pid).and_then(|line| plain(&line)),
            linkage: binary.and_then(|binary| linkage(&binary).ok()),
            has_master: first.is_disjoint(workers),
            starts: first.len(),
        }
    }
}

/// The process of the server that has started this one, directly or not. It executes the same
/// binary, and it has the sockets, too, or the same command line. A supervisor in the same
/// language has neither.
fn first(pid: i32, owners: &Owners) -> i32 {
    let mut first = pid;
    while let Some(parent) = parent(first) {
        let binary = fs::read_link(path(first, "exe")).ok();
        let is_same = binary.is_some() && binary == fs::read_link(path(parent, "exe")).ok();
        let mut pids = owners.owners.iter().map(|owner| owner.pid);
        let has_sockets = pids.any(|pid| pid.as_raw_nonzero().get() == parent);
        if !is_same || !(has_sockets || line(first) == line(parent)) {
            break;
        }
        first = parent;
    }
    first
}

fn parent(pid: i32) -> Option<i32> {
    let ppid = Process::new(pid).ok()?.stat().ok()?.ppid;
    (ppid > 0).then_some(ppid)
}

fn line(pid: i32) -> Option<String> {
    String::from_utf8(fs::read(path(pid, "cmdline")).ok()?).ok()
}

fn path(pid: i32, file: &str) -> String {
    format!("/proc/{pid}/{file}")
}

/// A content of `/proc/PID/cmdline` as a shell takes it; `None` if it is a title that a process has
/// given itself, in which quotes are lost.
fn plain(line: &str) -> Option<String> {
    let line = line.trim_end_matches('\0');
    let is_sayable = !line.is_empty() && line.len() <= COMMAND_BYTES_MAX;
    if !is_sayable || line.chars().any(|each| each.is_control() && each != '\0') {
        return None;
    }
    if let Some(line) = line.strip_prefix(NGINX_TITLE) {
        let is_unambiguous = line.split(' ').all(is_safe);
        return is_unambiguous.then(|| line.to_owned());
    }
    let mut words = line.split('\0');
    if !words.next().is_some_and(is_safe) {
        return None;
    }
    let words: Vec<String> = line.split('\0').map(quoted).collect();
    Some(words.join(" "))
}

fn is_safe(word: &str) -> bool {
    let is_safe = |each: char| each.is_ascii_alphanumeric() || "-_./:=,@%+".contains(each);
    // A title such as `gunicorn:` is no command.
    !word.is_empty() && word.chars().all(is_safe) && !word.ends_with(':')
}

fn quoted(word: &str) -> String {
    match is_safe(word) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_repeated_for_a_shell_and_a_title_is_not() {
        for (line, command) in [
            ("node\0server.js\0", Some("node server.js")),
            (
                "/usr/bin/sh\0-c\0it's; done\0",
                Some(r"/usr/bin/sh -c 'it'\''s; done'"),
            ),
            (
                "nginx: master process nginx -p /srv -c n.conf\0\0",
                Some("nginx -p /srv -c n.conf"),
            ),
            ("nginx: master process nginx -g daemon off;\0", None),
            ("gunicorn: master [app:app]\0", None),
            ("a\0b\x1b[2J\0", None),
            ("", None),
        ] {
            assert_eq!(plain(line).as_deref(), command, "{line:?}");
        }
        assert_eq!(plain(&"a".repeat(COMMAND_BYTES_MAX + 1)), None);
    }
}
