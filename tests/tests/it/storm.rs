//! Workers that are killed again and again under load, and workers that cannot
//! start. Every request is accounted for: answered, or in service on a victim.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use srv::measure::arrivals::{Service, poisson};
use srv::measure::load::Outcome;
use srv_tests::server::Server;

use crate::client::get;
use crate::gate;
use crate::loaded::of_sleepers;
use crate::probe::{Stopped, endurance, group, open_files, pid, signal, until_group, worker};
use crate::serve::serve;

const WORKERS: &str = "4";
const KILL_EVERY: Duration = Duration::from_millis(500);

#[test]
fn a_worker_killed_every_500_ms_loses_only_what_was_in_service_on_it() {
    gate::needs!(steer);
    let server = serve().workers(WORKERS).synthetic().start();
    // What a worker has open without any connection.
    let own_files = open_files(pid(&worker(&server, 0)));
    let load = of_sleepers(server.address());
    let lasts = endurance(Duration::from_secs(3), Duration::from_secs(30));
    let draws = poisson(5, 300.0, lasts, Service::Fixed(5_000));
    let (run, victims) = std::thread::scope(|scope| {
        let running = scope.spawn(|| load.run(&draws).unwrap());
        let mut victims = Vec::new();
        let begin = Instant::now();
        while !running.is_finished() {
            victims.push(kill_one(&server, victims.len(), own_files));
            // Between two kills there is to be load; nothing awaits this instant.
            let due = begin + KILL_EVERY * victims.len() as u32;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        (running.join().unwrap(), victims)
    });
    assert!(victims.len() >= endurance(4, 40), "{} kills", victims.len());
    assert_eq!(run.records.len(), draws.len());
    let in_service: usize = victims.iter().sum();
    let lost = run
        .records
        .iter()
        .filter(|record| record.outcome != Outcome::Ok);
    let lost: Vec<_> = lost.map(|record| record.outcome).collect();
    println!(
        "{} requests, {} kills: {in_service} in service on victims, {} lost",
        draws.len(),
        victims.len(),
        lost.len()
    );
    assert!(
        lost.len() <= in_service,
        "{lost:?} lost, {in_service} in service: {:?}",
        run.first_error
    );
    let resets = lost.iter().filter(|outcome| **outcome == Outcome::Reset);
    assert_eq!(resets.count(), lost.len(), "{lost:?}");
    until_group(&server, "all are back", |group| {
        group.workers.iter().all(|worker| worker.state == "ready")
    });
}

/// Kills a ready worker; how many connections it had accepted and not closed.
fn kill_one(server: &Server, nth: usize, own_files: usize) -> usize {
    let group = until_group(server, "somebody is ready", |group| {
        group.workers.iter().any(|worker| worker.state == "ready")
    });
    let ready: Vec<_> = group
        .workers
        .iter()
        .filter(|worker| worker.state == "ready")
        .collect();
    // Any, in an order without a period of the number of workers.
    let victim = ready[((nth * 7919) >> 3) % ready.len()];
    let stopped = Stopped::new(pid(victim));
    let in_service = open_files(pid(victim)).saturating_sub(own_files);
    signal(pid(victim), Signal::KILL);
    drop(stopped);
    until_group(server, "its death is known", |group| {
        group.workers[victim.slot as usize].pid != victim.pid
    });
    in_service
}

#[test]
fn a_worker_that_cannot_start_is_tried_less_and_less_often_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let [root, aside] = ["root", "aside"].map(|name| folder.path().join(name));
    std::fs::create_dir(&root).unwrap();
    let mut server = serve().workers(3).synthetic().root(&root).start();
    std::fs::rename(&root, &aside).unwrap();
    let before = group(&server);
    signal(pid(&before.workers[1]), Signal::KILL);
    for wait in ["0ns", "100ms", "200ms", "400ms"] {
        let died = server.child().await_line("worker died").unwrap();
        assert!(
            died.contains(&format!("the next starts in {wait}")),
            "{died}"
        );
        assert_eq!(get(server.address(), "/work?sleep_us=1").status(), 200);
    }
    // Five in all: the first, and one after each of the four waits at most.
    let starts = worker(&server, 1).starts;
    assert!((4..=5).contains(&starts), "{starts} starts");
    // The same folder: another would be served by other workers.
    std::fs::rename(&aside, &root).unwrap();
    let after = until_group(&server, "it starts again", |group| {
        group.workers[1].state == "ready"
    });
    for slot in [0, 2] {
        assert_eq!(after.workers[slot].pid, before.workers[slot].pid);
    }
}
