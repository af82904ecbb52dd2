//! A coordinator with the processes of a server, which are played by threads of the test: the
//! protocol over its sockets, and connections on loopback.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use socket2::{SockRef, Socket};
use srv_common::State;
use srv_common::claim::{Kind, Message};
use srv_steer::{Mapping, SharedMemory, accept_queue};

use super::coordinator::{Coordinator, CoordinatorArgs};
use super::invitation::Invitation;
use crate::control::{self, Reply, Request, SocketStatus, Status};
use crate::kernel::packets::{pair, receive_into, send_with_fds};
use crate::kernel::socket_options;
use crate::values::{LogFormat, PolicyName};

/// How long a test waits for what must come.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A coordinator in a thread of the test, and the first process of its server.
struct Server {
    inherited: OwnedFd,
    invitation: Invitation,
    control: tempfile::TempDir,
    process: Child,
    coordinator: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Server {
    fn start(uses_bpf: bool) -> Self {
        let process = Command::new("sleep").arg("1000").spawn().unwrap();
        Self::of(process, uses_bpf)
    }

    fn of(process: Child, uses_bpf: bool) -> Self {
        let (inherited, invited) = pair().unwrap();
        let control = tempfile::tempdir().unwrap();
        let args = CoordinatorArgs {
            server: process.id() as i32,
            policy: PolicyName(srv_common::Policy::Least),
            no_bpf: !uses_bpf,
            control: Some(control.path().join("control")),
            log: LogFormat::Text,
        };
        let (tell, told) = std::sync::mpsc::channel();
        let coordinator = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(async {
                let (mut coordinator, events, invitation) =
                    Coordinator::begin(&args, invited).unwrap();
                tell.send(invitation).unwrap();
                coordinator.coordinate(args.control, events).await
            })
        });
        Self {
            inherited,
            invitation: told.recv_timeout(TIMEOUT).unwrap(),
            control,
            process,
            coordinator: Some(coordinator),
        }
    }

    fn ask(&self, request: &Request) -> anyhow::Result<Reply> {
        let path = self.control.path().join("control");
        // The coordinator opens it after it lets processes in.
        await_that("the control socket is there", || path.exists());
        control::ask(Some(&path), request)
    }

    fn status(&self) -> Status {
        match self.ask(&Request::Status).unwrap() {
            Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    fn sockets(&self) -> Vec<SocketStatus> {
        match self.ask(&Request::Sockets).unwrap() {
            Reply::Sockets(sockets) => sockets,
            other => panic!("{other:?}"),
        }
    }

    /// Ends the server, whose other processes are these, and awaits the coordinator's end.
    fn end<T>(mut self, others: T) {
        drop(others);
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let coordinator = self.coordinator.take().unwrap();
        await_that("the coordinator ends", || coordinator.is_finished());
        coordinator.join().unwrap().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One process of the server.
struct Process {
    channel: OwnedFd,
    bell: OwnedFd,
}

/// The answer to a claim.
struct Own {
    slot: u32,
    memory: Mapping<srv_common::Group>,
    replacement: Option<TcpListener>,
}

impl Process {
    fn of(server: &Server) -> Self {
        let flags = SocketFlags::CLOEXEC;
        let (mine, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .unwrap();
        let hello = Message::new(Kind::Hello, 0).to_bytes();
        send_with_fds(&server.inherited, &hello, &[theirs.as_fd()]).unwrap();
        Self::with(mine)
    }

    /// One that has closed what it inherited.
    fn by_name(server: &Server, token: &str) -> Self {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .unwrap();
        let name = SocketAddrUnix::new_abstract_name(server.invitation.name.as_bytes()).unwrap();
        rustix::net::connect(&socket, &name).unwrap();
        let mut hello = Message::new(Kind::Hello, 0);
        for (byte, digits) in hello.token.iter_mut().zip(token.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
        }
        send_with_fds(&socket, &hello.to_bytes(), &[]).unwrap();
        Self::with(socket)
    }

    fn with(channel: OwnedFd) -> Self {
        set_socket_timeout(&channel, Timeout::Recv, Some(TIMEOUT)).unwrap();
        let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        Self { channel, bell }
    }

    fn say(&self, kind: Kind, number: u32) {
        let message = Message::new(kind, number).to_bytes();
        send_with_fds(&self.channel, &message, &[]).unwrap();
    }

    /// The next message; `None` at the end.
    fn hear(&self) -> Option<(Message, Vec<OwnedFd>)> {
        let mut packet = [0; Message::BYTES];
        let received = receive_into(&self.channel, &mut packet).unwrap();
        let (bytes, fds) = received.expect("a message within the timeout");
        (bytes > 0).then(|| (Message::from_bytes(packet), fds))
    }

    #[track_caller]
    fn expect(&self, kind: Kind, number: u32) -> (Message, Vec<OwnedFd>) {
        let (message, fds) = self.hear().expect("a message");
        assert_eq!((message.kind(), message.claim), (Some(kind), number));
        (message, fds)
    }

    /// Whether the bell has rung since the last call.
    fn has_rung(&self) -> bool {
        rustix::io::read(&self.bell, &mut [0; 8]).is_ok()
    }

    /// What came at once, without waiting.
    fn has_more(&self) -> bool {
        let mut poll_fds = [rustix::event::PollFd::new(
            &self.channel,
            rustix::event::PollFlags::IN,
        )];
        let at_once = rustix::event::Timespec::default();
        rustix::event::poll(&mut poll_fds, Some(&at_once)).unwrap() > 0
    }

    fn ask_for(&self, number: u32, socket: impl std::os::fd::AsFd) {
        let claim = Message::new(Kind::Claim, number).to_bytes();
        let fds = [socket.as_fd(), self.bell.as_fd()];
        send_with_fds(&self.channel, &claim, &fds).unwrap();
    }

    #[track_caller]
    fn claim(&self, number: u32, socket: impl std::os::fd::AsFd) -> Own {
        self.ask_for(number, socket);
        let (message, mut fds) = self.expect(Kind::Own, number);
        let is_replaced = message.flags == Message::REPLACE;
        assert_eq!(fds.len(), 1 + usize::from(is_replaced));
        let replacement = fds.split_off(1).pop().map(TcpListener::from);
        let memory = SharedMemory::checked(fds.pop().unwrap()).unwrap();
        Own {
            slot: message.slot,
            memory: memory.map().unwrap(),
            replacement,
        }
    }

    /// Claims, and is ready.
    #[track_caller]
    fn own(&self, number: u32, socket: impl std::os::fd::AsFd) -> Own {
        let own = self.claim(number, socket);
        self.say(Kind::Ready, number);
        own
    }
}

#[track_caller]
fn await_that(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn with_reuseport(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(16).unwrap();
    socket.into()
}

fn cookie(socket: &impl std::os::fd::AsFd) -> u64 {
    SockRef::from(&socket.as_fd()).cookie().unwrap()
}

fn state(own: &Own) -> u32 {
    own.memory.steering[own.slot as usize].state.get()
}

/// Whether the kernel refuses a connection, because no socket listens there.
fn refuses(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[test]
fn the_first_claim_keeps_its_socket_and_the_second_gets_another() {
    let server = Server::start(false);
    let (shared, address) = listener();
    let (first, second) = (Process::of(&server), Process::of(&server));
    let one = first.claim(0, &shared);
    assert!(one.replacement.is_none());
    assert_eq!(state(&one), State::Starting as u32);
    first.say(Kind::Ready, 0);
    let two = second.claim(5, &shared);
    let replacement = two.replacement.as_ref().expect("a socket of its own");
    assert_eq!(replacement.local_addr().unwrap(), address);
    assert_ne!(two.slot, one.slot);
    assert!(
        !first.has_more() && !first.has_rung(),
        "the owner comes first"
    );
    let notices = one.memory.config.notices.get();
    second.say(Kind::Ready, 5);
    let (sibling, fds) = first.expect(Kind::Sibling, 0);
    assert_eq!(
        (sibling.slot, cookie(&fds[0])),
        (two.slot, cookie(replacement))
    );
    let (sibling, fds) = second.expect(Kind::Sibling, 5);
    assert_eq!((sibling.slot, cookie(&fds[0])), (one.slot, cookie(&shared)));
    await_that("its bell rings", || first.has_rung());
    assert!(one.memory.config.notices.get() > notices);
    await_that("both are ready", || {
        [&one, &two]
            .iter()
            .all(|own| state(own) == State::Ready as u32)
    });
    server.end((first, second));
}

#[test]
fn sockets_that_the_server_opened_itself_stay_with_their_processes() {
    let server = Server::start(false);
    let first_socket = with_reuseport(([127, 0, 0, 1], 0).into());
    let address = first_socket.local_addr().unwrap();
    let sockets = [
        first_socket,
        with_reuseport(address),
        with_reuseport(address),
    ];
    let processes = [(); 3].map(|()| Process::of(&server));
    for (process, socket) in processes.iter().zip(&sockets) {
        assert!(process.own(0, socket).replacement.is_none());
    }
    for process in &processes {
        let slots: Vec<_> = [(); 2]
            .map(|()| process.expect(Kind::Sibling, 0).0.slot)
            .into();
        assert_eq!(slots.len(), 2);
    }
    let status = server.status();
    assert_eq!(status.groups.len(), 1);
    let group = &status.groups[0];
    assert_eq!((group.listen, group.workers.len()), (address, 3));
    assert_eq!(group.program.why_not.as_deref(), Some("--no-bpf was given"));
    assert_eq!(status.command.as_deref(), Some("sleep"));
    let listed: Vec<u64> = server
        .sockets()
        .iter()
        .map(|socket| socket.cookie)
        .collect();
    assert_eq!(listed, sockets.each_ref().map(cookie));
    let refusal = server.ask(&Request::Reload).unwrap_err().to_string();
    assert!(refusal.contains("coordinator of `srv run`"), "{refusal}");
    server.end(processes);
}

#[test]
fn what_an_owner_left_is_drained_and_goes_to_its_successor() {
    let server = Server::start(false);
    let (shared, _) = listener();
    let (first, second) = (Process::of(&server), Process::of(&server));
    let one = first.own(0, &shared);
    let two = second.own(0, &shared);
    first.expect(Kind::Sibling, 0);
    second.expect(Kind::Sibling, 0);
    // Its process ends; the sibling has its socket already.
    drop(second);
    let (rescan, _) = first.expect(Kind::Rescan, 0);
    assert_eq!((rescan.slot, state(&two)), (two.slot, State::Absent as u32));
    let third = Process::of(&server);
    let three = third.claim(9, &shared);
    assert_eq!(three.slot, two.slot, "the free slot comes first");
    let [before, after] = [&two, &three].map(|own| cookie(own.replacement.as_ref().unwrap()));
    assert_eq!(before, after);
    assert!(!first.has_more(), "the new owner comes first");
    third.say(Kind::Ready, 9);
    let (behind, fds) = first.expect(Kind::Behind, 0);
    assert_eq!((behind.slot, fds.len()), (two.slot, 0));
    assert_eq!(third.expect(Kind::Sibling, 9).0.slot, one.slot);
    // The first leaves without an end, and its successor claims the server's own socket.
    first.say(Kind::Release, 0);
    third.expect(Kind::Rescan, 9);
    assert_eq!(state(&one), State::Absent as u32);
    let fourth = Process::of(&server);
    let four = fourth.own(0, &shared);
    assert_eq!((four.slot, four.replacement.is_none()), (one.slot, true));
    assert_eq!(third.expect(Kind::Behind, 9).0.slot, one.slot);
    server.end((first, third, fourth));
}

#[test]
fn after_the_last_claim_the_server_decides_what_is_open() {
    let server = Server::start(false);
    let (shared, address) = listener();
    let (first, second) = (Process::of(&server), Process::of(&server));
    first.own(0, &shared);
    drop(second.own(0, &shared));
    first.expect(Kind::Sibling, 0);
    second.expect(Kind::Sibling, 0);
    drop(shared);
    // What the coordinator keeps open for the siblings.
    TcpStream::connect(address).unwrap();
    drop((first, second));
    await_that("the address is free", || refuses(address));
    assert!(server.status().groups.is_empty());
    server.end(());
}

/// The master of a server, which has its listener open until it is dropped.
struct Master(Child);

impl Master {
    fn with(listener: TcpListener) -> Self {
        Self(sleeping_with(listener))
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that has the listener open.
fn sleeping_with(listener: TcpListener) -> Child {
    let mut command = Command::new("sleep");
    command.arg("1000").stdin(OwnedFd::from(listener));
    command.spawn().unwrap()
}

#[test]
fn what_waits_while_all_workers_are_replaced_is_not_lost() {
    let (shared, address) = listener();
    let server = Server::of(sleeping_with(shared.try_clone().unwrap()), false);
    let (first, second) = (Process::of(&server), Process::of(&server));
    first.own(0, &shared);
    second.own(0, &shared);
    first.expect(Kind::Sibling, 0);
    drop((first, second));
    await_that("no process has a slot", || {
        let group = &server.status().groups[0];
        group.workers.iter().all(|worker| worker.pid == 0)
    });
    // Some come to each socket.
    let clients: Vec<_> = (0..32)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let (first, second) = (Process::of(&server), Process::of(&server));
    first.own(0, &shared);
    let replacement = second.own(0, &shared).replacement.unwrap();
    let waiting = [&shared, &replacement].map(|at| accept_queue(at).unwrap().0);
    assert_eq!(waiting[0] + waiting[1], 32);
    assert!(waiting[1] > 0);
    drop((clients, shared, replacement));
    server.end((first, second));
    assert!(refuses(address));
}

#[test]
fn an_owner_that_registers_anew_is_the_first_in_line_again() {
    let server = Server::start(false);
    let (shared, _) = listener();
    let (first, second) = (Process::of(&server), Process::of(&server));
    let one = first.own(0, &shared);
    second.own(0, &shared);
    first.expect(Kind::Sibling, 0);
    second.expect(Kind::Sibling, 0);
    first.say(Kind::Ready, 0);
    assert_eq!(second.expect(Kind::Behind, 0).0.slot, one.slot);
    assert!(!first.has_more());
    server.end((first, second));
}

#[test]
fn a_socket_that_the_server_closed_is_closed_after_it_is_drained() {
    let server = Server::start(false);
    let first_socket = with_reuseport(([127, 0, 0, 1], 0).into());
    let address = first_socket.local_addr().unwrap();
    let second_socket = with_reuseport(address);
    let (first, second) = (Process::of(&server), Process::of(&server));
    first.own(0, &first_socket);
    let two = second.own(0, &second_socket);
    // The server's master, which has it, too. (Files of this process are the coordinator's.)
    let master = Master::with(second_socket);
    let (_, to_drain) = first.expect(Kind::Sibling, 0);
    second.expect(Kind::Sibling, 0);
    second.say(Kind::Release, 0);
    first.expect(Kind::Rescan, 0);
    // Connections until one waits at the socket that is left.
    let to_drain = TcpListener::from(to_drain.into_iter().next().unwrap());
    let waiting = || accept_queue(&to_drain).unwrap().0;
    let mut clients = Vec::new();
    await_that("one waits there", || {
        clients.push(TcpStream::connect(address).unwrap());
        waiting() > 0
    });
    let drops_syns = || {
        let (level, option) = (libc::SOL_SOCKET, libc::SO_GET_FILTER);
        socket_options::get(&to_drain, level, option).is_ok_and(|filter| !filter.is_empty())
    };
    assert!(!drops_syns(), "the master has it");
    drop(master);
    await_that("no more come", drops_syns);
    assert_eq!(server.sockets().len(), 2, "it is not drained");
    to_drain.set_nonblocking(true).unwrap();
    while to_drain.accept().is_ok() {}
    let (gone, _) = first.expect(Kind::Gone, 0);
    assert_eq!(gone.slot, two.slot);
    assert_eq!(server.sockets().len(), 1);
    drop(clients);
    server.end((first, second));
}

#[test]
fn what_cannot_be_steered_stays_plain() {
    let server = Server::start(false);
    let process = Process::of(&server);
    let folder = tempfile::tempdir().unwrap();
    let unix = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    process.ask_for(3, &unix);
    process.expect(Kind::Plain, 3);
    process.say(Kind::Claim, 4);
    process.expect(Kind::Plain, 4);
    // What a process must not say ends nothing.
    process.say(Kind::Own, 4);
    process.say(Kind::Ready, 4);
    process.say(Kind::Release, 4);
    let (shared, _) = listener();
    assert!(process.own(4, &shared).replacement.is_none());
    // What is no message ends the connection.
    send_with_fds(&process.channel, b"nonsense", &[]).unwrap();
    assert!(process.hear().is_none());
    server.end(process);
}

#[test]
fn the_abstract_name_lets_in_by_the_token() {
    let server = Server::start(false);
    let (shared, _) = listener();
    let wrong = Process::by_name(&server, &"00".repeat(16));
    assert!(wrong.hear().is_none());
    let process = Process::by_name(&server, &server.invitation.token);
    assert!(process.own(0, &shared).replacement.is_none());
    server.end(process);
}

#[test]
fn the_coordinator_stays_while_a_process_of_the_server_does() {
    let mut server = Server::start(false);
    let (shared, _) = listener();
    let process = Process::of(&server);
    process.own(0, &shared);
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    // A server that becomes a daemon: its first process has ended.
    let second = Process::of(&server);
    assert!(second.own(0, &shared).replacement.is_some());
    process.expect(Kind::Sibling, 0);
    server.end((process, second));
}

#[test]
fn the_program_steers_from_the_second_process_on() {
    let loaded = srv_steer::SelectProgram::load().map(drop);
    if !crate::gate::can("steer", loaded.map_err(|error| error.to_string())) {
        return;
    }
    let server = Server::start(true);
    let (shared, address) = listener();
    let (first, second) = (Process::of(&server), Process::of(&server));
    let one = first.own(0, &shared);
    second.own(0, &shared);
    first.expect(Kind::Sibling, 0);
    assert!(server.status().groups[0].program.attached);
    let count = 8;
    let clients: Vec<_> = (0..count)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let group = &server.status().groups[0];
    assert_eq!(group.program.steered, count);
    assert!(
        group
            .workers
            .iter()
            .all(|worker| worker.steered == count / 2)
    );
    let reply = server.ask(&Request::Policy("round-robin".into())).unwrap();
    assert!(matches!(reply, Reply::Done(text) if text.contains("was least")));
    // The first has left: every connection goes to the other.
    first.say(Kind::Release, 0);
    await_that("its slot is free", || state(&one) == State::Absent as u32);
    let more: Vec<_> = (0..count)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let group = &server.status().groups[0];
    let steered: Vec<u64> = group.workers.iter().map(|worker| worker.steered).collect();
    assert_eq!(steered, [count / 2, count / 2 + count]);
    drop((clients, more));
    server.end((first, second));
}
