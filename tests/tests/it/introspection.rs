//! What a running server tells about itself, checked against the kernel.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use srv::control::{SocketStatus, Status};
use srv::measure::load::keep_alive::{KeepAlive, Opening};
use srv::output::json::SCHEMA;
use srv_tests::server::{Server, binary};

use crate::client::get;
use crate::gate;
use crate::probe::{Stopped, group, pid, sockets_beside, until_group, worker};
use crate::serve::serve;

fn said(server: &Server, arguments: &[&str]) -> String {
    let output = server.srv(arguments).unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn status_adds_up() {
    gate::needs!(steer);
    let server = serve().workers(3).start();
    let held = KeepAlive::open(server.address(), "/", 9, Opening::OneByOne).unwrap();
    get(server.address(), "/missing");
    until_group(&server, "the last one is closed", |group| {
        group.totals.active == 9
    });
    let status: Status = serde_json::from_str(&said(&server, &["status", "--json"])).unwrap();
    assert_eq!(status.pid, server.pid().as_raw_nonzero().get() as u32);
    let group = &status.groups[0];
    assert_eq!(group.listen, server.address());
    let totals = &group.totals;
    assert_eq!((totals.accepted, totals.active, totals.served), (10, 9, 10));
    assert_eq!((totals.running, totals.waiting), (0, 0));
    assert_eq!(group.program.steered, 10);
    for worker in &group.workers {
        assert_eq!((worker.state.name(), worker.starts), ("ready", 1));
        assert!(worker.refused.is_empty());
    }
    assert!(totals.active_max_over_mean >= 1.0);
    let text = said(&server, &["status"]);
    for part in [
        "steered by the BPF program",
        "policy least",
        "accept ring",
        "10 steered",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    drop(held);
}

/// The list in what `srv sockets --json` prints.
fn sockets_of(json: &str) -> Vec<SocketStatus> {
    let mut answer: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(answer["schema"], SCHEMA);
    serde_json::from_value(answer["sockets"].take()).unwrap()
}

#[test]
fn sockets_are_those_that_the_kernel_knows() {
    let server = serve().workers(2).with("--backlog", "77").start();
    let sockets = said(&server, &["sockets", "--json"]);
    let sockets = sockets_of(&sockets);
    assert_eq!(sockets.len(), 2);
    for (slot, socket) in sockets.iter().enumerate() {
        assert_eq!(
            (socket.slot, socket.listen),
            (Some(slot as u32), server.address())
        );
        let pid = socket.pid.expect("a worker serves it");
        assert_eq!(pid, worker(&server, slot as u32).pid);
        let fd = socket.fd.expect("the worker has it");
        let link = std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
        assert_eq!(link.to_str().unwrap(), format!("socket:[{}]", socket.inode));
        assert_eq!((socket.recv_q, socket.backlog), (0, 77));
    }
    assert_ne!(sockets[0].cookie, sockets[1].cookie);
    let listening = sockets_beside(&server);
    let inodes: Vec<_> = listening
        .iter()
        .filter(|entry| entry.local_address == server.address())
        .map(|entry| entry.inode)
        .collect();
    assert!(
        sockets.iter().all(|socket| inodes.contains(&socket.inode)),
        "{inodes:?}"
    );
    let text = said(&server, &["sockets"]);
    assert!(
        text.contains(&format!("sk:{:x}", sockets[1].cookie)),
        "{text}"
    );
}

#[test]
fn what_waits_is_shown() {
    gate::needs!(steer);
    let server = serve().workers(1).start();
    let stopped = Stopped::new(pid(&worker(&server, 0)));
    let mut clients: Vec<_> = (0..3)
        .map(|_| crate::client::Client::connect(server.address()))
        .collect();
    clients.iter_mut().for_each(|client| client.get("/"));
    until_group(&server, "three wait", |group| group.workers[0].waiting == 3);
    let sockets = said(&server, &["sockets", "--json"]);
    let sockets = sockets_of(&sockets);
    assert_eq!(sockets[0].recv_q, 3);
    drop(stopped);
    clients
        .iter_mut()
        .for_each(|client| assert_eq!(client.response().status(), 200));
    assert_eq!(group(&server).totals.waiting, 0);
}

#[test]
fn policy_says_what_it_was() {
    gate::needs!(steer);
    let server = serve().workers(2).start();
    assert_eq!(
        said(&server, &["policy", "source"]),
        "policy: source (was least)\n"
    );
    let refused = server.srv(&["policy", "lest"]).unwrap();
    assert!(!refused.status.success());
    assert!(
        String::from_utf8(refused.stderr)
            .unwrap()
            .contains("p2c, least")
    );
    assert_eq!(server.status().unwrap().policy, "source");
}

#[test]
fn the_control_socket_is_its_users_alone() {
    let server = serve().workers(1).start();
    let mode = std::fs::metadata(server.control())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn nonsense_on_the_control_socket_is_refused() {
    use std::io::{Read as _, Write as _};
    let server = serve().workers(1).start();
    for nonsense in [
        "hello\n".as_bytes(),
        &[b'x'; 10_000],
        b"\xff\n",
        b"{\"policy\":\"lest\"}\n",
    ] {
        let mut stream = std::os::unix::net::UnixStream::connect(server.control()).unwrap();
        // It may hang up before the end of what is too long.
        let _ = stream.write_all(nonsense);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!String::from_utf8_lossy(&answer).contains("done"));
    }
    server.status().unwrap();
}

#[test]
fn doctor_knows_whether_it_can_steer() {
    let output = Command::new(binary().unwrap())
        .args(["doctor", "--json"])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["serves"], true);
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() > 5);
    for check in checks {
        let verdict = check["verdict"].as_str().unwrap();
        assert!(["ok", "missing", "degraded"].contains(&verdict), "{check}");
        assert_eq!(verdict == "ok", check["mend"].is_null(), "{check}");
    }
    if gate::steer() {
        assert_eq!(report["steers"], true, "{report:#}");
    }
    let text = Command::new(binary().unwrap())
        .arg("doctor")
        .output()
        .unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    for check in checks {
        assert!(
            text.contains(check["name"].as_str().unwrap()),
            "{check} in:\n{text}"
        );
    }
}
