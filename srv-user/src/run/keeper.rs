//! The keeper: the process that `srv run` leaves beside a server. It starts the coordinator as its
//! child and, if that is killed, another, which goes on where it stopped. In between nothing is
//! lost: the keeper has each file that the coordinator has, as the coordinator has ordered.
//!
//! It does nothing else, and sleeps until it is told something.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, getpid, pidfd_open, waitpid};
use srv_common::claim::ANSWER_WITHIN_MS;

use super::coordinator::{self, Beginning, CoordinatorArgs};
use super::invitation::{Entrance, INVITED, REPORT, Up};
use super::kept::{Keeper, Kept};
use super::separate;
use crate::kernel::open_files;
use crate::kernel::packets::{MESSAGE_BYTES_MAX, inherited, pair, receive_into};

/// So many coordinators are started at once within [`WINDOW`], should they be killed.
const AT_ONCE: u32 = 32;
const WINDOW: Duration = Duration::from_secs(60);
/// The time before the start of a coordinator after so many: shorter than a process waits for the
/// answer to a claim.
const PAUSE: Duration = Duration::from_millis(500);
const _: () = assert!(PAUSE.as_millis() < ANSWER_WITHIN_MS as u128);

/// Becomes a process of its own, and has a coordinator beside the server until it has ended.
///
/// # Errors
/// If none can begin. `srv run` is told the reason, too.
pub fn run(args: &CoordinatorArgs) -> anyhow::Result<()> {
    let report = inherited(REPORT).context("take over the channel to `srv run`")?;
    let invited = inherited(INVITED).context("take over the server's socket")?;
    separate::from_parent()?;
    separate::handle_signals();
    // Without that, a server of many workers may run out of them.
    let _ = open_files::raise();
    let prepared = server(args.server).and_then(|server| Ok((server, Entrance::make(invited)?)));
    if let Err(error) = &prepared {
        coordinator::tell(&report, &Up::Failed(format!("{error:#}")));
    }
    let (server, entrance) = prepared?;
    let mut kept = Kept::default();
    let mut report = Some(report);
    let mut starts = Starts::default();
    let mut ended = None;
    loop {
        starts.pause();
        match start() {
            Ok(Side::Coordinator(keeper)) => {
                let beginning = Beginning {
                    server,
                    entrance,
                    kept,
                    keeper,
                };
                return coordinator::run(args, beginning, report, ended);
            }
            Ok(Side::Keeper(channel, child)) => {
                // If the coordinator ends before it has begun, `srv run` learns of it by this.
                report = None;
                follow(&channel, &mut kept);
                ended = Some(await_end(child));
                if kept.is_empty() || ended.is_some_and(|ended| ended.success()) {
                    return Ok(());
                }
            }
            Err(error) if report.is_some() => {
                let why = format!("fork the coordinator: {error}");
                report
                    .iter()
                    .for_each(|to| coordinator::tell(to, &Up::Failed(why.clone())));
                return Err(error).context("fork the coordinator");
            }
            // Out of processes or memory, for example.
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// The server's first process, by which each coordinator learns that it has ended.
fn server(pid: i32) -> anyhow::Result<OwnedFd> {
    let number = Pid::from_raw(pid).context("find the server: it has no number")?;
    let pidfd = pidfd_open(number, PidfdFlags::empty());
    pidfd.with_context(|| format!("watch process {pid}: open a pidfd"))
}

/// In which of two processes this is.
enum Side {
    Coordinator(Keeper),
    /// With its channel to the coordinator, which is that child.
    Keeper(OwnedFd, Pid),
}

fn start() -> io::Result<Side> {
    let (ours, theirs) = pair()?;
    let keeper = getpid();
    // SAFETY: this process has one thread, so the child is complete.
    match unsafe { libc::fork() } {
        0 => {
            separate::set_name(c"srv");
            Ok(Side::Coordinator(Keeper::at(theirs, keeper)))
        }
        child => match Pid::from_raw(child) {
            Some(child) if child.as_raw_nonzero().get() > 0 => Ok(Side::Keeper(ours, child)),
            _ => Err(io::Error::last_os_error()),
        },
    }
}

/// Keeps what the coordinator orders until that has ended.
pub(super) fn follow(channel: &OwnedFd, kept: &mut Kept) {
    let mut packet = vec![0; MESSAGE_BYTES_MAX];
    loop {
        match receive_into(channel, &mut packet) {
            Ok(Some((0, _))) | Err(_) => return,
            Ok(Some((bytes, fds))) => kept.follow(&packet[..bytes], fds),
            // A signal interrupts the wait.
            Ok(None) => drop(poll(&mut [PollFd::new(channel, PollFlags::IN)], None)),
        }
    }
}

fn await_end(child: Pid) -> ExitStatus {
    loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => return ExitStatus::from_raw(status.as_raw()),
            Err(Errno::INTR) | Ok(None) => {}
            // Without a status, it is taken for one that was killed.
            Err(_) => return ExitStatus::from_raw(libc::SIGKILL),
        }
    }
}

/// How many coordinators were started of late.
#[derive(Default)]
struct Starts {
    since: Option<Instant>,
    count: u32,
}

impl Starts {
    /// Returns when the next may be started.
    fn pause(&mut self) {
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() > WINDOW {
            *self = Self {
                since: Some(Instant::now()),
                count: 0,
            };
        }
        self.count += 1;
        if self.count > AT_ONCE {
            std::thread::sleep(PAUSE);
        }
    }
}
