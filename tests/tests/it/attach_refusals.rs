//! What `srv attach` refuses: each refusal names the remedy, and changes nothing.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;

use socket2::{Domain, Protocol, Socket, Type};
use srv::control::attached::Signal;
use srv_steer::SelectProgram;
use srv_tests::child::Child;
use srv_tests::nginx::{self, Nginx};

use crate::agent::{Agent, LOCALHOST, nginx, options, refused, run, said, srv};
use crate::gate;
use crate::probe::until;
use crate::serve::serve;

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
}

/// Listening sockets of this process in one group, to which no program is attached.
pub(crate) fn listening(count: usize) -> (Vec<Socket>, SocketAddr) {
    let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut sockets = Vec::new();
    for _ in 0..count {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(8).unwrap();
        address = socket.local_addr().unwrap().as_socket().unwrap();
        sockets.push(socket);
    }
    (sockets, address)
}

#[test]
fn an_address_without_a_listener_is_refused_and_the_right_one_is_named() {
    let (sockets, address) = listening(2);
    let all = SocketAddr::from(([0, 0, 0, 0], address.port()));
    let said = refused(&format!("attach --listen {all}"));
    assert_says(
        &said,
        &[
            "no process listens on 0.0.0.0",
            &format!("--listen {address}"),
        ],
    );
    drop(sockets);
    let said = refused(&format!("attach --listen {address}"));
    assert_says(&said, &["no process listens on", "start the server first"]);
    assert_says(
        &refused(&format!("detach --listen {address}")),
        &["no process listens on"],
    );
}

#[test]
fn a_udp_socket_is_refused() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let said = refused(&format!("attach --listen {}", socket.local_addr().unwrap()));
    assert_says(&said, &["UDP", "TCP connections only"]);
}

#[test]
fn a_process_without_a_listener_or_with_several_groups_is_refused() {
    let mut sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
    let said = refused(&format!("attach --pid {}", sleeper.id()));
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert_says(&said, &["has no listening TCP socket", "ss -ltnp"]);
    let server = serve().listen("127.0.0.1:0").listen("127.0.0.1:0").start();
    let said = refused(&format!("attach --pid {}", server.pid().as_raw_nonzero()));
    let [first, second] = server.addresses() else {
        panic!("two addresses")
    };
    assert_says(
        &said,
        &[&format!("--listen {first}"), &format!("--listen {second}")],
    );
}

#[test]
fn a_shared_socket_is_refused_with_the_setting_of_the_server() {
    let shared = nginx::Options {
        reuseport: false,
        ..options(2)
    };
    if nginx(2).is_none() {
        return;
    }
    let nginx = Nginx::start(LOCALHOST, &shared).unwrap();
    let output = run(&format!("attach --listen {}", nginx.address()));
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let remedy = format!("`listen {} reuseport;`", nginx.address());
    assert_says(&said, &["all workers of nginx share one socket", &remedy]);
}

#[test]
fn the_server_of_srv_itself_is_refused() {
    gate::needs!(steer);
    let server = serve().workers(2).start();
    let said = refused(&format!("attach --listen {}", server.address()));
    assert_says(&said, &["is srv itself", "srv policy"]);
    assert!(server.status().unwrap().groups[0].program.attached);
}

#[test]
fn another_program_is_replaced_only_with_take_over() {
    gate::needs!(steer);
    let (sockets, address) = listening(2);
    let mut others = SelectProgram::load().unwrap();
    for (slot, socket) in sockets.iter().enumerate() {
        others.set_listener(slot as u32, socket).unwrap();
    }
    others.attach(&sockets[0]).unwrap();
    let said = refused(&format!("attach --listen {address}"));
    assert_says(&said, &["EBUSY", "--take-over", "cannot restore it"]);
    let arguments = [
        "attach",
        "--once",
        "--take-over",
        "--listen",
        &address.to_string(),
    ];
    let mut agent = Child::spawn(srv().args(arguments)).unwrap();
    // The kernel may free the array of a program a moment after the program.
    let is_off = || SelectProgram::load().is_ok().then_some(());
    until("the kernel loads programs", is_off);
    drop(others);
    agent.await_line("attached to").unwrap();
    assert!(said_detached(address));
}

fn said_detached(address: SocketAddr) -> bool {
    said(&format!("detach --listen {address}")).contains("detached")
}

#[test]
fn a_group_in_another_network_namespace_is_named_and_steered() {
    if nginx(2).is_none() {
        return;
    }
    let apart = || {
        let mut command = Command::new("unshare");
        let script = "ip link set lo up && exec \"$@\"";
        command.args(["--net", "sh", "-c", script, "sh", "nginx"]);
        command
    };
    let nginx = Nginx::start_as(apart, LOCALHOST, &options(2)).unwrap();
    let (address, pid) = (nginx.address(), nginx.pid().as_raw_nonzero());
    let said_here = refused(&format!("attach --listen {address}"));
    assert_says(
        &said_here,
        &["in the namespace of process", "(nginx)", "--netns"],
    );
    let pid = pid.to_string();
    let mut agent = Agent::attach(address, &["--policy", "round-robin", "--netns", &pid]);
    let status = agent.status();
    assert_eq!((status.listeners.len(), &*status.server), (2, "nginx"));
    for _ in 0..8 {
        let get = [
            "--target",
            &pid,
            "--net",
            "curl",
            "-sf",
            &format!("http://{address}/work"),
        ];
        assert!(
            Command::new("nsenter")
                .args(get)
                .output()
                .unwrap()
                .status
                .success()
        );
    }
    let status = agent.status();
    let steered = status.listeners.iter().map(|each| each.steered);
    assert_eq!(steered.collect::<Vec<_>>(), [Some(4), Some(4)]);
    assert_eq!(agent.stop().code(), Some(0));
    // With --pid, srv takes the namespace of that process.
    let agent = Child::spawn(srv().args(["attach", "--once", "--pid", &pid])).map(|mut agent| {
        agent.await_line("attached to").unwrap();
    });
    agent.unwrap();
    let detached = said(&format!("detach --listen {address} --netns {pid}"));
    assert_says(&detached, &["detached"]);
}

/// srv with these capabilities and no others.
fn with_only(capabilities: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args([
        "--inh-caps=-all",
        &format!("--bounding-set=-all{capabilities}"),
    ]);
    command.arg(srv().get_program()).env("NO_COLOR", "1");
    command
}

#[test]
fn missing_capabilities_are_named() {
    let Some(nginx) = nginx(2) else { return };
    let address = nginx.address().to_string();
    let mut cases = vec![
        (",+bpf,+perfmon", "needs CAP_SYS_PTRACE"),
        (",+sys_ptrace,+perfmon", "missing: CAP_BPF ("),
    ];
    let arguments = fs::read_to_string("/proc/cmdline").unwrap();
    let is_strict = match arguments.contains("mitigations=off") {
        true => Err("it was booted with mitigations=off".to_string()),
        false => Ok(()),
    };
    if gate::can("see pointer arithmetic refused", is_strict) {
        cases.push((",+sys_ptrace,+bpf,+net_admin", "missing: CAP_PERFMON ("));
    }
    for (capabilities, missing) in cases {
        let mut command = with_only(capabilities);
        let output = command
            .args(["attach", "--listen", &address])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{capabilities}: {said}");
        assert_says(&said, &[missing]);
        assert_eq!(said.lines().count(), 1, "{capabilities}: {said}");
    }
}

/// The capabilities that the unit in dist/ grants.
#[test]
fn the_units_capabilities_suffice() {
    let Some(nginx) = nginx(2) else { return };
    let unit = include_str!("../../../dist/srv-attach@.service");
    let granted = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let capabilities: String = granted
        .expect("the unit bounds its capabilities")
        .split_whitespace()
        .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    let attach = ["--policy", "round-robin"];
    let mut agent = Agent::attach_as(with_only(&capabilities), nginx.address(), &attach);
    let answered = crate::agent::answered_by(nginx.address(), 20);
    assert!(crate::agent::is_in_turn(&answered, 2), "{answered:?}");
    for (signal, is_known) in agent.status().signals.expect("the agent tells") {
        assert_eq!(is_known, Signal::Known, "{signal}");
    }
    assert_eq!(agent.stop().code(), Some(0));
}
