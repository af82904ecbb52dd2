//! Keep-alive connections that are opened, used for one request, and then left open: which
//! workers have them, and what does one cost its server? The sockets block, and are opened one
//! after another or all at once. Knows no clock.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::measure::load::response::{Head, Reader};
use crate::measure::stats::per_worker;

/// Open connections; dropping closes them all.
#[derive(Debug)]
pub struct KeepAlive {
    streams: Vec<TcpStream>,
    /// The slot of the worker that answered on each, in order of opening; `None` if the
    /// answer has no `X-Worker`.
    pub workers: Vec<Option<u16>>,
}

/// In what order connections are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The next when the one before has its response.
    OneByOne,
    /// All connects, then all requests, then all responses.
    Burst,
}

/// An answer that takes longer than this counts as none.
const TIMEOUT: Duration = Duration::from_secs(10);

impl KeepAlive {
    /// Opens `count` connections to `target` and gets `path` once on each.
    ///
    /// # Errors
    /// Any connection fails, or does not stay open after a 200.
    pub fn open(target: SocketAddr, path: &str, count: usize, opening: Opening) -> Result<Self> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        let mut opened = Self {
            streams: Vec::with_capacity(count),
            workers: Vec::with_capacity(count),
        };
        opened
            .open_all(target, request.as_bytes(), count, opening)
            .with_context(|| {
                let done = opened.workers.len();
                format!("open {count} keep-alive connections to {target}: {done} were answered")
            })?;
        Ok(opened)
    }

    fn open_all(
        &mut self,
        target: SocketAddr,
        request: &[u8],
        count: usize,
        opening: Opening,
    ) -> Result<()> {
        if opening == Opening::OneByOne {
            for _ in 0..count {
                let mut stream = TcpStream::connect(target).context("connect")?;
                stream.write_all(request).context("send")?;
                self.workers.push(receive(&mut stream)?.worker);
                self.streams.push(stream);
            }
            return Ok(());
        }
        for _ in 0..count {
            self.streams.push(begin_connect(target)?);
        }
        for stream in &mut self.streams {
            stream.write_all(request).context("connect or send")?;
        }
        for stream in &mut self.streams {
            self.workers.push(receive(stream)?.worker);
        }
        Ok(())
    }

    /// Connections per worker, for workers 0 to `workers`.
    pub fn shares(&self, workers: usize) -> Vec<u64> {
        per_worker(self.workers.iter().copied().flatten(), workers)
    }
}

/// A blocking stream whose handshake is under way; a write waits for it.
fn begin_connect(target: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(target),
        Type::STREAM,
        Some(Protocol::TCP),
    )
    .context("open a socket (too many open files? raise `ulimit -n`)")?;
    socket.set_nonblocking(true)?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
            return Err(error).context("connect");
        }
        _ => {}
    }
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}

fn receive(stream: &mut TcpStream) -> Result<Head> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut reader = Reader::new(false);
    let mut bytes = [0; 4096];
    loop {
        let count = stream.read(&mut bytes).context("receive")?;
        ensure!(count > 0, "closed before the response was complete");
        let Some(head) = reader.feed(&bytes[..count])? else {
            continue;
        };
        if head.status != 200 || !head.keep_alive {
            bail!("expected a 200 that keeps the connection, got {head:?}");
        }
        return Ok(head);
    }
}
