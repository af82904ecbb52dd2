//! Standard error for a process that must not wait. If a line cannot be written now, since a disk
//! is full, a reader has gone or does not read, or a terminal was closed, the line is lost. Lost
//! lines are counted, and the count is written as soon as something can be written again.
//!
//! Other processes write to the same pipe or terminal, so `poll` alone promises nothing:
//! another process may use the room a moment later. And `O_NONBLOCK` belongs to the open file
//! description, which the shell that started this process may share. So a pipe or terminal is
//! opened once more, which makes a description of its own. On a regular file a write waits for the
//! disk; the kernel has no other way.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::Plain;

/// How long a line may wait for room, if the last one found some: a terminal has room for
/// 4 KiB, and a reader that keeps up may be a moment late.
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: Duration::from_millis(10).as_nanos() as i64,
};
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};
/// If a pipe has room at all, it has room for so much (pipe(7)).
const PIPE_BUF: usize = 4096;

static STDERR: Mutex<Stderr> = Mutex::new(Stderr {
    is_open: false,
    is_json: false,
    is_socket: false,
    unfinished: Vec::new(),
    lost: 0,
    why: None,
});

struct Stderr {
    /// Whether no write waits. Before that, it is the standard error of a command, as of any other
    /// program.
    is_open: bool,
    is_json: bool,
    is_socket: bool,
    /// The end of a line of which the beginning was written.
    unfinished: Vec<u8>,
    /// Lines that were lost since one was written.
    lost: u64,
    /// Why the last of them was lost.
    why: Option<Errno>,
}

/// Makes writes not wait from now on.
pub(super) fn open(is_json: bool) {
    // A limit on the size of files (RLIMIT_FSIZE) is one more reason why a line cannot be
    // written, and no reason to end.
    let _ = signal_hook::flag::register(libc::SIGXFSZ, Default::default());
    let mut stderr = lock();
    stderr.is_open = true;
    stderr.is_json = is_json;
    let kind = rustix::fs::fstat(io::stderr());
    let kind = kind.map_or(FileType::Unknown, |stat| {
        FileType::from_raw_mode(stat.st_mode)
    });
    stderr.is_socket = kind == FileType::Socket;
    if kind == FileType::Fifo || io::stderr().is_terminal() {
        // If that fails (it is another user's, or has no reader now), the line has to be
        // written where poll says that there is room.
        let _ = own_description();
    }
}

fn own_description() -> rustix::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(io::stderr())?;
    if flags.contains(OFlags::NONBLOCK) {
        // The parent is srv, and has done this.
        return Ok(());
    }
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let own = rustix::fs::open("/proc/self/fd/2", flags, Mode::empty())?;
    // SAFETY: standard error stays open; what it refers to is written to as before.
    match unsafe { libc::dup2(own.as_raw_fd(), libc::STDERR_FILENO) } {
        -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
        _ => Ok(()),
    }
}

/// Writes a line, or loses it.
pub(super) fn write(line: &[u8]) {
    lock().write(line);
}

/// Writes a line that no tracing event produces: this process cannot go on.
pub(super) fn report(text: fmt::Arguments<'_>) {
    // A panic while this thread writes must not wait for itself.
    if let Ok(mut stderr) = STDERR.try_lock() {
        let line = Plain {
            level: "ERROR",
            text,
            lost: None,
        }
        .format(stderr.is_json);
        stderr.write(line.as_bytes());
    }
}

/// Prints what is not a line of the log's, such as why a command has failed.
pub fn complain(text: fmt::Arguments<'_>) {
    let mut stderr = lock();
    match stderr.is_open {
        true => stderr.write(format!("{text}\n").as_bytes()),
        // If this fails, nothing else can be done.
        false => {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }
}

/// If lines were lost, and standard error can be written to now, writes how many.
pub fn catch_up() {
    let mut stderr = lock();
    if stderr.lost > 0 {
        stderr.catch_up();
    }
}

fn lock() -> MutexGuard<'static, Stderr> {
    STDERR.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stderr {
    fn write(&mut self, line: &[u8]) {
        if !self.catch_up() || !self.write_whole(line) {
            self.lost += 1;
        }
    }

    /// Returns whether nothing remains to be written.
    fn catch_up(&mut self) -> bool {
        let unfinished = std::mem::take(&mut self.unfinished);
        let is_written = self.write_whole(&unfinished);
        if !is_written {
            self.unfinished = unfinished;
        }
        if !is_written || !self.unfinished.is_empty() || self.lost == 0 {
            return is_written && self.unfinished.is_empty();
        }
        let lost = self.lost;
        let why = match self.why {
            None | Some(Errno::AGAIN) => "it had no room".to_owned(),
            Some(why) => why.to_string(),
        };
        let notice = Plain {
            level: "WARN",
            text: format_args!("{lost} log lines were lost: write to stderr: {why}"),
            lost: Some(lost),
        }
        .format(self.is_json);
        let is_written = self.write_whole(notice.as_bytes());
        if is_written {
            self.lost = 0;
        }
        is_written && self.unfinished.is_empty()
    }

    /// Writes all of it, perhaps the end later. Returns false if it wrote nothing of it.
    fn write_whole(&mut self, bytes: &[u8]) -> bool {
        let mut left = bytes;
        while !left.is_empty() {
            match self.write_some(left) {
                Ok(count) => left = &left[count..],
                Err(Errno::INTR) => {}
                Err(why) => {
                    self.why = Some(why);
                    if left.len() < bytes.len() {
                        self.unfinished = left.to_vec();
                        return true;
                    }
                    return false;
                }
            }
        }
        true
    }

    fn write_some(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        let stderr = io::stderr();
        let patience = match self.lost {
            0 => &PATIENCE,
            _ => &AT_ONCE,
        };
        let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
        if rustix::event::poll(&mut ready, Some(patience))? == 0 {
            return Err(Errno::AGAIN);
        }
        let bytes = &bytes[..bytes.len().min(PIPE_BUF)];
        match self.is_socket {
            true => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                rustix::net::send(&stderr, bytes, flags)
            }
            false => rustix::io::write(&stderr, bytes),
        }
    }
}
