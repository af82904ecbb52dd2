//! Stopping: what has begun is finished, within the time allowed, and nothing
//! is left behind.

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use srv::measure::arrivals::{Service, poisson};
use srv::measure::load::{Connections, Load, Outcome};
use srv_tests::server::{self, Server};
use srv_tests::usage::Tree;

use crate::client::{Client, get};
use crate::gate;
use crate::loaded::of_sleepers;
use crate::probe::{group, pid, signal, state, until, until_group};
use crate::serve::serve;

/// A server with one request in service that takes `sleep`.
fn serving(arguments: &[&str], sleep: Duration) -> (Server, Client) {
    let server = serve().workers(2).synthetic().flags(arguments).start();
    let mut client = Client::connect(server.address());
    client.get(&format!("/work?sleep_us={}", sleep.as_micros()));
    until_group(&server, "the request is in service", |group| {
        group.totals.running == 1
    });
    (server, client)
}

/// Awaits the end of the server, of all that it started and of its control socket.
fn assert_leaves_nothing(server: &mut Server) -> ExitStatus {
    // Not over before all who inherited its standard error are gone.
    let status = server.child().await_exit().unwrap();
    assert!(!server.control().exists());
    status
}

const SHORT: Duration = Duration::from_millis(400);
/// Longer than any test waits.
const ENDLESS: Duration = Duration::from_secs(60);

#[test]
fn sigterm_lets_a_request_finish() {
    let (mut server, mut client) = serving(&[], SHORT);
    let mut idle = Client::connect(server.address());
    idle.get("/");
    assert_eq!(idle.response().status(), 200);
    signal(server.pid(), Signal::TERM);
    // Nothing is owed to this one.
    idle.assert_closed();
    let response = client.response();
    assert_eq!(response.status(), 200);
    client.assert_closed();
    assert_eq!(assert_leaves_nothing(&mut server).code(), Some(0));
}

#[test]
fn a_grace_that_is_exceeded_is_a_failure() {
    let (mut server, client) = serving(&["--grace", "200ms"], ENDLESS);
    signal(server.pid(), Signal::TERM);
    server.child().await_line("killing 1 worker").unwrap();
    assert_eq!(assert_leaves_nothing(&mut server).code(), Some(1));
    let said = server.child().stderr();
    assert!(
        said.contains("srv: stopped, but requests were lost"),
        "{said}"
    );
    client.rest().ok();
}

#[test]
fn sigquit_waits_for_as_long_as_it_takes() {
    let (mut server, mut client) = serving(&["--grace", "1ms"], SHORT);
    signal(server.pid(), Signal::QUIT);
    assert_eq!(client.response().status(), 200);
    assert_eq!(assert_leaves_nothing(&mut server).code(), Some(0));
}

#[test]
fn a_second_sigint_hurries() {
    let (mut server, _client) = serving(&["--grace", "10min"], ENDLESS);
    signal(server.pid(), Signal::INT);
    server.child().await_line("stopping").unwrap();
    // As a person does to whom nothing seems to happen.
    until("the second one is heard", || {
        signal(server.pid(), Signal::INT);
        let said = server.child().stderr();
        said.contains("killing 1 worker").then_some(())
    });
    assert_eq!(assert_leaves_nothing(&mut server).code(), Some(1));
}

/// `timeout` signals its command, and then the command's process group. Here by two signals
/// that mean the same: the kernel does not merge them.
#[test]
fn two_signals_at_once_are_one_request() {
    let (mut server, mut client) = serving(&[], SHORT);
    signal(server.pid(), Signal::TERM);
    signal(server.pid(), Signal::INT);
    assert_eq!(client.response().status(), 200);
    assert_eq!(assert_leaves_nothing(&mut server).code(), Some(0));
}

#[test]
fn a_sigterm_after_a_sigquit_hurries() {
    let (mut server, _client) = serving(&[], ENDLESS);
    signal(server.pid(), Signal::QUIT);
    server.child().await_line("stopping").unwrap();
    signal(server.pid(), Signal::TERM);
    assert_eq!(assert_leaves_nothing(&mut server).code(), Some(1));
}

#[test]
fn a_stop_under_load_answers_all_that_was_accepted() {
    stop_under_load(Connections::PerRequest);
}

#[test]
fn a_stop_under_load_closes_kept_connections_between_requests() {
    stop_under_load(Connections::Pool(16));
}

fn stop_under_load(connections: Connections) {
    let mut server = serve().workers(4).synthetic().start();
    let load = Load {
        connections,
        timeout: Duration::from_secs(1),
        ..of_sleepers(server.address())
    };
    let draws = poisson(3, 500.0, Duration::from_millis(1_500), Service::Fixed(500));
    let run = std::thread::scope(|scope| {
        let running = scope.spawn(|| load.run(&draws).unwrap());
        until_group(&server, "the load is under way", |group| {
            group.totals.served >= 200
        });
        signal(server.pid(), Signal::TERM);
        assert_eq!(assert_leaves_nothing(&mut server).code(), Some(0));
        running.join().unwrap()
    });
    let count = |outcome| {
        run.records
            .iter()
            .filter(|record| record.outcome == outcome)
            .count()
    };
    assert!(count(Outcome::Ok) >= 200);
    let answered_no_more = count(Outcome::Connect) + count(Outcome::Timeout);
    // On a kept connection a request may cross the server's close on its way;
    // that is HTTP's own race, and at most one a connection.
    let crossed = match connections {
        Connections::PerRequest => 0,
        Connections::Pool(count) => count,
    };
    let broken = draws.len() - count(Outcome::Ok) - answered_no_more;
    assert!(broken <= crossed, "{broken} broken: {:?}", run.first_error);
}

#[test]
fn as_process_1_it_reaps_orphans() {
    gate::needs!(root);
    let folder = tempfile::tempdir().unwrap();
    // The shell leaves an orphan to its successor, and becomes srv.
    let script = "sh -c 'sleep 0.2 & :'; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "sh", "-c", script, "sh"]);
    command.arg(server::binary().unwrap());
    let mut server = serve()
        .workers(2)
        .with("--grace", "5s")
        .start_as(command, folder);
    let srv = until("srv runs", || only_child(server.pid()));
    until("only the workers are left", || {
        (children(srv).len() == 2).then_some(())
    });
    assert!(children(srv).iter().all(|child| state(*child) != Some('Z')));
    assert_eq!(get(server.address(), "/").status(), 200);
    signal(srv, Signal::TERM);
    assert_eq!(assert_leaves_nothing(&mut server).code(), Some(0));
}

fn only_child(of: Pid) -> Option<Pid> {
    let children = children(of);
    (children.len() == 1).then(|| children[0])
}

fn children(of: Pid) -> Vec<Pid> {
    let processes = procfs::process::all_processes().unwrap().flatten();
    let stats = processes.filter_map(|process| process.stat().ok());
    let of = of.as_raw_nonzero().get();
    stats
        .filter(|stat| stat.ppid == of)
        .filter_map(|stat| Pid::from_raw(stat.pid))
        .collect()
}

#[test]
fn a_server_is_one_process_and_its_workers() {
    let mut server = serve().workers(3).start();
    assert_eq!(Tree::of(server.pid()).unwrap().len(), 4);
    let workers = group(&server).workers;
    let mut processes: Vec<_> = workers.iter().map(pid).collect();
    processes.sort_by_key(|pid| pid.as_raw_nonzero());
    let mut children = children(server.pid());
    children.sort_by_key(|pid| pid.as_raw_nonzero());
    assert_eq!(processes, children);
    assert!(Path::exists(&server.control()));
    signal(server.pid(), Signal::TERM);
    assert_leaves_nothing(&mut server);
}

/// hyper by itself would close a connection of which it has read nothing.
#[test]
fn a_request_that_has_arrived_unread_is_answered() {
    let mut server = serve().workers(1).synthetic().start();
    let mut busy = Client::connect(server.address());
    busy.get(&format!("/work?sleep_us={}", SHORT.as_micros()));
    until_group(&server, "the request is in service", |group| {
        group.totals.running == 1
    });
    let mut kept = Client::connect(server.address());
    kept.get("/");
    let mut fresh = Client::connect(server.address());
    fresh.get("/");
    signal(server.pid(), Signal::TERM);
    server.child().await_line("stopping").unwrap();
    assert_eq!(busy.response().status(), 200);
    for mut client in [kept, fresh] {
        let response = client.response();
        assert_eq!(response.status(), 200);
        client.assert_closed();
    }
    assert_eq!(assert_leaves_nothing(&mut server).code(), Some(0));
}
