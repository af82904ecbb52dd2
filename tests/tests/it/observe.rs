//! `srv observe`: how many connections each worker of a server accepts, and the verdict. The program
//! that counts closes is tested on connections of this process first.

use std::io::Read as _;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};

use socket2::SockRef;
use srv::attach::closes::Closes;
use srv::attach::hint::Hint;
use srv::attach::observe::Observation;
use srv::attach::verdict::Finding;
use srv::control::attached::Attachment;
use srv::kernel::owners::Owners;
use srv::kernel::sock_diag::SockDiag;
use srv::measure::baseline::launch::NO_BPF;
use srv_tests::child::Child;
use srv_tests::free_address;
use srv_tests::haproxy;
use srv_tests::nginx::{self, Nginx};

use crate::agent::{Agent, LOCALHOST, nginx, options, srv};
use crate::client::get;
use crate::gate;
use crate::probe::{Stopped, until};
use crate::unmodified::servers;

/// A connection that this thread accepts: the end of the client and the accepted end.
fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

#[test]
fn each_close_of_this_thread_is_counted_and_a_reset_is_not() {
    gate::needs!(steer);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let closes = Closes::of_port(listener.local_addr().unwrap().port()).unwrap();
    let thread = rustix::thread::gettid().as_raw_nonzero().get() as u32;
    let counted = || {
        let counts = closes.counts().unwrap();
        counts
            .get(&(std::process::id(), thread))
            .copied()
            .unwrap_or(0)
    };
    // First this end, then the peer.
    let (client, server) = pair(&listener);
    drop(server);
    assert_eq!(counted(), 1);
    drop(client);
    // First the peer.
    let (client, mut server) = pair(&listener);
    drop(client);
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(counted(), 1, "the client's own close is another port's");
    drop(server);
    assert_eq!(counted(), 2);
    // A shutdown before the close is the same connection.
    let (_client, server) = pair(&listener);
    server.shutdown(Shutdown::Write).unwrap();
    drop(server);
    assert_eq!(counted(), 3);
    // With unread data, a close is a reset, like the peer's.
    let (mut client, server) = pair(&listener);
    std::io::Write::write_all(&mut client, b"unread").unwrap();
    server.peek(&mut [0; 8]).unwrap();
    drop(server);
    let (client, mut server) = pair(&listener);
    let lingers = SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO));
    lingers.unwrap();
    drop(client);
    server.read(&mut [0; 8]).unwrap_err();
    drop(server);
    assert_eq!(counted(), 3, "resets");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    drop(pair(&other));
    assert_eq!(counted(), 3, "another port");
}

/// The report of `srv observe --once` while the test calls `request` again and again.
fn observed(arguments: &[&str], mut request: impl FnMut()) -> (Observation, Output) {
    let mut command = srv();
    command.args(["observe", "--once", "--json", "--interval", "2s"]);
    let mut observing = command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while observing.try_wait().unwrap().is_none() {
        request();
    }
    let output = observing.wait_with_output().unwrap();
    let observation = serde_json::from_slice(&output.stdout);
    (
        observation.unwrap_or_else(|error| panic!("{error}: {output:?}")),
        output,
    )
}

/// By default all workers of nginx share one socket.
#[test]
fn a_worker_that_accepts_all_connections_of_a_shared_socket_is_found() {
    if nginx(2).is_none() {
        return;
    }
    let shared = nginx::Options {
        reuseport: false,
        ..options(3)
    };
    let nginx = Nginx::start(LOCALHOST, &shared).unwrap();
    let address = nginx.address();
    until("each worker waits for connections", || {
        let listeners = SockDiag::open(None).unwrap().listeners_on(address).unwrap();
        let owners = Owners::of(&[listeners[0].inode].into());
        (owners.workers(listeners[0].inode).len() == 3).then_some(())
    });
    let _stopped: Vec<Stopped> = nginx.workers()[1..]
        .iter()
        .map(|pid| Stopped::new(*pid))
        .collect();
    let request = || drop(get(address, "/work"));
    let (seen, output) = observed(&["--listen", &address.to_string()], request);
    assert_eq!(output.status.code(), Some(3), "{seen:?}");
    assert_eq!(seen.verdict.finding, Finding::Uneven, "{seen:?}");
    let text = &seen.verdict.text;
    assert!(
        text.starts_with("one of 3 workers accepted 100 % of "),
        "{text}"
    );
    let fix = seen.verdict.fix.expect("it can be fixed");
    for part in [
        &*format!("`listen {address} reuseport;`"),
        &*format!("`srv attach --listen {address}`"),
    ] {
        assert!(fix.contains(part), "no `{part}` in {fix}");
    }
    assert!(seen.hint.run, "{:?}", seen.hint);
    assert_eq!(seen.hint.command, hint_for(&nginx).command);
    let took: Vec<u32> = seen
        .workers
        .iter()
        .filter(|row| row.accepted > Some(0))
        .map(|row| row.pid)
        .collect();
    assert_eq!(took, [nginx.workers()[0].as_raw_nonzero().get() as u32]);
    let attachment = &seen.status.program.attachment;
    assert!(
        matches!(attachment, Attachment::NotAttached(_)),
        "{attachment:?}"
    );
}

#[test]
fn beside_an_agent_its_state_is_shown_and_the_shares_are_even() {
    let Some(nginx) = nginx(3) else { return };
    let address = nginx.address();
    let mut agent = Agent::attach(address, &["--policy", "round-robin"]);
    // The agent of this test answers elsewhere than by default; its record says where.
    agent.status();
    let request = || drop(get(address, "/work"));
    let (seen, output) = observed(&["--listen", &address.to_string()], request);
    assert_eq!(output.status.code(), Some(0), "{seen:?}");
    assert_eq!(seen.verdict.finding, Finding::Even);
    assert_eq!(seen.workers.len(), 3);
    let pid = agent.child().pid().as_raw_nonzero().get() as u32;
    assert_eq!(seen.status.agent, Some(pid));
    assert_eq!(seen.status.policy.as_deref(), Some("round-robin"));
    let program = &seen.status.program;
    assert_eq!(program.attachment, Attachment::Attached);
    assert!(program.steered > Some(0), "{program:?}");
    let raw: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(raw["schema"], srv::output::json::SCHEMA);
    assert!(raw["time"].is_string(), "{raw}");
}

/// The threads of HAProxy share one socket, and each has an epoll instance of its own.
#[test]
fn haproxys_threads_are_its_workers() {
    gate::needs!(steer, "run HAProxy": &haproxy::version());
    let folder = tempfile::tempdir().unwrap();
    let address: SocketAddr = free_address(LOCALHOST).unwrap();
    let file = folder.path().join("haproxy.cfg");
    let configuration = format!(
        "global\n nbthread 3\ndefaults\n mode http\n timeout client 9s\n timeout server 9s\n \
         timeout connect 9s\nfrontend work\n bind {address}\n \
         http-request return status 200 content-type text/plain string ok\n"
    );
    std::fs::write(&file, configuration).unwrap();
    let mut command = Command::new("haproxy");
    let mut haproxy = Child::spawn(command.args(["-W", "-f"]).arg(&file)).unwrap();
    haproxy.await_line("Loading success").unwrap();
    let request = || drop(get(address, "/"));
    let (seen, _) = observed(&["--listen", &address.to_string()], request);
    assert_eq!(seen.workers.len(), 3, "{seen:?}");
    assert!(
        seen.workers.iter().any(|row| row.thread.is_some()),
        "{seen:?}"
    );
    let accepted: u64 = seen.workers.iter().filter_map(|row| row.accepted).sum();
    assert!(accepted > 0, "{seen:?}");
    assert_ne!(seen.verdict.finding, Finding::Unknown);
    // Its workers are threads of one process.
    assert_eq!((seen.hint.run, seen.hint.command), (false, None));
    assert!(seen.hint.reason.starts_with("one process accepts for all"));
}

#[test]
fn too_few_connections_allow_no_verdict() {
    let Some(nginx) = nginx(2) else { return };
    let address = nginx.address().to_string();
    let (seen, output) = observed(&["--listen", &address], || {
        std::thread::yield_now();
    });
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(seen.verdict.finding, Finding::Few);
    assert_eq!(seen.hint, hint_for(&nginx));
    // Unknown is null, and nothing else.
    assert_eq!(seen.status.program.runs, None);
    assert!(
        seen.workers.iter().all(|row| row.share.is_none()),
        "{seen:?}"
    );
}

/// What is to be said of nginx with a socket for each worker.
fn hint_for(nginx: &Nginx) -> Hint {
    let address = nginx.address();
    let folder = nginx.folder().display();
    Hint {
        run: true,
        command: Some(format!(
            "srv run -- nginx -p {folder} -c {folder}/nginx.conf -e stderr"
        )),
        reason: format!(
            "the kernel's hash chooses between its sockets: `srv run` gives the ring and \
             steering, `srv attach --listen {address}` steers without a restart"
        ),
    }
}

#[test]
fn a_server_under_srv_run_is_named_as_such() {
    let server = servers::NGINX_REUSEPORT;
    gate::needs!(steer, root, "run nginx with Lua": &server.installed());
    for (flags, state) in [
        (&[][..], "under srv run, steered"),
        (&[NO_BPF], "under srv run, hashed (--no-bpf was given)"),
    ] {
        let running = server.run(flags);
        let address = running.address();
        let request = || drop(get(address, "/"));
        let (seen, _) = observed(&["--listen", &address.to_string()], request);
        assert_eq!(seen.workers.len(), server.acceptors, "{seen:?}");
        assert!(seen.hint.reason.starts_with(state), "{:?}", seen.hint);
        assert_eq!((seen.hint.run, seen.hint.command), (false, None));
        assert_eq!(seen.verdict.fix, None);
    }
}
