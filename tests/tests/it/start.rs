//! What keeps a server from starting: one line that says so, exit code 1, and
//! nothing left behind.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use srv_tests::server::binary;

use crate::attach_refusals::listening;
use crate::client::{Client, get};
use crate::gate;
use crate::serve::serve;

/// What `srv serve` says when it refuses to start.
fn refusal<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control");
    let mut command = Command::new(binary().unwrap());
    command
        .arg("serve")
        .arg("--control")
        .arg(&control)
        .args(arguments);
    let said = refusal_of(&mut command);
    assert!(!control.exists(), "it left its control socket");
    said
}

fn refusal_of(command: &mut Command) -> String {
    // A worker left behind would keep the pipes open, and this waiting.
    let output = command.env("NO_COLOR", "1").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "one line: {said}");
    assert!(said.starts_with("srv: "), "{said}");
    assert!(output.stdout.is_empty());
    said
}

fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
}

#[test]
fn a_port_that_another_process_has() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let said = refusal(["--listen", &address]);
    assert_says(&said, &[&address, "in use", "ss -ltnp"]);
    assert!(!said.contains("would have let"), "{said}");
}

/// The kernel itself would let a process of the same user join the group.
#[test]
fn a_port_that_another_srv_has() {
    let other = serve().workers(2).start();
    let address = other.address().to_string();
    let parts = [
        &address,
        "in use",
        "the kernel would have let this server listen there",
        "same user",
    ];
    assert_says(&refusal(["--listen", &address]), &parts);
    for _ in 0..20 {
        assert_eq!(get(other.address(), "/").status(), 200);
    }
}

#[test]
fn a_second_address_that_cannot_be_had() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    refusal(["--listen", "127.0.0.1:0", "--listen", &address]);
}

#[test]
fn an_address_that_is_not_this_machines() {
    // TEST-NET-1 (RFC 5737).
    assert_says(
        &refusal(["--listen", "192.0.2.1:0"]),
        &["192.0.2.1:0", "ip address"],
    );
}

#[test]
fn a_root_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let refused = |root: &Path| refusal([OsStr::new("--root"), root.as_os_str()]);
    assert_says(&refused(&missing), &["--root", "missing"]);
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert_says(&refused(&file), &["--root", "file"]);
}

#[test]
fn a_policy_that_nothing_could_carry_out() {
    assert_says(
        &refusal(["--policy", "least", "--no-bpf"]),
        &["least", "no-bpf"],
    );
    for accept in ["shared", "shared-herd", "blocking"] {
        let said = refusal(["--policy", "least", "--accept", accept]);
        assert_says(&said, &["least", accept]);
    }
}

#[test]
fn a_config_file_that_makes_no_sense() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("srv.toml");
    let refused = |text: &str| {
        std::fs::write(&file, text).unwrap();
        refusal([OsStr::new("--config"), file.as_os_str()])
    };
    assert_says(
        &refused("workers = 2\nworkres = 3\n"),
        &["srv.toml:2:1: ", "workres"],
    );
    assert_says(
        &refused("\n\npolicy = \"lest\"\n"),
        &["srv.toml:3:10: ", "lest"],
    );
    assert_says(
        &refused("[limits]\nconnections = -1\n"),
        &["srv.toml:2:15: "],
    );
    assert_says(&refused("workers = \n"), &["srv.toml:1:"]);
    let missing = folder.path().join("missing.toml");
    let said = refusal([OsStr::new("--config"), missing.as_os_str()]);
    assert_says(&said, &["missing.toml", "No such file"]);
}

#[test]
fn a_control_socket_that_another_server_answers_on() {
    let other = serve().workers(1).start();
    let mut command = Command::new(binary().unwrap());
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--control"])
        .arg(other.control());
    assert_says(&refusal_of(&mut command), &["another server", "--control"]);
    assert!(other.control().exists());
    other.status().unwrap();
}

#[test]
fn a_stale_control_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    // A socket that nobody listens on is what a killed server leaves.
    drop(UnixListener::bind(folder.path().join("control")).unwrap());
    let binary = Command::new(binary().unwrap());
    let server = serve().workers(1).start_as(binary, folder);
    server.status().unwrap();
}

#[test]
fn several_addresses_of_both_families() {
    gate::needs!("use IPv6": &TcpListener::bind("[::1]:0"));
    let server = serve()
        .workers(2)
        .listen("127.0.0.1:0")
        .listen("[::1]:0")
        .listen("127.0.0.1:0")
        .start();
    let addresses = server.addresses();
    assert!(addresses[0].is_ipv4() && addresses[1].is_ipv6() && addresses[2].is_ipv4());
    assert_ne!(addresses[0], addresses[2]);
    let mut clients: Vec<_> = addresses
        .iter()
        .map(|address| Client::connect(*address))
        .collect();
    for client in &mut clients {
        client.get("/");
        assert_eq!(client.response().status(), 200);
    }
    let status = server.status().unwrap();
    assert_eq!(
        status
            .groups
            .iter()
            .map(|group| group.listen)
            .collect::<Vec<_>>(),
        addresses
    );
    for group in &status.groups {
        assert_eq!(group.totals.accepted, 1, "each group counts its own");
        assert_eq!(group.program.steered, u64::from(group.program.attached));
    }
}

#[test]
fn flags_win_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("srv.toml");
    std::fs::write(&file, "workers = 3\nno-bpf = true\nsynthetic = true\n").unwrap();
    let server = serve().config(&file).workers(2).start();
    let status = server.status().unwrap();
    assert_eq!(
        (status.groups[0].workers.len(), status.policy.name()),
        (2, "hash")
    );
    assert_eq!(get(server.address(), "/work").status(), 200);
}

/// Its file descriptor 3 may be anything, or nothing.
#[test]
fn a_worker_that_is_started_by_hand_says_what_it_is() {
    let binary = binary().unwrap();
    for redirection in ["3<&-", "3</dev/null"] {
        let script = format!("exec {} worker {redirection}", binary.display());
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("run `srv serve`"), "{said}");
    }
}

#[test]
fn an_address_that_another_one_includes() {
    let both = ["127.0.0.1:7", "0.0.0.0:7"];
    for [first, second] in [both, [both[1], both[0]]] {
        let said = refusal(["--listen", first, "--listen", second]);
        assert_says(&said, &["--listen", "0.0.0.0:7 includes 127.0.0.1:7"]);
        assert!(!said.contains("ss -ltnp"), "{said}");
    }
    let families = [
        "--listen",
        "0.0.0.0:7",
        "--listen",
        "[::]:7",
        "--v6-only=false",
    ];
    assert_says(&refusal(families), &["[::]:7 includes 0.0.0.0:7"]);
}

/// The kernel would have let this server listen there, but that does not mean that srv is there.
#[test]
fn a_port_whose_server_is_not_srv() {
    let (_sockets, address) = listening(1);
    let said = refusal(["--listen", &address.to_string()]);
    let this = format!("process {}", std::process::id());
    assert_says(&said, &["in use", &this, "srv attach --listen"]);
    assert!(!said.contains("--join"), "{said}");
}

/// It is said, and the server serves.
#[test]
fn what_this_machine_will_not_give() {
    let mut command = Command::new("prlimit");
    command.arg("--nofile=1024:1024").arg(binary().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut server = serve()
        .workers(1)
        .with("--fast-open", "16")
        .with("--connections", "5000")
        .start_as(command, folder);
    let said = server.child().stderr();
    assert_says(&said, &["connections at most, not 5000", "1024"]);
    let sysctl = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen").unwrap();
    let is_on = sysctl.trim().parse::<u32>().unwrap() & 2 != 0;
    assert_eq!(
        said.contains("--fast-open 16 has no effect"),
        !is_on,
        "{said}"
    );
    assert_eq!(get(server.address(), "/").status(), 200);
}
