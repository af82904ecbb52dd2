//! The processes of the server: the connection of each, what it says, and what it is told. Knows
//! no sockets of the server beyond passing them on.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use srv_common::claim::{Kind, Message};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use super::event::{Event, MemberId};
use super::kept::{Keeper, Key, Record};
use crate::kernel::packets::{discard, peek_into, receive_into, send_with_fds};
use crate::kernel::watched::watch;

/// Messages that wait for a process which does not read. A process that has more to read than
/// this is cut off, and goes on without a ring.
const UNSENT_MAX: usize = 4096;

/// What the kernel calls an eventfd.
const EVENTFD: &str = "anon_inode:[eventfd]";

/// The processes that are connected.
pub(super) struct Members {
    all: BTreeMap<MemberId, Member>,
    next: u64,
    events: UnboundedSender<Event>,
    keeper: Keeper,
}

struct Member {
    pid: u32,
    channel: Arc<AsyncFd<OwnedFd>>,
    /// `None` if the kernel has none for it.
    pidfd: Option<Arc<AsyncFd<OwnedFd>>>,
    /// What the process is woken by, since it does not watch the connection.
    bell: Option<Arc<OwnedFd>>,
    unsent: VecDeque<Unsent>,
    /// What it has said was dealt with.
    heard: Arc<Notify>,
    reading: AbortHandle,
}

/// What is kept of a process, beside its connection, its pidfd and its bell.
#[derive(Serialize, Deserialize)]
struct MemberRecord {
    pid: u32,
    has_pidfd: bool,
    has_bell: bool,
}

/// A message that found no room.
struct Unsent {
    message: Message,
    fds: Vec<OwnedFd>,
}

impl Members {
    pub(super) fn new(events: UnboundedSender<Event>, keeper: Keeper) -> Self {
        Self {
            all: BTreeMap::new(),
            next: 0,
            events,
            keeper,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Admits the process at the other end of `channel`.
    pub(super) fn admit(&mut self, channel: OwnedFd) -> anyhow::Result<MemberId> {
        let id = MemberId(self.next);
        let peer = rustix::net::sockopt::socket_peercred(&channel);
        let pid = peer.context("ask which process has connected")?.pid;
        rustix::io::ioctl_fionbio(&channel, true).context("make a connection non-blocking")?;
        // A child of the process can have its end of the connection open. If the kernel has no
        // pidfd for it, only the end of the connection says that it has left.
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok();
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        self.add(id, pid, channel, pidfd, None)?;
        self.keep(id);
        Ok(id)
    }

    /// Goes on with a process that the coordinator before this one has admitted.
    pub(super) fn restore(&mut self, number: u64, record: Record) {
        if let Err(error) = self.try_restore(number, record) {
            tracing::error!("go on with a process: {error:#}");
            self.keeper.forget(Key::Member(number));
        }
    }

    fn try_restore(&mut self, number: u64, record: Record) -> anyhow::Result<()> {
        let MemberRecord {
            pid,
            has_pidfd,
            has_bell,
        } = record.read()?;
        let mut fds = record.fds.into_iter();
        let channel = fds.next().context("find its connection")?;
        let mut next = |has: bool| if has { fds.next() } else { None };
        let (pidfd, bell) = (next(has_pidfd), next(has_bell));
        ensure!(bell.is_some() == has_bell, "its bell is missing");
        self.add(MemberId(number), pid, channel, pidfd, bell)
    }

    fn add(
        &mut self,
        id: MemberId,
        pid: u32,
        channel: OwnedFd,
        pidfd: Option<OwnedFd>,
        bell: Option<OwnedFd>,
    ) -> anyhow::Result<()> {
        self.next = self.next.max(id.0 + 1);
        let channel = Arc::new(watch(channel).context("watch a connection")?);
        let pidfd = pidfd.and_then(|pidfd| watch(pidfd).ok()).map(Arc::new);
        let heard = Arc::new(Notify::new());
        let reader = Reader {
            id,
            channel: channel.clone(),
            pidfd: pidfd.clone(),
            heard: heard.clone(),
            events: self.events.clone(),
        };
        let member = Member {
            pid,
            channel,
            pidfd,
            bell: bell.map(Arc::new),
            unsent: VecDeque::new(),
            heard,
            reading: tokio::spawn(reader.read()).abort_handle(),
        };
        self.all.insert(id, member);
        Ok(())
    }

    /// Has the keeper keep what it needs of a process.
    fn keep(&self, id: MemberId) {
        let Some(member) = self.all.get(&id) else {
            return;
        };
        let record = MemberRecord {
            pid: member.pid,
            has_pidfd: member.pidfd.is_some(),
            has_bell: member.bell.is_some(),
        };
        let pidfd = member.pidfd.as_ref().map(|pidfd| pidfd.get_ref());
        let fds = [
            Some(member.channel.get_ref()),
            pidfd,
            member.bell.as_deref(),
        ];
        let fds: Vec<_> = fds.into_iter().flatten().map(|fd| fd.as_fd()).collect();
        self.keeper.keep(Key::Member(id.0), record, &fds);
    }

    /// Forgets a process that has left.
    pub(super) fn remove(&mut self, id: MemberId) {
        self.all.remove(&id);
        self.keeper.forget(Key::Member(id.0));
    }

    /// What a process has said was dealt with: it is taken from the connection. (If the coordinator
    /// is killed before, the next one hears it once more.)
    pub(super) fn has_heard(&self, id: MemberId) {
        if let Some(member) = self.all.get(&id) {
            discard(member.channel.get_ref());
            member.heard.notify_one();
        }
    }

    /// Whether that process is connected.
    pub(super) fn has(&self, id: MemberId) -> bool {
        self.all.contains_key(&id)
    }

    /// The process id; 0 if the process has left.
    pub(super) fn pid(&self, id: MemberId) -> u32 {
        self.all.get(&id).map_or(0, |member| member.pid)
    }

    /// The process ids of all.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.all.values().map(|member| member.pid)
    }

    /// Tells a process something. If it does not read just now, it gets the message later.
    pub(super) fn tell(&mut self, id: MemberId, message: Message, fds: &[BorrowedFd<'_>]) {
        if let Some(member) = self.all.get_mut(&id) {
            member.tell(message, fds);
        }
    }

    /// Keeps the bell of a process, which is an eventfd.
    pub(super) fn set_bell(&mut self, id: MemberId, bell: OwnedFd) {
        let link = format!("/proc/self/fd/{}", bell.as_raw_fd());
        // A write to something else could block.
        let is_bell = std::fs::read_link(link).is_ok_and(|link| link == Path::new(EVENTFD));
        if let Some(member) = self.all.get_mut(&id).filter(|_| is_bell) {
            let is_first = member.bell.replace(Arc::new(bell)).is_none();
            // It is the same in all claims of the process.
            if is_first {
                self.keep(id);
            }
        }
    }

    /// The bell of a process.
    pub(super) fn bell(&self, id: MemberId) -> Option<Arc<OwnedFd>> {
        self.all.get(&id)?.bell.clone()
    }

    /// Wakes a process that waits for connections. It reads what it was told then; if there is
    /// nothing to read, it has shown that it can wake.
    pub(super) fn ring(&self, id: MemberId) {
        if let Some(member) = self.all.get(&id) {
            member.ring();
        }
    }

    /// Sends what found no room before. Returns whether there was anything.
    pub(super) fn flush(&mut self) -> bool {
        let mut has_sent = false;
        for member in self
            .all
            .values_mut()
            .filter(|member| !member.unsent.is_empty())
        {
            let before = member.unsent.len();
            member.flush();
            if member.unsent.len() < before {
                member.ring();
                has_sent = true;
            }
        }
        has_sent
    }
}

impl Member {
    fn tell(&mut self, message: Message, fds: &[BorrowedFd<'_>]) {
        self.flush();
        if self.unsent.is_empty() && self.send(message, fds) {
            return;
        }
        let copies = fds.iter().map(BorrowedFd::try_clone_to_owned);
        match copies.collect() {
            Ok(fds) if self.unsent.len() < UNSENT_MAX => {
                self.unsent.push_back(Unsent { message, fds });
            }
            _ => self.cut_off(),
        }
    }

    fn ring(&self) {
        if let Some(bell) = &self.bell {
            // If it is full, it rings.
            let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
        }
    }

    fn flush(&mut self) {
        while let Some(first) = self.unsent.pop_front() {
            let fds: Vec<_> = first.fds.iter().map(|fd| fd.as_fd()).collect();
            if !self.send(first.message, &fds) {
                self.unsent.push_front(first);
                return;
            }
        }
    }

    /// Returns whether that is settled. If the connection is broken, it is: its end follows.
    fn send(&self, message: Message, fds: &[BorrowedFd<'_>]) -> bool {
        /// The kernel has no room: the process does not read, or too many descriptors are under
        /// way (`too_many_unix_fds`, net/core/scm.c).
        const LATER: [Errno; 3] = [Errno::AGAIN, Errno::TOOMANYREFS, Errno::NOBUFS];
        let sent = send_with_fds(self.channel.get_ref(), &message.to_bytes(), fds);
        let error = sent.err().and_then(|error| error.raw_os_error());
        !error.is_some_and(|error| LATER.contains(&Errno::from_raw_os_error(error)))
    }

    /// Ends the connection; the reading task notices that.
    fn cut_off(&mut self) {
        tracing::warn!(
            "process {} does not read: it goes on without a ring",
            self.pid
        );
        self.unsent.clear();
        let _ = rustix::net::shutdown(self.channel.get_ref(), rustix::net::Shutdown::Both);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// What reads the connection of a process.
struct Reader {
    id: MemberId,
    channel: Arc<AsyncFd<OwnedFd>>,
    pidfd: Option<Arc<AsyncFd<OwnedFd>>>,
    heard: Arc<Notify>,
    events: UnboundedSender<Event>,
}

impl Reader {
    /// Reports what the process says, one message after another, and that it has left.
    async fn read(self) {
        let end = async {
            match &self.pidfd {
                Some(pidfd) => drop(pidfd.readable().await),
                None => std::future::pending().await,
            }
        };
        let reading = async {
            while let Ok(Some((message, fds))) = message(&self.channel, Reading::Peeks).await {
                let _ = self.events.send(Event::Said(self.id, message, fds));
                self.heard.notified().await;
            }
        };
        tokio::select! {
            () = end => {}
            () = reading => {}
        }
        let _ = self.events.send(Event::Left(self.id));
    }
}

/// What becomes of a packet that is read.
#[derive(Clone, Copy)]
enum Reading {
    /// It is taken.
    Takes,
    /// It stays the next one.
    Peeks,
}

/// The next message on a connection, with the file descriptors that it brought; `None` at its
/// end.
///
/// # Errors
/// If the packet is no message, or what the kernel says.
pub(super) async fn next(
    channel: &AsyncFd<OwnedFd>,
) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    message(channel, Reading::Takes).await
}

async fn message(
    channel: &AsyncFd<OwnedFd>,
    reading: Reading,
) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    let mut packet = [0; Message::BYTES];
    loop {
        let mut readable = channel.readable().await?;
        let received = readable.try_io(|channel| {
            let received = match reading {
                Reading::Takes => receive_into(channel, &mut packet)?,
                Reading::Peeks => peek_into(channel, &mut packet)?,
            };
            received.ok_or_else(|| io::ErrorKind::WouldBlock.into())
        });
        let Ok(received) = received else {
            continue;
        };
        let (bytes, fds) = received?;
        if bytes == 0 {
            return Ok(None);
        }
        let message = Message::from_bytes(packet);
        return match message.kind() {
            Some(_) if bytes == Message::BYTES => Ok(Some((message, fds))),
            _ => {
                if matches!(reading, Reading::Peeks) {
                    // An end with something unread looks like an error at the other side.
                    discard(channel.get_ref());
                }
                Err(io::ErrorKind::InvalidData.into())
            }
        };
    }
}

/// Whether this is a message of that kind.
pub(super) fn is(message: &Message, kind: Kind) -> bool {
    message.kind() == Some(kind)
}
