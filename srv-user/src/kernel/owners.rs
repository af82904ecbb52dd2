//! Which processes have a file descriptor of a socket, and which of them wait for connections on
//! it. This module reads `/proc`, changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::RawFd;
use std::path::Path;

use procfs::process::Process;
use rustix::process::Pid;

use super::epoll;

/// A process that has sockets of those asked for.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Its process id.
    pub pid: Pid,
    /// Its command name (`comm`), at most 15 bytes.
    pub command: String,
    /// Its file descriptors, by the sockets' inode number.
    pub sockets: BTreeMap<u64, RawFd>,
    /// The sockets that one of its epoll instances watches.
    pub polled: BTreeSet<u64>,
    /// How many of its epoll instances watch one of the sockets. If each thread of the process
    /// accepts by itself, there are as many as threads.
    pub epolls: usize,
}

/// The result of a look at all processes.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    /// Those that have one of the sockets, by process id.
    pub owners: Vec<Owner>,
    /// How many processes have files that this one may not see; CAP_SYS_PTRACE is required for
    /// that.
    pub hidden: usize,
}

impl Owners {
    /// Looks through all processes for sockets with one of these inode numbers.
    pub fn of(inodes: &BTreeSet<u64>) -> Self {
        let mut found = Self::default();
        for pid in all_processes() {
            match owner(pid, inodes) {
                Ok(owner) => found.owners.extend(owner),
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    found.hidden += 1;
                }
                // It has ended.
                Err(_) => {}
            }
        }
        found
    }

    /// The processes that accept from a socket: those that poll it. If none polls it, the only
    /// process that has it. If several have it, the result is empty, because it is unknown which
    /// accepts.
    pub fn workers(&self, inode: u64) -> Vec<&Owner> {
        let all: Vec<&Owner> = self.having(inode).collect();
        let polling: Vec<&Owner> = all
            .iter()
            .copied()
            .filter(|owner| owner.polled.contains(&inode))
            .collect();
        match (polling.is_empty(), all.len()) {
            (false, _) => polling,
            (true, 1) => all,
            (true, _) => Vec::new(),
        }
    }

    /// The processes that have a socket, those that poll it first.
    pub fn having(&self, inode: u64) -> impl Iterator<Item = &Owner> {
        let has = move |owner: &&Owner| owner.sockets.contains_key(&inode);
        let polls = move |owner: &&Owner| owner.polled.contains(&inode);
        let first = self.owners.iter().filter(has).filter(polls);
        let then = self.owners.iter().filter(has);
        first.chain(then.filter(move |owner| !polls(owner)))
    }

    /// The server's command name: that of its oldest process, since workers may
    /// rename themselves.
    pub fn command(&self) -> Option<&str> {
        self.owners.first().map(|owner| &*owner.command)
    }
}

/// All processes that this one's `/proc` shows.
pub fn all_processes() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut pids: Vec<i32> = pids.collect();
    pids.sort_unstable();
    pids.into_iter().filter_map(Pid::from_raw).collect()
}

/// The children of a process, their children, and so on.
pub fn descendants(pid: Pid) -> Vec<Pid> {
    let parent = |pid: &Pid| {
        let process = Process::new(pid.as_raw_nonzero().get()).ok()?;
        Pid::from_raw(process.stat().ok()?.ppid)
    };
    let all = all_processes().into_iter();
    let parents: Vec<(Pid, Pid)> = all.filter_map(|pid| Some((pid, parent(&pid)?))).collect();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(at) = found.get(next).copied() {
        next += 1;
        let children = parents.iter().filter(|(child, parent)| {
            // If processes end meanwhile, the kernel can give their ids to others.
            *parent == at && !found.contains(child)
        });
        let children: Vec<Pid> = children.map(|(child, _)| *child).collect();
        found.extend(children);
    }
    found.split_off(1)
}

/// A process's command name; empty if it has ended.
pub fn command(pid: Pid) -> String {
    let path = format!("/proc/{}/comm", pid.as_raw_nonzero());
    shown(&fs::read(path).unwrap_or_default())
}

/// Replaces control characters: a process can give itself any name, and a terminal obeys them.
fn shown(comm: &[u8]) -> String {
    let name = String::from_utf8_lossy(comm.trim_ascii());
    name.replace(char::is_control, "?")
}

/// Inode numbers of all sockets that a process has, with their descriptors.
///
/// # Errors
/// If it has ended, or this process may not see its files.
pub fn sockets_of(pid: Pid) -> std::io::Result<BTreeMap<u64, RawFd>> {
    Ok(files(pid)?.sockets)
}

/// How many descriptors of each of these sockets a process has, by inode number.
///
/// # Errors
/// If it has ended, or this process may not see its files.
pub fn descriptors_of(pid: Pid, inodes: &BTreeSet<u64>) -> std::io::Result<BTreeMap<u64, usize>> {
    let mut counts = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()))? {
        // A descriptor that was closed meanwhile is no error.
        let target = fs::read_link(entry?.path()).ok();
        let inode = target.and_then(|target| socket_inode(&target));
        if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
            *counts.entry(inode).or_default() += 1;
        }
    }
    Ok(counts)
}

struct Files {
    sockets: BTreeMap<u64, RawFd>,
    epolls: Vec<RawFd>,
}

fn files(pid: Pid) -> std::io::Result<Files> {
    let mut files = Files {
        sockets: BTreeMap::new(),
        epolls: Vec::new(),
    };
    for entry in fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()))? {
        let entry = entry?;
        let Some(fd) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A descriptor that was closed meanwhile is no error.
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        if let Some(inode) = socket_inode(&target) {
            files.sockets.entry(inode).or_insert(fd);
        } else if target == Path::new("anon_inode:[eventpoll]") {
            files.epolls.push(fd);
        }
    }
    Ok(files)
}

fn owner(pid: Pid, inodes: &BTreeSet<u64>) -> std::io::Result<Option<Owner>> {
    let mut files = files(pid)?;
    files.sockets.retain(|inode, _| inodes.contains(inode));
    if files.sockets.is_empty() {
        return Ok(None);
    }
    let mut polled = BTreeSet::new();
    let mut epolls = 0;
    for fd in files.epolls {
        let path = format!("/proc/{}/fdinfo/{fd}", pid.as_raw_nonzero());
        let watched = epoll::watched(&fs::read_to_string(path).unwrap_or_default());
        let its = watched.intersection(inodes);
        epolls += usize::from(its.clone().next().is_some());
        polled.extend(its);
    }
    Ok(Some(Owner {
        pid,
        command: command(pid),
        sockets: files.sockets,
        polled,
        epolls,
    }))
}

/// `31415` of `socket:[31415]`.
fn socket_inode(target: &Path) -> Option<u64> {
    let text = target.to_str()?.strip_prefix("socket:[")?;
    text.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::{AsFd as _, AsRawFd as _};

    use proptest::prelude::*;
    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

    use super::*;
    use crate::mutation::{config, mutated_text};

    #[test]
    fn this_process_owns_its_listener_and_polls_it_once_it_does() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let file = std::fs::File::from(listener.as_fd().try_clone_to_owned().unwrap());
        let inode = std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
        drop(file);
        let this = rustix::process::getpid();
        let look = || {
            let mut found = Owners::of(&[inode].into()).owners;
            found.retain(|owner| owner.pid == this);
            found.pop().unwrap()
        };
        assert_eq!(look().sockets[&inode], listener.as_raw_fd());
        assert!(look().polled.is_empty());
        let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
        let data = EventData::new_u64(0);
        epoll::add(&epoll, &listener, data, EventFlags::IN).unwrap();
        assert_eq!(look().polled, [inode].into());
        assert_eq!(command(this), look().command);
        let count = || descriptors_of(this, &[inode].into()).unwrap()[&inode];
        assert_eq!(count(), 1);
        let _second = listener.try_clone().unwrap();
        assert_eq!(count(), 2);
    }

    fn owner_of(pid: i32, inode: u64, polls: bool) -> Owner {
        Owner {
            pid: Pid::from_raw(pid).unwrap(),
            command: "nginx".into(),
            sockets: [(inode, 7)].into(),
            polled: if polls { [inode].into() } else { [].into() },
            epolls: usize::from(polls),
        }
    }

    #[test]
    fn the_worker_is_who_polls_or_the_only_one() {
        let workers = |owners: &[Owner]| {
            let owners = Owners {
                owners: owners.to_vec(),
                hidden: 0,
            };
            let found = owners.workers(9);
            found
                .iter()
                .map(|owner| owner.pid.as_raw_nonzero().get())
                .collect::<Vec<_>>()
        };
        assert_eq!(workers(&[owner_of(1, 9, false), owner_of(2, 9, true)]), [2]);
        assert_eq!(workers(&[owner_of(1, 9, false)]), [1]);
        let nobody: [i32; 0] = [];
        let both = [owner_of(1, 9, false), owner_of(2, 9, false)];
        assert_eq!(workers(&both), nobody);
        assert_eq!(workers(&[owner_of(1, 8, true)]), nobody);
    }

    #[test]
    fn a_socket_is_what_is_named_as_one() {
        let seeds = [
            "socket:[31415]",
            "anon_inode:[eventpoll]",
            "/dev/null",
            "socket:[]",
        ];
        proptest!(config(), |(target in mutated_text(seeds))| {
            if let Some(inode) = socket_inode(Path::new(&target)) {
                let digits = target.trim_matches(|other: char| !other.is_ascii_digit());
                prop_assert_eq!(Ok(inode), digits.parse());
                prop_assert!(target.starts_with("socket:[") && target.ends_with(']'));
            }
        });
    }

    #[test]
    fn a_name_commands_no_terminal() {
        assert_eq!(shown(b"nginx\n"), "nginx");
        assert_eq!(shown(b"\x1b[2Jng\xffinx\n"), "?[2Jng\u{fffd}inx");
    }
}
