//! A private gunicorn, uvicorn or granian on a port of its own. They are taken from the virtual
//! environment that xtask makes, or from PATH.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::launch::{Complete, Launch};
use super::{BaselineServer, free_address, retry_if_in_use};

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// gunicorn with its default, synchronous workers and `--reuse-port`: each worker has a
    /// listening socket.
    Gunicorn,
    /// The same without `--reuse-port`: the workers share one.
    GunicornShared,
    /// uvicorn, whose workers share one listening socket.
    Uvicorn,
    /// granian, WSGI, one thread for the application in each worker, each with a listening socket.
    Granian,
}

/// `/work?sleep_us=N`, which *blocks* its worker; answers carry `X-Worker`. The
/// servers do not tell a worker its number: the worker takes the first that is free.
const APPLICATION: &str = "\
import os, time
from urllib.parse import parse_qs

def number():
    nth = 0
    while True:
        try:
            os.close(os.open(f'worker-{nth}', os.O_CREAT | os.O_EXCL))
            return str(nth)
        except FileExistsError:
            nth += 1

NUMBER = number()

def work(query):
    asked = parse_qs(query).get('sleep_us')
    if asked and asked[0] != '0':
        time.sleep(int(asked[0]) / 1e6)

def application(environ, start_response):
    work(environ.get('QUERY_STRING', ''))
    start_response('200 OK', [('Content-Length', '3'), ('X-Worker', NUMBER)])
    return [b'ok\\n']

async def asgi(scope, receive, send):
    work(scope['query_string'].decode())
    headers = [(b'content-length', b'3'), (b'x-worker', NUMBER.encode())]
    await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
    await send({'type': 'http.response.body', 'body': b'ok\\n'})
";

impl Program {
    /// Its command.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gunicorn | Self::GunicornShared => "gunicorn",
            Self::Uvicorn => "uvicorn",
            Self::Granian => "granian",
        }
    }

    /// Its version, as it says it.
    ///
    /// # Errors
    /// It is not installed.
    pub fn version(self) -> Result<String> {
        let output = Command::new(executable(self.name()))
            .arg("--version")
            .output()
            .with_context(|| {
                let name = self.name();
                format!(
                    "{name} is not installed; `cargo xtask ab --arms {name}` installs it, or: \
                     pip install {name}"
                )
            })?;
        let said = String::from_utf8_lossy(&output.stdout);
        let version = said.split_whitespace().find(|word| {
            let word = word.trim_end_matches(')');
            word.contains('.') && word.starts_with(|first: char| first.is_ascii_digit())
        });
        let version = version.with_context(|| format!("read a version in `{said}`"))?;
        Ok(format!("{} {}", self.name(), version.trim_end_matches(')')))
    }

    fn arguments(self, address: SocketAddr, workers: usize) -> String {
        let (host, port) = (address.ip(), address.port());
        match self {
            Self::Gunicorn => {
                let shared = Self::GunicornShared.arguments(address, workers);
                format!("--reuse-port {shared}")
            }
            Self::GunicornShared => {
                format!("--workers {workers} --backlog 4096 --bind {address} application")
            }
            // As srv, it is not to close keep-alive connections, nor to kill a worker that is
            // stopped for seconds.
            Self::Uvicorn => format!(
                "--workers {workers} --backlog 4096 --loop uvloop --http httptools --lifespan off \
                 --log-level warning --no-access-log --timeout-keep-alive 600 \
                 --timeout-worker-healthcheck 60 --host {host} --port {port} application:asgi"
            ),
            Self::Granian => format!(
                "--interface wsgi --workers {workers} --blocking-threads 1 --backlog 4096 \
                 --no-access-log --host {host} --port {port} application:application"
            ),
        }
    }

    /// Whether its workers have a listening socket each.
    pub fn has_own_sockets(self) -> bool {
        matches!(self, Self::Gunicorn | Self::Granian)
    }

    fn complete(self, workers: usize) -> Complete {
        let listeners = if self.has_own_sockets() { workers } else { 1 };
        // A single worker of uvicorn has no master.
        let has_master = self != Self::Uvicorn || workers > 1;
        Complete {
            listeners,
            processes: usize::from(has_master) + workers,
            acceptors: workers,
        }
    }
}

/// A command of this name: in xtask's `target/python`, beside the profile of the running program,
/// else whatever has the name in PATH.
pub fn executable(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let mut beside = own
        .ancestors()
        .map(|folder| folder.join("python/bin").join(name));
    beside
        .find(|binary| binary.is_file())
        .unwrap_or_else(|| name.into())
}

/// Starts `program` on a port of `host` and waits until each worker has the application.
///
/// # Errors
/// It is not installed, or it did not start; the message carries what it said.
pub fn start(
    program: Program,
    host: IpAddr,
    workers: usize,
    launch: Launch,
) -> Result<BaselineServer> {
    program.version()?;
    retry_if_in_use(|| try_start(program, host, workers, launch))
}

fn try_start(
    program: Program,
    host: IpAddr,
    workers: usize,
    launch: Launch,
) -> Result<BaselineServer> {
    let folder = tempfile::tempdir().context("create a temporary folder")?;
    let file = folder.path().join("application.py");
    std::fs::write(&file, APPLICATION).with_context(|| format!("write {}", file.display()))?;
    let address = free_address(host)?;
    let mut command = Command::new(executable(program.name()));
    command
        .current_dir(folder.path())
        .args(program.arguments(address, workers).split_whitespace());
    let mut server = launch.start(command, address, folder, program.complete(workers))?;
    server.await_files((0..workers).map(|nth| format!("worker-{nth}")))?;
    Ok(server)
}
