//! Requests as they end: each moves one counter, whichever way its answer came about, and the time
//! for which a worker is busy is counted.

use std::collections::BTreeMap;

use rustix::process::Signal;
use srv_tests::server::Server;

use crate::client::{Client, get};
use crate::probe::{ended, group, pid, signal, until, until_ended, until_group, worker};
use crate::serve::serve;

/// Counts by class.
fn counts<const N: usize>(classes: [(&str, u64); N]) -> BTreeMap<String, u64> {
    classes.map(|(class, n)| (class.to_owned(), n)).into()
}

/// Sends this on a connection of its own, and expects these statuses.
fn exchange(server: &Server, request: &str, statuses: &[u16]) {
    let mut client = Client::connect(server.address());
    client.send(request);
    let found: Vec<_> = statuses
        .iter()
        .map(|_| client.response().status())
        .collect();
    assert_eq!(found, statuses, "{request}");
}

#[test]
fn each_way_to_an_answer_counts_one_request() {
    let flags = "--header-timeout 300ms --read-timeout 300ms --body-bytes 1KiB --header-bytes 8KiB";
    let flags: Vec<_> = flags.split(' ').collect();
    let server = serve().workers(1).synthetic().flags(&flags).start();
    // Answered at once, by hyper, and both on one connection.
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok";
    exchange(&server, get, &[200]);
    exchange(&server, &[get, post, get].concat(), &[200; 3]);
    until_ended(&server, &counts([("2xx", 4)]));
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(9000)
    );
    let begun = "POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: ";
    for (request, status) in [
        ("GET /absent HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
        (&large, 431),
        (&format!("{begun}2000\r\n\r\n"), 413),
        // In the middle of the header, and of the body.
        ("GET / HTTP/1.1\r\n", 408),
        (&format!("{begun}2\r\n\r\n"), 408),
    ] {
        let before = ended(&server);
        exchange(&server, request, &[status]);
        let mut expected = before;
        *expected.entry("4xx".into()).or_default() += 1;
        until_ended(&server, &expected);
    }
    exchange(&server, "GET / HTTP/2.0\r\nHost: a\r\n\r\n", &[505]);
    let mut gone = Client::connect(server.address());
    gone.send(format!("{begun}1\r\n\r\n"));
    until_group(&server, "its request runs", |group| {
        group.totals.running == 1
    });
    // Its body is incomplete, and there is no client for the answer that says so.
    drop(gone);
    let expected = counts([("2xx", 4), ("4xx", 8), ("5xx", 1)]);
    until_ended(&server, &expected);
}

#[test]
fn connections_that_are_turned_away_count_and_silent_ones_do_not() {
    let server = serve().workers(1).flags(&["--connections", "1"]).start();
    let mut busy = Client::connect(server.address());
    busy.send("GET / HTTP/1.1\r\n");
    until_group(&server, "it is there", |group| group.totals.active == 1);
    assert_eq!(get(server.address(), "/").status(), 503);
    busy.send("Host: a\r\n\r\n");
    assert_eq!(busy.response().status(), 200);
    until_ended(&server, &counts([("2xx", 1), ("5xx", 1)]));
    drop((busy, Client::connect(server.address())));
    until_group(&server, "all have gone", |group| group.totals.active == 0);
    until_ended(&server, &counts([("2xx", 1), ("5xx", 1)]));
}

/// Also that of a worker which was killed while it was busy.
#[test]
fn the_time_of_a_worker_away_from_its_loop_is_counted_once() {
    const WORK_NS: u64 = 50_000_000;
    let server = serve().workers(1).synthetic().start();
    let sum = || worker(&server, 0).busy_sum_ns.expect("srv's own worker");
    let before = sum();
    let path = format!("/work?sleep_us={}", WORK_NS / 1_000);
    for _ in 0..2 {
        assert_eq!(get(server.address(), &path).status(), 200);
    }
    let after = sum();
    assert!(after - before >= 2 * WORK_NS, "{before} {after}");
    let mut last = after;
    let mut client = Client::connect(server.address());
    client.get("/work?sleep_us=10000000");
    let busy = until("the stretch that is under way shows", || {
        let now = sum();
        assert!(now >= last, "{now} {last}");
        last = now;
        (now > after + WORK_NS).then_some(now)
    });
    signal(pid(&worker(&server, 0)), Signal::KILL);
    until_group(&server, "another worker is ready", |group| {
        group.workers[0].starts == 2 && group.workers[0].state == "ready"
    });
    let sleeping = until("it sleeps", || {
        let sums = [sum(), sum()];
        (group(&server).workers[0].busy_us == 0 && sums[0] == sums[1]).then_some(sums[0])
    });
    assert!(sleeping >= busy, "{sleeping} {busy}");
}
