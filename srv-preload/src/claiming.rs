//! Claims a slot for a listener, gives it back, and follows what the coordinator says of siblings.

use linux_raw_sys::general as nr;
use linux_raw_sys::net;
use srv_common::MAX_WORKERS;
use srv_common::claim::{ANSWER_WITHIN_MS, CLAIMS_MAX, Kind, Message};

use crate::c_library::monotonic_ns;
use crate::channel::{self, Received};
use crate::files::{self, File};
use crate::state::State;
use crate::sys::{self, FDS_MAX, errno, pollfd};
use crate::{memory, process, published, requests};

/// Whether that descriptor is a TCP socket that listens.
fn is_tcp_listener(fd: i32) -> bool {
    let is = |option, value: u32| sys::socket_option::<u32>(fd, option) == Some(value);
    is(net::SO_ACCEPTCONN, 1)
        && is(net::SO_PROTOCOL, net::IPPROTO_TCP as u32)
        && (is(net::SO_DOMAIN, net::AF_INET) || is(net::SO_DOMAIN, net::AF_INET6))
}

/// What the coordinator has answered to a claim.
struct Answer {
    message: Message,
    fds: [Option<i32>; FDS_MAX],
}

impl State {
    /// Claims a slot for a listener of the application, which is about to wait there. If that
    /// fails, the listener stays as it is, for good. Returns the number of the claim.
    pub(crate) fn claim(&mut self, fd: i32) -> Option<usize> {
        let claimed = self.try_claim(fd);
        if claimed.is_none() {
            let blocks = matches!(files::get(fd), File::Listener { blocks: true });
            files::set(fd, File::Plain { blocks });
        }
        claimed
    }

    fn try_claim(&mut self, fd: i32) -> Option<usize> {
        if !is_tcp_listener(fd) {
            return None;
        }
        self.open_channel()?;
        let nth = self.free_claim()?;
        let mut answer = self.ask(nth, fd);
        if answer.is_none() && self.channel.is_over && self.has_no_claim() {
            // The coordinator was killed before it had this process kept.
            self.channel.begin_anew();
            self.open_channel()?;
            answer = self.ask(nth, fd);
        }
        if self.take_slot(nth, fd, answer?).is_none() {
            self.channel
                .send(Message::new(Kind::Release, nth as u32), &[]);
            return None;
        }
        Some(nth)
    }

    /// Claims a slot, and waits for the answer. `None` if there is none, or if the listener is to
    /// stay as it is.
    fn ask(&mut self, nth: usize, fd: i32) -> Option<Answer> {
        let turn = self.channel.next_turn();
        let request = Message {
            turn,
            cookie: sys::socket_option(fd, net::SO_COOKIE)?,
            ..Message::new(Kind::Claim, nth as u32)
        };
        let bell = self.channel.bell()?;
        if !self.channel.send(request, &[fd, bell]) {
            self.lose_channel();
            return None;
        }
        self.await_answer(nth, turn)
    }

    /// Connects to the coordinator, or says once that this cannot be done.
    fn open_channel(&mut self) -> Option<()> {
        let was_over = self.channel.is_over;
        let opened = self.channel.open(process::told()?);
        if opened.is_none() && !was_over {
            say(
                b"srv run: a process cannot reach the coordinator, which has ended or is out of \
                  reach (seccomp, for example): it accepts from its own socket alone\n",
            );
        }
        opened.map(drop)
    }

    /// Waits for the answer to a claim, for [`ANSWER_WITHIN_MS`] at most.
    fn await_answer(&mut self, nth: usize, turn: u32) -> Option<Answer> {
        let deadline_ns = monotonic_ns() + ANSWER_WITHIN_MS * 1_000_000;
        loop {
            match self.channel.receive() {
                Received::Message(message, fds) => {
                    let is_answer = (message.claim as usize, message.turn) == (nth, turn)
                        && matches!(message.kind(), Some(Kind::Own | Kind::Plain));
                    if is_answer {
                        return (message.kind() == Some(Kind::Own))
                            .then_some(Answer { message, fds });
                    }
                    self.follow(message, fds);
                }
                Received::Closed => {
                    self.lose_channel();
                    return None;
                }
                Received::Nothing => {
                    let left_ns = deadline_ns.saturating_sub(monotonic_ns());
                    let mut readable = [pollfd {
                        fd: self.channel.fd()?,
                        events: nr::POLLIN as i16,
                        revents: 0,
                    }];
                    if left_ns == 0 {
                        self.channel
                            .send(Message::new(Kind::Release, nth as u32), &[]);
                        say(
                            b"srv run: the coordinator did not answer within 2 s: this process accepts \
                              from its own socket alone\n",
                        );
                        return None;
                    }
                    sys::poll(&mut readable, Some(left_ns));
                }
            }
        }
    }

    fn take_slot(&mut self, nth: usize, fd: i32, answer: Answer) -> Option<()> {
        let [Some(memory), socket] = answer.fds else {
            return None;
        };
        let slot = answer.message.slot;
        let status = u32::try_from(sys::status_flags(fd)).ok();
        let group = memory::map(memory, slot);
        channel::drop_fd(memory);
        let can_take = group.is_some() && status.is_some();
        let is_taken = match socket {
            Some(socket) => replace(fd, socket, can_take && answer.message.replaces()),
            None => !answer.message.replaces(),
        };
        let (Some(status), Some(group), true) = (status, group, is_taken) else {
            group.into_iter().for_each(memory::unmap);
            return None;
        };
        sys::set_status_flags(fd, status | nr::O_NONBLOCK);
        let blocks = files::get(fd) == File::Listener { blocks: true };
        self.claims[nth].own(fd, blocks, slot, group);
        published::of(nth).begin(nth, group, slot);
        files::set(fd, File::Claimed(nth));
        Some(())
    }

    /// Registers the listener of a claim in an epoll instance, and says that its owner waits.
    pub(crate) fn register(&mut self, nth: usize, epoll: i32, events: u32, data: u64) -> isize {
        let registered = self.claims[nth].register(epoll, events, data);
        if registered < 0 {
            return registered;
        }
        published::of(nth).is_registered_at(names_of(epoll, self.claims[nth].fd), data);
        self.watch_bell(epoll, events & nr::EPOLLET != 0, data);
        if self.claims[nth].becomes_ready() {
            self.channel
                .send(Message::new(Kind::Ready, nth as u32), &[]);
        }
        0
    }

    /// Ends the registrations that the application has removed in that epoll instance.
    pub(crate) fn unregister_removed(&mut self, epoll: i32) {
        for nth in 0..self.claims.len() {
            let published = published::of(nth);
            if published.is_removed() && published.is_at(epoll) {
                self.unregister(nth);
            }
        }
    }

    /// Ends the registration of the listener of a claim.
    pub(crate) fn unregister(&mut self, nth: usize) {
        if let Some(epoll) = self.claims[nth].epoll() {
            self.claims[nth].unregister();
            published::of(nth).leaves();
            self.forget_bell(epoll);
        }
    }

    /// Gives the slot back: the application closes the listener, or leaves it.
    pub(crate) fn release(&mut self, nth: usize) {
        self.unregister(nth);
        published::of(nth).end();
        self.claims[nth].end();
        self.channel
            .send(Message::new(Kind::Release, nth as u32), &[]);
    }

    /// Gives the slot back, and leaves the listener as it is for good, where it is registered.
    pub(crate) fn leave_alone(&mut self, nth: usize) {
        let (fd, blocks) = (self.claims[nth].fd, self.claims[nth].blocks);
        let registered = self.claims[nth].registered().zip(self.claims[nth].epoll());
        let is_removed = published::of(nth).is_removed();
        self.release(nth);
        files::set(fd, File::Plain { blocks });
        if let Some(((events, data), epoll)) = registered.filter(|_| !is_removed) {
            sys::epoll_add(epoll, fd, events, data);
        }
    }

    /// Leaves all listeners as they are, for good.
    pub(crate) fn leave_all_alone(&mut self) {
        for nth in 0..self.claims.len() {
            if !self.claims[nth].is_free() {
                self.leave_alone(nth);
            }
        }
    }

    /// Follows what the coordinator has sent.
    pub(crate) fn follow_all(&mut self) {
        if self.channel.silence() {
            self.is_rung();
        }
        loop {
            match self.channel.receive() {
                Received::Message(message, fds) => self.follow(message, fds),
                Received::Nothing => return,
                Received::Closed => return self.lose_channel(),
            }
        }
    }

    /// Another process has woken this one, perhaps for a connection that waits at a listener which
    /// this process has left to its siblings. Where the application waits by `poll` or `accept`, an
    /// event of the bell does not make it look, so that its listeners have to be reported.
    fn is_rung(&mut self) {
        let (waiting, is_limited) = (self.waiting, requests::limit().is_some());
        for claim in &mut self.claims {
            if !claim.is_unsteered() && !is_limited {
                continue;
            }
            claim.recall();
            if claim.epoll() == Some(waiting) {
                claim.watch_anew();
            }
        }
    }

    /// Follows the coordinator if it has sent something since the last look.
    pub(crate) fn follow_if_told(&mut self, nth: usize) {
        let claim = &mut self.claims[nth];
        let notices = claim.group.map_or(0, |group| group.config.notices.get());
        if notices != claim.notices {
            claim.notices = notices;
            self.follow_all();
        }
    }

    fn follow(&mut self, message: Message, fds: [Option<i32>; FDS_MAX]) {
        let [first, second] = fds;
        let (nth, slot) = (message.claim as usize, message.slot);
        let is_known = nth < CLAIMS_MAX
            && (slot as usize) < MAX_WORKERS
            && !self.claims[nth].is_free()
            && (slot != self.claims[nth].slot || message.kind() == Some(Kind::Rescan));
        match (message.kind().filter(|_| is_known), first) {
            (Some(Kind::Sibling), Some(fd)) => {
                self.claims[nth].add_sibling(slot, channel::keep(fd));
                self.claims[nth].set_bell(slot, second.map_or(-1, channel::keep));
            }
            (Some(Kind::Behind), Some(bell)) => {
                second.into_iter().for_each(channel::drop_fd);
                self.claims[nth].set_bell(slot, channel::keep(bell));
                self.claims[nth].fall_behind(slot);
            }
            (kind, first) => {
                first.into_iter().chain(second).for_each(channel::drop_fd);
                match kind {
                    Some(Kind::Behind) => self.claims[nth].fall_behind(slot),
                    Some(Kind::Gone) => self.claims[nth].remove_sibling(slot),
                    Some(Kind::Rescan) => self.claims[nth].rescan(),
                    _ => {}
                }
            }
        }
    }

    /// The coordinator has gone: all goes on with the siblings that are known.
    fn lose_channel(&mut self) {
        self.channel.close();
    }
}

/// Puts `socket` in the place of the application's listener `fd`, if that `is_wanted`. Returns
/// whether that is done.
fn replace(fd: i32, socket: i32, is_wanted: bool) -> bool {
    let descriptor = sys::fcntl(fd, nr::F_GETFD, 0);
    let closed_by_exec = descriptor as u32 & nr::FD_CLOEXEC != 0;
    let flags = if closed_by_exec { nr::O_CLOEXEC } else { 0 };
    let is_done = is_wanted && sys::dup3(socket, fd, flags) >= 0;
    channel::drop_fd(socket);
    is_done
}

/// The descriptors of the epoll instance `epoll`, in which `listener` is registered, itself first.
/// Others of the application's are the same instance if the listener cannot be added there.
fn names_of(epoll: i32, listener: i32) -> impl Iterator<Item = i32> {
    let others = (0..=files::last()).filter(move |fd| *fd != epoll);
    let same = others.filter(move |fd| {
        if files::get(*fd) != File::Epoll {
            return false;
        }
        let added = sys::epoll_add(*fd, listener, 0, 0);
        if added == 0 {
            sys::epoll_delete(*fd, listener);
        }
        added == sys::failure(errno::EEXIST)
    });
    core::iter::once(epoll).chain(same)
}

fn say(line: &[u8]) {
    sys::write(2, line);
}
