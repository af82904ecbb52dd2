//! The floor of a comparison: a server that makes an HTTP server's system calls with answers that
//! it was given (`tests/src/bin/canned-answers.rs`), which are those of a real server.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Pid;
use srv::measure::baseline::retry_if_in_use;
use tempfile::TempDir;

use crate::child::Child;
use crate::free_address;

/// How the floor is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many workers it has.
    pub workers: usize,
    /// Its program, which only a test or bench can name.
    pub program: PathBuf,
    /// Where the files with its answers are.
    folder: Arc<TempDir>,
}

/// A running floor; dropping it stops it.
#[derive(Debug)]
pub struct Floor {
    child: Child,
    address: SocketAddr,
}

impl Options {
    /// A floor that answers as the server at `model` answers a GET of `path`, byte by byte.
    ///
    /// # Errors
    /// That server does not answer with a file.
    pub fn like(
        model: SocketAddr,
        path: &str,
        workers: usize,
        program: impl Into<PathBuf>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir().context("create a folder for answers")?;
        for (name, more) in FILES {
            let answer = answer(model, path, more)
                .with_context(|| format!("record what {model} answers to GET {path}"))?;
            std::fs::write(folder.path().join(name), answer).context("write an answer")?;
        }
        Ok(Self {
            workers,
            program: program.into(),
            folder: Arc::new(folder),
        })
    }
}

/// The files of the two answers, and what a request says to get each.
const FILES: [(&str, &str); 2] = [("kept-alive", ""), ("last", "Connection: close\r\n")];

/// All bytes of an answer. The client closes its own side after the request, so a server that
/// keeps the connection alive ends it, too.
fn answer(model: SocketAddr, path: &str, more: &str) -> Result<Vec<u8>> {
    let mut connection = TcpStream::connect(model)?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        connection,
        "GET {path} HTTP/1.1\r\nHost: {model}\r\n{more}\r\n"
    )?;
    connection.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    let said = String::from_utf8_lossy(&answer);
    ensure!(said.starts_with("HTTP/1.1 200 OK\r\n"), "it said: {said}");
    Ok(answer)
}

impl Floor {
    /// Starts it on a port that was free and waits until all its workers listen.
    ///
    /// # Errors
    /// It does not start; the message carries what it said.
    pub fn start(options: &Options) -> Result<Self> {
        retry_if_in_use(|| {
            let address = free_address(Ipv4Addr::LOCALHOST.into())?;
            let mut command = Command::new(&options.program);
            command.args([address.to_string(), options.workers.to_string()]);
            command.args(FILES.map(|(name, _)| options.folder.path().join(name)));
            let mut child = Child::spawn(&mut command)?;
            for _ in 0..options.workers {
                child.await_line("listening on ")?;
            }
            Ok(Self { child, address })
        })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process id of its first worker, the parent of the others.
    pub fn pid(&self) -> Pid {
        self.child.pid()
    }
}
