//! A private gunicorn or granian on a port of its own, whose workers have a
//! listening socket each, so that `srv attach` can steer them. They are taken from the virtual
//! environment that xtask makes, or from PATH.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::child::Child;
use super::{BaselineServer, await_listeners, free_address, retry_if_in_use};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// gunicorn with its default, synchronous workers and `--reuse-port`.
    Gunicorn,
    /// granian, WSGI, one thread for the application in each worker.
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

def application(environ, start_response):
    asked = parse_qs(environ.get('QUERY_STRING', '')).get('sleep_us')
    if asked and asked[0] != '0':
        time.sleep(int(asked[0]) / 1e6)
    start_response('200 OK', [('Content-Length', '3'), ('X-Worker', NUMBER)])
    return [b'ok\\n']
";

impl Program {
    /// Its command.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gunicorn => "gunicorn",
            Self::Granian => "granian",
        }
    }

    /// Its version, as it says it.
    ///
    /// # Errors
    /// It is not installed.
    pub fn version(self) -> Result<String> {
        let output = Command::new(self.binary())
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

    /// In xtask's `target/python`, beside the profile of the running program.
    fn binary(self) -> PathBuf {
        let own = std::env::current_exe().unwrap_or_default();
        let mut beside = own
            .ancestors()
            .map(|folder| folder.join("python/bin").join(self.name()));
        beside
            .find(|binary| binary.is_file())
            .unwrap_or_else(|| self.name().into())
    }

    fn arguments(self, address: SocketAddr, workers: usize) -> String {
        let (host, port) = (address.ip(), address.port());
        match self {
            Self::Gunicorn => format!(
                "--reuse-port --workers {workers} --backlog 4096 --bind {address} application"
            ),
            Self::Granian => format!(
                "--interface wsgi --workers {workers} --blocking-threads 1 --backlog 4096 \
                 --no-access-log --host {host} --port {port} application:application"
            ),
        }
    }
}

/// Starts `program` on a port of `host` and waits until each worker listens.
///
/// # Errors
/// It is not installed, or it did not start; the message carries what it said.
pub fn start(program: Program, host: IpAddr, workers: usize) -> Result<BaselineServer> {
    program.version()?;
    retry_if_in_use(|| try_start(program, host, workers))
}

fn try_start(program: Program, host: IpAddr, workers: usize) -> Result<BaselineServer> {
    let folder = tempfile::tempdir().context("create a temporary folder")?;
    let file = folder.path().join("application.py");
    std::fs::write(&file, APPLICATION).with_context(|| format!("write {}", file.display()))?;
    let address = free_address(host)?;
    let mut command = Command::new(program.binary());
    command
        .current_dir(folder.path())
        .args(program.arguments(address, workers).split_whitespace());
    let mut child = Child::spawn(&mut command)?;
    await_listeners(&mut child, address, workers, 1 + workers)?;
    let last = folder.path().join(format!("worker-{}", workers - 1));
    child.await_ready("each worker has the application", || {
        Ok(last.exists().then_some(()))
    })?;
    Ok(BaselineServer {
        child,
        address,
        _folder: folder,
    })
}
