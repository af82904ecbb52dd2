//! HTTP about a server: the admin process, its sockets, and what becomes of both when the server
//! is upgraded, stops, or loses the process.

mod metrics;

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;
use srv::measure::baseline::launch::CONTROL;
use srv_tests::child::Child;
use srv_tests::free_address;
use srv_tests::server::{Server, binary};

use crate::agent::{self, Agent, LOCALHOST};
use crate::client::{Client, get_many};
use crate::probe::{Stopped, children, open_files, signal, state, until};
use crate::serve::serve;
use crate::unmodified::servers;
use crate::upgradable::Upgradable;
use crate::{beside, gate};

/// An answer that takes longer than this is none.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        serde_json::from_str(&self.body).unwrap()
    }
}

/// The Unix socket of a server with this control socket.
fn beside_control(control: &Path) -> PathBuf {
    control.with_extension("admin")
}

fn unix(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<Answer> {
    let request = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let (head, body) = said
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok(Answer {
        status: status.ok_or(io::ErrorKind::InvalidData)?,
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    })
}

/// Gets a path over the Unix socket beside the control socket.
fn get(server: &Server, path: &str) -> Answer {
    let stream = unix(&beside_control(&server.control())).unwrap();
    exchange(stream, &format!("GET {path}")).unwrap()
}

/// The address that a server with `--admin 127.0.0.1:0` has logged.
fn admin_address(log: &str) -> SocketAddr {
    let (_, rest) = log.split_once("answering at ").unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// A server that also answers at an address, and that address.
fn serve_with_address(arguments: &[&str]) -> (Server, SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("srv.toml");
    // The log line comes before the one that the start awaits, so the kernel's choice is not seen.
    let address = free_address(LOCALHOST).unwrap();
    std::fs::write(&config, format!("admin = \"{address}\"\n")).unwrap();
    let server = serve().config(&config).workers(2).flags(arguments).start();
    (server, address)
}

/// The admin process of a server, if it runs.
fn admin_process(master: Pid) -> Option<Pid> {
    let is_admin = |pid: &Pid| {
        let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
        let line = std::fs::read(path).unwrap_or_default();
        line.starts_with(b"srv\0admin\0")
    };
    children(master).into_iter().find(is_admin)
}

fn is_gone(pid: Pid) -> bool {
    state(pid).is_none_or(|state| state == 'Z')
}

#[test]
fn each_endpoint_answers_at_each_socket() {
    let (server, address) = serve_with_address(&[]);
    let over_unix = |request: &str| {
        let stream = unix(&beside_control(&server.control())).unwrap();
        exchange(stream, request).unwrap()
    };
    let over_tcp = |request: &str| exchange(tcp(address).unwrap(), request).unwrap();
    let ways: [&dyn Fn(&str) -> Answer; 2] = [&over_unix, &over_tcp];
    for ask in ways {
        for (path, says) in [
            ("/livez", "The server lives."),
            ("/readyz", "The server is ready."),
            ("/", "<title>srv</title>"),
            ("/status", "\"phase\":\"serving\""),
        ] {
            let answer = ask(&format!("GET {path}"));
            assert_eq!(answer.status, 200, "{path}: {}", answer.body);
            assert!(answer.body.contains(says), "{path}: {}", answer.body);
            let head = ask(&format!("HEAD {path}"));
            assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
            let post = ask(&format!("POST {path}"));
            assert_eq!(post.status, 405);
            assert!(post.head.contains("allow: get, head"), "{}", post.head);
        }
        assert_eq!(ask("GET /nothing").status, 404);
        let page = ask("GET /").head;
        assert!(
            page.contains("content-security-policy: default-src 'none'"),
            "{page}"
        );
        // What `srv status --json` says, but for what changes meanwhile.
        let printed = serde_json::to_value(server.status().unwrap()).unwrap();
        let answered = ask("GET /status").json();
        for key in [
            "pid",
            "policy",
            "accept",
            "workers_run_as",
            "version",
            "phase",
        ] {
            assert_eq!(answered[key], printed[key], "{key}");
        }
        assert_eq!(
            answered["groups"][0]["listen"],
            printed["groups"][0]["listen"]
        );
    }
    // A name that is not this machine's may lead here: a browser sends it along.
    let mut stream = tcp(address).unwrap();
    stream
        .write_all(b"GET /status HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 421 "), "{said}");
}

#[test]
fn events_are_the_status_again_and_again_and_a_slow_client_delays_none() {
    let (server, address) = serve_with_address(&[]);
    // This one reads nothing.
    let mut slow = tcp(address).unwrap();
    slow.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut stream = tcp(address).unwrap();
    stream
        .write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let lines = BufReader::new(stream).lines().map(io::Result::unwrap);
    let data = lines.filter_map(|line| Some(line.strip_prefix("data: ")?.to_owned()));
    let events = data.map(|data| serde_json::from_str::<Value>(&data).unwrap());
    let mut before = 0;
    for event in events.take(3) {
        assert_eq!(event["status"]["pid"], server.status().unwrap().pid);
        let time_ms = event["time_ms"].as_u64().unwrap();
        assert!(time_ms > before);
        // Since the event before; the first one knows none.
        let rates = &event["rates"][0];
        assert_eq!(rates["listen"], event["status"]["groups"][0]["listen"]);
        assert_eq!(rates["seconds"].as_f64().unwrap() > 0.0, before > 0);
        before = time_ms;
    }
}

#[test]
fn what_connects_and_says_nothing_keeps_no_client_out() {
    let (server, address) = serve_with_address(&[]);
    let silent: Vec<_> = (0..100).map(|_| tcp(address).unwrap()).collect();
    let watching: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = tcp(address).unwrap();
            stream
                .write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .unwrap();
            stream
        })
        .collect();
    let begins: Vec<_> = watching
        .iter()
        .map(|mut stream| {
            let mut begin = [0; 12];
            stream.read_exact(&mut begin).unwrap();
            String::from_utf8_lossy(&begin).into_owned()
        })
        .collect();
    let refused = begins.iter().filter(|begin| begin.ends_with("503"));
    assert_eq!(refused.count(), 4, "{begins:?}");
    assert_eq!(
        exchange(tcp(address).unwrap(), "GET /readyz")
            .unwrap()
            .status,
        200
    );
    let process = admin_process(server.pid()).unwrap();
    assert!(open_files(process) < 90, "{} files", open_files(process));
    drop(silent);
}

#[test]
fn from_the_begin_of_a_stop_on_the_server_is_not_ready_and_afterwards_nothing_is_left() {
    let (mut server, address) = serve_with_address(&["--synthetic"]);
    assert_eq!(get(&server, "/readyz").status, 200);
    let process = admin_process(server.pid()).unwrap();
    let mut client = Client::connect(server.address());
    client.get("/work?sleep_us=1500000");
    until("the request is in service", || {
        let status = server.status().unwrap();
        (status.groups[0].totals.running == 1).then_some(())
    });
    signal(server.pid(), Signal::TERM);
    // A signal for the whole process group, as a terminal sends it, ends the process no sooner.
    signal(process, Signal::TERM);
    let answer = until("the server is not ready", || {
        Some(get(&server, "/readyz")).filter(|answer| answer.status == 503)
    });
    assert_eq!(answer.body, "not ready: the server is stopping\n");
    assert_eq!(get(&server, "/livez").status, 200);
    assert_eq!(client.response().status(), 200);
    assert!(server.child().await_exit().unwrap().success());
    until("the process has ended", || is_gone(process).then_some(()));
    assert!(!beside_control(&server.control()).exists());
    assert_eq!(
        tcp(address).unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
}

#[test]
fn a_process_that_dies_is_followed_by_another_and_the_server_goes_on() {
    let (mut server, _) = serve_with_address(&["--worker-header"]);
    assert_eq!(get(&server, "/livez").status, 200);
    for _ in 0..3 {
        let process = until("there is a process", || admin_process(server.pid()));
        signal(process, Signal::KILL);
        let line = server.child().await_line("the admin process, ").unwrap();
        assert!(line.contains(&process.to_string()), "{line}");
        get_many(server.address(), 5);
        assert_eq!(get(&server, "/readyz").status, 200);
        assert_ne!(admin_process(server.pid()), Some(process));
    }
}

/// It has given up what workers give up.
#[test]
fn the_process_is_in_the_sandbox_of_a_worker() {
    gate::needs!(root);
    let (server, _) = serve_with_address(&[]);
    assert_eq!(get(&server, "/livez").status, 200);
    let process = admin_process(server.pid()).unwrap();
    let path = format!("/proc/{}/status", process.as_raw_nonzero());
    let status = std::fs::read_to_string(path).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    assert!(field("Uid:").starts_with("65534"), "{status}");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    // Nothing that a worker has: the channel, two sockets, standard streams, the event loop.
    assert!(open_files(process) < 16, "{} files", open_files(process));
}

#[test]
fn a_server_that_does_not_answer_does_not_live() {
    let (server, _) = serve_with_address(&[]);
    assert_eq!(get(&server, "/livez").status, 200);
    let stopped = Stopped::new(server.pid());
    // What it has said just before is true for a moment.
    let answer = until("it does not live", || {
        Some(get(&server, "/livez")).filter(|answer| answer.status == 503)
    });
    assert!(answer.body.contains("has not answered"), "{}", answer.body);
    drop(stopped);
    until("it answers again", || {
        (get(&server, "/readyz").status == 200).then_some(())
    });
}

#[test]
fn an_upgrade_keeps_the_sockets() {
    let address = free_address(LOCALHOST).unwrap();
    let at = address.to_string();
    let upgradable = Upgradable::start(&["--workers", "1", "--admin", &at]);
    let server = &upgradable.server;
    let pid = |answer: Answer| answer.json()["pid"].as_i64().unwrap() as i32;
    let over_tcp = || pid(exchange(tcp(address).unwrap(), "GET /status").unwrap());
    for _ in 0..2 {
        let old = upgradable.master();
        assert_eq!(over_tcp(), old.as_raw_nonzero().get());
        let process = admin_process(old).unwrap();
        let (said, succeeded) = upgradable.upgrade();
        assert!(succeeded, "{said}");
        until("the old process has ended", || {
            is_gone(process).then_some(())
        });
        let new = upgradable.master().as_raw_nonzero().get();
        assert_eq!(over_tcp(), new);
        assert_eq!(pid(get(server, "/status")), new);
        assert_eq!(get(server, "/readyz").status, 200);
    }
    // A successor that does not come up leaves them as they were.
    upgradable.replace("#!/bin/sh\nexit 1\n");
    assert!(!upgradable.upgrade().1);
    assert_eq!(pid(get(server, "/status")), over_tcp());
}

#[test]
fn the_other_of_two_servers_goes_on_answering() {
    gate::needs!(steer);
    let primary = serve().workers(1).start();
    let secondary = primary.start_joined(["--workers", "1"]).unwrap();
    assert_eq!(get(&primary, "/readyz").status, 200);
    let pid = secondary.pid().as_raw_nonzero().get();
    primary.stop().unwrap();
    let path = beside_control(&secondary.control());
    until("the secondary answers", || {
        let answer = exchange(unix(&path).ok()?, "GET /status").ok()?;
        (answer.status == 200 && answer.json()["pid"] == pid).then_some(())
    });
    secondary.stop().unwrap();
    assert!(!path.exists());
}

fn refusal(admin: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .arg("20")
        .arg(binary().unwrap())
        .args([
            "serve",
            "--workers",
            "1",
            "--listen",
            "127.0.0.1:0",
            "--control",
        ])
        .arg(folder.path().join("control"))
        .args(["--admin", admin])
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!folder.path().join("control").exists());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_place_that_cannot_be_had_is_told_at_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("admin");
    std::fs::write(&file, "precious").unwrap();
    let path = format!("unix:{}", file.display());
    for (admin, says) in [
        (taken.as_str(), "stop the process that listens there"),
        (
            "192.0.2.1:9",
            "no interface of this machine has that address",
        ),
        (path.as_str(), "a regular file is there"),
        ("unix:/no/such/folder/admin", "No such file or directory"),
    ] {
        let said = refusal(admin);
        let opens = format!("open the admin socket {admin}: ");
        for part in [opens.as_str(), says] {
            assert!(said.contains(part), "no `{part}` in: {said}");
        }
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[test]
fn by_hand_a_process_answers_for_any_server() {
    let server = serve().workers(1).with("--admin", "none").start();
    assert!(!beside_control(&server.control()).exists());
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let mut command = Command::new(binary().unwrap());
    command.args(["admin", "--of"]).arg(server.control());
    command
        .arg("--listen")
        .arg(format!("unix:{}", socket.display()));
    let mut child = Child::spawn(command.env("NO_COLOR", "1")).unwrap();
    child.await_line("answering at ").unwrap();
    let ask = |path: &str| exchange(unix(&socket).unwrap(), &format!("GET {path}")).unwrap();
    assert_eq!(ask("/readyz").status, 200);
    assert_eq!(ask("/status").json()["pid"], server.status().unwrap().pid);
    server.stop().unwrap();
    assert_eq!(ask("/livez").status, 503);
    assert!(child.stop().unwrap().success());
    assert!(!socket.exists());
}

#[test]
fn an_agent_answers_for_the_group_that_it_steers() {
    let Some(nginx) = agent::nginx(2) else {
        return;
    };
    let mut agent = Agent::attach(nginx.address(), &["--admin", "127.0.0.1:0"]);
    let address = agent.child().await_line("admin: answering at ").unwrap();
    let address = admin_address(&address);
    let ask = |path: &str| exchange(tcp(address).unwrap(), &format!("GET {path}")).unwrap();
    assert_eq!(ask("/readyz").status, 200);
    let status = ask("/status").json();
    assert_eq!(status["foreign"][0]["listen"], nginx.address().to_string());
    assert!(beside_control(&agent.control()).exists());
    assert!(agent.stop().success());
    assert!(!beside_control(&agent.control()).exists());
}

/// Also after the coordinator was killed: the next one opens the socket anew.
#[test]
fn a_coordinator_answers_for_its_server() {
    gate::needs!(root, "run nginx": &servers::NGINX.installed());
    let running = servers::NGINX.run(&[]);
    let path = beside_control(&running.folder().join(CONTROL));
    let ask = |path: &Path| exchange(unix(path).ok()?, "GET /readyz").ok();
    let is_ready = || {
        until("the server is ready", || {
            ask(&path).filter(|answer| answer.status == 200)
        })
    };
    is_ready();
    let before = beside::coordinator(running.pid()).unwrap();
    let process = admin_process(before).unwrap();
    beside::kill(before);
    until("the process has ended", || is_gone(process).then_some(()));
    is_ready();
}

/// Load balancers have time to notice, and meanwhile each connection is served.
#[test]
fn with_a_drain_wait_the_server_serves_while_it_is_not_ready() {
    let (mut server, _) = serve_with_address(&["--drain-wait", "2s", "--worker-header"]);
    assert_eq!(get(&server, "/readyz").status, 200);
    signal(server.pid(), Signal::TERM);
    let answer = until("the server is not ready", || {
        Some(get(&server, "/readyz")).filter(|answer| answer.status == 503)
    });
    assert_eq!(answer.body, "not ready: the server is stopping\n");
    get_many(server.address(), 3);
    assert!(server.child().await_exit().unwrap().success());
}
