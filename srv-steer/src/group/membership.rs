//! Listeners that come and go: those of a server that opens and closes them itself, slot by slot.
//!
//! The kernel lets a program decide only for a socket that is in a `SO_REUSEPORT` group. A socket
//! that gets the option after `listen` joins one when another socket listens beside it
//! (`inet_reuseport_add_sock`, net/ipv4/inet_hashtables.c), and until then the socket array
//! refuses it with `EINVAL` (`reuseport_array_update_check`, kernel/bpf/reuseport_array.c).

use std::sync::Arc;

use socket2::Socket;
use srv_common::Policy;

use super::{Group, HashingReason};
use crate::error::Result;
use crate::listeners::accept_queue;

impl Group {
    /// Puts a listener of the group's address into `slot`, in place of the one that is there. The
    /// slot's worker begins by [`Self::worker_starts`]. If the kernel refuses the listener to the
    /// program, the group is unsteered from now on.
    ///
    /// A group that was opened without listeners ([`ListenerGroup::empty`]) takes them as they
    /// are, and repairs none of them. In a group that was joined ([`Self::join`]), the program may
    /// have the listener already.
    ///
    /// [`ListenerGroup::empty`]: crate::ListenerGroup::empty
    pub fn put_listener(&mut self, slot: u32, socket: Socket) {
        if let Ok((_, limit)) = accept_queue(&socket) {
            self.backlog = self.backlog.min(limit);
        }
        self.listeners.sockets.put(slot, socket);
        self.outside.insert(slot);
        self.ordered.workers = self.ordered.workers.max(slot + 1);
        self.slots.use_until(slot + 1);
        self.write_config();
        let inside = self.insert_outside();
        if let Err(error) = inside.and_then(|()| self.attach_if_ordered()) {
            self.program = Err(HashingReason::Refused(Arc::new(error)));
        }
    }

    /// Takes the listener out of `slot`, which has no worker now: neither the program nor this
    /// group has it from now on. What waits there is not counted any more.
    pub fn take_listener(&mut self, slot: u32) -> Option<Socket> {
        let taken = self.listeners.sockets.take(slot)?;
        self.outside.remove(&slot);
        if let Ok(program) = &mut self.program {
            program.clear_listener(slot);
            program.keep_by(self.listeners.sockets.first());
        }
        let nth = slot as usize;
        let assigned = self.memory.steering[nth].steered.get();
        let waiting = assigned.wrapping_sub(self.memory.summaries[nth].taken.get());
        self.memory.write_off(nth, waiting as i64);
        Some(taken)
    }

    /// Inserts into the program's array the listeners that it does not hold, as far as they are in
    /// a `SO_REUSEPORT` group by now.
    fn insert_outside(&mut self) -> Result<()> {
        let may_be_inside = self.is_anothers();
        let Ok(program) = &mut self.program else {
            return Ok(());
        };
        for slot in std::mem::take(&mut self.outside) {
            let Some(socket) = self.listeners.sockets.get(slot as usize) else {
                continue;
            };
            let inserted = match may_be_inside {
                true => program.keep_listener(slot, socket),
                false => program.set_listener(slot, socket),
            };
            match inserted {
                Err(error) if is_in_no_group(&error) => {
                    self.outside.insert(slot);
                }
                inserted => inserted?,
            }
        }
        Ok(())
    }

    /// Attaches the program if a policy was ordered, it is not attached, and it has each listener.
    pub(super) fn attach_if_ordered(&mut self) -> Result<()> {
        let is_ordered = self.ordered.policy != Policy::Hash as u32;
        let (Ok(program), Some(first)) = (&mut self.program, self.listeners.sockets.first()) else {
            return Ok(());
        };
        if is_ordered && self.outside.is_empty() && !program.is_attached() {
            program.attach(first)?;
        }
        Ok(())
    }
}

fn is_in_no_group(error: &crate::Error) -> bool {
    let kernel = error.kernel().and_then(std::io::Error::raw_os_error);
    kernel == Some(libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use srv_common::State;

    use super::*;
    use crate::options::GroupOptions;
    use crate::{GroupState, ListenerGroup, SelectProgram, gate};

    fn empty(address: SocketAddr, steer: bool) -> Group {
        let options = GroupOptions {
            workers: 0,
            steer,
            ..GroupOptions::default()
        };
        Group::open(ListenerGroup::empty(address), &options).unwrap()
    }

    /// As a server listens that knows nothing of `SO_REUSEPORT`; then the option is set.
    fn alone() -> Socket {
        let socket = Socket::from(TcpListener::bind("127.0.0.1:0").unwrap());
        socket.set_reuse_port(true).unwrap();
        socket
    }

    fn beside(other: &Socket) -> Socket {
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&other.local_addr().unwrap()).unwrap();
        socket.listen(16).unwrap();
        socket
    }

    fn address(socket: &Socket) -> SocketAddr {
        socket.local_addr().unwrap().as_socket().unwrap()
    }

    #[test]
    fn listeners_come_and_go_and_a_slot_can_be_without_one() {
        let first = alone();
        let mut group = empty(address(&first), false);
        let (second, third) = (beside(&first), beside(&first));
        group.put_listener(0, first);
        group.put_listener(1, second);
        group.put_listener(2, third);
        for slot in 0..3 {
            group.worker_starts(slot, 1);
            group.set_state(slot, State::Ready);
        }
        assert_eq!(
            (group.slots(), group.figures().config.workers.get()),
            (0..3, 3)
        );
        group.worker_ended(1);
        assert!(group.take_listener(1).is_some() && group.take_listener(1).is_none());
        group.maintain();
        group.reconcile();
        assert!(group.is_ready(0) && !group.is_ready(1) && group.is_ready(2));
        assert_eq!(group.figures().config.ready_count.get(), 2);
        let again = beside(group.listeners.sockets.first().unwrap());
        group.put_listener(1, again);
        assert_eq!(group.listeners.sockets.iter().count(), 3);
    }

    #[test]
    fn its_server_sets_the_options_of_a_listener() {
        let first = alone();
        let mut group = empty(address(&first), false);
        let keepalive = first.try_clone().unwrap();
        group.put_listener(0, first);
        keepalive.set_nonblocking(true).unwrap();
        keepalive
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
        assert_eq!(group.inspect(), [""; 0]);
        assert!(keepalive.linger().unwrap().is_some());
    }

    #[test]
    fn the_program_decides_from_the_second_listener_on() {
        let loaded = SelectProgram::load().map(drop);
        if !gate::can("steer", loaded.map_err(|error| error.to_string())) {
            return;
        }
        let first = alone();
        let mut group = empty(address(&first), true);
        group.steer(Policy::Least).unwrap();
        let beside_it = first.try_clone().unwrap();
        group.put_listener(0, first);
        let state = group.state();
        assert!(
            matches!(state, GroupState::Hashing(HashingReason::OneListener)),
            "{state}"
        );
        group.put_listener(1, beside(&beside_it));
        group.put_listener(2, beside(&beside_it));
        drop(beside_it);
        assert!(group.is_steered(), "{}", group.state());
        // The socket by which the program was attached goes, and the program stays.
        drop(group.take_listener(0));
        assert!(group.is_steered(), "{}", group.state());
        group.worker_starts(2, 1);
        group.set_state(2, State::Ready);
        let _client = std::net::TcpStream::connect(group.address()).unwrap();
        assert_eq!(group.counts().steered, 1);
        assert_eq!((group.waiting(1), group.waiting(2)), (0, 1));
    }
}
