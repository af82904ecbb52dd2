//! Workers that are stuck: they get no new connections, what came for them is
//! taken by their siblings, and they may be replaced.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::Signal;
use srv::control::status::GroupStatus;
use srv::measure::arrivals::{Service, poisson};
use srv::measure::load::Run;

use crate::client::{Client, get};
use crate::gate;
use crate::loaded::of_sleepers;
use crate::probe::{Stopped, endurance, group, open_files, pid, signal, until_group, worker};
use crate::serve::serve;

/// Half of what four workers can do, for a moment or for 5 s.
fn half_load(target: SocketAddr) -> Run {
    let lasts = endurance(Duration::from_millis(1_500), Duration::from_secs(5));
    let draws = poisson(4, 400.0, lasts, Service::Fixed(5_000));
    let run = of_sleepers(target).run(&draws).unwrap();
    assert_eq!(run.records.len(), draws.len());
    run
}

fn stolen(group: &GroupStatus) -> u64 {
    group.workers.iter().map(|worker| worker.taken_stolen).sum()
}

#[test]
fn a_worker_stopped_in_its_sleep_keeps_nobody_waiting() {
    for policy in ["least", "round-robin", "hash"] {
        stopped_asleep(policy);
    }
}

fn stopped_asleep(policy: &str) {
    gate::needs!(steer);
    let server = serve().workers(4).synthetic().policy(policy).start();
    let before = until_group(&server, "all sleep", |group| {
        group.workers.iter().all(|worker| worker.busy_us == 0)
    });
    let victim = &before.workers[2];
    let stopped = Stopped::new(pid(victim));
    // It had nothing: while it is stopped, everything is answered.
    let run = half_load(server.address());
    assert_eq!(run.lost(), 0, "{:?}", run.first_error);
    let after = group(&server);
    let now = &after.workers[2];
    assert_eq!(now.state, "hung");
    assert_eq!((now.pid, now.taken_own, now.served), (victim.pid, 0, 0));
    assert_eq!(now.waiting, 0, "its queue is drained");
    // The hash went on choosing it, the program stopped to.
    let came = now.steered.max(1);
    assert!(
        stolen(&after) >= came,
        "{} stolen of {came}",
        stolen(&after)
    );
    if policy != "hash" {
        let fair = run.records.len() as u64 / 4;
        assert!(
            (1..fair / 2).contains(&now.steered),
            "{} steered",
            now.steered
        );
    }
    drop(stopped);
    until_group(&server, "it is itself again", |group| {
        group.workers[2].state == "ready"
    });
}

#[test]
fn a_worker_stopped_at_work_keeps_only_its_own_requests_waiting() {
    gate::needs!(steer);
    let server = serve().workers(4).synthetic().start();
    let own_files = open_files(pid(&worker(&server, 1)));
    let target = server.address();
    std::thread::scope(|scope| {
        let running = scope.spawn(move || half_load(target));
        until_group(&server, "the load is under way", |group| {
            group.totals.served > 100
        });
        let victim = worker(&server, 1);
        let stopped = Stopped::new(pid(&victim));
        let kept = open_files(pid(&victim)).saturating_sub(own_files) as u64;
        let hung = until_group(&server, "it is found out", |group| {
            group.workers[1].state == "hung"
        });
        let until = hung.totals.served + 150;
        let later = until_group(&server, "the others go on", |group| {
            group.totals.served >= until
        });
        let (then, now) = (&hung.workers[1], &later.workers[1]);
        assert_eq!(now.steered, then.steered, "it gets no new connections");
        assert_eq!(
            now.taken_own + now.taken_stolen,
            then.taken_own + then.taken_stolen
        );
        // Everything that has come is answered or in service, but for its own.
        let rest = until_group(&server, "the load is over but for its own", |group| {
            let others = group.workers.iter().filter(|worker| worker.slot != 1);
            group.totals.waiting == 0 && others.map(|worker| worker.active).sum::<u32>() == 0
        });
        // It may have been stopped as it returned from a close that it had yet to publish.
        assert!(u64::from(rest.workers[1].active) <= kept + 1);
        drop(stopped);
        let run = running.join().unwrap();
        assert_eq!(run.lost(), 0, "{:?}", run.first_error);
    });
}

#[test]
fn a_worker_that_hangs_for_too_long_is_replaced() {
    let mut server = serve()
        .workers(2)
        .synthetic()
        .with("--hang-kill", "400ms")
        .start();
    let before = group(&server);
    let mut client = Client::connect(server.address());
    client.get("/work?sleep_us=60000000");
    server
        .child()
        .await_line("killing a worker that has stalled")
        .unwrap();
    client
        .ended_or_response()
        .expect_err("its worker was killed");
    let after = until_group(&server, "it is replaced", |group| {
        group.workers.iter().all(|worker| worker.state == "ready")
            && group.workers.iter().any(|worker| worker.starts == 2)
    });
    let slot = after
        .workers
        .iter()
        .position(|worker| worker.starts == 2)
        .unwrap();
    let kills: Vec<_> = after
        .workers
        .iter()
        .map(|worker| worker.hang_kills)
        .collect();
    assert_eq!((kills[slot], kills[1 - slot]), (1, 0));
    assert_eq!(after.workers[1 - slot].pid, before.workers[1 - slot].pid);
    assert_eq!(get(server.address(), "/").status(), 200);
    let said = server.srv(&["status"]).unwrap().stdout;
    assert!(String::from_utf8_lossy(&said).contains("killed because they stalled: 1"));
}

/// Master and workers stand still for longer than a worker may hang, as they do when their
/// cgroup is frozen or a container is paused. The master goes on first: it finds a worker
/// that has been in a request for all that time, and was not stuck.
#[test]
fn a_server_that_was_frozen_kills_no_worker() {
    const HANG_KILL: Duration = Duration::from_secs(2);
    let server = serve()
        .workers(2)
        .synthetic()
        .with("--hang-kill", "2s")
        .start();
    let mut client = Client::connect(server.address());
    client.get("/work?sleep_us=500000");
    let running = |group: &GroupStatus| group.workers.iter().position(|worker| worker.running == 1);
    let before = until_group(&server, "a request is in service", |group| {
        running(group).is_some()
    });
    let master = Stopped::new(server.pid());
    let workers = [0, 1].map(|slot| Stopped::new(pid(&before.workers[slot])));
    std::thread::sleep(2 * HANG_KILL);
    drop(master);
    let busy = running(&before).unwrap();
    until_group(&server, "the master has looked at its workers", |group| {
        group.workers[busy].state == "hung"
    });
    drop(workers);
    assert_eq!(client.response().status(), 200);
    let after = group(&server);
    for worker in &after.workers {
        assert_eq!((worker.starts, worker.hang_kills), (1, 0), "{worker:?}");
    }
}

/// The same of a second server, whose first tells it which of its workers hang, and goes on
/// to while the second stands still.
#[test]
fn a_joined_server_that_was_frozen_kills_no_worker() {
    const HANG_KILL: Duration = Duration::from_secs(2);
    let first = serve().workers(1).synthetic().start();
    let arguments = ["--workers", "1", "--synthetic", "--hang-kill", "2s"];
    let mut second = first.start_joined(arguments).unwrap();
    let before = until_group(&first, "both workers are ready", |group| {
        group.workers.len() == 2 && group.workers.iter().all(|worker| worker.state == "ready")
    });
    let theirs = &before.workers[1];
    assert!(theirs.joined, "{theirs:?}");
    let master = Stopped::new(second.pid());
    let worker = Stopped::new(pid(theirs));
    // Some come to the stopped worker, and its sibling takes them.
    until_group(&first, "the first finds out", |group| {
        assert_eq!(get(first.address(), "/").status(), 200);
        group.workers[1].state == "hung"
    });
    std::thread::sleep(2 * HANG_KILL);
    drop(master);
    drop(worker);
    until_group(&first, "it is itself again", |group| {
        group.workers[1].state == "ready"
    });
    // By its end it has read all that the first had said.
    signal(second.pid(), Signal::TERM);
    second.child().await_exit().unwrap();
    let said = second.child().stderr();
    assert!(!said.contains("killing a worker"), "{said}");
}

#[test]
fn a_worker_is_not_killed_unless_that_was_asked_for() {
    let server = serve().workers(2).synthetic().start();
    let mut client = Client::connect(server.address());
    client.get("/work?sleep_us=1000000");
    until_group(&server, "it hangs", |group| {
        group.workers.iter().any(|worker| worker.state == "hung")
    });
    assert_eq!(client.response().status(), 200);
    assert!(
        group(&server)
            .workers
            .iter()
            .all(|worker| worker.starts == 1)
    );
}

/// The kind is a connection that is always ready. It kept its worker from `epoll_wait` for as
/// long as it had something to do, which was taken for being stuck.
#[test]
fn a_worker_that_is_kept_busy_by_one_connection_is_not_killed() {
    const REQUESTS: usize = 8_000;
    const REQUEST: &str = "GET /work?sleep_us=400 HTTP/1.1\r\nHost: h\r\n\r\n";
    let server = serve()
        .workers(1)
        .synthetic()
        .with("--hang-kill", "1s")
        .start();
    let mut connection = TcpStream::connect(server.address()).unwrap();
    let mut sender = connection.try_clone().unwrap();
    // More than three times as long as the worker may be stuck.
    let sending = std::thread::spawn(move || sender.write_all(REQUEST.repeat(REQUESTS).as_bytes()));
    let (mut answered, mut buffer, mut rest) = (0, vec![0; 64 << 10], Vec::new());
    while answered < REQUESTS {
        let count = connection.read(&mut buffer).unwrap();
        assert!(count > 0, "closed after {answered} answers");
        rest.extend_from_slice(&buffer[..count]);
        const STATUS: &[u8] = b"HTTP/1.1 200";
        answered += rest
            .windows(STATUS.len())
            .filter(|at| *at == STATUS)
            .count();
        rest.drain(..rest.len().saturating_sub(STATUS.len() - 1));
    }
    sending.join().unwrap().unwrap();
    let worker = &group(&server).workers[0];
    assert_eq!((worker.starts, worker.hang_kills), (1, 0), "{worker:?}");
}
