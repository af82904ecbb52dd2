//! Other servers than nginx: each is steered as docs/attach.md says.

use std::net::SocketAddr;

use srv::measure::baseline::launch::Launch;
use srv_tests::haproxy;
use srv_tests::python::{self, Program};

use crate::agent::{Agent, LOCALHOST};
use crate::client::get;
use crate::gate;

const WORKERS: usize = 3;

/// Attaches round robin: who answered is who was next, each `rounds` times.
fn assert_steers(address: SocketAddr, command: &str) {
    let agent = Agent::attach(address, &["--policy", "round-robin"]);
    let before = agent.status();
    assert_eq!(
        (before.listeners.len(), &*before.server),
        (WORKERS, command)
    );
    for listener in &before.listeners {
        assert_eq!(listener.workers.len(), 1, "{before:?}");
    }
    let workers: Vec<String> = (0..WORKERS * 5)
        .map(|_| {
            let response = get(address, "/");
            assert_eq!(response.status(), 200);
            response
                .header("X-Worker")
                .expect("it names its worker")
                .to_owned()
        })
        .collect();
    let in_turn = workers
        .iter()
        .zip(&workers[WORKERS..])
        .all(|(one, next)| one == next);
    assert!(in_turn, "{workers:?}");
    let program = agent.status().program;
    assert_eq!(program.steered, Some(WORKERS as u64 * 5), "{program:?}");
}

#[test]
fn haproxy_with_a_shard_per_thread() {
    gate::needs!(steer, "run HAProxy": &haproxy::version());
    let haproxy = haproxy::start(LOCALHOST, WORKERS, Launch::Plain).unwrap();
    assert_steers(haproxy.address(), "haproxy");
}

fn assert_python_is_steered(server: Program) {
    gate::needs!(steer, "run a server from PyPI": &server.version());
    let python = python::start(server, LOCALHOST, WORKERS, Launch::Plain).unwrap();
    assert_steers(python.address(), server.name());
}

#[test]
fn gunicorn_with_reuse_port() {
    assert_python_is_steered(Program::Gunicorn);
}

#[test]
fn granian_without_any_setting() {
    assert_python_is_steered(Program::Granian);
}
