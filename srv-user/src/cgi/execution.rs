//! One execution of a script: the client's body to its standard input, its output to the client, its
//! standard error to the log; and why it ended. Knows no queue and no later request.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::unix::pipe;

use super::incoming::Incoming;
use super::notes::{Budget, Notes};
use super::reaper::{End, Supervisor, Supervisors};
use super::supervisor::{Plan, Running};
use crate::fastcgi::record::{self, HEADER_BYTES, Kind};
use crate::fastcgi::server::Event;

/// How much of an output is read at once.
const OUTPUT_BYTES: usize = 32 << 10;

/// The bounds that this process keeps itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub time: Duration,
    pub output_bytes: u64,
}

/// How an execution went.
#[derive(Debug)]
pub(super) struct Outcome {
    pub why: Why,
    /// Whether the client has a part of the answer.
    pub has_answered: bool,
}

/// Why an execution is over.
#[derive(Debug)]
pub(super) enum Why {
    /// The script has ended.
    Ended(End),
    /// It ran for too long.
    TimeLimit,
    /// It wrote too much.
    OutputBound,
    /// The client does not want the answer any more, on a connection that it may use again.
    Aborted,
    /// The connection has ended, or cannot be used.
    ClientGone,
    /// This process stops.
    Stopped,
}

/// Why an output ended before the script did.
enum Cut {
    OutputBound,
    ClientGone,
}

/// Executes a script for the request `request_id`. It ends with the script, and with all that the script
/// has started.
///
/// # Errors
/// The kernel has no more pipes or processes.
pub(super) async fn execute(
    plan: &Plan,
    path: &Path,
    client: (&mut Incoming, &mut (impl AsyncWrite + Unpin)),
    request_id: u16,
    shared: (&Supervisors, &Budget),
    bounds: Bounds,
    stopped: impl Future<Output = ()>,
) -> io::Result<Outcome> {
    let (incoming, writer) = client;
    let (supervisors, budget) = shared;
    let start = || plan.start().map(|running| (running.pid, running));
    let (mut supervisor, running) = supervisors.start(start)?;
    let Running {
        stdin,
        stdout,
        stderr,
        ..
    } = running;
    let stdin = pipe::Sender::from_owned_fd(stdin)?;
    let stdout = pipe::Receiver::from_owned_fd(stdout)?;
    let stderr = pipe::Receiver::from_owned_fd(stderr)?;
    let sent = Cell::new(0);
    let answer = async {
        let output = relay(stdout, writer, request_id, bounds.output_bytes, &sent);
        let (output, ()) = tokio::join!(output, note(stderr, Notes::new(path, budget)));
        match output {
            Err(Cut::OutputBound) => Why::OutputBound,
            Err(Cut::ClientGone) => Why::ClientGone,
            // It may go on after it has closed its output: the answer ends with it.
            Ok(()) => Why::Ended(supervisor.ended().await),
        }
    };
    let why = tokio::select! {
        why = answer => why,
        why = feed(incoming, stdin) => why,
        () = tokio::time::sleep(bounds.time) => Why::TimeLimit,
        () = stopped => Why::Stopped,
    };
    end(&mut supervisor).await;
    Ok(Outcome {
        why,
        has_answered: sent.get() > 0,
    })
}

/// Ends the script, if it has not ended yet.
async fn end(supervisor: &mut Supervisor) {
    supervisor.stop();
    supervisor.ended().await;
}

/// The body, to the script. If the script does not read it, the client cannot send it. If the script has
/// closed its end, the rest is dropped. This ends only if the client wants no answer.
async fn feed(incoming: &mut Incoming, stdin: pipe::Sender) -> Why {
    let mut stdin = Some(stdin);
    loop {
        match incoming.next().await {
            Ok(Some(Event::Stdin(content))) => {
                if let Some(open) = &mut stdin
                    && open.write_all(&content).await.is_err()
                {
                    stdin = None;
                }
            }
            Ok(Some(Event::EndOfStdin)) => stdin = None,
            Ok(Some(Event::Abort)) => return Why::Aborted,
            // What is to be sent can wait for the end of the answer.
            Ok(Some(Event::Reply(reply))) => incoming.owe(reply),
            Ok(Some(Event::Request { .. }) | None) | Err(_) => return Why::ClientGone,
        }
    }
}

/// The output, to the client: as records, in the portions in which it is written.
async fn relay(
    mut stdout: pipe::Receiver,
    writer: &mut (impl AsyncWrite + Unpin),
    request_id: u16,
    bound: u64,
    sent: &Cell<u64>,
) -> Result<(), Cut> {
    let mut buffer = vec![0; HEADER_BYTES + OUTPUT_BYTES];
    loop {
        let read = stdout.read(&mut buffer[HEADER_BYTES..]).await;
        // Reading a pipe fails for no reason of its own.
        let length = read.unwrap_or(0);
        if length == 0 {
            return Ok(());
        }
        if sent.get() + length as u64 > bound {
            return Err(Cut::OutputBound);
        }
        // The buffer is shorter than a record can be.
        let header = record::header(Kind::Stdout, request_id, length as u16);
        buffer[..HEADER_BYTES].copy_from_slice(&header);
        sent.set(sent.get() + length as u64);
        let record = &buffer[..HEADER_BYTES + length];
        writer
            .write_all(record)
            .await
            .map_err(|_| Cut::ClientGone)?;
    }
}

/// Standard error, to the log.
async fn note(mut stderr: pipe::Receiver, mut notes: Notes<'_>) {
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        notes.write(&buffer[..length]);
    }
}
