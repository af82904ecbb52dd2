//! Which listener the program for attached servers chooses if each handshake begins with a SYN
//! cookie (`net.ipv4.tcp_syncookies=2`). The kernel then keeps nothing of a SYN, and a connection is
//! accepted from the listener that is chosen for its ACK. Each test has a network of its own.

use std::net::TcpStream;

use srv::attach::programs::Snapshot;
use srv::attach::select::Reads;
use srv_common::Policy;

use crate::agent::{Agent, answered_by, nginx};
use crate::attached_server::{Server, Waits, Worker, can_read_all, in_each_way};
use crate::gate;
use crate::network::{self, THIS, tcp_counter};
use crate::probe::{Stopped, until};

#[test]
fn a_sleeping_worker_gets_each_connection_while_others_are_busy() {
    gate::needs!(steer, root);
    network::set("tcp_syncookies", 2);
    in_each_way(a_sleeping_worker_gets_each_connection);
}

fn a_sleeping_worker_gets_each_connection(reads: Reads) {
    let server = Server::start(4, Waits::Epoll);
    let programs = server.steer_reading(reads);
    if !can_read_all(&programs) {
        return;
    }
    let before = cookies_that_came_back();
    let busy: Vec<_> = [0, 1, 3].map(|nth| server.workers[nth].make_busy()).into();
    let clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    assert_eq!(cookies_that_came_back() - before, 20);
    let snapshot = programs.snapshot();
    assert_eq!(acks(&snapshot), [0, 0, 20, 0], "{snapshot:?}");
    assert_eq!(held(&server), [0, 0, 20, 0], "{snapshot:?}");
    assert_each_run_chose(&snapshot, 20);
    drop((clients, busy));
}

#[test]
fn if_all_are_busy_what_waits_counts() {
    gate::needs!(steer, root);
    network::set("tcp_syncookies", 2);
    in_each_way(what_waits_counts);
}

fn what_waits_counts(reads: Reads) {
    let server = Server::start(3, Waits::Epoll);
    let programs = server.steer_reading(reads);
    if !can_read_all(&programs) {
        return;
    }
    let busy: Vec<_> = server.workers.iter().map(Worker::make_busy).collect();
    let clients: Vec<_> = (1..=12)
        .map(|nth| {
            let client = TcpStream::connect(server.address).unwrap();
            until("its ACK has come", || {
                (programs.snapshot().acks == nth).then_some(())
            });
            client
        })
        .collect();
    let snapshot = programs.snapshot();
    assert_eq!(acks(&snapshot), [4; 3], "{snapshot:?}");
    assert_each_run_chose(&snapshot, 12);
    drop(busy);
    until("each worker has accepted what waited", || {
        (held(&server) == [4; 3]).then_some(())
    });
    drop(clients);
}

/// The runs at SYNs have no part in the rotation. If they had, every other listener would get each
/// connection.
#[test]
fn idle_workers_share_evenly() {
    gate::needs!(steer, root);
    network::set("tcp_syncookies", 2);
    for policy in [Policy::Least, Policy::RoundRobin] {
        let server = Server::start(4, Waits::Epoll);
        let programs = server.steer(policy);
        if !can_read_all(&programs) {
            return;
        }
        for _ in 0..40 {
            drop(server.connect());
            for worker in &server.workers {
                worker.held.lock().unwrap().clear();
            }
            until("no connection is left", || {
                let snapshot = programs.snapshot();
                let is_closed = snapshot.slots.iter().all(|slot| slot.live == 0);
                is_closed.then_some(())
            });
        }
        let snapshot = programs.snapshot();
        assert_eq!(acks(&snapshot), [10; 4], "{}: {snapshot:?}", policy.name());
        let established = snapshot.slots.iter().map(|slot| slot.established);
        assert_eq!(established.collect::<Vec<_>>(), [10; 4], "{snapshot:?}");
    }
}

#[test]
fn a_stopped_nginx_worker_gets_no_connection() {
    let Some(nginx) = nginx(4) else { return };
    network::set("tcp_syncookies", 2);
    let agent = Agent::attach(nginx.address(), &[]);
    let stopped = Stopped::new(nginx.workers()[1]);
    let before = cookies_that_came_back();
    // Each of them is answered, or this panics.
    let answered = answered_by(nginx.address(), 100);
    assert_eq!(cookies_that_came_back() - before, 100);
    assert!(!answered.contains(&1), "{answered:?}");
    let status = agent.status();
    let acks = status.listeners.iter().map(|listener| listener.acks);
    let acks = acks.flatten().sum::<u64>();
    // A request may overtake its ACK on another CPU, and has a run then, too.
    assert!(acks >= 100, "{status:?}");
    assert_eq!(status.program.acks, Some(acks), "{status:?}");
    drop(stopped);
    let again = answered_by(nginx.address(), 100);
    assert!(again.contains(&1), "{again:?}");
}

/// SYN cookies of this thread's network that have come back.
fn cookies_that_came_back() -> u64 {
    tcp_counter(THIS, "SyncookiesRecv")
}

/// Checks that the program chose at each SYN and each ACK of so many connections.
#[track_caller]
fn assert_each_run_chose(snapshot: &Snapshot, connections: u64) {
    assert_eq!(
        (snapshot.steered, snapshot.acks),
        (connections, connections)
    );
    assert_eq!(snapshot.runs, 2 * connections, "{snapshot:?}");
}

/// ACKs given to each slot.
fn acks(snapshot: &Snapshot) -> Vec<u64> {
    snapshot.slots.iter().map(|slot| slot.acks).collect()
}

/// Connections that each worker has accepted.
fn held(server: &Server) -> Vec<usize> {
    let held = |worker: &Worker| worker.held.lock().unwrap().len();
    server.workers.iter().map(held).collect()
}
