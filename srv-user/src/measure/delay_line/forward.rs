//! Carries packets from one file descriptor to another, each a while later,
//! in order. Knows no network: the tests use sockets.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use srv_steer::monotonic_ns;

/// With traffic, how long to let packets gather: late by this much at most on
/// reading and on writing, instead of two wake-ups for each packet.
const NAP_NS: u64 = 100_000;
/// Packets taken in before looking at what is due.
const BATCH: usize = 512;
/// More than a device's MTU.
const PACKET_BYTES_MAX: usize = 2048;

/// Both directions.
pub(super) struct Forwarder {
    pub lanes: [Lane; 2],
    /// An eventfd: readable when it is time to stop.
    pub stop: OwnedFd,
}

/// One direction.
pub(super) struct Lane {
    from: OwnedFd,
    to: OwnedFd,
    delay_ns: u64,
    /// The delay is the same for all, so the first is due first.
    packets: VecDeque<Packet>,
    /// Buffers to be used again.
    spare: Vec<Buffer>,
}

struct Packet {
    due_ns: u64,
    length: usize,
    buffer: Buffer,
}

type Buffer = Box<[u8; PACKET_BYTES_MAX]>;

impl Forwarder {
    /// Until told to stop.
    pub(super) fn run(mut self) {
        // A network does not wait for a processor. (The highest, if it may.)
        let _ = rustix::process::setpriority_process(None, -20);
        // Without it the kernel may add 50 µs to each nap.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        loop {
            let mut moved = 0;
            for lane in &mut self.lanes {
                moved += lane.fill();
                moved += lane.deliver(monotonic_ns());
            }
            let stopped = if moved > 0 {
                self.wait(Some(NAP_NS), false)
            } else {
                let due_ns = self.lanes.iter().filter_map(Lane::due_ns).min();
                let timeout_ns = due_ns.map(|due_ns| due_ns.saturating_sub(monotonic_ns()));
                self.wait(timeout_ns, true)
            };
            if stopped {
                return;
            }
        }
    }

    /// Whether it was told to stop.
    fn wait(&self, timeout_ns: Option<u64>, for_packets: bool) -> bool {
        let timeout = timeout_ns.map(|ns| Timespec {
            tv_sec: (ns / 1_000_000_000) as i64,
            tv_nsec: (ns % 1_000_000_000) as i64,
        });
        let [a, b] = &self.lanes;
        let mut fds = [&self.stop, &a.from, &b.from].map(|fd| PollFd::new(fd, PollFlags::IN));
        let watched = if for_packets { 3 } else { 1 };
        match poll(&mut fds[..watched], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => !fds[0].revents().is_empty(),
            // It cannot go on, and it must not spin.
            Err(_) => true,
        }
    }
}

impl Lane {
    /// From `a` to `b` and from `b` to `a`, both of which do not block.
    pub(super) fn both_ways(a: OwnedFd, b: OwnedFd, delay: Duration) -> io::Result<[Self; 2]> {
        let (a2, b2) = (a.try_clone()?, b.try_clone()?);
        Ok([Self::new(a, b, delay), Self::new(b2, a2, delay)])
    }

    fn new(from: OwnedFd, to: OwnedFd, delay: Duration) -> Self {
        Self {
            from,
            to,
            delay_ns: u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX),
            packets: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// Takes in what there is; returns how many packets.
    fn fill(&mut self) -> usize {
        let mut filled = 0;
        while filled < BATCH {
            let spare = self.spare.pop();
            let mut buffer = spare.unwrap_or_else(|| Box::new([0; PACKET_BYTES_MAX]));
            // Most often there is nothing more; anything else will come again.
            let Ok(length) = rustix::io::read(&self.from, &mut buffer[..]) else {
                self.spare.push(buffer);
                break;
            };
            filled += 1;
            // The kernel's own IPv6 chatter about a new device has no business here.
            if buffer[0] >> 4 == 4 {
                let due_ns = monotonic_ns().saturating_add(self.delay_ns);
                self.packets.push_back(Packet {
                    due_ns,
                    length,
                    buffer,
                });
            } else {
                self.spare.push(buffer);
            }
        }
        filled
    }

    /// Hands over what is due; returns how many packets.
    fn deliver(&mut self, now_ns: u64) -> usize {
        let mut delivered = 0;
        while self.due_ns().is_some_and(|due_ns| due_ns <= now_ns) {
            let Some(packet) = self.packets.pop_front() else {
                break;
            };
            delivered += 1;
            // What the kernel does not take, its device counts as dropped.
            let _ = rustix::io::write(&self.to, &packet.buffer[..packet.length]);
            self.spare.push(packet.buffer);
        }
        delivered
    }

    fn due_ns(&self) -> Option<u64> {
        self.packets.front().map(|packet| packet.due_ns)
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    /// Preserves the bounds of messages, as a device does.
    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    fn receive(fd: &OwnedFd) -> (Vec<u8>, u64) {
        poll(&mut [PollFd::new(fd, PollFlags::IN)], None).unwrap();
        let mut bytes = vec![0; PACKET_BYTES_MAX];
        let length = rustix::io::read(fd, &mut bytes[..]).unwrap();
        bytes.truncate(length);
        (bytes, monotonic_ns())
    }

    #[test]
    fn packets_arrive_late_in_order_and_unchanged_both_ways() {
        const DELAY: Duration = Duration::from_millis(10);
        const IPV4: u8 = 0x45;
        const IPV6: u8 = 0x60;
        let ((client, a), (server, b)) = (pair(), pair());
        let stop = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let forwarder = Forwarder {
            lanes: Lane::both_ways(a, b, DELAY).unwrap(),
            stop: stop.try_clone().unwrap(),
        };
        let thread = std::thread::spawn(|| forwarder.run());
        for (from, to) in [(&client, &server), (&server, &client)] {
            let mut sent_ns = Vec::new();
            for nth in 0..100 {
                sent_ns.push(monotonic_ns());
                rustix::io::write(from, &[IPV6, nth]).unwrap();
                rustix::io::write(from, &[IPV4, nth]).unwrap();
            }
            for (nth, sent_ns) in sent_ns.into_iter().enumerate() {
                let (bytes, received_ns) = receive(to);
                assert_eq!(bytes, [IPV4, nth as u8]);
                let took = Duration::from_nanos(received_ns - sent_ns);
                assert!(took >= DELAY, "{nth} took {took:?}");
            }
        }
        rustix::io::write(&stop, &1u64.to_ne_bytes()).unwrap();
        thread.join().unwrap();
    }
}
