//! srv's own server if each handshake begins with a SYN cookie (`net.ipv4.tcp_syncookies=2`). The
//! kernel then keeps nothing of a SYN, and a connection is accepted from the listener that is chosen
//! for its ACK. Each test has a network of its own.
//!
//! If a request comes, on another CPU, before the kernel has made the connection of its ACK, it has a
//! run of the program, too, which counts as another connection until the next reconciliation
//! (tcp_v4_syn_recv_sock finds the duplicate). Therefore no test counts on exact numbers.

use srv::control::status::ProgramStatus;
use srv_tests::server::Server;

use crate::client::{Client, get};
use crate::gate;
use crate::network::{self, THIS, tcp_counter};
use crate::probe::{Stopped, group, pid, until, until_group, worker};
use crate::serve::serve;

const CONNECTIONS: u64 = 40;

/// Without the ring, so that no sibling accepts what the program gives to a worker.
#[test]
fn a_stopped_worker_is_steered_around() {
    gate::needs!(steer, root);
    network::set("tcp_syncookies", 2);
    let server = serve()
        .workers(3)
        .accept("own")
        // The master does not see that the worker is stopped. What waits has to tell.
        .with("--hang-after", "0s")
        .start();
    let stopped = Stopped::new(pid(&worker(&server, 1)));
    let clients: Vec<Client> = (1..=CONNECTIONS)
        .map(|nth| {
            let mut client = Client::connect(server.address());
            client.get("/");
            until_group(
                &server,
                "it is served or waits, and the others sleep",
                |group| {
                    let others = [&group.workers[0], &group.workers[2]];
                    let sleep = others.iter().all(|worker| worker.busy_us == 0);
                    sleep && group.totals.served + group.workers[1].waiting == nth
                },
            );
            client
        })
        .collect();
    // The first may have gone there, since the worker seemed to sleep. While it waits, no other does.
    let stopped_at = worker(&server, 1);
    assert!(stopped_at.steered <= 1, "{stopped_at:?}");
    drop(stopped);
    for mut client in clients {
        assert_eq!(client.response().status(), 200);
    }
    assert_eq!(tcp_counter(THIS, "SyncookiesRecv"), CONNECTIONS);
    let group = until_group(&server, "nothing waits", |group| group.totals.waiting == 0);
    assert!(group.program.steered >= CONNECTIONS, "{group:?}");
    assert_eq!(group.program.acks, 0);
    for worker in &group.workers {
        assert!(worker.steered >= worker.taken_own, "{worker:?}");
    }
}

/// The run at the SYN takes no turn. If it did, one of two workers would get each connection.
#[test]
fn round_robin_gives_each_worker_its_turns() {
    gate::needs!(steer, root);
    network::set("tcp_syncookies", 2);
    let server = serve()
        .workers(2)
        .accept("own")
        .policy("round-robin")
        .start();
    for _ in 0..20 {
        assert_eq!(get(server.address(), "/").status(), 200);
    }
    let own: Vec<u64> = group(&server)
        .workers
        .iter()
        .map(|worker| worker.taken_own)
        .collect();
    assert!(own.iter().all(|count| *count >= 5), "{own:?}");
}

#[test]
fn a_change_of_the_setting_is_followed() {
    gate::needs!(steer, root);
    let server = serve().workers(2).start();
    for setting in [2, 1, 2] {
        network::set("tcp_syncookies", setting);
        until("the program assigns each connection once", || {
            let (before, cookies) = (counts(&server), tcp_counter(THIS, "SyncookiesRecv"));
            assert_eq!(get(server.address(), "/").status(), 200);
            let (after, came_back) = (counts(&server), tcp_counter(THIS, "SyncookiesRecv"));
            let is_as_set = (came_back > cookies) == (setting == 2);
            let is_once = after.steered == before.steered + 1 && after.acks == before.acks;
            (is_as_set && is_once).then_some(())
        });
    }
    assert!(counts(&server).fallbacks.values().all(|count| *count == 0));
}

fn counts(server: &Server) -> ProgramStatus {
    group(server).program
}
