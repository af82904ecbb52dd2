//! Slowloris: thousands of connections whose request headers trickle in and
//! never end. Others are answered all the while, and they are closed in time.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use srv::measure::arrivals::{Service, poisson};
use srv::measure::load::Load;
use srv_tests::slowloris::Slowloris;

use crate::gate;
use crate::probe::{group, open_files, pid, refused, until_group};
use crate::serve::serve;

const CONNECTIONS: usize = 5_000;

/// Honest requests for a second; none is lost.
fn assert_others_are_answered(target: SocketAddr) {
    let load = Load {
        timeout: Duration::from_secs(20),
        ..Load::get(target, "/work?sleep_us={us}")
    };
    let draws = poisson(6, 500.0, Duration::from_secs(1), Service::Fixed(100));
    let run = load.run(&draws).unwrap();
    assert_eq!(run.records.len(), draws.len());
    assert_eq!(run.lost(), 0, "{:?}", run.first_error);
}

#[test]
fn five_thousand_trickling_headers_stop_nobody_and_are_stopped() {
    gate::needs!("hold 5,000 connections": &Slowloris::make_room(CONNECTIONS));
    let serve = serve().workers(2).synthetic();
    let server = serve.with("--header-timeout", "12s").start();
    let workers = group(&server).workers;
    let files = || workers.iter().map(|worker| open_files(pid(worker)));
    let before: Vec<_> = files().collect();
    let mut slowloris = Slowloris::open(server.address(), CONNECTIONS).unwrap();
    std::thread::scope(|scope| {
        let trickling = scope.spawn(|| {
            slowloris.trickle(&AtomicBool::new(false));
            slowloris.told()
        });
        until_group(&server, "all of them are open", |group| {
            group.totals.active >= CONNECTIONS as u64
        });
        assert_others_are_answered(server.address());
        assert_eq!(refused(&server, "timeout"), 0, "they were there meanwhile");
        assert_eq!(trickling.join().unwrap(), CONNECTIONS, "told 408");
    });
    assert_eq!(refused(&server, "timeout"), CONNECTIONS as u64);
    until_group(&server, "all are closed", |group| group.totals.active == 0);
    assert_eq!(files().collect::<Vec<_>>(), before);
}
