//! Unmodified servers under `srv run`: each works, loses nothing, and takes part with all of its
//! workers. After each kind of load a worker could have become deaf, which is to have missed the
//! event that tells it of a connection. So each test goes on after the load.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use procfs::process::Process;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::process::Pid;
use srv::measure::arrivals::{Service, burst};
use srv::measure::baseline::launch::{CONTROL, NO_BPF};
use srv::measure::load::Load;
use srv::measure::load::keep_alive::{KeepAlive, Opening};
use srv_tests::child::Child;
use srv_tests::free_address;
use srv_tests::server::binary;
use srv_tests::usage::Tree;

use crate::agent::LOCALHOST;
use crate::client::{Client, get};
use crate::gate;
use crate::probe::until;
use crate::serve::serve;
use crate::unmodified::{Running, Unmodified, in_path, servers};

const PAGE: &str = "/index.html";
/// Connections that are opened one by one.
const KEPT: usize = 64;

/// Connections to `server`, each answered before the next is made. They stay open if the server
/// keeps them.
fn one_by_one(server: &Unmodified, address: SocketAddr) -> Option<KeepAlive> {
    if server.keeps {
        let opened = KeepAlive::open(address, PAGE, KEPT, Opening::OneByOne);
        return Some(opened.unwrap());
    }
    for _ in 0..KEPT {
        assert_eq!(get(address, PAGE).status(), 200);
    }
    None
}

/// Bursts of requests, each on a connection of its own; how many.
fn bursts(address: SocketAddr) -> usize {
    let period = Duration::from_millis(400);
    let draws = burst(1, 1600.0, 32, period, Service::Fixed(0));
    let run = Load::get(address, PAGE).run(&draws).unwrap();
    assert_eq!(run.lost(), 0, "first error: {:?}", run.first_error);
    run.records.len()
}

/// How many connections each worker has accepted, at its own socket and at those of others.
fn accepted(running: &Running) -> Vec<u64> {
    let group = running.group();
    let workers = group.workers.iter();
    workers
        .map(|worker| worker.taken_own + worker.taken_stolen)
        .collect()
}

/// Waits until the workers have accepted `expected` connections in all. Each of them has accepted
/// some.
fn assert_accepted(server: &Unmodified, running: &Running, expected: usize) {
    let mut last = Vec::new();
    let is_sum = |each: &[u64]| each.iter().sum::<u64>() == expected as u64;
    until("the workers' counts add up to the connections", || {
        last = accepted(running);
        is_sum(&last).then_some(())
    });
    let took_part = last.iter().filter(|count| **count > 0).count();
    assert_eq!(took_part, server.acceptors, "{last:?}");
}

fn assert_never_deaf(server: &Unmodified, flags: &'static [&'static str]) {
    gate::needs!(root, "run an unmodified server": &server.installed());
    let running = server.run(flags);
    let address = running.address();
    let before = one_by_one(server, address);
    let in_bursts = bursts(address);
    assert_sleeps_when_idle(&running);
    let past_blocked = if server.can_be_blocked {
        past_blocked_workers(server, &running)
    } else {
        0
    };
    let after = one_by_one(server, address);
    assert_accepted(server, &running, KEPT + in_bursts + past_blocked + KEPT);
    drop((before, after));
}

/// Waits until no process of the server works, at many looks in a row: a worker that asks again and
/// again for a connection that is not there never sleeps for so long.
fn assert_sleeps_when_idle(running: &Running) {
    const LOOKS: usize = 10;
    let processes = Tree::of(running.pid()).unwrap();
    let is_asleep = |pid: Pid| {
        let stat = Process::new(pid.as_raw_nonzero().get()).and_then(|process| process.stat());
        stat.is_ok_and(|stat| stat.state == 'S')
    };
    let mut in_a_row = 0;
    until("every process of the server sleeps", || {
        let sleep = processes.pids().all(is_asleep);
        in_a_row = if sleep { in_a_row + 1 } else { 0 };
        (in_a_row == LOOKS).then_some(())
    });
}

/// Blocks one worker until the result is dropped. The connection waits for its response.
fn hold(address: SocketAddr, folder: &Path, nth: usize) -> (Client, File) {
    let pipe = folder.join(format!("hold-{nth}"));
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    let mut client = Client::connect(address);
    client.get(&format!("/hold/{nth}"));
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // It can be opened when the worker has opened it.
    let held = until("a worker is held", || {
        open(&pipe, flags, Mode::empty()).ok()
    });
    (client, held.into())
}

/// While all workers but one are blocked, each connection is answered; how many there were. The
/// kernel's hash chooses the blocked workers' sockets, too, and the free worker takes what waits
/// there.
fn past_blocked_workers(server: &Unmodified, running: &Running) -> usize {
    const CONNECTIONS: usize = 32;
    let address = running.address();
    let hold = |nth| hold(address, running.folder(), nth);
    let held: Vec<_> = (1..server.acceptors).map(hold).collect();
    for _ in 0..CONNECTIONS {
        assert_eq!(get(address, PAGE).status(), 200);
    }
    let connections = held.len() + CONNECTIONS;
    for (mut client, pipe) in held {
        drop(pipe);
        assert_eq!(client.response().status(), 200);
    }
    connections
}

/// The tests of one server.
macro_rules! server {
    ($name:ident, $server:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn is_never_deaf_when_steered() {
                if gate::steer() {
                    assert_never_deaf(&$server, &[]);
                }
            }

            #[test]
            fn is_never_deaf_when_hashed() {
                assert_never_deaf(&$server, &[NO_BPF]);
            }
        }
    };
    ($name:ident, $server:expr, capacity: $capacity:literal) => {
        mod $name {
            use super::*;

            #[test]
            fn is_never_deaf_when_steered() {
                if gate::steer() {
                    assert_never_deaf(&$server, &["--capacity", $capacity]);
                }
            }

            #[test]
            fn is_never_deaf_when_hashed() {
                assert_never_deaf(&$server, &["--capacity", $capacity, NO_BPF]);
            }
        }
    };
}

server!(nginx_with_a_shared_socket, servers::NGINX);
server!(nginx_with_a_socket_each, servers::NGINX_REUSEPORT);
server!(lighttpd, servers::LIGHTTPD);
server!(apache_prefork, servers::APACHE_PREFORK);
server!(apache_event, servers::APACHE_EVENT);
server!(haproxy_by_thread, servers::HAPROXY);
server!(gunicorn_sync, servers::GUNICORN_SYNC);
server!(gunicorn_gthread, servers::GUNICORN_GTHREAD);
server!(gunicorn_gevent, servers::GUNICORN_GEVENT);
server!(gunicorn_with_uvicorn_workers, servers::GUNICORN_UVICORN);
server!(uvicorn, servers::UVICORN);
server!(hypercorn, servers::HYPERCORN);
server!(granian, servers::GRANIAN);
server!(granian_at_capacity, servers::GRANIAN_OF_ONE_THREAD, capacity: "1");
server!(gunicorn_gthread_at_capacity, servers::GUNICORN_GTHREAD, capacity: "4");
server!(puma, servers::PUMA);
server!(unicorn, servers::UNICORN);
server!(node_in_turn, servers::NODE_IN_TURN);
server!(node_with_a_shared_socket, servers::NODE_SHARED);
server!(node_24_in_turn, servers::NODE_24_IN_TURN);
server!(node_24_with_a_shared_socket, servers::NODE_24_SHARED);
server!(php, servers::PHP);
server!(tokio, servers::TOKIO);
server!(axum_in_copies, servers::AXUM);

/// A Go server calls the kernel by itself, so that no library can take part. Docker's proxy is one,
/// before a server of this process's own.
#[test]
fn a_go_server_runs_as_without() {
    const PROXY: &str = "docker-proxy";
    gate::needs!(root, "run a Go server": &in_path(PROXY));
    let behind = serve().synthetic().start();
    let folder = tempfile::tempdir().unwrap();
    let address = free_address(LOCALHOST).unwrap();
    let host = LOCALHOST.to_string();
    let ports = [address.port(), behind.address().port()].map(|port| port.to_string());
    // It reports to the descriptor 3, and would otherwise close what has that number.
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec "$@" 3>/dev/null"#, "sh"]);
    command.arg(binary().unwrap());
    command
        .args(["run", "--control"])
        .arg(folder.path().join(CONTROL))
        .args(["--", PROXY, "-proto", "tcp"])
        .args(["-host-ip", &host, "-host-port", &ports[0]])
        .args(["-container-ip", &host, "-container-port", &ports[1]]);
    let mut proxy = Child::spawn(&mut command).unwrap();
    proxy.await_line("is a Go binary").unwrap();
    let connects = || Ok(TcpStream::connect(address).ok().map(drop));
    proxy.await_ready("it listens", connects).unwrap();
    for _ in 0..KEPT {
        assert_eq!(get(address, "/work?sleep_us=0").status(), 200);
    }
}
