//! Starts the admin process when something connects, and again when it has ended.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::Signal;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::sleep;

use super::channel;
use super::sockets::AdminSockets;
use crate::control::Question;
use crate::kernel::process::Process;
use crate::values::LogFormat;

/// The number under which the process inherits the channel to the server.
pub const CHANNEL: i32 = 3;
/// The number of the first socket that it inherits; the others follow.
pub const FIRST_SOCKET: i32 = 4;
/// If the process has lived for longer, the next one starts at once.
const SETTLED: Duration = Duration::from_secs(5);
/// The wait after the second early end in a row. Each further one is twice as long, up to the
/// longest.
const WAIT: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(10);
/// A process that was killed ends within this time, unless its file system does not answer.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// How the process is to run.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The user that it is to become, `UID:GID`. Otherwise it becomes nobody if root starts it.
    pub user: Option<String>,
    /// The format of its log.
    pub log: LogFormat,
}

/// The process that runs, if one does.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<Option<Arc<Process>>>>);

impl Running {
    pub(super) fn get(&self) -> Option<Arc<Process>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, process: Option<Arc<Process>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = process;
    }
}

/// Has a process at the sockets whenever something connects there.
pub(super) async fn supervise<E: From<Question>>(
    sockets: Arc<AdminSockets>,
    running: Running,
    launch: Launch,
    events: UnboundedSender<E>,
) {
    let mut early_ends = 0;
    loop {
        if let Err(error) = sockets.readable().await {
            return tracing::error!("watch the admin sockets: {error}");
        }
        let began = Instant::now();
        match start(&sockets, &launch) {
            Ok((process, channel)) => {
                let process = Arc::new(process);
                running.set(Some(process.clone()));
                channel::answer_all(channel, &events).await;
                end(&process).await;
                running.set(None);
            }
            Err(error) => tracing::error!("start the admin process: {error:#}"),
        }
        early_ends = match began.elapsed() > SETTLED {
            true => 0,
            false => early_ends + 1,
        };
        sleep(wait_after(early_ends)).await;
    }
}

fn wait_after(early_ends: u32) -> Duration {
    match early_ends {
        0 | 1 => Duration::ZERO,
        n => (WAIT * 2u32.saturating_pow(n.min(16) - 2)).min(WAIT_MAX),
    }
}

fn start(sockets: &AdminSockets, launch: &Launch) -> anyhow::Result<(Process, UnixStream)> {
    let (mine, theirs) = UnixStream::pair().context("create a channel to it")?;
    mine.set_nonblocking(true)
        .context("set the channel to non-blocking")?;
    let mut mappings = vec![FdMapping {
        parent_fd: theirs.into(),
        child_fd: CHANNEL,
    }];
    for (child_fd, socket) in (FIRST_SOCKET..).zip(sockets.handles()) {
        let parent_fd = socket.try_clone_to_owned();
        let parent_fd = parent_fd.context("duplicate a socket")?;
        mappings.push(FdMapping {
            parent_fd,
            child_fd,
        });
    }
    // This is not the binary's path: the file there may have been replaced since the start.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("srv")
        .args(["admin", "--inherits", &(mappings.len() - 1).to_string()])
        .args(["--log", launch.log.name()])
        .args(launch.user.iter().flat_map(|user| ["--user", user]))
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .fd_mappings(mappings)
        .context("number its file descriptors")?;
    let child = command.spawn().context("execute srv")?;
    Ok((Process::new(&child), mine))
}

/// The channel is closed: the process has ended, or is of no use any more. The server may reap it
/// first, as it reaps every child.
async fn end(process: &Process) {
    let pid = process.pid().as_raw_nonzero();
    let _ = process.signal(Signal::KILL);
    let deadline = Instant::now() + ENDS_WITHIN;
    while process.reap().is_ok_and(|ended| ended.is_none()) && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
    tracing::warn!(
        "the admin process, {pid}, has ended: another takes its place when something connects"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_ends_make_the_next_start_wait() {
        let waits: Vec<_> = (0..11).map(|ends| wait_after(ends).as_millis()).collect();
        let expected = [
            0, 0, 100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000,
        ];
        assert_eq!(waits, expected);
    }
}
