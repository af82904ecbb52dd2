//! No system call of a worker's is for steering, or for knowing how long a connection waited: all that
//! it makes are counted by strace.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::process::Command;

use rustix::process::{Pid, Signal};
use srv::control::status::accept_delays;
use srv::fastcgi::ProtocolStatus;
use srv::fastcgi::client::REQUEST_ID;
use srv::fastcgi::server as fastcgi;
use srv_tests::child::Child;
use srv_tests::server::Server;

use crate::client::{Client, get};
use crate::configured::Configured;
use crate::gate;
use crate::probe::{group, pid, until_group, worker};
use crate::serve::serve;

type Counts = BTreeMap<String, usize>;

/// strace on a process, until it is asked for what it saw.
struct Trace {
    strace: Child,
    folder: tempfile::TempDir,
}

impl Trace {
    /// `None`: strace cannot be used here.
    fn attach(pid: Pid) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("strace");
        command
            .arg("-o")
            .arg(folder.path().join("trace"))
            .arg("-p")
            .arg(pid.to_string());
        let strace = Child::spawn(&mut command).and_then(|mut strace| {
            strace.await_line("attached")?;
            Ok(strace)
        });
        let error = strace
            .as_ref()
            .map(drop)
            .map_err(|error| format!("{error:#}"));
        gate::can("trace system calls", error).then(|| Self {
            strace: strace.unwrap(),
            folder,
        })
    }

    fn counts(mut self) -> Counts {
        self.strace.signal(Signal::INT).unwrap();
        self.strace.await_exit().unwrap();
        let trace = std::fs::read_to_string(self.folder.path().join("trace")).unwrap();
        let mut counts = Counts::new();
        for name in trace
            .lines()
            .filter_map(|line| line.split_once('('))
            .map(|(name, _)| name)
        {
            *counts.entry(name.trim().to_owned()).or_default() += 1;
        }
        counts
    }
}

/// Removes the count under any of these names.
fn take(counts: &mut Counts, names: &[&str]) -> usize {
    names.iter().filter_map(|name| counts.remove(*name)).sum()
}

const WAIT: [&str; 3] = ["epoll_wait", "epoll_pwait", "epoll_pwait2"];
const READ: [&str; 2] = ["read", "recvfrom"];
const WRITE: [&str; 3] = ["write", "writev", "sendto"];
const ACCEPT: [&str; 1] = ["accept4"];

const REQUESTS: usize = 100;

/// Built for debugging, std makes sure that a file descriptor is open before
/// it closes it.
fn take_close(counts: &mut Counts) -> usize {
    let closed = take(counts, &["close"]);
    let checked = take(counts, &["fcntl"]);
    assert!(
        checked == 0 || checked == closed,
        "{checked} fcntl for {closed} close"
    );
    closed
}

/// The first of them may have begun before the trace, or been interrupted by it;
/// deadlines are looked at four times a second.
fn assert_a_wait_each(counts: &mut Counts) {
    let waits = take(counts, &WAIT);
    counts.remove("restart_syscall");
    let expected = REQUESTS - 1..REQUESTS * 2;
    assert!(expected.contains(&waits), "{waits} waits");
}

/// One worker, so that nobody is woken in vain.
fn start() -> Server {
    serve().workers(1).policy("least").start()
}

#[test]
fn a_request_on_a_kept_connection_is_a_wait_a_read_and_a_write() {
    gate::needs!(steer);
    let server = start();
    let mut client = Client::connect(server.address());
    let mut ask = || {
        client.get("/");
        assert_eq!(client.response().status(), 200);
    };
    ask();
    let Some(trace) = Trace::attach(pid(&worker(&server, 0))) else {
        return;
    };
    (0..REQUESTS).for_each(|_| ask());
    let mut counts = trace.counts();
    assert_a_wait_each(&mut counts);
    assert_eq!(take(&mut counts, &READ), REQUESTS);
    assert_eq!(take(&mut counts, &WRITE), REQUESTS);
    assert!(counts.is_empty(), "beside these: {counts:?}");
}

#[test]
fn a_connection_for_one_request_is_these_five() {
    gate::needs!(steer);
    let server = start();
    get(server.address(), "/");
    until_group(&server, "it is closed", |group| group.totals.active == 0);
    let Some(trace) = Trace::attach(pid(&worker(&server, 0))) else {
        return;
    };
    for _ in 0..REQUESTS {
        assert_eq!(get(server.address(), "/").status(), 200);
    }
    let mut counts = trace.counts();
    assert_a_wait_each(&mut counts);
    assert_eq!(take(&mut counts, &ACCEPT), REQUESTS);
    assert_eq!(take(&mut counts, &READ), REQUESTS);
    assert_eq!(take(&mut counts, &WRITE), REQUESTS);
    assert_eq!(take_close(&mut counts), REQUESTS);
    assert!(counts.is_empty(), "beside these: {counts:?}");
    let waited = accept_delays(&group(&server).workers).unwrap();
    assert_eq!(
        (waited.own.count(), waited.unknown),
        (REQUESTS as u64 + 1, 0)
    );
}

/// In the ring, with connections that are kept: a registration each.
#[test]
fn a_ring_of_workers_steers_without_a_system_call() {
    gate::needs!(steer);
    let server = serve().workers(2).start();
    let Some(trace) = Trace::attach(pid(&worker(&server, 0))) else {
        return;
    };
    for _ in 0..REQUESTS {
        let mut client = Client::connect(server.address());
        client.get("/");
        assert_eq!(client.response().status(), 200);
    }
    until_group(&server, "all are closed", |group| group.totals.active == 0);
    let accepted = worker(&server, 0).taken_own + worker(&server, 0).taken_stolen;
    let mut counts = trace.counts();
    let accepts = take(&mut counts, &ACCEPT);
    assert!(accepts as u64 >= accepted && accepted > 0);
    assert_eq!(take(&mut counts, &WRITE), accepted as usize);
    assert_eq!(take_close(&mut counts), accepted as usize);
    counts.remove("restart_syscall");
    for allowed in WAIT.iter().chain(&READ).chain(&["epoll_ctl"]) {
        counts.remove(*allowed);
    }
    assert!(counts.is_empty(), "beside these: {counts:?}");
}

/// Answers each connection's request as php-fpm does: it waits for the close.
fn answer_requests(listener: &UnixListener) {
    let mut answer = Vec::new();
    fastcgi::put_stdout(&mut answer, REQUEST_ID, b"Content-Type: a/b\n\nanswer");
    let complete = ProtocolStatus::Complete;
    fastcgi::put_end(&mut answer, REQUEST_ID, 0, complete);
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut room = [0; 4096];
        // One write has all of a request without a body.
        let read = stream.read(&mut room).unwrap();
        assert!(room[..read].ends_with(&END_OF_BODY), "{:?}", &room[..read]);
        stream.write_all(&answer).unwrap();
        assert_eq!(stream.read(&mut room).unwrap(), 0);
    }
}

/// The record that ends a request (FCGI_STDIN without content).
const END_OF_BODY: [u8; 8] = [1, 5, 0, 1, 0, 0, 0, 0];

/// A request to an application is one connection with one write and one read. Its script is looked up
/// once a second, and the addresses of the client are asked for once.
#[test]
fn a_request_to_an_application_has_a_connection_a_write_and_a_read() {
    let folder = tempfile::tempdir().unwrap();
    let open = |mode| <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode);
    fs::set_permissions(folder.path(), open(0o755)).unwrap();
    fs::write(folder.path().join("a.php"), "").unwrap();
    let socket = folder.path().join("application");
    let listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, open(0o777)).unwrap();
    std::thread::spawn(move || answer_requests(&listener));
    let (root, socket) = (folder.path().display(), socket.display());
    let site = format!("[[site]]\nroot = \"{root}\"\nfastcgi = \"unix:{socket}\"\n");
    let served = Configured::start(&site, &["--workers", "1"]);
    let mut client = Client::connect(served.server.address());
    let mut ask = || {
        client.get("/a.php");
        let response = client.response();
        assert_eq!((response.status(), &*response.body), (200, &b"answer"[..]));
    };
    ask();
    let Some(trace) = Trace::attach(pid(&worker(&served.server, 0))) else {
        return;
    };
    (0..REQUESTS).for_each(|_| ask());
    let mut counts = trace.counts();
    // Both the client and the application wake the worker.
    assert!(take(&mut counts, &WAIT) < REQUESTS * 3);
    counts.remove("restart_syscall");
    for each in ["socket", "connect", "epoll_ctl"] {
        assert_eq!(take(&mut counts, &[each]), REQUESTS, "{each}");
    }
    assert_eq!(take(&mut counts, &READ), REQUESTS * 2);
    assert_eq!(take(&mut counts, &WRITE), REQUESTS * 2);
    let looks = take(&mut counts, &["openat2"]);
    assert_eq!(take(&mut counts, &["statx"]), looks);
    assert!(
        looks < REQUESTS / 2,
        "the script was looked up {looks} times"
    );
    assert_eq!(take_close(&mut counts), REQUESTS + looks);
    assert!(counts.is_empty(), "beside these: {counts:?}");
}
