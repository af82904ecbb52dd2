//! One thread's epoll. Knows readiness and file descriptors, no HTTP.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;
use srv_steer::Poller;

/// Events taken from the kernel at a time. They are few, because an event that is left in the
/// kernel can still wake a sibling, whereas one that is taken waits for this worker.
pub(crate) const BATCH: usize = 16;

/// An epoll instance and the events of its last wait.
pub struct Reactor {
    registry: Registry,
    events: Vec<Event>,
}

/// Where files are registered with the epoll instance of a [`Reactor`]. A copy is the same one.
#[derive(Clone)]
pub struct Registry(Rc<OwnedFd>);

impl Registry {
    /// Watches a connection for any change of readiness, edge-triggered: one registration for its
    /// whole life, which ends with the last descriptor of the connection. The user must have met
    /// `EAGAIN`, or be told of what is there at the registration.
    ///
    /// # Errors
    /// What `epoll_ctl` says.
    pub fn watch_stream(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let data = EventData::new_u64(token);
        Ok(epoll::add(&self.0, fd, data, READS | EventFlags::OUT)?)
    }

    /// As [`Self::watch_stream`], but only for what can be read. A local socket would report room to
    /// write whenever its peer has read something.
    ///
    /// # Errors
    /// What `epoll_ctl` says.
    pub fn watch_reads(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(token), READS)?)
    }

    /// Watches for room to write, too, what [`Self::watch_reads`] watches. What is ready now is
    /// reported.
    ///
    /// # Errors
    /// What `epoll_ctl` says.
    pub fn watch_writes_too(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let data = EventData::new_u64(token);
        Ok(epoll::modify(&self.0, fd, data, READS | EventFlags::OUT)?)
    }
}

/// Bytes, an end or a failure, edge-triggered.
const READS: EventFlags = EventFlags::IN
    .union(EventFlags::RDHUP)
    .union(EventFlags::ET);

/// What has happened to a registration.
#[derive(Clone, Copy)]
pub struct Readiness {
    /// The number it was registered with.
    pub token: u64,
    /// There is something to read: bytes, a connection or an end.
    pub readable: bool,
    /// There is room to write, or the connection failed.
    pub writable: bool,
    /// The peer has closed its side, or the connection failed.
    pub hung_up: bool,
    /// Nothing can be sent or received any more: both sides are closed, or the connection failed.
    pub failed: bool,
}

impl Readiness {
    /// What to expect of a connection that was just accepted.
    pub fn of_new(token: u64) -> Self {
        Self {
            token,
            readable: true,
            writable: true,
            hung_up: false,
            failed: false,
        }
    }
}

impl AsFd for Reactor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.registry.0.as_fd()
    }
}

impl Poller for Reactor {
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        Self::wait(self, timeout)
    }

    fn token(&self, nth: usize) -> Option<u64> {
        self.events.get(nth).map(|event| event.data.u64())
    }
}

impl Reactor {
    /// # Errors
    /// If the kernel gives out no epoll instance.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self {
            registry: Registry(Rc::new(epoll)),
            events: Vec::with_capacity(BATCH),
        })
    }

    /// Where files are registered.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Watches a file for something to read, level-triggered.
    ///
    /// # Errors
    /// What `epoll_ctl` says.
    pub fn watch_readable(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let data = EventData::new_u64(token);
        Ok(epoll::add(&self.registry.0, fd, data, EventFlags::IN)?)
    }

    /// Forgets a registration.
    ///
    /// # Errors
    /// `ENOENT` if there is none.
    pub fn forget(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.registry.0, fd)?)
    }

    /// Sleeps until something happens, `timeout` passes (`None`: for ever), or
    /// a signal arrives.
    ///
    /// # Errors
    /// What `epoll_wait` says, except `EINTR`.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.events.clear();
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let buffer = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.registry.0, buffer, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// How many things the last [`Self::wait`] brought.
    pub fn count(&self) -> usize {
        self.events.len()
    }

    /// The `nth` thing that the last [`Self::wait`] brought.
    pub fn ready(&self, nth: usize) -> Option<Readiness> {
        const FAILED: EventFlags = EventFlags::HUP.union(EventFlags::ERR);
        const HUNG_UP: EventFlags = FAILED.union(EventFlags::RDHUP);
        self.events.get(nth).map(|event| Readiness {
            token: event.data.u64(),
            readable: { event.flags }.intersects(HUNG_UP | EventFlags::IN),
            writable: { event.flags }.intersects(FAILED | EventFlags::OUT),
            hung_up: { event.flags }.intersects(HUNG_UP),
            failed: { event.flags }.intersects(FAILED),
        })
    }
}
