//! What a coordinator leaves to the next one, should it be killed: a record of each process, group
//! and socket, with its file descriptors. The coordinator orders what is kept, and the keeper, its
//! parent process, follows. Knows nothing of what a record means.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::kernel::packets::{decode, send_with_fds};

/// A keeper that does not follow for this long is stopped, or starves.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(1);

/// What a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Key {
    /// The policy of all groups.
    Policy,
    /// A process.
    Member(u64),
    /// A group.
    Group(u64),
    /// The socket in a slot of a group.
    Socket(u64, u32),
}

/// What a coordinator tells its keeper. File descriptors travel beside it.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// To keep a record. If no descriptor comes along, those that it has stay.
    Keep(Key, serde_json::Value),
    /// To forget a record; with that of a group, those of its sockets.
    Forget(Key),
}

/// All records.
#[derive(Default)]
pub(super) struct Kept(BTreeMap<Key, Record>);

/// What is kept of one thing.
#[derive(Default)]
pub(super) struct Record {
    value: serde_json::Value,
    /// Its file descriptors.
    pub(super) fds: Vec<OwnedFd>,
}

impl Record {
    /// What the coordinator has written.
    ///
    /// # Errors
    /// If that was another thing.
    pub(super) fn read<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        Ok(T::deserialize(&self.value)?)
    }
}

impl Kept {
    /// Whether there is nothing: no coordinator has begun.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Follows the order of that packet. What is none is passed over.
    pub(super) fn follow(&mut self, packet: &[u8], fds: Vec<OwnedFd>) {
        match decode(packet) {
            Ok(Order::Keep(key, value)) => {
                let record = self.0.entry(key).or_default();
                record.value = value;
                if !fds.is_empty() {
                    record.fds = fds;
                }
            }
            Ok(Order::Forget(key)) => {
                self.0.remove(&key);
                if let Key::Group(group) = key {
                    self.0
                        .retain(|key, _| !matches!(key, Key::Socket(of, _) if *of == group));
                }
            }
            Err(_) => {}
        }
    }

    /// A copy, with copies of all file descriptors.
    #[cfg(test)]
    pub(super) fn copy(&self) -> Self {
        let copy = |record: &Record| Record {
            value: record.value.clone(),
            fds: record
                .fds
                .iter()
                .map(|fd| fd.try_clone().unwrap())
                .collect(),
        };
        Self(
            self.0
                .iter()
                .map(|(key, record)| (*key, copy(record)))
                .collect(),
        )
    }
}

impl IntoIterator for Kept {
    type Item = (Key, Record);
    type IntoIter = std::collections::btree_map::IntoIter<Key, Record>;

    /// The records, in the order of their keys: the policy, processes, groups, sockets.
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The keeper, as its coordinator sees it. Clones are the same one.
#[derive(Clone)]
pub(super) struct Keeper(Arc<Link>);

struct Link {
    channel: OwnedFd,
    keeper: Pid,
    has_gone: AtomicBool,
}

impl Keeper {
    /// The process `keeper` at the other end of `channel`.
    pub(super) fn at(channel: OwnedFd, keeper: Pid) -> Self {
        Self(Arc::new(Link {
            channel,
            keeper,
            has_gone: AtomicBool::new(false),
        }))
    }

    /// Its process id, if it is there.
    pub(super) fn pid(&self) -> Option<Pid> {
        let has_gone = self.0.has_gone.load(Ordering::Relaxed);
        (!has_gone).then_some(self.0.keeper)
    }

    /// Has it keep a record. If `fds` is empty, it keeps those that it has of that record.
    pub(super) fn keep(&self, key: Key, value: impl Serialize, fds: &[BorrowedFd<'_>]) {
        match serde_json::to_value(value) {
            Ok(value) => self.order(&Order::Keep(key, value), fds),
            Err(error) => tracing::error!("write the record {key:?}: {error}"),
        }
    }

    /// Has it forget a record.
    pub(super) fn forget(&self, key: Key) {
        self.order(&Order::Forget(key), &[]);
    }

    fn order(&self, order: &Order, fds: &[BorrowedFd<'_>]) {
        if self.pid().is_none() {
            return;
        }
        let link = &self.0;
        let sent = serde_json::to_vec(order).map_err(io::Error::from);
        if let Err(error) = sent.and_then(|packet| link.send(&packet, fds)) {
            link.has_gone.store(true, Ordering::Relaxed);
            // If it lives, its records are incomplete from now on, and no coordinator may use them.
            let gone = [Errno::PIPE, Errno::CONNRESET, Errno::CONNREFUSED];
            let is_gone = |error: i32| gone.contains(&Errno::from_raw_os_error(error));
            if !error.raw_os_error().is_some_and(is_gone) {
                let _ = kill_process(link.keeper, Signal::KILL);
            }
            tracing::warn!(
                "the keeper of this coordinator, process {}, has gone ({error}): if the \
                 coordinator is killed now, the server goes on without it",
                link.keeper
            );
        }
    }
}

impl Link {
    /// Sends a packet, once there is room for it.
    fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        const LATER: [Errno; 3] = [Errno::AGAIN, Errno::TOOMANYREFS, Errno::NOBUFS];
        const LOOKS_EVERY: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 10_000_000,
        };
        let deadline = Instant::now() + FOLLOWS_WITHIN;
        loop {
            let Err(error) = send_with_fds(&self.channel, packet, fds) else {
                return Ok(());
            };
            let number = error.raw_os_error().map(Errno::from_raw_os_error);
            let is_later = number.is_some_and(|number| LATER.contains(&number));
            if !is_later || Instant::now() > deadline {
                return Err(error);
            }
            let mut room = [PollFd::new(&self.channel, PollFlags::OUT)];
            let _ = poll(&mut room, Some(&LOOKS_EVERY));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::kernel::packets::{pair, receive_into};

    #[test]
    fn what_is_ordered_is_kept_and_what_is_not_is_forgotten() {
        let (ours, theirs) = pair().unwrap();
        let keeper = Keeper::at(ours.try_clone().unwrap(), rustix::process::getpid());
        let mut kept = Kept::default();
        keeper.keep(Key::Group(1), "one", &[ours.as_fd(), ours.as_fd()]);
        keeper.keep(Key::Socket(1, 4), "four", &[ours.as_fd()]);
        keeper.keep(Key::Socket(2, 4), "another", &[]);
        keeper.keep(Key::Group(1), "changed", &[]);
        keeper.keep(Key::Member(3), 3, &[]);
        keeper.forget(Key::Member(3));
        let mut packet = [0; 1024];
        let mut follow = |kept: &mut Kept| {
            while let Ok(Some((bytes, fds))) = receive_into(&theirs, &mut packet) {
                kept.follow(&packet[..bytes], fds);
            }
        };
        assert!(kept.is_empty());
        follow(&mut kept);
        kept.follow(b"nonsense", Vec::new());
        let read = |kept: &Kept| {
            let records = kept.copy().into_iter();
            let records = records
                .map(|(key, record)| (key, record.read::<String>().unwrap(), record.fds.len()));
            records.collect::<Vec<_>>()
        };
        let another = (Key::Socket(2, 4), "another".into(), 0);
        let expected = [
            (Key::Group(1), "changed".into(), 2),
            (Key::Socket(1, 4), "four".into(), 1),
            another.clone(),
        ];
        assert_eq!(read(&kept), expected);
        keeper.forget(Key::Group(1));
        follow(&mut kept);
        assert_eq!(read(&kept), [another]);
        drop(theirs);
        assert!(keeper.pid().is_some());
        keeper.forget(Key::Policy);
        assert!(keeper.pid().is_none(), "it has gone");
    }
}
