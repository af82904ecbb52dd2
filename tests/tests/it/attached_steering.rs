//! Which listener the program for attached servers chooses: by sleeping workers, the shortest queue,
//! live connections, and the other policies. The servers are one inside the test process and nginx.

use std::net::TcpStream;

use socket2::Socket;
use srv::attach::programs::{Programs, Snapshot};
use srv::attach::select::Reads;
use srv_common::Policy;
use srv_common::attached::Sleep;
use srv_tests::nginx::{Content, Nginx, Options};

use crate::attached_server::{Server, Waits, Worker, can_read_all, in_each_way, sleeps, steered};
use crate::gate;
use crate::probe::until;

#[test]
fn a_sleeping_worker_is_chosen_while_others_are_busy() {
    in_each_way(a_sleeping_worker_is_chosen);
}

fn a_sleeping_worker_is_chosen(reads: Reads) {
    let server = Server::start(4, Waits::Epoll);
    let programs = server.steer_reading(reads);
    if !can_read_all(&programs) {
        return;
    }
    let busy: Vec<_> = [0, 1, 3].map(|nth| server.workers[nth].make_busy()).into();
    let clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    let snapshot = programs.snapshot();
    assert_eq!(steered(&snapshot), [0, 0, 20, 0], "{snapshot:?}");
    assert_eq!(
        (snapshot.runs, snapshot.fallbacks.values().sum()),
        (20, 0),
        "{snapshot:?}"
    );
    drop(busy);
    // The others sleep again, and have no connections yet.
    let more: Vec<_> = (0..60).map(|_| server.connect()).collect();
    let snapshot = programs.snapshot();
    assert_eq!(steered(&snapshot), [20; 4], "{snapshot:?}");
    assert_eq!(snapshot.idle, 60 + 1, "{snapshot:?}");
    drop((clients, more));
}

#[test]
fn around_a_busy_worker_the_others_share_evenly() {
    in_each_way(the_others_share_evenly);
}

fn the_others_share_evenly(reads: Reads) {
    let server = Server::start(4, Waits::Epoll);
    let programs = server.steer_reading(reads);
    if !can_read_all(&programs) {
        return;
    }
    let busy = server.workers[1].make_busy();
    for _ in 0..60 {
        drop(server.connect());
        for worker in &server.workers {
            worker.held.lock().unwrap().clear();
        }
        until("no connection is left", || {
            let snapshot = programs.snapshot();
            snapshot
                .slots
                .iter()
                .all(|slot| slot.live == 0)
                .then_some(())
        });
    }
    let snapshot = programs.snapshot();
    assert_eq!(steered(&snapshot), [20, 0, 20, 20], "{snapshot:?}");
    assert_eq!((snapshot.idle, snapshot.runs), (60, 60), "{snapshot:?}");
    drop(busy);
}

#[test]
fn if_all_are_busy_the_shortest_queue_is_chosen() {
    in_each_way(the_shortest_queue_is_chosen);
}

fn the_shortest_queue_is_chosen(reads: Reads) {
    let server = Server::start(3, Waits::Epoll);
    let programs = server.steer_reading(reads);
    if !can_read_all(&programs) {
        return;
    }
    let busy: Vec<_> = server.workers.iter().map(Worker::make_busy).collect();
    let clients: Vec<_> = (0..12)
        .map(|_| TcpStream::connect(server.address).unwrap())
        .collect();
    let snapshot = programs.snapshot();
    assert_eq!(steered(&snapshot), [4; 3], "{snapshot:?}");
    assert_eq!((snapshot.idle, snapshot.shortest), (0, 12), "{snapshot:?}");
    assert!(!sleeps(&snapshot).contains(&Sleep::Asleep), "{snapshot:?}");
    drop((busy, clients));
}

#[test]
fn live_connections_are_counted_per_listener_and_back_to_none() {
    gate::needs!(steer);
    let server = Server::start(4, Waits::Epoll);
    let programs = server.steer(Policy::Least);
    if !can_read_all(&programs) {
        return;
    }
    let clients: Vec<_> = (0..64).map(|_| server.connect()).collect();
    let live = |snapshot: &Snapshot| {
        snapshot
            .slots
            .iter()
            .map(|slot| slot.live)
            .collect::<Vec<_>>()
    };
    assert_eq!(live(&programs.snapshot()), [16; 4]);
    // Those of one listener go: new ones fill it up again.
    server.workers[2].held.lock().unwrap().clear();
    until("closed connections do not count", || {
        (live(&programs.snapshot()) == [16, 16, 0, 16]).then_some(())
    });
    let held = || server.accepted();
    assert_eq!(held(), 48);
    let more: Vec<_> = (0..16).map(|_| server.connect()).collect();
    assert_eq!(live(&programs.snapshot()), [16; 4]);
    for worker in &server.workers {
        worker.held.lock().unwrap().clear();
    }
    until("none is left", || {
        (live(&programs.snapshot()) == [0; 4]).then_some(())
    });
    let snapshot = programs.snapshot();
    assert_eq!(
        snapshot
            .slots
            .iter()
            .map(|slot| slot.established)
            .sum::<u64>(),
        80,
        "{snapshot:?}"
    );
    drop((clients, more));
}

#[test]
fn every_other_policy_steers_too() {
    gate::needs!(steer);
    let server = Server::start(3, Waits::Epoll);
    let mut programs = server.steer(Policy::Hash);
    let mut expected = 0;
    for (_, policy) in Policy::NAMED {
        // The other tests are of least.
        if matches!(policy, Policy::Hash | Policy::Least) {
            continue;
        }
        if let Err(why) = policy.about().attached {
            let refused = programs.set_policy(policy).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
            continue;
        }
        programs.set_policy(policy).unwrap();
        let clients: Vec<_> = (0..9).map(|_| server.connect()).collect();
        expected += 9;
        let snapshot = programs.snapshot();
        assert_eq!(
            steered(&snapshot).iter().sum::<u64>(),
            expected,
            "{}: {snapshot:?}",
            policy.name()
        );
        drop(clients);
    }
    programs.set_policy(Policy::Hash).unwrap();
    drop(server.connect());
    assert_eq!(programs.snapshot().fallbacks["no_policy"], 1);
    Programs::detach(&*server.workers[0].listener).unwrap();
    drop(server.connect());
    assert_eq!(programs.snapshot().runs, expected + 1);
    assert!(Programs::detach(&*server.workers[0].listener).is_err());
}

/// Copies of the listening sockets of another process.
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
fn an_nginx_is_steered_to_a_sleeping_worker() {
    gate::needs!(steer);
    let options = Options {
        workers: 4,
        reuseport: true,
        deferred: false,
        tuning: String::new(),
        content: Content::Files("/usr/share".into()),
    };
    gate::needs!("run nginx": &srv_tests::nginx::require(&options));
    let nginx = Nginx::start(crate::agent::LOCALHOST, &options).unwrap();
    let mut listeners = listeners_of(nginx.pid());
    assert_eq!(listeners.len(), 4);
    let mut programs = Programs::load(Policy::Least).unwrap();
    if !can_read_all(&programs) {
        return;
    }
    for (slot, listener) in listeners.iter().enumerate() {
        let cookie = listener.cookie().unwrap();
        programs.insert(slot as u32, listener, cookie).unwrap();
    }
    programs.set_members(4);
    programs.attach(&listeners[0]).unwrap();
    listeners.clear();
    let get = || crate::client::get(nginx.address(), "/nothing-there").status();
    for _ in 0..100 {
        assert_eq!(get(), 404);
    }
    let snapshot = programs.snapshot();
    assert_eq!(steered(&snapshot).iter().sum::<u64>(), 100, "{snapshot:?}");
    assert_eq!(
        sleeps(&snapshot)
            .iter()
            .filter(|sleep| **sleep == Sleep::Unknown)
            .count(),
        0,
        "{snapshot:?}"
    );
    assert!(
        snapshot.slots.iter().all(|slot| slot.steered >= 15),
        "{snapshot:?}"
    );
    until("its connections are gone", || {
        programs
            .snapshot()
            .slots
            .iter()
            .all(|slot| slot.live == 0)
            .then_some(())
    });
}
