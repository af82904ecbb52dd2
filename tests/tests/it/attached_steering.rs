//! Which listener the program for attached servers chooses: sleepers, the shortest queue, live
//! connections, the other policies; over a server of the test's own and over a real nginx.

use std::net::TcpStream;

use socket2::Socket;
use srv::attach::select::Reads;
use srv::attach::steering::{Steering, View};
use srv_common::Policy;
use srv_tests::nginx::{Content, Nginx, Options};

use crate::attached_server::{Server, Waits, Worker, can_read_all, in_each_way, sleeps, steered};
use crate::gate;
use crate::probe::until;

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
fn around_one_that_is_away_the_others_share_evenly() {
    in_each_way(the_others_share_evenly);
}

fn the_others_share_evenly(reads: Reads) {
    let server = Server::start(4, Waits::Epoll);
    let steering = server.steer_reading(reads);
    if !can_read_all(&steering) {
        return;
    }
    let busy = server.workers[1].make_busy();
    for _ in 0..60 {
        drop(server.connect());
        for worker in &server.workers {
            worker.held.lock().unwrap().clear();
        }
        until("no connection is left", || {
            let view = steering.view();
            view.slots.iter().all(|slot| slot.live == 0).then_some(())
        });
    }
    let view = steering.view();
    assert_eq!(steered(&view), [20, 0, 20, 20], "{view:?}");
    assert_eq!((view.idle, view.runs), (60, 60), "{view:?}");
    drop(busy);
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
fn live_connections_are_counted_per_listener_and_back_to_none() {
    gate::needs!(steer);
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
fn every_other_policy_steers_too() {
    gate::needs!(steer);
    let server = Server::start(3, Waits::Epoll);
    let mut steering = server.steer(Policy::Hash);
    let mut expected = 0;
    for (_, policy) in Policy::NAMED {
        // The other tests are of least.
        if matches!(policy, Policy::Hash | Policy::Least) {
            continue;
        }
        if let Err(why) = policy.about().attached {
            let refused = steering.policy(policy).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
            continue;
        }
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
    gate::needs!(steer);
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
