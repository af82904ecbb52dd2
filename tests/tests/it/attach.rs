//! `srv attach` on an nginx that does not know of it: what srv finds, what it steers, and how the
//! steering ends.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic;

use rustix::process::{Pid, Signal};
use socket2::{Domain, Protocol, Socket, Type};
use srv::attach::agent::detach_on_panic;
use srv::attach::detach::{Detached, detach};
use srv::attach::group::Target;
use srv::control::attached::{AttachedStatus, Attachment};
use srv::kernel::sock_diag::SockDiag;
use srv_steer::SelectProgram;

use crate::agent::{Agent, answered_by, is_in_turn, nginx, refused, said};
use crate::gate;
use crate::probe::{signal, until};

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get() as u32
}

/// Whether a program is attached. The question detaches the program.
fn was_attached(address: SocketAddr) -> bool {
    let said = said(&format!("detach --listen {address}"));
    assert!(said.contains("detached") || said.contains("nothing was attached"));
    said.contains("detached")
}

#[test]
fn each_socket_is_found_with_the_worker_that_polls_it() {
    let Some(nginx) = nginx(4) else { return };
    let address = nginx.address();
    let seen = until("each worker polls its socket", || {
        let seen = said(&format!(
            "observe --listen {address} --once --interval 1ms --json"
        ));
        let seen: AttachedStatus = serde_json::from_str(&seen).unwrap();
        let is_polled = seen.listeners.iter().all(|each| !each.workers.is_empty());
        is_polled.then_some(seen)
    });
    assert_eq!((seen.listeners.len(), &*seen.server), (4, "nginx"));
    assert_ne!(seen.program.attachment, Attachment::Attached);
    assert_eq!(seen.program.runs, None, "no agent tells");
    for (listener, worker) in seen.listeners.iter().zip(nginx.workers()) {
        // Each worker inherited every socket, and so did the master.
        assert_eq!(listener.owners, 5);
        assert_eq!(listener.workers, [number(*worker)]);
        assert_eq!((listener.queued, listener.backlog), (0, 4096));
    }
    assert!(!was_attached(address), "observing attaches nothing");
    // The status is right: the worker that answers is the worker of the slot to which the program assigned the connection.
    let agent = Agent::attach(address, &["--policy", "round-robin"]);
    let mut before = agent.status();
    for _ in 0..8 {
        let worker = answered_by(address, 1)[0];
        let after = agent.status();
        let mut pairs = before.listeners.iter().zip(&after.listeners);
        let slot = pairs.position(|(before, after)| after.steered > before.steered);
        let assigned = &after.listeners[slot.expect("the program assigned it")].workers;
        assert_eq!(*assigned, [number(nginx.workers()[worker as usize])]);
        before = after;
    }
}

#[test]
fn connections_are_shared_as_the_program_says_until_it_detaches() {
    let Some(nginx) = nginx(4) else { return };
    let address = nginx.address();
    for end in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut agent = Agent::attach(address, &["--policy", "round-robin"]);
        let answered = answered_by(address, 40);
        assert!(is_in_turn(&answered, 4), "{answered:?}");
        let status = agent.status();
        let program = &status.program;
        assert_eq!((program.runs, program.steered), (Some(40), Some(40)));
        assert_eq!(program.attachment, Attachment::Attached);
        let steered = status.listeners.iter().map(|each| each.steered);
        assert_eq!(steered.collect::<Vec<_>>(), [Some(10); 4]);
        agent.child().signal(end).unwrap();
        assert_eq!(agent.child().await_exit().unwrap().code(), Some(0));
        assert!(!was_attached(address), "{end:?} left the program");
        let answered = answered_by(address, 40);
        assert!(!is_in_turn(&answered, 4), "{answered:?}");
    }
}

#[test]
fn a_program_attached_once_needs_no_agent() {
    let Some(nginx) = nginx(3) else { return };
    let address = nginx.address();
    said(&format!(
        "attach --listen {address} --policy round-robin --once"
    ));
    assert!(is_in_turn(&answered_by(address, 30), 3));
    let status = said("status");
    assert!(
        status.contains(&format!("{address} (nginx; no agent, policy round-robin)")),
        "{status}"
    );
    assert!(was_attached(address));
    assert!(!was_attached(address));
    assert!(!said("doctor").is_empty());
}

#[test]
fn a_killed_agent_leaves_a_server_that_serves_and_can_be_steered_again() {
    let Some(nginx) = nginx(3) else { return };
    let address = nginx.address();
    let attach = ["--policy", "round-robin"];
    let mut agent = Agent::attach(address, &attach);
    agent.child().signal(Signal::KILL).unwrap();
    agent.child().await_exit().unwrap();
    assert!(is_in_turn(&answered_by(address, 30), 3));
    // A successor has to free the sockets from the array that was left.
    let mut successor = Agent::attach(address, &attach);
    assert!(is_in_turn(&answered_by(address, 30), 3));
    assert_eq!(successor.status().program.steered, Some(30));
    successor.child().signal(Signal::KILL).unwrap();
    successor.child().await_exit().unwrap();
    assert!(was_attached(address));
    assert_eq!(answered_by(address, 10).len(), 10);
}

#[test]
fn detach_ends_the_agent_too() {
    let Some(nginx) = nginx(2) else { return };
    let address = nginx.address();
    let mut agent = Agent::attach(address, &["--policy", "random"]);
    let said = said(&format!("detach --pid {}", nginx.pid().as_raw_nonzero()));
    assert!(said.contains("has ended"), "{said}");
    assert_eq!(agent.child().await_exit().unwrap().code(), Some(0));
    assert!(!was_attached(address));
}

#[test]
fn a_second_agent_is_refused_unless_it_takes_over() {
    let Some(nginx) = nginx(2) else { return };
    let address = nginx.address();
    let mut first = Agent::attach(address, &["--policy", "random"]);
    let said = refused(&format!("attach --listen {address} --policy random"));
    let pid = number(first.child().pid());
    assert!(said.contains(&format!("process {pid}")), "{said}");
    assert!(said.contains("--take-over"), "{said}");
    let attachment = first.status().program.attachment;
    assert_eq!(
        attachment,
        Attachment::Attached,
        "the refused one did no harm"
    );
    let second = Agent::attach(address, &["--policy", "round-robin", "--take-over"]);
    assert_eq!(first.child().await_exit().unwrap().code(), Some(0));
    assert!(is_in_turn(&answered_by(address, 20), 2));
    assert_eq!(second.status().program.steered, Some(20));
}

#[test]
fn status_and_sockets_show_the_group_with_its_owner() {
    let Some(nginx) = nginx(2) else { return };
    let address = nginx.address();
    let by_default = [
        "attach",
        "--listen",
        &address.to_string(),
        "--policy",
        "random",
    ];
    let mut agent = srv_tests::child::Child::spawn(crate::agent::srv().args(by_default)).unwrap();
    agent.await_line("attached to").unwrap();
    let status = until("the agent answers", || {
        let status: serde_json::Value = serde_json::from_str(&said("status --json")).unwrap();
        let groups = status["foreign"].as_array().cloned().unwrap_or_default();
        let mut groups = groups.into_iter();
        groups.find(|group| group["listen"] == address.to_string() && !group["agent"].is_null())
    });
    assert_eq!(status["server"], "nginx");
    assert_eq!(status["agent"], number(agent.pid()));
    let sockets = said("sockets");
    let lines = sockets
        .lines()
        .filter(|line| line.starts_with(&address.to_string()));
    let workers: BTreeSet<&str> = lines
        .filter(|line| line.contains(" nginx "))
        .filter_map(|line| line.split_whitespace().nth(3))
        .collect();
    let expected: BTreeSet<String> = nginx
        .workers()
        .iter()
        .map(|pid| number(*pid).to_string())
        .collect();
    assert!(workers.iter().eq(expected.iter()), "{sockets}");
}

#[test]
fn the_policy_is_switched_live() {
    let Some(nginx) = nginx(2) else { return };
    let address = nginx.address();
    let agent = Agent::attach(address, &["--policy", "source"]);
    agent.status();
    let control = agent.control();
    let answered = answered_by(address, 20);
    assert!(
        answered.iter().all(|worker| *worker == answered[0]),
        "{answered:?}"
    );
    let said = said(&format!(
        "policy round-robin --control {}",
        control.display()
    ));
    assert_eq!(said, "policy: round-robin (was source)\n");
    assert!(is_in_turn(&answered_by(address, 20), 2));
    let said = refused(&format!("policy hermes --control {}", control.display()));
    assert!(said.contains("hermes"), "{said}");
}

/// Listeners of this process with the program attached, by the hook alone.
#[test]
fn a_panic_detaches() {
    gate::needs!(steer);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    socket.listen(8).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut steering = SelectProgram::load().unwrap();
    steering.program("select").unwrap().attach(&socket).unwrap();
    let target = Target::new(address, None).unwrap();
    detach_on_panic(&target).unwrap();
    std::thread::spawn(|| panic!("on purpose"))
        .join()
        .unwrap_err();
    drop(panic::take_hook());
    let mut diag = SockDiag::open(None).unwrap();
    assert_eq!(detach(&target, &mut diag).unwrap(), Detached::Nothing);
}

#[test]
fn a_killed_worker_is_replaced_at_its_socket() {
    let Some(mut nginx) = nginx(3) else { return };
    let agent = Agent::attach(nginx.address(), &["--policy", "round-robin"]);
    let victim = nginx.workers()[1];
    signal(victim, Signal::KILL);
    nginx.child().await_line("start worker process ").unwrap();
    let status = agent.until("its replacement polls the socket", |status| {
        let workers = &status.listeners[1].workers;
        workers.len() == 1 && workers[0] != number(victim)
    });
    assert_eq!(status.listeners.len(), 3);
    assert!(is_in_turn(&answered_by(nginx.address(), 30), 3));
}
