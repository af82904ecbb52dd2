//! The accept modes: all of them serve.

use srv_tests::server::Server;

use crate::client::{Client, get};
use crate::probe::{group, status};
use crate::serve::serve;

fn serves(accept: &str) -> Server {
    let server = serve().accept(accept).workers(3).worker_header().start();
    assert_eq!(status(&server).accept, accept);
    let mut client = Client::connect(server.address());
    for _ in 0..3 {
        client.get("/");
        assert_eq!(client.response().status(), 200);
    }
    // Held, or a worker in blocking mode would take no other.
    for _ in 0..30 {
        assert_eq!(get(server.address(), "/").status(), 200);
    }
    drop(client);
    let group = group(&server);
    assert_eq!((group.totals.accepted, group.totals.served), (31, 33));
    server
}

#[test]
fn ring() {
    serves("ring");
}

#[test]
fn own() {
    let server = serves("own");
    assert!(
        group(&server)
            .workers
            .iter()
            .all(|worker| worker.taken_stolen == 0)
    );
}

#[test]
fn shared() {
    assert_unsteered(&serves("shared"));
}

#[test]
fn shared_herd() {
    assert_unsteered(&serves("shared-herd"));
}

#[test]
fn blocking() {
    assert_unsteered(&serves("blocking"));
}

fn assert_unsteered(server: &Server) {
    let program = group(server).program;
    assert!(!program.attached && program.runs == 0);
    assert!(program.why_not.unwrap().contains("one socket"));
    assert_eq!(status(server).policy, "hash");
}

#[test]
fn a_policy_is_refused_where_there_is_nothing_to_choose_between() {
    let server = serve().accept("shared").workers(2).start();
    let output = server.srv(&["policy", "least"]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("least") && said.contains("one socket"),
        "{said}"
    );
}
