//! What a user types who does not know srv yet: the exit code, and what the message says.

use std::fs::read_link;
use std::process::{Command, Output};

use rustix::process::Signal;
use srv::kernel::owners;
use srv::kernel::sock_diag::SockDiag;
use srv::measure::baseline::launch::Launch;
use srv_common::Policy;
use srv_tests::python::{self, Program};

use crate::agent::{Agent, LOCALHOST, answered_by, is_in_turn, nginx, run, said};
use crate::gate;
use crate::probe::until;
use crate::serve::serve;

#[track_caller]
fn assert_says(output: &Output, code: i32, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
}

#[test]
fn a_process_that_does_not_exist_is_refused() {
    // Larger than any process id (PID_MAX_LIMIT, include/linux/threads.h).
    let pid = (1 << 22) + 1;
    for command in ["attach", "observe", "detach"] {
        let output = run(&format!("{command} --pid {pid}"));
        assert_says(&output, 1, &[&format!("there is no process {pid}")]);
    }
    let output = run(&format!("attach --listen 127.0.0.1:80 --netns {pid}"));
    assert_says(&output, 1, &[&format!("there is no process {pid}")]);
}

#[test]
fn only_policies_that_attach_has_are_offered() {
    let ask = |policy| run(&format!("attach --listen 127.0.0.1:80 --policy {policy}"));
    let attached = Policy::TABLE.iter().filter(|about| about.attached.is_ok());
    let offered: Vec<&str> = attached.map(|about| about.name).collect();
    let offered = format!("expected one of {}", offered.join(", "));
    assert_says(&ask("lest"), 2, &["--policy", &offered]);
    for about in Policy::TABLE {
        if let Err(why) = about.attached {
            let refusal = format!("{} {why}; {offered}", about.name);
            assert_says(&ask(about.name), 2, &["--policy", &refusal]);
        }
    }
    assert_says(&ask("hash"), 2, &["`srv detach`"]);
}

/// In an earlier version `--netns` alone was refused, because an argument was missing that the error
/// did not name.
#[test]
fn a_network_namespace_without_an_address_is_searched() {
    gate::needs!(root);
    let mut command = Command::new("unshare");
    let mut apart = command.args(["--net", "sleep", "1000"]).spawn().unwrap();
    let namespace = format!("/proc/{}/ns/net", apart.id());
    let own = read_link("/proc/self/ns/net").unwrap();
    until("it has a network namespace of its own", || {
        read_link(&namespace)
            .is_ok_and(|its| its != own)
            .then_some(())
    });
    let output = run(&format!("observe --netns {}", apart.id()));
    apart.kill().unwrap();
    apart.wait().unwrap();
    assert_says(&output, 1, &["sees no server with several workers"]);
}

#[test]
fn a_master_that_leaves_the_sockets_to_its_workers_is_understood() {
    gate::needs!(steer, "run gunicorn": &Program::Gunicorn.version());
    let python = python::start(Program::Gunicorn, LOCALHOST, 2, Launch::Plain).unwrap();
    let master = python.pid();
    let own = owners::sockets_of(master).unwrap();
    let listeners = SockDiag::open(None).unwrap().listeners_on(python.address());
    let has_one = listeners
        .unwrap()
        .iter()
        .any(|each| own.contains_key(&each.inode));
    assert!(
        !has_one,
        "this master listens itself: another one is needed here"
    );
    let output = run(&format!("detach --pid {}", master.as_raw_nonzero()));
    assert_says(&output, 0, &[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with(&python.address().to_string()), "{said}");
}

#[test]
fn one_socket_is_attached_to_and_the_exit_code_says_so() {
    let Some(nginx) = nginx(1) else { return };
    let output = run(&format!("attach --once --listen {}", nginx.address()));
    assert_says(&output, 3, &["nothing to choose between yet"]);
    assert!(said(&format!("detach --listen {}", nginx.address())).contains("detached"));
}

/// The path of the control socket is the test's own: the record of the agent says it.
#[test]
fn an_agent_is_found_by_the_address_that_it_steers() {
    let Some(nginx) = nginx(2) else { return };
    let address = nginx.address();
    let mut agent = Agent::attach(address, &["--policy", "source"]);
    agent.status();
    let switched = said(&format!("policy round-robin --listen {address}"));
    assert_eq!(switched, "policy: round-robin (was source)\n");
    assert!(is_in_turn(&answered_by(address, 20), 2));
    let status = run(&format!("status --strict --listen {address}"));
    assert_says(&status, 0, &[]);
    let shown = String::from_utf8_lossy(&status.stdout);
    assert!(shown.contains("policy round-robin"), "{shown}");
    // What a killed agent leaves says the policy that its program goes by.
    agent.child().signal(Signal::KILL).unwrap();
    agent.child().await_exit().unwrap();
    let left = said("status");
    let line = format!("{address} (nginx; no agent, policy round-robin): steered");
    assert!(left.contains(&line), "{left}");
    said(&format!("detach --listen {address}"));
}

#[test]
fn an_address_that_no_server_of_the_user_serves_is_refused_and_the_others_are_named() {
    let Some(nginx) = nginx(2) else { return };
    let agent = Agent::attach(nginx.address(), &["--policy", "random"]);
    agent.status();
    let output = run("policy least --listen 127.0.0.1:1");
    assert_says(
        &output,
        1,
        &["no server or agent of this user serves or steers 127.0.0.1:1"],
    );
}

#[test]
fn strict_status_fails_if_the_server_is_not_steered() {
    let server = serve().workers(1).policy("hash").start();
    let code = |arguments: &[&str]| server.srv(arguments).unwrap().status.code();
    assert_eq!(code(&["status"]), Some(0));
    assert_eq!(code(&["status", "--strict"]), Some(3));
    assert_eq!(code(&["status", "--json", "--strict"]), Some(3));
}
