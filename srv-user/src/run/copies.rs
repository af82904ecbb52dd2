//! `srv run --copies N`: N copies of a server that has one process, as children of `srv run`. It
//! passes signals on, starts a copy again that has ended by itself, and ends with the last copy.
//! Knows nothing of sockets.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::kernel::process::Process;

/// The variable that tells a copy its number, from 0.
const NUMBER: &str = "SRV_COPY";
/// A copy that has ended sooner than this after its start is started again only after as long.
const LIVES_FOR: Duration = Duration::from_secs(1);
/// If a copy has ended so often in a row before [`LIVES_FOR`], the server cannot run: the others
/// are stopped as well.
const FAILURES_MAX: u32 = 5;

/// The signals that are passed on, and whether each ends the server.
const SIGNALS: [(i32, Signal, bool); 7] = [
    (libc::SIGTERM, Signal::TERM, true),
    (libc::SIGINT, Signal::INT, true),
    (libc::SIGQUIT, Signal::QUIT, true),
    (libc::SIGHUP, Signal::HUP, false),
    (libc::SIGUSR1, Signal::USR1, false),
    (libc::SIGUSR2, Signal::USR2, false),
    (libc::SIGWINCH, Signal::WINCH, false),
];

/// One copy.
struct Copy {
    number: u32,
    running: Option<(Child, Process)>,
    started: Instant,
    /// How often it has ended soon after its start, in a row.
    failures: u32,
}

/// What the copies are copies of.
struct Program<'a> {
    path: &'a Path,
    words: &'a [OsString],
    environment: &'a [(OsString, OsString)],
}

/// All copies.
struct Copies<'a> {
    program: Program<'a>,
    all: Vec<Copy>,
    is_stopping: bool,
    /// The first exit code of a copy that is no success.
    failure: Option<u8>,
}

/// Runs `count` copies of `program` until the last has ended, and returns the exit code: 0, or the
/// first one of a copy that was another.
///
/// # Errors
/// If a copy cannot be started, or signals cannot be caught.
pub(super) fn run(
    count: u32,
    program: &Path,
    words: &[OsString],
    environment: &[(OsString, OsString)],
) -> io::Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let mut copies = Copies {
        program: Program {
            path: program,
            words,
            environment,
        },
        all: Vec::new(),
        is_stopping: false,
        failure: None,
    };
    for number in 0..count {
        let started = copies.program.start(number);
        match started {
            Ok(copy) => copies.all.push(copy),
            Err(error) => {
                copies.stop(Signal::TERM);
                copies.await_all(&mut signals);
                return Err(error);
            }
        }
    }
    // A service manager waits for this if the unit says so.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    copies.await_all(&mut signals);
    Ok(copies.failure.map_or(ExitCode::SUCCESS, ExitCode::from))
}

impl Program<'_> {
    fn start(&self, number: u32) -> io::Result<Copy> {
        let [name, arguments @ ..] = self.words else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut command = Command::new(self.path);
        command
            .arg0(name)
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env_remove("NOTIFY_SOCKET")
            .env(NUMBER, number.to_string())
            // A terminal's signals come to `srv run`, which passes them on, once.
            .process_group(0);
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
                // The parent may have ended before that call.
                match rustix::process::getppid() == Some(parent) {
                    true => Ok(()),
                    false => Err(Errno::SRCH.into()),
                }
            });
        }
        let child = command.spawn()?;
        let process = Process::new(&child);
        Ok(Copy {
            number,
            running: Some((child, process)),
            started: Instant::now(),
            failures: 0,
        })
    }
}

impl Copies<'_> {
    /// Passes signals on and starts copies again, until all have ended.
    fn await_all(&mut self, signals: &mut Signals) {
        loop {
            self.reap();
            if self.is_stopping && self.all.iter().all(|copy| copy.running.is_none()) {
                return;
            }
            let due = self.start_again();
            for (signal, ends) in signals.wait(due) {
                match ends {
                    true => self.stop(signal),
                    false => self.pass_on(signal),
                }
            }
        }
    }

    fn stop(&mut self, signal: Signal) {
        if !self.is_stopping {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        }
        self.is_stopping = true;
        self.pass_on(signal);
    }

    fn pass_on(&self, signal: Signal) {
        for (_, process) in self.all.iter().filter_map(|copy| copy.running.as_ref()) {
            // It may have ended just now.
            let _ = process.signal(signal);
        }
    }

    /// Notes which copies have ended.
    fn reap(&mut self) {
        let mut gave_up = false;
        for copy in &mut self.all {
            let Some((child, process)) = &mut copy.running else {
                continue;
            };
            let Ok(Some(status)) = child.try_wait() else {
                continue;
            };
            let pid = process.pid();
            copy.running = None;
            if self.is_stopping {
                self.failure = self.failure.or(failure(status));
                continue;
            }
            copy.failures = match copy.started.elapsed() < LIVES_FOR {
                true => copy.failures + 1,
                false => 0,
            };
            let number = copy.number;
            if copy.failures >= FAILURES_MAX {
                eprintln!(
                    "srv run: copy {number} (process {pid}) ended: {status}; it has ended \
                     {FAILURES_MAX} times within {LIVES_FOR:?} of its start: the others are stopped"
                );
                self.failure = self.failure.or(failure(status)).or(Some(1));
                gave_up = true;
            } else {
                eprintln!(
                    "srv run: copy {number} (process {pid}) ended: {status}; it is started again"
                );
            }
        }
        if gave_up {
            self.stop(Signal::TERM);
        }
    }

    /// Starts the copies again that have ended, and returns after which time another is due.
    fn start_again(&mut self) -> Option<Duration> {
        if self.is_stopping {
            return None;
        }
        let mut due = None;
        for copy in &mut self.all {
            if copy.running.is_some() {
                continue;
            }
            let since = copy.started.elapsed();
            if copy.failures > 0 && since < LIVES_FOR {
                let left = LIVES_FOR - since;
                due = Some(due.map_or(left, |due: Duration| due.min(left)));
                continue;
            }
            let failures = copy.failures;
            match self.program.start(copy.number) {
                Ok(started) => {
                    *copy = Copy {
                        failures,
                        ..started
                    }
                }
                Err(error) => {
                    let name = self.program.path.display();
                    eprintln!("srv run: start copy {} of {name}: {error}", copy.number);
                    copy.started = Instant::now();
                    copy.failures = failures.max(1);
                    due = Some(LIVES_FOR);
                }
            }
        }
        due
    }
}

/// The exit code that stands for how a copy has ended, if that is no success. A signal that ends a
/// server which is to stop is none.
fn failure(status: ExitStatus) -> Option<u8> {
    match (status.code(), status.signal()) {
        (Some(0), _) | (None, Some(libc::SIGTERM | libc::SIGINT | libc::SIGQUIT)) => None,
        (Some(code), _) => Some(u8::try_from(code).unwrap_or(1)),
        // As a shell says it.
        (None, signal) => Some(
            128 + signal
                .and_then(|signal| u8::try_from(signal).ok())
                .unwrap_or(0),
        ),
    }
}

/// The signals that come to `srv run`: a byte for each.
struct Signals(Vec<(UnixStream, Option<(Signal, bool)>)>);

impl Signals {
    fn catch() -> io::Result<Self> {
        let mut caught = Vec::new();
        let child = (libc::SIGCHLD, None);
        let passed = SIGNALS.map(|(number, signal, ends)| (number, Some((signal, ends))));
        for (number, meaning) in passed.into_iter().chain([child]) {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(number, theirs)?;
            caught.push((ours, meaning));
        }
        Ok(Self(caught))
    }

    /// Waits for a signal, or for `timeout`. Returns what is to be passed on.
    fn wait(&mut self, timeout: Option<Duration>) -> Vec<(Signal, bool)> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let polled = self.0.iter();
        let mut polled: Vec<_> = polled
            .map(|(ours, _)| PollFd::new(ours, PollFlags::IN))
            .collect();
        // A signal interrupts the wait.
        let _ = poll(&mut polled, timeout.as_ref());
        let mut came = Vec::new();
        for (ours, meaning) in &mut self.0 {
            let mut bytes = [0; 64];
            if ours.read(&mut bytes).is_ok_and(|count| count > 0) {
                came.extend(*meaning);
            }
        }
        came
    }
}
