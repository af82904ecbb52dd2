//! The ring: idle workers take what waits at the listener of one that cannot.
//! Connections are dealt out in turn here, so that some are always steered to
//! the one that stands still.

use srv::control::status::GroupStatus;
use srv::measure::load::keep_alive::{KeepAlive, Opening};
use srv_tests::server::Server;

use crate::client::{Client, get_many};
use crate::gate;
use crate::probe::{self, Stopped, group, pid, until, until_group, worker};
use crate::serve::serve;

const WORKERS: u32 = 4;

fn start() -> Server {
    serve()
        .policy("round-robin")
        .workers(4)
        .worker_header()
        .synthetic()
        // It is to be steered to, although it is stopped.
        .with("--hang-after", "0s")
        .start()
}

fn stolen(group: &GroupStatus) -> u64 {
    group.workers.iter().map(|worker| worker.taken_stolen).sum()
}

/// All of 40 connections are answered, the quarter for `slot` by its siblings.
fn assert_siblings_answer_for(server: &Server, slot: u32) {
    let before = group(server);
    let answered = get_many(server.address(), 40);
    assert!(
        answered.iter().all(|worker| u32::from(*worker) != slot),
        "{answered:?}"
    );
    let after = group(server);
    let at = slot as usize;
    assert_eq!(after.workers[at].steered - before.workers[at].steered, 10);
    assert!(stolen(&after) - stolen(&before) >= 10, "{after:#?}");
}

#[test]
fn siblings_answer_for_one_stopped_while_idle() {
    gate::needs!(steer);
    let server = start();
    let stopped = Stopped::new(pid(&worker(&server, 1)));
    assert_siblings_answer_for(&server, 1);
    drop(stopped);
    // It is back in the ring, and first at its own listener.
    let own = worker(&server, 1).taken_own;
    get_many(server.address(), 20);
    assert!(worker(&server, 1).taken_own > own);
}

#[test]
fn siblings_answer_for_one_stopped_in_a_request() {
    gate::needs!(steer);
    let server = start();
    let mut client = Client::connect(server.address());
    client.get("/work?sleep_us=500000");
    let running = |group: &GroupStatus| group.workers.iter().position(|worker| worker.running == 1);
    let before = until_group(&server, "a request is in service", |group| {
        running(group).is_some()
    });
    let slot = running(&before).unwrap();
    let stopped = Stopped::new(pid(&before.workers[slot]));
    assert_siblings_answer_for(&server, slot as u32);
    drop(stopped);
    assert_eq!(client.response().status(), 200);
}

/// Those who have more connections leave one to its owner for a while, but not for ever.
#[test]
fn siblings_with_more_connections_answer_as_well() {
    gate::needs!(steer);
    let server = start();
    let stopped = Stopped::new(pid(&worker(&server, 1)));
    let held = KeepAlive::open(server.address(), "/", 60, Opening::OneByOne).unwrap();
    let shares = held.shares(WORKERS as usize);
    assert_eq!(shares[1], 0);
    assert!(
        (0..4)
            .filter(|slot| *slot != 1)
            .all(|slot| shares[slot] >= 10),
        "{shares:?}"
    );
    assert_siblings_answer_for(&server, 1);
    drop(stopped);
}

/// Whatever listener they wait at.
#[test]
fn who_came_first_is_served_first() {
    gate::needs!(steer);
    let server = start();
    let blocked = block_every_worker(&server);
    let workers = group(&server).workers;
    // One worker empties all queues: in which order, only it decides.
    let stopped = [0, 1, 2].map(|slot: usize| Stopped::new(pid(&workers[slot])));
    probe::switch(&server, "random");
    let clients: Vec<Client> = (0..24).map(|_| ask_for_10_ms(&server)).collect();
    until("all are answered", || {
        // From the last on: had somebody overtaken those before it, they would
        // still be unanswered when their turn to be looked at comes.
        let answered = clients.iter().rev().map(is_answered);
        let answered: Vec<bool> = answered.collect();
        assert!(answered.is_sorted(), "latest first: {answered:?}");
        answered[0].then_some(())
    });
    assert!(worker(&server, 3).taken_stolen > 0);
    drop(stopped);
    for mut client in blocked {
        assert_eq!(client.response().status(), 200);
    }
}

fn block_every_worker(server: &Server) -> Vec<Client> {
    let blocked = (0..WORKERS).map(|_| {
        let mut client = Client::connect(server.address());
        client.get("/work?sleep_us=500000");
        client
    });
    let blocked = blocked.collect();
    until_group(server, "each worker has a request", |group| {
        group.workers.iter().all(|worker| worker.running == 1)
    });
    blocked
}

fn ask_for_10_ms(server: &Server) -> Client {
    let mut client = Client::connect(server.address());
    client.get("/work?sleep_us=10000");
    client.stream().set_nonblocking(true).unwrap();
    client
}

fn is_answered(client: &Client) -> bool {
    client.stream().peek(&mut [0]).is_ok()
}

/// Unsteered, the kernel's hash goes on sending connections to the stopped one.
#[test]
fn the_ring_needs_no_program() {
    let server = serve().no_bpf().workers(2).worker_header().start();
    let stopped = Stopped::new(pid(&worker(&server, 0)));
    let answered = get_many(server.address(), 60);
    assert_eq!(answered, [1; 60]);
    assert!(worker(&server, 1).taken_stolen > 0);
    drop(stopped);
}
