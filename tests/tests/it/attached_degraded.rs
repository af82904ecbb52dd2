//! What the program for attached servers goes by if a signal is missing, and when it leaves the choice
//! to the kernel's hash because the group has changed.

use io_uring::IoUring;
use srv::attach::programs::{Programs, Snapshot};
use srv::attach::select::Reads;
use srv::control::attached::Signal;
use srv_common::Policy;
use srv_common::attached::Sleep;

use crate::attached_server::{Server, Waits, Worker, can_read_all, in_each_way, sleeps, steered};
use crate::gate;
use crate::probe::until;

#[test]
fn a_kernel_that_lets_programs_load_is_read_by_loads() {
    gate::needs!(steer);
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    let is_new = (version < (6, 17)).then_some(format!("this is Linux {release}"));
    let can = gate::can("read by loads (Linux 6.17)", is_new.map_or(Ok(()), Err));
    for at_best in [Reads::Directly, Reads::ByHelper, Reads::Nothing] {
        let programs = Programs::load_reading(Policy::Least, at_best).unwrap();
        assert!(programs.reads() == at_best || !can, "{release}");
    }
}

#[test]
fn a_socket_that_joins_is_noticed_and_served() {
    in_each_way(a_joining_socket_is_served);
}

fn a_joining_socket_is_served(reads: Reads) {
    let mut server = Server::start(2, Waits::Epoll);
    let programs = server.steer_reading(reads);
    if !can_read_all(&programs) {
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
    let snapshot = programs.snapshot();
    assert_eq!(
        snapshot.fallbacks["group_size"],
        clients.len() as u64,
        "{snapshot:?}"
    );
    // As it was again: the program steers again, without the help of an agent.
    server.workers.pop();
    until("the socket has left the group", || {
        clients.push(server.connect());
        (programs.snapshot().idle > 1).then_some(())
    });
}

#[test]
fn a_socket_in_anothers_place_is_noticed_and_served() {
    in_each_way(a_replacing_socket_is_served);
}

fn a_replacing_socket_is_served(reads: Reads) {
    let mut server = Server::start(2, Waits::Epoll);
    let mut programs = server.steer_reading(reads);
    if !can_read_all(&programs) {
        return;
    }
    let clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    server.workers.pop();
    until("the socket has left the group", || {
        let before = programs.snapshot().fallbacks["group_size"];
        drop(server.connect());
        (programs.snapshot().fallbacks["group_size"] > before).then_some(())
    });
    server
        .workers
        .push(Worker::start(server.address, Waits::Epoll));
    let before = programs.snapshot();
    let newcomer = &server.workers[1];
    let mut more = Vec::new();
    until("the hash serves the new socket", || {
        more.push(server.connect());
        (newcomer.held.lock().unwrap().len() > 2).then_some(())
    });
    let snapshot = programs.snapshot();
    let noticed = |snapshot: &Snapshot| {
        snapshot.fallbacks["unknown_member"] + snapshot.fallbacks["empty_slot"]
    };
    assert!(noticed(&snapshot) > noticed(&before), "{snapshot:?}");
    // User space says what the group is now.
    programs.remove(1);
    let cookie = newcomer.listener.cookie().unwrap();
    programs.insert(1, &*newcomer.listener, cookie).unwrap();
    programs.set_members(2);
    let before = programs.snapshot();
    more.extend((0..10).map(|_| server.connect()));
    let snapshot = programs.snapshot();
    assert_eq!(snapshot.idle - before.idle, 10, "{snapshot:?}");
    drop((clients, more));
}

#[test]
fn a_worker_that_waits_in_another_way_is_not_believed_to_sleep() {
    gate::needs!(steer);
    let has_rings = IoUring::new(2).map(drop).map_err(|error| error.to_string());
    let rings = gate::can("use io_uring", has_rings).then_some(Waits::IoUring);
    for waits in [Waits::Poll, Waits::Accept].into_iter().chain(rings) {
        let server = Server::start(3, waits);
        let programs = server.steer(Policy::Least);
        if !can_read_all(&programs) {
            return;
        }
        let clients: Vec<_> = (0..30).map(|_| server.connect()).collect();
        let snapshot = programs.snapshot();
        assert_eq!(
            sleeps(&snapshot),
            [Sleep::Unknown; 3],
            "{waits:?}: {snapshot:?}"
        );
        // Queues and live connections are left to go by.
        assert_eq!(steered(&snapshot), [10; 3], "{waits:?}: {snapshot:?}");
        drop(clients);
    }
}

/// As on a kernel without type information.
#[test]
fn a_program_that_reads_nothing_goes_by_connections() {
    gate::needs!(steer);
    let server = Server::start(3, Waits::Epoll);
    let programs = server.steer_reading(Reads::Nothing);
    if programs.signals().live != Signal::Known {
        return;
    }
    let clients: Vec<_> = (0..30).map(|_| server.connect()).collect();
    let snapshot = programs.snapshot();
    assert_eq!(steered(&snapshot), [10; 3], "{snapshot:?}");
    assert_eq!(sleeps(&snapshot), [Sleep::Unknown; 3], "{snapshot:?}");
    server.workers[1].held.lock().unwrap().clear();
    until("closed connections do not count", || {
        (programs.snapshot().slots[1].live == 0).then_some(())
    });
    let more: Vec<_> = (0..10).map(|_| server.connect()).collect();
    assert_eq!(steered(&programs.snapshot()), [10, 20, 10]);
    drop((clients, more));
}

/// After the end of the agent, in whichever way, the program does not use the counts that the
/// tracepoint program has left.
#[test]
fn without_its_agent_the_program_goes_by_the_rest() {
    gate::needs!(steer);
    let server = Server::start(2, Waits::Epoll);
    let programs = server.steer(Policy::Least);
    if !can_read_all(&programs) {
        return;
    }
    let clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
    server.workers[1].held.lock().unwrap().clear();
    until("closed connections do not count", || {
        (programs.snapshot().slots[1].live == 0).then_some(())
    });
    drop(programs);
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
