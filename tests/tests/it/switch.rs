//! Switching the policy of a running server.

use std::time::Duration;

use srv::measure::arrivals::{Service, poisson};

use crate::gate;
use crate::loaded::of_sleepers;
use crate::probe::{group, status, switch, until_group};
use crate::serve::serve;

#[test]
fn fifty_switches_under_load_lose_nothing() {
    gate::needs!(steer);
    let server = serve().workers(4).synthetic().start();
    let load = of_sleepers(server.address());
    let draws = poisson(1, 500.0, Duration::from_secs(2), Service::Fixed(500));
    let policies = srv_common::Policy::NAMED.map(|(name, _)| name);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| load.run(&draws).unwrap());
        for nth in 1..=50 {
            let policy = policies[nth % policies.len()];
            switch(&server, policy);
            assert_eq!(status(&server).policy, policy);
            let attached = group(&server).program.attached;
            assert_eq!(attached, policy != "hash", "{policy}");
            // Each policy gets its connections.
            let due = (nth * draws.len() / 60) as u64;
            until_group(&server, "requests were served", |group| {
                group.totals.served >= due
            });
        }
        let run = running.join().unwrap();
        assert_eq!(run.lost(), 0, "{:?}", run.first_error);
    });
    let group = group(&server);
    assert_eq!(group.totals.served, draws.len() as u64);
    let steered = group.program.steered;
    assert!(
        steered > 0 && steered < draws.len() as u64,
        "{steered} of {} steered",
        draws.len()
    );
}
