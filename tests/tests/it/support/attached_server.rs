//! A server inside the test process that the program for attached servers steers. Its workers are
//! threads with a listener each, which sleep, are busy or accept as the test orders. The test reads
//! from the counters of the program what it chose, and why.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr::null_mut;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use io_uring::{IoUring, opcode, types};
use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd, poll};
use socket2::{Protocol, SockAddr, Socket, Type};
use srv::attach::programs::{Programs, Snapshot};
use srv::attach::select::Reads;
use srv::control::attached::Signal;
use srv_common::Policy;
use srv_common::attached::Sleep;

use crate::gate;
use crate::probe::until;

/// How a worker waits for connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Waits {
    Epoll,
    Poll,
    Accept,
    IoUring,
}

/// A server of this process: a thread for each listener.
pub(crate) struct Server {
    /// Dropping one closes its listener.
    pub workers: Vec<Worker>,
    /// Where all of them listen.
    pub address: SocketAddr,
}

/// One of its threads, with its listener.
pub(crate) struct Worker {
    /// Its own.
    pub listener: Arc<Socket>,
    /// The connections that it has accepted.
    pub held: Arc<Mutex<Vec<Socket>>>,
    /// Wakes the thread, so that it takes an order.
    wake: Arc<OwnedFd>,
    orders: Sender<Order>,
    waits: Waits,
    /// Of its thread.
    id: i32,
}

/// An order: the worker says that it has begun, and is busy until the other end is dropped.
struct Order {
    begun: Sender<()>,
    ends: Receiver<()>,
}

/// A worker is busy until this is dropped, and then sleeps again.
pub(crate) struct Busy<'a> {
    release: Option<Sender<()>>,
    worker: &'a Worker,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.release.take();
        if !std::thread::panicking() {
            self.worker.await_sleep();
        }
    }
}

impl Server {
    /// Starts this many workers, which sleep.
    pub(crate) fn start(workers: usize, waits: Waits) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, workers, waits)
    }

    /// As [`Server::start`], at this address.
    pub(crate) fn start_at(address: Ipv4Addr, workers: usize, waits: Waits) -> Self {
        let any = SocketAddr::from((address, 0));
        let first = Worker::start(any, waits);
        let address = first.listener.local_addr().unwrap().as_socket().unwrap();
        let mut workers_of_it = vec![first];
        workers_of_it.extend((1..workers).map(|_| Worker::start(address, waits)));
        Self {
            workers: workers_of_it,
            address,
        }
    }

    /// Steers the server with all signals that the kernel gives.
    pub(crate) fn steer(&self, policy: Policy) -> Programs {
        self.steer_by(Programs::load(policy).unwrap())
    }

    /// As [`Server::steer`], but the program reads kernel memory in no better way than `at_best`.
    pub(crate) fn steer_reading(&self, at_best: Reads) -> Programs {
        self.steer_by(Programs::load_reading(Policy::Least, at_best).unwrap())
    }

    fn steer_by(&self, mut programs: Programs) -> Programs {
        for (slot, worker) in self.workers.iter().enumerate() {
            let cookie = worker.listener.cookie().unwrap();
            programs
                .insert(slot as u32, &*worker.listener, cookie)
                .unwrap();
        }
        programs.set_members(self.workers.len() as u32);
        programs.attach(&*self.workers[0].listener).unwrap();
        programs
    }

    /// A connection that one of the workers has accepted.
    pub(crate) fn connect(&self) -> TcpStream {
        let accepted = self.accepted();
        let client = TcpStream::connect(self.address).unwrap();
        until("a worker accepts", || {
            (self.accepted() > accepted).then_some(())
        });
        // A worker that was made busy a moment ago may still be on its way to its wait.
        for worker in &self.workers {
            until("a worker sleeps or is busy", || {
                (worker.is_busy() || worker.is_asleep()).then_some(())
            });
        }
        client
    }

    /// Connections that its workers hold.
    pub(crate) fn accepted(&self) -> usize {
        self.workers
            .iter()
            .map(|worker| worker.held.lock().unwrap().len())
            .sum()
    }
}

impl Worker {
    pub(crate) fn start(address: SocketAddr, waits: Waits) -> Self {
        let listener = Arc::new(listening(address));
        let is_told = matches!(waits, Waits::Epoll | Waits::Poll);
        listener.set_nonblocking(is_told).unwrap();
        let held = Arc::new(Mutex::new(Vec::new()));
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let (orders, ordered) = channel();
        let (tell, id) = channel();
        let shared = (listener.clone(), wake.clone(), held.clone());
        std::thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get())
                .unwrap();
            let (listener, wake, held) = shared;
            match waits {
                Waits::IoUring => work_by_io_uring(&listener, &held),
                _ => work(&listener, &wake, &held, &ordered, waits),
            }
        });
        let worker = Self {
            listener,
            held,
            wake,
            orders,
            waits,
            id: id.recv().unwrap(),
        };
        worker.await_sleep();
        worker
    }

    /// Makes the worker busy until the result is dropped.
    pub(crate) fn make_busy(&self) -> Busy<'_> {
        let (release, ends) = channel();
        let (begun, begins) = channel();
        self.orders.send(Order { begun, ends }).unwrap();
        rustix::io::write(&*self.wake, &1u64.to_ne_bytes()).unwrap();
        begins.recv().unwrap();
        Busy {
            release: Some(release),
            worker: self,
        }
    }

    fn await_sleep(&self) {
        until("a worker sleeps", || self.is_asleep().then_some(()));
    }

    /// Whether the kernel says that the thread waits for connections.
    fn is_asleep(&self) -> bool {
        let waits_in = match self.waits {
            Waits::Epoll => ["do_epoll_wait", "ep_poll"],
            Waits::Poll => ["do_sys_poll", "poll_schedule_timeout"],
            Waits::Accept => ["inet_csk_accept", "inet_csk_wait_for_connect"],
            // Linux 6.1 has the wait inlined into the system call.
            Waits::IoUring => ["io_cqring", "__do_sys_io_uring_enter"],
        };
        let sleeps_in = self.sleeps_in();
        waits_in.iter().any(|name| sleeps_in.contains(name))
    }

    /// Whether the thread waits for the end of what it was ordered.
    fn is_busy(&self) -> bool {
        self.sleeps_in().contains("futex")
    }

    fn sleeps_in(&self) -> String {
        std::fs::read_to_string(format!("/proc/self/task/{}/wchan", self.id)).unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Its thread's next accept fails, and it ends.
        let _ = self.listener.shutdown(std::net::Shutdown::Both);
    }
}

/// The thread of a worker: it accepts one connection at a time and keeps it open.
fn work(
    listener: &Socket,
    wake: &OwnedFd,
    held: &Mutex<Vec<Socket>>,
    orders: &Receiver<Order>,
    waits: Waits,
) {
    let events = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    if waits == Waits::Epoll {
        for (nth, fd) in [
            rustix::fd::AsFd::as_fd(listener),
            rustix::fd::AsFd::as_fd(wake),
        ]
        .into_iter()
        .enumerate()
        {
            let data = epoll::EventData::new_u64(nth as u64);
            epoll::add(&events, fd, data, epoll::EventFlags::IN).unwrap();
        }
    }
    loop {
        let is_woken = match waits {
            Waits::Accept | Waits::IoUring => false,
            Waits::Poll => {
                let mut fds = [listener as &dyn rustix::fd::AsFd, wake]
                    .map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN));
                poll(&mut fds, None).unwrap();
                !fds[1].revents().is_empty()
            }
            Waits::Epoll => {
                let mut ready = [epoll::Event {
                    flags: epoll::EventFlags::empty(),
                    data: epoll::EventData::new_u64(0),
                }];
                epoll::wait(&events, &mut ready, None).unwrap();
                ready[0].data.u64() == 1
            }
        };
        if is_woken {
            rustix::io::read(wake, &mut [0; 8]).unwrap();
            let Ok(order) = orders.recv() else { return };
            order.begun.send(()).unwrap();
            let _ = order.ends.recv();
            continue;
        }
        match listener.accept() {
            Ok((connection, _)) => held.lock().unwrap().push(connection),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// As [`work`], but io_uring accepts the connections, and the thread takes no orders.
fn work_by_io_uring(listener: &Socket, held: &Mutex<Vec<Socket>>) {
    let mut ring = IoUring::new(2).unwrap();
    let listener = types::Fd(listener.as_raw_fd());
    let accept = opcode::Accept::new(listener, null_mut(), null_mut()).build();
    loop {
        // SAFETY: it names no memory, and a file that outlives this thread's ring.
        unsafe { ring.submission().push(&accept) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        let accepted = ring.completion().next().expect("one has ended").result();
        if accepted < 0 {
            return;
        }
        // SAFETY: just made, and no other owner has it.
        let connection = unsafe { OwnedFd::from_raw_fd(accepted) };
        held.lock().unwrap().push(connection.into());
    }
}

/// A socket of the group at `address`.
fn listening(address: SocketAddr) -> Socket {
    let address = SockAddr::from(address);
    let socket = Socket::new(address.domain(), Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address).unwrap();
    socket.listen(64).unwrap();
    socket
}

/// Connections assigned to each slot.
pub(crate) fn steered(snapshot: &Snapshot) -> Vec<u64> {
    snapshot.slots.iter().map(|slot| slot.steered).collect()
}

/// The state in which the program last saw each worker.
pub(crate) fn sleeps(snapshot: &Snapshot) -> Vec<Sleep> {
    snapshot.slots.iter().map(|slot| slot.sleep).collect()
}

/// Whether every signal is known here.
pub(crate) fn can_read_all(programs: &Programs) -> bool {
    let signals = programs.signals();
    let all = [&signals.queues, &signals.sleep, &signals.live];
    let missing = all.into_iter().find_map(|signal| match signal {
        Signal::Known => None,
        Signal::Missing(why) => Some(why.clone()),
    });
    gate::can("read the kernel's state", missing.map_or(Ok(()), Err))
}

/// Runs the test for each way of reading kernel memory, since the choices have to be the same.
pub(crate) fn in_each_way(test: impl Fn(Reads)) {
    if gate::steer() {
        [Reads::Directly, Reads::ByHelper]
            .into_iter()
            .for_each(test);
    }
}
