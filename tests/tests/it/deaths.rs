//! A worker's death, and its replacement.

use std::time::Duration;

use rustix::process::Signal;
use srv::control::status::GroupStatus;
use srv::measure::arrivals::{Draw, Service, poisson};
use srv_tests::server::Server;

use crate::client::{Client, get_many};
use crate::gate;
use crate::loaded::of_sleepers;
use crate::probe::{Stopped, group, pid, signal, state, until, until_group, worker};
use crate::serve::serve;

fn draws() -> Vec<Draw> {
    poisson(2, 400.0, Duration::from_millis(1_500), Service::Fixed(500))
}

fn running(group: &GroupStatus) -> Option<usize> {
    group.workers.iter().position(|worker| worker.running == 1)
}

fn until_replaced(server: &Server, slot: usize) {
    until_group(server, "its replacement is ready", |group| {
        let worker = &group.workers[slot];
        worker.starts == 2 && worker.state == "ready"
    });
}

#[test]
fn a_killed_worker_loses_only_what_it_was_serving() {
    if gate::steer() {
        a_death_under_load("ring", Signal::KILL);
    }
}

/// Nobody else takes from its queue: it waits for the replacement.
#[test]
fn a_killed_workers_queue_survives() {
    if gate::steer() {
        a_death_under_load("own", Signal::KILL);
    }
}

/// `panic = "abort"` ends a worker that panics by this signal.
#[test]
fn an_aborting_worker_is_a_respawn_and_no_outage() {
    if gate::steer() {
        a_death_under_load("ring", Signal::ABORT);
    }
}

fn a_death_under_load(accept: &str, by: Signal) {
    let mut server = serve()
        .policy("round-robin")
        .workers(4)
        .synthetic()
        .accept(accept)
        // It is to be steered to, although it is stopped.
        .with("--hang-after", "0s")
        .start();
    // The request that is to be lost.
    let mut victim = Client::connect(server.address());
    victim.get("/work?sleep_us=500000");
    let before = until_group(&server, "a request is in service", |group| {
        running(group).is_some()
    });
    let slot = running(&before).unwrap();
    let process = pid(&before.workers[slot]);
    let stopped = Stopped::new(process);
    let (load, draws) = (of_sleepers(server.address()), draws());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| load.run(&draws).unwrap());
        until_group(&server, "connections were steered to it", |group| {
            group.workers[slot].steered >= before.workers[slot].steered + 20
        });
        signal(process, by);
        // Only a kill reaches one that is stopped; any other is the first thing it meets.
        drop(stopped);
        until_replaced(&server, slot);
        let run = running.join().unwrap();
        assert_eq!(run.lost(), 0, "{:?}", run.first_error);
    });
    let died = server.child().await_line("worker died").unwrap();
    assert!(died.contains(&format!("signal {};", by.as_raw())), "{died}");
    victim.ended_or_response().expect_err("its worker is dead");
    assert_ne!(worker(&server, slot as u32).pid, before.workers[slot].pid);
    assert_eq!(group(&server).totals.served, draws.len() as u64);
}

#[test]
fn a_replacement_is_first_in_line_at_its_own_listener() {
    gate::needs!(steer);
    let server = serve()
        .policy("round-robin")
        .workers(4)
        .worker_header()
        // On a busy machine one of them may stand still for longer.
        .with("--hang-after", "0s")
        .start();
    let first = worker(&server, 2);
    signal(pid(&first), Signal::KILL);
    until_replaced(&server, 2);
    let before = worker(&server, 2);
    get_many(server.address(), 80);
    let after = worker(&server, 2);
    let (steered, own) = (
        after.steered - before.steered,
        after.taken_own - before.taken_own,
    );
    assert_eq!(steered, 20);
    // Last in line it would get next to nothing: the siblings are idle, too.
    assert!(own > 10, "{own} of {steered} connections to its listener");
}

#[test]
fn a_worker_told_to_go_drains_and_is_replaced() {
    let server = serve().workers(4).synthetic().start();
    let mut client = Client::connect(server.address());
    client.get("/work?sleep_us=300000");
    let before = until_group(&server, "a request is in service", |group| {
        running(group).is_some()
    });
    let slot = running(&before).unwrap();
    let (load, draws) = (of_sleepers(server.address()), draws());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| load.run(&draws).unwrap());
        signal(pid(&before.workers[slot]), Signal::TERM);
        let response = client.response();
        assert_eq!(response.status(), 200);
        until_replaced(&server, slot);
        let run = running.join().unwrap();
        assert_eq!(run.lost(), 0, "{:?}", run.first_error);
    });
    client.assert_closed();
}

#[test]
fn workers_leave_when_their_master_is_killed() {
    let mut server = serve().workers(2).synthetic().start();
    let mut client = Client::connect(server.address());
    client.get("/work?sleep_us=300000");
    let group = until_group(&server, "a request is in service", |group| {
        running(group).is_some()
    });
    signal(server.pid(), Signal::KILL);
    assert_eq!(client.response().status(), 200);
    for worker in &group.workers {
        until("the worker has gone", || {
            state(pid(worker))
                .is_none_or(|state| state == 'Z')
                .then_some(())
        });
    }
    server.child().await_exit().unwrap();
}
