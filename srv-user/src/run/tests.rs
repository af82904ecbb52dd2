//! A coordinator with the processes of a server, which are played by threads of the test: the
//! protocol over its sockets, and connections on loopback.

mod played;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use socket2::{SockRef, Socket};
use srv_common::State;
use srv_common::claim::Kind;
use srv_steer::accept_queue;

use crate::control::{Reply, Request};
use crate::kernel::packets::send_with_fds;
use crate::kernel::socket_options;
use played::{Master, Own, Process, Server, await_that, sleeping_with};

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

fn cookie(socket: &impl AsFd) -> u64 {
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
    assert_eq!((behind.slot, fds.len()), (two.slot, 1), "with its bell");
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
    let gone = first.expect_beside_rescans(Kind::Gone, 0);
    assert_eq!(gone.slot, two.slot);
    let slots = |status: &crate::control::Status| status.groups[0].workers.len();
    await_that("the slot is not listed", || slots(&server.status()) == 1);
    assert_eq!(server.sockets().len(), 1);
    drop(clients);
    server.end((first, second));
}

#[test]
fn a_process_can_claim_several_listeners_and_each_address_is_a_group() {
    let server = Server::start(false);
    let (v4, v4_address) = listener();
    let v6 = TcpListener::bind("[::1]:0").unwrap();
    let v6_address = v6.local_addr().unwrap();
    let process = Process::of(&server);
    assert!(process.own(0, &v4).replacement.is_none());
    assert!(process.own(1, &v6).replacement.is_none());
    assert!(!process.has_more(), "they are no siblings");
    // Another thread of it waits at the same socket.
    let third = process.own(2, &v4);
    let replacement = third.replacement.as_ref().unwrap();
    assert_eq!(replacement.local_addr().unwrap(), v4_address);
    let claims = [(); 2].map(|()| process.hear().unwrap().0);
    let mut siblings = claims.map(|message| (message.kind(), message.claim));
    siblings.sort_by_key(|(_, claim)| *claim);
    assert_eq!(
        siblings,
        [(Some(Kind::Sibling), 0), (Some(Kind::Sibling), 2)]
    );
    let status = server.status();
    let mut groups: Vec<_> = status.groups.iter().collect();
    groups.sort_by_key(|group| group.workers.len());
    let listed = groups
        .iter()
        .map(|group| (group.listen, group.workers.len()));
    assert_eq!(
        listed.collect::<Vec<_>>(),
        [(v6_address, 1), (v4_address, 2)]
    );
    server.end(process);
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

#[test]
fn another_coordinator_goes_on_where_one_was_killed() {
    let mut server = Server::start(false);
    let (shared, address) = listener();
    let (first, second) = (Process::of(&server), Process::of(&server));
    let one = first.own(0, &shared);
    let two = second.claim(3, &shared);
    server.ask(&Request::Policy("hash".into())).unwrap();
    server.kill_coordinator();
    let clients: Vec<_> = (0..16)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    // What was said to nothing is heard.
    second.say(Kind::Ready, 3);
    let (sibling, fds) = first.expect(Kind::Sibling, 0);
    let replacement = two.replacement.as_ref().unwrap();
    assert_eq!(
        (sibling.slot, cookie(&fds[0])),
        (two.slot, cookie(replacement))
    );
    second.expect(Kind::Sibling, 3);
    assert_eq!(server.status().policy.to_string(), "hash");
    let waiting = [&shared, replacement].map(|at| accept_queue(at).unwrap().0);
    assert_eq!(waiting[0] + waiting[1], 16);
    // Each process gets what the next one cannot know that it has.
    server.kill_coordinator();
    assert_eq!(first.expect(Kind::Sibling, 0).0.slot, two.slot);
    assert_eq!(second.expect(Kind::Sibling, 3).0.slot, one.slot);
    let third = Process::of(&server);
    let three = third.own(0, &shared);
    assert!(![one.slot, two.slot].contains(&three.slot));
    first.expect(Kind::Sibling, 0);
    second.expect(Kind::Sibling, 3);
    // One that ends in between has left.
    drop(third);
    server.kill_coordinator();
    await_that("its slot is free", || state(&three) == State::Absent as u32);
    assert!(
        [&one, &two]
            .iter()
            .all(|own| state(own) == State::Ready as u32)
    );
    drop((clients, shared));
    server.end((first, second));
}

#[test]
fn what_was_heard_and_not_dealt_with_is_heard_again() {
    let mut server = Server::start(false);
    let (shared, _) = listener();
    let (first, second) = (Process::of(&server), Process::of(&server));
    first.own(0, &shared);
    let two = second.claim(3, &shared);
    server.kill_coordinator();
    // As if the coordinator had been killed after it had answered.
    let again = second.claim(3, &shared);
    assert_eq!(again.slot, two.slot);
    let [before, after] = [&two, &again].map(|own| cookie(own.replacement.as_ref().unwrap()));
    assert_eq!(before, after);
    second.say(Kind::Ready, 3);
    second.say(Kind::Ready, 3);
    assert_eq!(first.expect(Kind::Sibling, 0).0.slot, two.slot);
    second.say(Kind::Release, 3);
    second.say(Kind::Release, 3);
    await_that("its slot is free", || state(&two) == State::Absent as u32);
    server.end((first, second));
}

#[test]
fn another_coordinator_steers_by_the_program_that_is_there() {
    let loaded = srv_steer::SelectProgram::load().map(drop);
    if !crate::gate::can("steer", loaded.map_err(|error| error.to_string())) {
        return;
    }
    let mut server = Server::start(true);
    let (shared, address) = listener();
    let (first, second) = (Process::of(&server), Process::of(&server));
    first.own(0, &shared);
    second.own(0, &shared);
    first.expect(Kind::Sibling, 0);
    let connect = || {
        let clients = (0..8).map(|_| TcpStream::connect(address).unwrap());
        clients.collect::<Vec<_>>()
    };
    let mut clients = connect();
    server.kill_coordinator();
    clients.extend(connect());
    let third = Process::of(&server);
    third.own(0, &shared);
    third.expect(Kind::Sibling, 0);
    clients.extend(connect());
    let group = &server.status().groups[0];
    assert!(group.program.attached);
    assert_eq!((group.program.steered, group.workers.len()), (24, 3));
    assert!(group.workers.iter().all(|worker| worker.steered >= 8));
    drop((clients, shared));
    server.end((first, second, third));
}
