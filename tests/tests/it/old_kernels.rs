//! What srv says on a kernel that is too old, and what it does there all the same:
//! each call fails as it does on a kernel that does not know it (seccomp in the child).

use std::process::{Command, Output};

use srv::control::attached::Signal;
use srv_tests::old_kernel::{Lacking, lack};
use srv_tests::server;

use crate::agent::{Agent, answered_by, nginx, said, srv};
use crate::gate;
use crate::serve::serve;

const BPF_MAP_CREATE: u64 = 0;
const BPF_PROG_LOAD: u64 = 5;
const BPF_RAW_TRACEPOINT_OPEN: u64 = 17;
const BPF_LINK_CREATE: u64 = 28;
const SO_COOKIE: i32 = 57;
const SO_ATTACH_REUSEPORT_EBPF: i32 = 52;
const SO_DETACH_REUSEPORT_BPF: i32 = 68;

/// `srv` on a kernel that lacks these.
fn srv_without(lacking: &[Lacking]) -> Command {
    let mut command = srv();
    lack(&mut command, lacking);
    command
}

/// It failed, and said all of this on one line.
#[track_caller]
fn assert_refuses(output: &Output, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for part in parts {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
}

/// No sock_diag: `EPROTONOSUPPORT`.
fn no_sock_diag() -> Lacking {
    Lacking {
        call: libc::SYS_socket,
        argument: Some((2, libc::NETLINK_SOCK_DIAG as u64)),
        errno: libc::EPROTONOSUPPORT,
    }
}

#[test]
fn attach_says_what_was_tried_and_since_when_it_works() {
    let Some(nginx) = nginx(2) else { return };
    let address = nginx.address().to_string();
    let of_sockets = |option| Lacking::socket_option(libc::SYS_setsockopt, option);
    let loading = [
        "load the program for attached servers",
        "Linux 5.12",
        "this is Linux",
    ];
    let (unknown, invalid) = ("Function not implemented", "Invalid argument");
    for (lacking, parts) in [
        (
            Lacking::call(libc::SYS_pidfd_open),
            vec![
                "take a socket from process",
                "(nginx)",
                unknown,
                "Linux 5.6",
            ],
        ),
        (
            Lacking::call(libc::SYS_pidfd_getfd),
            vec!["pidfd_getfd", unknown, "Linux 5.6"],
        ),
        (
            Lacking::socket_option(libc::SYS_getsockopt, SO_COOKIE),
            vec!["SO_COOKIE", "Protocol not available", "Linux 4.12"],
        ),
        (
            of_sockets(SO_ATTACH_REUSEPORT_EBPF),
            vec![
                "attach the select program",
                "Protocol not available",
                "Linux 4.19",
            ],
        ),
        (
            no_sock_diag(),
            vec!["sock_diag", "Protocol not supported", "Linux 3.3"],
        ),
        (
            Lacking::call(libc::SYS_bpf),
            [&loading[..], &[unknown]].concat(),
        ),
        (
            Lacking::bpf(BPF_MAP_CREATE),
            [&loading[..], &["create map", invalid]].concat(),
        ),
        (Lacking::bpf(BPF_PROG_LOAD), loading.to_vec()),
    ] {
        let mut command = srv_without(&[lacking]);
        let output = command.args(["attach", "--listen", &address]).output();
        assert_refuses(&output.unwrap(), &parts);
        let detached = said(&format!("detach --listen {address}"));
        assert!(
            detached.contains("nothing was attached"),
            "{lacking:?}: {detached}"
        );
    }
}

#[test]
fn detach_says_since_when_it_works() {
    let Some(nginx) = nginx(2) else { return };
    let address = nginx.address().to_string();
    said(&format!("attach --once --listen {address}"));
    let lacking = Lacking::socket_option(libc::SYS_setsockopt, SO_DETACH_REUSEPORT_BPF);
    let mut command = srv_without(&[lacking]);
    let output = command.args(["detach", "--listen", &address]).output();
    let parts = ["detach the program", "Protocol not available", "Linux 5.3"];
    assert_refuses(&output.unwrap(), &parts);
    let detached = said(&format!("detach --listen {address}"));
    assert!(
        detached.ends_with("detached, the kernel's hash chooses\n"),
        "{detached}"
    );
}

/// As where a kernel has no tracepoints for programs.
#[test]
fn a_signal_that_the_kernel_cannot_give_is_named_and_the_others_steer() {
    let Some(nginx) = nginx(2) else { return };
    let srv = srv_without(&[BPF_RAW_TRACEPOINT_OPEN, BPF_LINK_CREATE].map(Lacking::bpf));
    let mut agent = Agent::attach_as(srv, nginx.address(), &[]);
    answered_by(nginx.address(), 20);
    let status = agent.status();
    let signals = status.signals.expect("the agent tells");
    assert_eq!(signals["queues"], Signal::Known);
    assert_eq!(signals["sleep"], Signal::Known);
    let Signal::Missing(why) = &signals["live"] else {
        panic!("live is known: {signals:?}")
    };
    assert!(
        why.contains("inet_sock_set_state") && why.contains("Invalid argument"),
        "{why}"
    );
    let steered: u64 = status
        .listeners
        .iter()
        .filter_map(|each| each.steered)
        .sum();
    assert_eq!(steered, 20);
    assert_eq!(agent.stop().code(), Some(0));
}

#[test]
fn a_server_that_cannot_steer_serves_and_says_why() {
    gate::needs!(steer);
    for lacking in [
        Lacking::call(libc::SYS_bpf),
        Lacking::bpf(BPF_MAP_CREATE),
        Lacking::bpf(BPF_PROG_LOAD),
    ] {
        let mut command = Command::new(server::binary().unwrap());
        lack(&mut command, &[lacking]);
        let folder = tempfile::tempdir().unwrap();
        let server = serve().workers(2).synthetic().start_as(command, folder);
        assert_eq!(crate::client::get(server.address(), "/work").status(), 200);
        let group = server.status().unwrap().groups.swap_remove(0);
        let why = group.program.why_not.expect("it does not steer");
        assert!(!group.program.attached);
        assert!(why.contains("needs Linux 5.12 or newer"), "{why}");
        assert_eq!(why.lines().count(), 1, "{why}");
    }
}
