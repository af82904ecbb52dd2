//! The floor of `bench http`: the least that an epoll server can do for a request. It makes the
//! system calls of an `srv serve` that has nothing else to do (`epoll_wait`, `accept4`, `recv`,
//! `send`, `close`; `epoll_ctl` only if nothing has arrived yet), in the same order, and answers
//! every read with bytes that it was given. It reads no more HTTP than that: a request has to come
//! in one read, and if its first or last header line is `Connection: close`, it is the last one.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

/// As many events as srv takes at a time.
const BATCH: usize = 16;
const READ_BYTES: usize = 8192;
/// A connection's token is its descriptor.
const LISTENER: u64 = u64::MAX;

/// What every request is answered with.
struct Answers {
    kept_alive: Vec<u8>,
    last: Vec<u8>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, workers, kept_alive, last] = &arguments[..] else {
        bail!("usage: canned-answers ADDRESS WORKERS KEPT-ALIVE-FILE LAST-FILE");
    };
    let workers: usize = workers.parse().context("read the number of workers")?;
    let read = |path: &String| std::fs::read(path).with_context(|| format!("read {path}"));
    let answers = Answers {
        kept_alive: read(kept_alive)?,
        last: read(last)?,
    };
    // The workers are processes, as srv's are: threads would share a table of descriptors.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let own = std::env::current_exe().context("find this program")?;
    for _ in 1..workers {
        let mut sibling = Command::new(&own);
        let sibling = sibling.args([address.as_str(), "1", kept_alive, last]);
        sibling.spawn().context("start a worker")?;
    }
    work(address.parse().context("read the address")?, &answers)
}

/// One worker, without an end.
fn work(address: SocketAddr, answers: &Answers) -> Result<()> {
    let listener = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    listener.set_reuse_port(true)?;
    listener.set_nonblocking(true)?;
    listener
        .bind(&address.into())
        .with_context(|| format!("bind {address}"))?;
    listener.listen(1024)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let data = EventData::new_u64(LISTENER);
    epoll::add(&epoll, &listener, data, EventFlags::IN)?;
    // In one call, since the workers write to the same pipe.
    std::io::stderr().write_all(format!("listening on {address}\n").as_bytes())?;
    let mut events: Vec<Event> = Vec::with_capacity(BATCH);
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for events"),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => accept(&epoll, &listener, answers)?,
                fd => {
                    // SAFETY: it was forgotten when it was registered, and is registered once.
                    let connection = unsafe { OwnedFd::from_raw_fd(fd as i32) };
                    if serve(&connection, answers)? {
                        std::mem::forget(connection);
                    }
                }
            }
        }
    }
}

fn accept(epoll: &OwnedFd, listener: &Socket, answers: &Answers) -> Result<()> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let connection = match rustix::net::accept_with(listener, flags) {
        Ok(connection) => connection,
        Err(Errno::AGAIN | Errno::CONNABORTED) => return Ok(()),
        Err(error) => return Err(error).context("accept a connection"),
    };
    if serve(&connection, answers)? {
        let data = EventData::new_u64(connection.as_raw_fd() as u64);
        let changes = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(epoll, &connection, data, changes).context("watch a connection")?;
        std::mem::forget(connection);
    }
    Ok(())
}

/// Answers what has arrived. Returns whether the connection goes on.
fn serve(connection: &OwnedFd, answers: &Answers) -> Result<bool> {
    let mut read = [0; READ_BYTES];
    let request = match rustix::net::recv(connection, &mut read, RecvFlags::empty()) {
        Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(false),
        Ok((length, _)) => &read[..length],
        Err(Errno::AGAIN) => return Ok(true),
        Err(error) => return Err(error).context("read a request"),
    };
    let is_last = is_last(request);
    let answer = match is_last {
        true => &answers.last,
        false => &answers.kept_alive,
    };
    match rustix::net::send(connection, answer, SendFlags::NOSIGNAL) {
        Ok(sent) => ensure!(sent == answer.len(), "send an answer: it does not fit"),
        Err(Errno::PIPE | Errno::CONNRESET) => return Ok(false),
        Err(error) => return Err(error).context("send an answer"),
    }
    Ok(!is_last)
}

/// wrk sends its header lines in any order.
fn is_last(request: &[u8]) -> bool {
    const CLOSE: &[u8] = b"Connection: close\r\n";
    let first = request.iter().position(|byte| *byte == b'\n');
    request.ends_with(b": close\r\n\r\n")
        || first.is_some_and(|end| request[end + 1..].starts_with(CLOSE))
}
