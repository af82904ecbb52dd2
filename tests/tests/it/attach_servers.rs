//! Other servers than nginx: what docs/attach.md says of each is so.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use srv_tests::child::Child;
use srv_tests::haproxy::{self, Haproxy};
use srv_tests::server::profile_folder;
use tempfile::TempDir;

use crate::agent::{Agent, LOCALHOST};
use crate::client::get;
use crate::gate;
use crate::probe::until;

const WORKERS: usize = 3;

/// Attaches round robin: who answered is who was next, each `rounds` times.
fn assert_steers(address: SocketAddr, command: &str) {
    let agent = Agent::attach(address, &["--policy", "round-robin"]);
    let before = agent.status();
    assert_eq!(
        (before.listeners.len(), &*before.server),
        (WORKERS, command)
    );
    for listener in &before.listeners {
        assert_eq!(listener.workers.len(), 1, "{before:?}");
    }
    let workers: Vec<String> = (0..WORKERS * 5)
        .map(|_| {
            let response = get(address, "/");
            assert_eq!(response.status(), 200);
            response
                .header("X-Worker")
                .expect("it names its worker")
                .to_owned()
        })
        .collect();
    let in_turn = workers
        .iter()
        .zip(&workers[WORKERS..])
        .all(|(one, next)| one == next);
    assert!(in_turn, "{workers:?}");
    let program = agent.status().program;
    assert_eq!(program.steered as usize, WORKERS * 5, "{program:?}");
}

#[test]
fn haproxy_with_a_shard_per_thread() {
    let required = haproxy::version().map(drop);
    let required = required.map_err(|error| format!("{error:#}"));
    if !gate::can_steer() || !gate::can("run HAProxy", required) {
        return;
    }
    let haproxy = Haproxy::start(LOCALHOST, WORKERS).unwrap();
    assert_steers(haproxy.address(), "haproxy");
}

const APPLICATION: &str = "\
import os

NAME = str(os.getpid())

def wsgi(environ, start_response):
    start_response('200 OK', [('Content-Length', '3'), ('X-Worker', NAME)])
    return [b'ok\\n']
";

/// A server from PyPI in a folder with [`APPLICATION`].
struct Python {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Python {
    fn start(name: &str, arguments: impl Fn(SocketAddr) -> String) -> Option<Self> {
        let binary = binary(name);
        let required = binary.exists().then_some(());
        let required = required.ok_or(format!("no {}: see xtask's python.rs", binary.display()));
        if !gate::can_steer() || !gate::can(&format!("run {name}"), required) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("application.py"), APPLICATION).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut command = Command::new(binary);
        command.current_dir(folder.path());
        let arguments = arguments(address);
        let child = Child::spawn(command.args(arguments.split(' '))).unwrap();
        Some(Self {
            child,
            address,
            _folder: folder,
        })
    }

    /// Waits until each worker listens and answers.
    fn until_ready(&self) {
        let mut diag = srv::foreign::sock_diag::SockDiag::open(None).unwrap();
        until("each worker listens", || {
            (diag.listeners_on(self.address).unwrap().len() == WORKERS).then_some(())
        });
        assert_eq!(get(self.address, "/").status(), 200);
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // Both take SIGTERM for a graceful stop of all workers.
        let _ = self.child.signal(Signal::TERM);
    }
}

fn binary(name: &str) -> PathBuf {
    let profile = profile_folder().unwrap();
    let target = profile.parent().expect("target/PROFILE");
    target.join("python/bin").join(name)
}

#[test]
fn gunicorn_with_reuse_port() {
    let arguments =
        |address| format!("--reuse-port --workers {WORKERS} --bind {address} application:wsgi");
    let Some(server) = Python::start("gunicorn", arguments) else {
        return;
    };
    server.until_ready();
    assert_steers(server.address, "gunicorn");
}

#[test]
fn granian_as_it_is() {
    let arguments = |address: SocketAddr| {
        let (host, port) = (address.ip(), address.port());
        format!("--interface wsgi --workers {WORKERS} --host {host} --port {port} application:wsgi")
    };
    let Some(server) = Python::start("granian", arguments) else {
        return;
    };
    server.until_ready();
    assert_steers(server.address, "granian");
}
