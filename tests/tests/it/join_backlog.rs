//! Two servers on one address, of which one is stopped while the other has more to say than
//! the channel between them takes: all of it arrives later, in order.

use rustix::process::Signal;
use srv_tests::server::Server;

use crate::client::get_many;
use crate::gate;
use crate::probe::{Stopped, asked, signal, status, switch, until};

#[test]
fn a_master_that_was_stopped_for_400_switches_has_the_last_policy_and_takes_over() {
    gate::needs!(steer);
    let arguments = ["--workers", "2", "--worker-header", "--hang-after", "0s"];
    let first = Server::start(arguments).unwrap();
    let mut second = first.start_joined(arguments).unwrap();
    until("all workers are ready", || {
        let workers = status(&first).groups.remove(0).workers;
        let are_ready = workers.iter().all(|worker| worker.state == "ready");
        (workers.len() == 4 && are_ready).then_some(())
    });
    let stopped = Stopped::new(second.pid());
    for policy in ["round-robin", "hash"].into_iter().cycle().take(400) {
        switch(&first, policy);
    }
    switch(&first, "random");
    // The last thing that it says: everything is the second's.
    signal(first.pid(), Signal::TERM);
    drop(stopped);
    let after = until("the second server has taken over", || {
        asked(&second).filter(|status| status.pid == second.pid().as_raw_nonzero().get() as u32)
    });
    assert_eq!(after.policy, "random");
    get_many(second.address(), 20);
    assert!(
        second
            .child()
            .stderr()
            .contains("goes on alone, and steers")
    );
    assert!(first.stop().unwrap().success());
}
