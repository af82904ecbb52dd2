//! Shares from now on: whatever the workers have been through, each gets its part of the
//! next connections, in every window. Each connection comes when all workers sleep: they
//! are equally loaded then however busy this machine is, and the policy alone decides.
//! `bench shares` counts the same under load.

use srv_common::turns::MEMORY_ROUNDS;
use srv_tests::past::{Past, Shares, WINDOW_MOST};
use srv_tests::server::Server;

use crate::client::get;
use crate::gate;
use crate::probe::{group, until_group};

/// Connections that make a past, or are counted after it.
const CONNECTIONS: usize = 1_000;
/// Between the worker that gets most of them and the one that gets least: what is left of
/// any past is that one begins as far behind as a turn can be, and another as far ahead.
const APART_MOST: u64 = 2 * (MEMORY_ROUNDS as u64 + 1);

fn assert_even_after(past: Past, accept: &str) {
    gate::needs!(steer);
    let server = past.server(accept, CONNECTIONS).unwrap();
    let steered_before = group(&server).program.steered;
    let served_by: Vec<u16> = (0..CONNECTIONS).map(|_| answered_by(&server)).collect();
    let shares = Shares::of(&served_by);
    let [least, most] = [shares.counts.iter().min(), shares.counts.iter().max()];
    let apart = most.unwrap() - least.unwrap();
    assert!(apart <= APART_MOST, "{past:?}, {accept}: {shares:?}");
    assert!(
        shares.window_most <= WINDOW_MOST,
        "{past:?}, {accept}: {shares:?}"
    );
    // The program chose, for each of them.
    let program = group(&server).program;
    let steered = program.steered - steered_before;
    assert_eq!(steered, CONNECTIONS as u64, "{:?}", program.fallbacks);
}

/// Which worker answers a request that comes when all of them sleep.
fn answered_by(server: &Server) -> u16 {
    until_group(server, "all workers sleep", |group| {
        group.workers.iter().all(|worker| worker.busy_us == 0)
    });
    let response = get(server.address(), "/");
    response.head.worker.expect("--worker-header")
}

#[test]
fn after_a_closed_loop() {
    assert_even_after(Past::ClosedLoop, "ring");
    assert_even_after(Past::ClosedLoop, "own");
}

#[test]
fn after_bimodal_traffic() {
    assert_even_after(Past::Bimodal, "ring");
    assert_even_after(Past::Bimodal, "own");
}

#[test]
fn after_another_policy() {
    assert_even_after(Past::AnotherPolicy, "ring");
    assert_even_after(Past::AnotherPolicy, "own");
}

#[test]
fn after_one_worker_was_long_at_work() {
    assert_even_after(Past::AtWork, "ring");
    assert_even_after(Past::AtWork, "own");
}

#[test]
fn after_one_worker_was_stopped_and_continued() {
    assert_even_after(Past::Stopped, "ring");
}

#[test]
fn after_one_worker_was_replaced() {
    assert_even_after(Past::Replaced, "ring");
    assert_even_after(Past::Replaced, "own");
}
