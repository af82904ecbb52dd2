//! The programs for other people's servers, over listeners of this process whose
//! workers are threads, and over a real nginx. What the program chose, and why, is
//! read from its own counters.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr::null_mut;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use io_uring::{IoUring, opcode, types};
use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd, poll};
use socket2::{Protocol, SockAddr, Socket, Type};
use srv::foreign::select::Reads;
use srv::foreign::steering::{Signal, Steering, View};
use srv_common::Policy;
use srv_tests::nginx::{Content, Nginx, Options};

use crate::gate;
use crate::probe::until;

/// How a worker waits for connections.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Waits {
    Epoll,
    Poll,
    Accept,
    IoUring,
}

/// A server of this process: a thread for each listener.
struct Server {
    workers: Vec<Worker>,
    address: SocketAddr,
}

struct Worker {
    listener: Arc<Socket>,
    held: Arc<Mutex<Vec<Socket>>>,
    /// Wakes the thread to be given an order.
    wake: Arc<OwnedFd>,
    orders: Sender<Order>,
    waits: Waits,
    /// Of its thread.
    id: i32,
}

/// Say that it has begun, and be busy until the other end is dropped.
struct Order {
    begun: Sender<()>,
    ends: Receiver<()>,
}

/// While it lives a worker is busy; then it sleeps again.
struct Busy<'a> {
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
    fn start(workers: usize, waits: Waits) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let first = Worker::start(any, waits);
        let address = first.listener.local_addr().unwrap().as_socket().unwrap();
        let mut workers_of_it = vec![first];
        workers_of_it.extend((1..workers).map(|_| Worker::start(address, waits)));
        Self {
            workers: workers_of_it,
            address,
        }
    }

    /// Steered, with all that the kernel lets be known.
    fn steer(&self, policy: Policy) -> Steering {
        self.steer_by(Steering::load(policy).unwrap())
    }

    /// The same, but the kernel's memory is read at best so.
    fn steer_reading(&self, at_best: Reads) -> Steering {
        self.steer_by(Steering::load_reading(Policy::Least, at_best).unwrap())
    }

    fn steer_by(&self, mut steering: Steering) -> Steering {
        for (slot, worker) in self.workers.iter().enumerate() {
            let cookie = worker.listener.cookie().unwrap();
            steering
                .insert(slot as u32, &*worker.listener, cookie)
                .unwrap();
        }
        steering.set_members(self.workers.len() as u32);
        steering.attach(&*self.workers[0].listener).unwrap();
        steering
    }

    /// A connection that some worker has accepted.
    fn connect(&self) -> TcpStream {
        let accepted = self.accepted();
        let client = TcpStream::connect(self.address).unwrap();
        until("somebody accepts", || {
            (self.accepted() > accepted).then_some(())
        });
        for worker in self.workers.iter().filter(|worker| !worker.is_busy()) {
            worker.await_sleep();
        }
        client
    }

    fn accepted(&self) -> usize {
        self.workers
            .iter()
            .map(|worker| worker.held.lock().unwrap().len())
            .sum()
    }
}

impl Worker {
    fn start(address: SocketAddr, waits: Waits) -> Self {
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

    fn make_busy(&self) -> Busy<'_> {
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

    /// Waits until the kernel says that the thread waits for connections.
    fn await_sleep(&self) {
        let waits_in = match self.waits {
            Waits::Epoll => ["do_epoll_wait", "ep_poll"],
            Waits::Poll => ["do_sys_poll", "poll_schedule_timeout"],
            Waits::Accept => ["inet_csk_accept", "inet_csk_wait_for_connect"],
            Waits::IoUring => ["io_cqring_wait", "io_cqring_schedule"],
        };
        until("a worker sleeps", || {
            let sleeps_in = self.sleeps_in();
            waits_in
                .iter()
                .any(|name| sleeps_in.contains(name))
                .then_some(())
        });
    }

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

/// A worker's thread: accepts one connection at a time and keeps it.
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

/// The same, but the kernel accepts for it; it takes no orders.
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
        // SAFETY: just made, and nobody else's.
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

fn steered(view: &View) -> Vec<u64> {
    view.slots.iter().map(|slot| slot.steered).collect()
}

fn sleeps(view: &View) -> Vec<&'static str> {
    view.slots.iter().map(|slot| slot.sleep).collect()
}

fn can_read_all(steering: &Steering) -> bool {
    let signals = steering.signals();
    let all = [&signals.queues, &signals.sleep, &signals.live];
    let missing = all.into_iter().find_map(|signal| match signal {
        Signal::Known => None,
        Signal::Missing(why) => Some(why.clone()),
    });
    gate::can("read the kernel's state", missing.map_or(Ok(()), Err))
}

/// However the kernel's memory is read, the choices are the same.
fn in_each_way(test: impl Fn(Reads)) {
    if gate::can_steer() {
        [Reads::Directly, Reads::ByHelper]
            .into_iter()
            .for_each(test);
    }
}

#[test]
fn a_kernel_that_lets_programs_load_is_read_by_loads() {
    if !gate::can_steer() {
        return;
    }
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    let is_new = (version < (6, 17)).then_some(format!("this is Linux {release}"));
    let can = gate::can("read by loads (Linux 6.17)", is_new.map_or(Ok(()), Err));
    for at_best in [Reads::Directly, Reads::ByHelper, Reads::Nothing] {
        let steering = Steering::load_reading(Policy::Least, at_best).unwrap();
        assert!(steering.reads() == at_best || !can, "{release}");
    }
}

#[test]
fn who_sleeps_is_chosen_while_others_are_busy() {
    in_each_way(who_sleeps_is_chosen);
}

fn who_sleeps_is_chosen(reads: Reads) {
    let server = Server::start(4, Waits::Epoll);
    let steering = server.steer_reading(reads);
    if !can_read_all(&steering) {
        return;
    }
    let busy: Vec<_> = [0, 1, 3].map(|nth| server.workers[nth].make_busy()).into();
    let clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    let view = steering.view();
    assert_eq!(steered(&view), [0, 0, 20, 0], "{view:?}");
    assert_eq!(
        (view.runs, view.fallbacks.values().sum()),
        (20, 0),
        "{view:?}"
    );
    drop(busy);
    // The others sleep again, and have no connections yet.
    let more: Vec<_> = (0..60).map(|_| server.connect()).collect();
    let view = steering.view();
    assert_eq!(steered(&view), [20; 4], "{view:?}");
    assert_eq!(view.idle, 60 + 1, "{view:?}");
    drop((clients, more));
}

#[test]
fn with_all_busy_the_shortest_queue_is_chosen() {
    in_each_way(the_shortest_queue_is_chosen);
}

fn the_shortest_queue_is_chosen(reads: Reads) {
    let server = Server::start(3, Waits::Epoll);
    let steering = server.steer_reading(reads);
    if !can_read_all(&steering) {
        return;
    }
    let busy: Vec<_> = server.workers.iter().map(Worker::make_busy).collect();
    let clients: Vec<_> = (0..12)
        .map(|_| TcpStream::connect(server.address).unwrap())
        .collect();
    let view = steering.view();
    assert_eq!(steered(&view), [4; 3], "{view:?}");
    assert_eq!((view.idle, view.shortest), (0, 12), "{view:?}");
    assert!(!sleeps(&view).contains(&"asleep"), "{view:?}");
    drop((busy, clients));
}

#[test]
fn a_socket_that_joins_is_noticed_and_served() {
    in_each_way(who_joins_is_served);
}

fn who_joins_is_served(reads: Reads) {
    let mut server = Server::start(2, Waits::Epoll);
    let steering = server.steer_reading(reads);
    if !can_read_all(&steering) {
        return;
    }
    drop(server.connect());
    server
        .workers
        .push(Worker::start(server.address, Waits::Epoll));
    let newcomer = &server.workers[2];
    let mut clients = Vec::new();
    until("the hash serves the new socket", || {
        clients.push(server.connect());
        (!newcomer.held.lock().unwrap().is_empty()).then_some(())
    });
    let view = steering.view();
    assert_eq!(
        view.fallbacks["group_size"],
        clients.len() as u64,
        "{view:?}"
    );
    // As it was again: the program steers again, without anybody's help.
    server.workers.pop();
    until("the socket has left the group", || {
        clients.push(server.connect());
        (steering.view().idle > 1).then_some(())
    });
}

#[test]
fn a_socket_in_anothers_place_is_noticed_and_served() {
    in_each_way(who_replaces_another_is_served);
}

fn who_replaces_another_is_served(reads: Reads) {
    let mut server = Server::start(2, Waits::Epoll);
    let mut steering = server.steer_reading(reads);
    if !can_read_all(&steering) {
        return;
    }
    let clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    server.workers.pop();
    until("the socket has left the group", || {
        let before = steering.view().fallbacks["group_size"];
        drop(server.connect());
        (steering.view().fallbacks["group_size"] > before).then_some(())
    });
    server
        .workers
        .push(Worker::start(server.address, Waits::Epoll));
    let before = steering.view();
    let newcomer = &server.workers[1];
    let mut more = Vec::new();
    until("the hash serves the new socket", || {
        more.push(server.connect());
        (newcomer.held.lock().unwrap().len() > 2).then_some(())
    });
    let view = steering.view();
    let noticed = |view: &View| view.fallbacks["unknown_member"] + view.fallbacks["empty_slot"];
    assert!(noticed(&view) > noticed(&before), "{view:?}");
    // User space says what the group is now.
    steering.remove(1);
    let cookie = newcomer.listener.cookie().unwrap();
    steering.insert(1, &*newcomer.listener, cookie).unwrap();
    steering.set_members(2);
    let before = steering.view();
    more.extend((0..10).map(|_| server.connect()));
    let view = steering.view();
    assert_eq!(view.idle - before.idle, 10, "{view:?}");
    drop((clients, more));
}

#[test]
fn live_connections_are_counted_per_listener_and_back_to_none() {
    if !gate::can_steer() {
        return;
    }
    let server = Server::start(4, Waits::Epoll);
    let steering = server.steer(Policy::Least);
    if !can_read_all(&steering) {
        return;
    }
    let clients: Vec<_> = (0..64).map(|_| server.connect()).collect();
    let live = |view: &View| view.slots.iter().map(|slot| slot.live).collect::<Vec<_>>();
    assert_eq!(live(&steering.view()), [16; 4]);
    // Those of one listener go: new ones fill it up again.
    server.workers[2].held.lock().unwrap().clear();
    until("closed connections do not count", || {
        (live(&steering.view()) == [16, 16, 0, 16]).then_some(())
    });
    let held = || server.accepted();
    assert_eq!(held(), 48);
    let more: Vec<_> = (0..16).map(|_| server.connect()).collect();
    assert_eq!(live(&steering.view()), [16; 4]);
    for worker in &server.workers {
        worker.held.lock().unwrap().clear();
    }
    until("none is left", || {
        (live(&steering.view()) == [0; 4]).then_some(())
    });
    let view = steering.view();
    assert_eq!(
        view.slots.iter().map(|slot| slot.established).sum::<u64>(),
        80,
        "{view:?}"
    );
    drop((clients, more));
}

#[test]
fn who_waits_in_another_way_is_not_believed_to_sleep() {
    if !gate::can_steer() {
        return;
    }
    let has_rings = IoUring::new(2).map(drop).map_err(|error| error.to_string());
    let rings = gate::can("use io_uring", has_rings).then_some(Waits::IoUring);
    for waits in [Waits::Poll, Waits::Accept].into_iter().chain(rings) {
        let server = Server::start(3, waits);
        let steering = server.steer(Policy::Least);
        if !can_read_all(&steering) {
            return;
        }
        let clients: Vec<_> = (0..30).map(|_| server.connect()).collect();
        let view = steering.view();
        assert_eq!(sleeps(&view), ["unknown"; 3], "{waits:?}: {view:?}");
        // Queues and live connections are left to go by.
        assert_eq!(steered(&view), [10; 3], "{waits:?}: {view:?}");
        drop(clients);
    }
}

/// As on a kernel without type information.
#[test]
fn a_program_that_reads_nothing_goes_by_connections() {
    if !gate::can_steer() {
        return;
    }
    let server = Server::start(3, Waits::Epoll);
    let steering = server.steer_reading(Reads::Nothing);
    if steering.signals().live != Signal::Known {
        return;
    }
    let clients: Vec<_> = (0..30).map(|_| server.connect()).collect();
    let view = steering.view();
    assert_eq!(steered(&view), [10; 3], "{view:?}");
    assert_eq!(sleeps(&view), ["unknown"; 3], "{view:?}");
    server.workers[1].held.lock().unwrap().clear();
    until("closed connections do not count", || {
        (steering.view().slots[1].live == 0).then_some(())
    });
    let more: Vec<_> = (0..10).map(|_| server.connect()).collect();
    assert_eq!(steered(&steering.view()), [10, 20, 10]);
    drop((clients, more));
}

#[test]
fn every_other_policy_steers_too() {
    if !gate::can_steer() {
        return;
    }
    let server = Server::start(3, Waits::Epoll);
    let mut steering = server.steer(Policy::Hash);
    assert!(steering.policy(Policy::Hermes).is_err());
    let mut expected = 0;
    for policy in [
        Policy::Random,
        Policy::RoundRobin,
        Policy::Cpu,
        Policy::Source,
        Policy::P2c,
    ] {
        steering.policy(policy).unwrap();
        let clients: Vec<_> = (0..9).map(|_| server.connect()).collect();
        expected += 9;
        let view = steering.view();
        assert_eq!(
            steered(&view).iter().sum::<u64>(),
            expected,
            "{}: {view:?}",
            policy.name()
        );
        drop(clients);
    }
    steering.policy(Policy::Hash).unwrap();
    drop(server.connect());
    assert_eq!(steering.view().fallbacks["no_policy"], 1);
    Steering::detach(&*server.workers[0].listener).unwrap();
    drop(server.connect());
    assert_eq!(steering.view().runs, expected + 1);
    assert!(Steering::detach(&*server.workers[0].listener).is_err());
}

/// The agent's end, however it comes: what its tracepoint program has counted no
/// longer misleads.
#[test]
fn without_its_agent_the_program_goes_by_the_rest() {
    if !gate::can_steer() {
        return;
    }
    let server = Server::start(2, Waits::Epoll);
    let steering = server.steer(Policy::Least);
    if !can_read_all(&steering) {
        return;
    }
    let clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
    server.workers[1].held.lock().unwrap().clear();
    until("closed connections do not count", || {
        (steering.view().slots[1].live == 0).then_some(())
    });
    drop(steering);
    let before = server
        .workers
        .iter()
        .map(|worker| worker.held.lock().unwrap().len());
    let before: Vec<_> = before.collect();
    let more: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for (worker, before) in server.workers.iter().zip(before) {
        assert_eq!(worker.held.lock().unwrap().len() - before, 10);
    }
    drop((clients, more));
}

/// The listening sockets of a process, taken from outside.
fn listeners_of(process: rustix::process::Pid) -> Vec<Socket> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let pidfd = pidfd_open(process, PidfdFlags::empty()).unwrap();
    let folder = format!("/proc/{}/fd", process.as_raw_nonzero());
    let numbers = std::fs::read_dir(folder).unwrap().filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        name.parse().ok()
    });
    let taken = numbers.filter_map(|fd| pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty()).ok());
    taken
        .map(Socket::from)
        .filter(|socket| socket.is_listener().unwrap_or(false))
        .collect()
}

#[test]
fn an_nginx_is_steered_to_who_sleeps() {
    if !gate::can_steer() {
        return;
    }
    let options = Options {
        workers: 4,
        reuseport: true,
        deferred: false,
        tuning: "",
        content: Content::Files("/usr/share".into()),
    };
    let can_run = srv_tests::nginx::require(&options).map_err(|error| error.to_string());
    if !gate::can("run nginx", can_run) {
        return;
    }
    let nginx = Nginx::start(crate::agent::LOCALHOST, &options).unwrap();
    let mut listeners = listeners_of(nginx.pid());
    assert_eq!(listeners.len(), 4);
    let mut steering = Steering::load(Policy::Least).unwrap();
    if !can_read_all(&steering) {
        return;
    }
    for (slot, listener) in listeners.iter().enumerate() {
        let cookie = listener.cookie().unwrap();
        steering.insert(slot as u32, listener, cookie).unwrap();
    }
    steering.set_members(4);
    steering.attach(&listeners[0]).unwrap();
    listeners.clear();
    let get = || crate::client::get(nginx.address(), "/nothing-there").status();
    for _ in 0..100 {
        assert_eq!(get(), 404);
    }
    let view = steering.view();
    assert_eq!(steered(&view).iter().sum::<u64>(), 100, "{view:?}");
    assert_eq!(
        sleeps(&view)
            .iter()
            .filter(|sleep| **sleep == "unknown")
            .count(),
        0,
        "{view:?}"
    );
    assert!(view.slots.iter().all(|slot| slot.steered >= 15), "{view:?}");
    until("its connections are gone", || {
        steering
            .view()
            .slots
            .iter()
            .all(|slot| slot.live == 0)
            .then_some(())
    });
}
