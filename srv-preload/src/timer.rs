//! A timer that has the application look at its listener: it is registered beside the listener,
//! with the same event data.

use linux_raw_sys::general::{EPOLLET, EPOLLIN};

use crate::{channel, sys};

/// See the module.
#[derive(Clone, Copy)]
pub(crate) struct Timer(i32);

impl Timer {
    /// A timer that is not set, in that epoll instance. `events` and `data` are those that the
    /// application has registered its listener with.
    pub(crate) fn register(epoll: i32, events: u32, data: u64) -> Option<Self> {
        let timer = i32::try_from(sys::timer()).ok().filter(|fd| *fd >= 0)?;
        let timer = channel::keep(timer);
        sys::epoll_add(epoll, timer, EPOLLIN | events & EPOLLET, data);
        Some(Self(timer))
    }

    /// It expires after `ns`, or, if that is 0, not at all. It is not ready any more.
    pub(crate) fn set(self, ns: u64) {
        sys::set_timer(self.0, ns);
    }

    /// Ends it, and its registration.
    pub(crate) fn end(self, epoll: i32) {
        sys::epoll_delete(epoll, self.0);
        self.drop_it();
    }

    /// Ends it. The epoll instance is gone.
    pub(crate) fn drop_it(self) {
        channel::drop_private(self.0);
    }
}
