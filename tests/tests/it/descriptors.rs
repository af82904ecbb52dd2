//! Where file descriptors are few: files that are being sent count, idle connections
//! make room, the rest are told, and the log stays short.

use std::io::Read as _;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use socket2::SockRef;
use srv_tests::server::Server;

use crate::client::{Client, get};
use crate::probe::{open_files, pid, refused, until, until_group, worker};

/// Of these 94 are for connections and the files that they are sent.
const DESCRIPTORS: &str = "128";
const LARGE_BYTES: u64 = 50 << 20;

struct Served {
    server: Server,
    _root: tempfile::TempDir,
}

impl Served {
    fn start(further: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("index.html"), "hello\n").unwrap();
        let large = std::fs::File::create(root.path().join("large")).unwrap();
        large.set_len(LARGE_BYTES).unwrap();
        rustix::fs::chmod(root.path(), rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}"));
        command.arg(srv_tests::server::binary().unwrap());
        let arguments = ["--workers", "1", "--root", root.path().to_str().unwrap()];
        let arguments = arguments.iter().chain(further);
        let folder = tempfile::tempdir().unwrap();
        Self {
            server: Server::start_as(command, folder, arguments).unwrap(),
            _root: root,
        }
    }

    fn worker(&self) -> Pid {
        pid(&worker(&self.server, 0))
    }

    /// Begins to receive the large file, and does not go on.
    fn download(&self) -> Client {
        let mut client = Client::connect(self.server.address());
        let socket = SockRef::from(client.stream());
        socket.set_recv_buffer_size(4 << 10).unwrap();
        client.get("/large");
        client
    }

    fn lines(mut self, part: &str) -> usize {
        let log = self.server.child().stderr();
        log.lines().filter(|line| line.contains(part)).count()
    }
}

fn kept(server: &Server) -> Client {
    let mut client = Client::connect(server.address());
    client.get("/");
    assert_eq!(client.response().status(), 200);
    client
}

/// The status of an answer whose body is not awaited.
fn status(client: &Client) -> String {
    let mut start = [0; 12];
    client
        .stream()
        .read_exact(&mut start)
        .expect("each client is answered");
    String::from_utf8_lossy(&start[9..]).into()
}

#[test]
fn files_that_are_being_sent_count() {
    let served = Served::start(&[]);
    let clients: Vec<_> = (0..80).map(|_| served.download()).collect();
    let statuses: Vec<_> = clients.iter().map(status).collect();
    let answered = statuses.iter().filter(|status| *status == "200").count();
    let told = statuses.iter().filter(|status| *status == "503").count();
    assert_eq!(answered + told, 80, "{statuses:?}");
    assert!(answered >= 40, "two descriptors each: {statuses:?}");
    assert!(told >= 1, "there are not enough for all: {statuses:?}");
    // The next one is told, too, and at once: the listener is not given up.
    assert_eq!(get_any(&served.server), 503);
    drop(clients);
    until_group(&served.server, "they have gone", |group| {
        group.totals.active == 0
    });
    assert_eq!(get(served.server.address(), "/").status(), 200);
    assert_eq!(served.lines("accept"), 0, "the kernel refused nothing");
}

fn get_any(server: &Server) -> u16 {
    let mut client = Client::connect(server.address());
    client.get("/");
    client.response().status()
}

/// Connections that wait for a request are closed where those that are served need the
/// descriptors for files.
#[test]
fn idle_connections_make_room_for_files() {
    let served = Served::start(&[]);
    let idle: Vec<_> = (0..80).map(|_| kept(&served.server)).collect();
    let clients: Vec<_> = (0..40).map(|_| served.download()).collect();
    for client in &clients {
        assert_eq!(status(client), "200");
    }
    drop(idle);
    assert_eq!(refused(&served.server, "too_many_connections"), 0);
}

/// Another user's limits take a capability that containers do not have.
const AS_THIS_USER: [&str; 2] = ["--user", "root"];

/// Has the kernel refuse any further descriptor to the worker.
fn exhaust(worker: Pid) -> Rlimit {
    let now = open_files(worker) as u64;
    let limit = Rlimit {
        current: Some(now),
        maximum: Some(DESCRIPTORS.parse().unwrap()),
    };
    prlimit(Some(worker), Resource::Nofile, limit).unwrap()
}

#[test]
fn where_accept_fails_the_longest_idle_connection_goes() {
    let served = Served::start(&AS_THIS_USER);
    let (mut first, mut second) = (kept(&served.server), kept(&served.server));
    second.get("/");
    assert_eq!(second.response().status(), 200);
    exhaust(served.worker());
    let mut third = Client::connect(served.server.address());
    third.get("/");
    assert_eq!(third.response().status(), 200);
    first
        .stream()
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    first.ended_or_response().expect_err("it made room");
    second.get("/");
    assert_eq!(second.response().status(), 200);
}

#[test]
fn where_none_is_idle_the_listener_rests_and_says_so_seldom() {
    let served = Served::start(&AS_THIS_USER);
    let mut busy = Client::connect(served.server.address());
    busy.send("GET / HTTP/1.1\r\n");
    until_group(&served.server, "it is in a request", |group| {
        group.totals.active == 1
    });
    let worker = served.worker();
    let before = exhaust(worker);
    let mut waiting = Client::connect(served.server.address());
    waiting.get("/");
    // More than enough turns for a line each; the kernel counts the refusals' sleeps.
    let switches = || voluntary_switches(worker);
    let at_first = switches();
    until("the worker has tried often", || {
        (switches() >= at_first + 100).then_some(())
    });
    // It serves all the while, what needs no descriptor.
    busy.send("Host: a\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n");
    assert!([200, 503].contains(&busy.response().status()));
    assert_eq!(busy.response().status(), 204);
    prlimit(Some(worker), Resource::Nofile, before).unwrap();
    assert_eq!(waiting.response().status(), 200);
    let lines = served.lines("accept a connection");
    assert!((1..20).contains(&lines), "{lines} lines");
}

fn voluntary_switches(process: Pid) -> u64 {
    let process = procfs::process::Process::new(process.as_raw_nonzero().get()).unwrap();
    let status = process.status().unwrap();
    status.voluntary_ctxt_switches.expect("Linux says")
}
