//! The requests in service of this process, counted from what its connections read and write, where
//! `srv run --capacity` limits them. Any thread may call these functions without a lock. Knows no
//! listener.
//!
//! A connection *counts* from when it was accepted, since its request is about to come, and from
//! when something is read from it, until something is written to it. So a kept connection that
//! waits for its client does not count, and neither does a response that goes on for long, such as
//! a stream of events.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering, fence};

use linux_raw_sys::general::POLLIN;

use crate::files::{self, FILES_MAX, File};
use crate::sys::{self, pollfd};
use crate::{process, published};

/// Most requests in service of a process that accepts; 0: they are not counted.
static LIMIT: AtomicU32 = AtomicU32::new(0);
/// Connections that count.
static IN_SERVICE: AtomicU32 = AtomicU32::new(0);
/// There is no limit until this process answers a request.
static IS_LIFTED: AtomicBool = AtomicBool::new(false);
/// What each connection is doing, by its descriptor: a [`Doing`] as number.
static DOING: [AtomicU8; FILES_MAX] = [const { AtomicU8::new(0) }; FILES_MAX];

/// What a connection is doing.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// It waits for its client.
    Nothing = 0,
    /// It was accepted, and nothing was read from it yet.
    New = 1,
    /// A request of it is in service.
    Request = 2,
    /// Likewise, since before the last look at all of them.
    OldRequest = 3,
    /// Likewise, for so long that it does not count any more.
    WrittenOff = 4,
}

impl Doing {
    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::New,
            2 => Self::Request,
            3 => Self::OldRequest,
            4 => Self::WrittenOff,
            _ => Self::Nothing,
        }
    }

    fn counts(self) -> bool {
        matches!(self, Self::New | Self::Request | Self::OldRequest)
    }

    fn is_request(self) -> bool {
        matches!(self, Self::Request | Self::OldRequest | Self::WrittenOff)
    }

    /// What it becomes when all are looked at: a request that was there at the last look, too, has
    /// counted for long enough.
    fn aged(self) -> Self {
        match self {
            Self::Request => Self::OldRequest,
            Self::OldRequest => Self::WrittenOff,
            other => other,
        }
    }
}

/// Limits the requests in service from now on. The constructor calls this.
pub(crate) fn limit_to(requests: u32) {
    LIMIT.store(requests, Ordering::Relaxed);
}

/// Most requests in service of a process that accepts; `None`: there is no limit.
#[inline(always)]
pub(crate) fn limit() -> Option<u32> {
    Some(LIMIT.load(Ordering::Relaxed)).filter(|limit| *limit != 0)
}

/// Whether this process has as many requests in service as it may have.
pub(crate) fn is_full() -> bool {
    let in_service = IN_SERVICE.load(Ordering::SeqCst);
    limit().is_some_and(|limit| in_service >= limit) && !IS_LIFTED.load(Ordering::Relaxed)
}

/// There is no limit until this process answers a request, and what is in service now does not
/// count any more.
pub(crate) fn lift() {
    IS_LIFTED.store(true, Ordering::Relaxed);
    for fd in connections() {
        let now = doing(fd);
        if now.counts() {
            replace(fd, now, Doing::WrittenOff);
        }
    }
}

/// A connection was accepted.
pub(crate) fn accepted(fd: i32) {
    become_at(fd, Doing::New);
}

/// Something was read from a connection. Returns whether [`is_full`] may have changed.
pub(crate) fn read(fd: i32) -> bool {
    become_at(fd, Doing::Request).1
}

/// Something was written to a connection. Returns whether [`is_full`] may have changed.
pub(crate) fn written(fd: i32, claim: usize) -> bool {
    let (before, is_changed) = become_at(fd, Doing::Nothing);
    if !before.is_request() {
        return is_changed;
    }
    published::of(claim).answered();
    let was_lifted = IS_LIFTED.load(Ordering::Relaxed) && IS_LIFTED.swap(false, Ordering::Relaxed);
    is_changed || was_lifted
}

/// How a connection was when it was closed.
pub(crate) struct Closed {
    /// A request of it was in service, and counts as answered now. If requests are not counted, this
    /// is always so.
    pub(crate) is_answered: bool,
    /// Whether [`is_full`] may have changed.
    pub(crate) is_changed: bool,
}

/// A connection is closed.
pub(crate) fn closed(fd: i32) -> Closed {
    if limit().is_none() {
        return Closed {
            is_answered: true,
            is_changed: false,
        };
    }
    let (before, is_changed) = become_at(fd, Doing::Nothing);
    Closed {
        is_answered: before.is_request(),
        is_changed,
    }
}

/// In a process that was forked: its parent's requests are none of its own.
pub(crate) fn forget() {
    IN_SERVICE.store(0, Ordering::SeqCst);
    IS_LIFTED.store(false, Ordering::Relaxed);
}

/// Has the connections not count that were accepted and have brought nothing yet.
pub(crate) fn settle_new(polled: &mut [pollfd]) {
    let mut count = 0;
    for fd in connections().filter(|fd| doing(*fd) == Doing::New) {
        let Some(entry) = polled.get_mut(count) else {
            break;
        };
        *entry = pollfd {
            fd,
            events: POLLIN as i16,
            revents: 0,
        };
        count += 1;
    }
    let polled = &mut polled[..count];
    if polled.is_empty() || sys::poll(polled, Some(0)) < 0 {
        return;
    }
    for entry in polled {
        let now = match entry.revents {
            0 => Doing::Nothing,
            _ => Doing::Request,
        };
        replace(entry.fd, Doing::New, now);
    }
}

/// Looks at all requests in service: those that were there at the last look, too, do not count any
/// more.
pub(crate) fn age() {
    for fd in connections() {
        let now = doing(fd);
        replace(fd, now, now.aged());
    }
}

fn connections() -> impl Iterator<Item = i32> {
    let all = 0..=files::last();
    all.filter(|fd| matches!(files::get(*fd), File::Connection(_)))
}

fn doing(fd: i32) -> Doing {
    let entry = DOING.get(fd as usize);
    entry.map_or(Doing::Nothing, |entry| {
        Doing::from_number(entry.load(Ordering::Relaxed))
    })
}

/// Says what a connection is doing now. Returns what it did before, and whether the count has
/// reached or left the limit.
fn become_at(fd: i32, now: Doing) -> (Doing, bool) {
    let Some(entry) = DOING.get(fd as usize).filter(|_| process::is_own()) else {
        return (Doing::Nothing, false);
    };
    let before = Doing::from_number(entry.swap(now as u8, Ordering::Relaxed));
    (before, count(before, now))
}

/// Likewise, unless it does something else by now.
fn replace(fd: i32, before: Doing, now: Doing) {
    let entry = &DOING[fd as usize];
    let (from, to) = (before as u8, now as u8);
    let replaced = entry.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    if replaced.is_ok() {
        count(before, now);
    }
}

fn count(before: Doing, now: Doing) -> bool {
    let limit = LIMIT.load(Ordering::Relaxed);
    let is_changed = match (before.counts(), now.counts()) {
        (false, true) => IN_SERVICE.fetch_add(1, Ordering::SeqCst) + 1 == limit,
        (true, false) => IN_SERVICE.fetch_sub(1, Ordering::SeqCst) == limit,
        _ => return false,
    };
    publish();
    is_changed
}

/// The last thread that publishes has seen what all others have counted.
fn publish() {
    loop {
        let in_service = IN_SERVICE.load(Ordering::SeqCst);
        published::set_running(in_service);
        fence(Ordering::SeqCst);
        if IN_SERVICE.load(Ordering::SeqCst) == in_service {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_until_its_answer_and_a_kept_one_does_not() {
        let all = [Doing::New, Doing::Request, Doing::OldRequest];
        assert!(all.into_iter().all(Doing::counts));
        assert!(!Doing::Nothing.counts());
        assert!(!Doing::WrittenOff.counts());
        let answered = [Doing::Request, Doing::OldRequest, Doing::WrittenOff];
        assert!(answered.into_iter().all(Doing::is_request));
        assert!(!Doing::New.is_request(), "its closing answers nothing");
    }

    #[test]
    fn a_request_counts_for_two_looks_at_most() {
        let first = Doing::Request.aged();
        assert!(first.counts());
        assert_eq!(first.aged(), Doing::WrittenOff);
        assert_eq!(Doing::New.aged(), Doing::New);
        for doing in [
            Doing::Nothing,
            Doing::New,
            Doing::Request,
            first,
            first.aged(),
        ] {
            assert_eq!(Doing::from_number(doing as u8), doing);
        }
    }
}
