//! Where the lines of a log go: a file, a stream (a pipe, a terminal, standard output) or the syslog
//! daemon. No write to a stream or to syslog waits. A write to a file may wait for its disk, and the
//! log writer with it, but no other process.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::values::AccessLogTo;

/// Where a local syslog daemon listens (syslog(3)).
const SYSLOG: &str = "/dev/log";
/// `local7.info` (RFC 3164, 4.1.1).
const PRIORITY: u32 = 23 * 8 + 6;
/// A pipe that is ready takes so many bytes without waiting (pipe(7)).
const PIPE_BYTES: usize = 4096;
/// Rights of a file that is created: a log has what clients have said.
const MODE: u32 = 0o640;

/// Where lines go.
#[derive(Debug)]
pub(super) enum Outlet {
    /// A file, whose end they are written to.
    File(File),
    /// What may have no room now.
    Stream(OwnedFd),
    /// The syslog daemon: each line is a datagram.
    Syslog(UnixDatagram),
}

impl Outlet {
    /// Opens it.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn open(to: &AccessLogTo) -> io::Result<Self> {
        match to {
            AccessLogTo::File(path) => open_path(path),
            AccessLogTo::StandardOutput => {
                let stdout = io::stdout().as_fd().try_clone_to_owned()?;
                let is_file = File::from(stdout.try_clone()?).metadata()?.is_file();
                Ok(match is_file {
                    true => Self::File(stdout.into()),
                    false => Self::Stream(stdout),
                })
            }
            AccessLogTo::Syslog => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(SYSLOG)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Syslog(socket))
            }
        }
    }

    /// Writes whole lines as far as there is room: how many bytes of `lines` were taken.
    ///
    /// # Errors
    /// What the kernel says, with the bytes that were taken before. Later the outlet may take lines
    /// again.
    pub(super) fn write(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        while written < lines.len() {
            let rest = &lines[written..];
            let result = match self {
                Self::File(file) => file.write(rest),
                Self::Stream(stream) => write_to_stream(stream, rest),
                Self::Syslog(socket) => send_line(socket, rest),
            };
            match result {
                Ok(0) => break,
                Ok(taken) => written += taken,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    /// Whether it can take lines again, after this error, without being opened anew.
    pub(super) fn recovers_from(&self, error: &io::Error) -> bool {
        let is_syslog = matches!(self, Self::Syslog(_));
        // The daemon has ended or was started anew. Only one that is as privileged as the master can
        // be sure to reach it.
        let is_gone = matches!(
            Errno::from_io_error(error),
            Some(Errno::CONNREFUSED | Errno::NOTCONN | Errno::CONNRESET | Errno::NOENT)
        );
        !(is_syslog && is_gone)
    }
}

fn open_path(path: &Path) -> io::Result<Outlet> {
    let is_fifo = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    let mut options = OpenOptions::new();
    options.append(true).mode(MODE);
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    match is_fifo {
        // With an end to read of its own, the pipe exists whether another process reads or not.
        true => options.read(true),
        false => options.create(true),
    };
    let file = options.open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(Outlet::File(file)),
        false => Ok(Outlet::Stream(file.into())),
    }
}

/// Writes the first lines to a stream that may block, because other processes have the same
/// description: only so much as it has room for.
fn write_to_stream(stream: &OwnedFd, lines: &[u8]) -> io::Result<usize> {
    let mut ready = [PollFd::new(stream, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut ready, Some(&now))?;
    if ready[0].revents().is_empty() {
        return Ok(0);
    }
    let most = &lines[..lines.len().min(PIPE_BYTES)];
    // Lines of several processes in one pipe do not mix if each write has whole ones.
    let end = most.iter().rposition(|byte| *byte == b'\n');
    let whole = end.map_or(most, |end| &most[..=end]);
    Ok(rustix::io::write(stream, whole)?)
}

fn send_line(socket: &UnixDatagram, lines: &[u8]) -> io::Result<usize> {
    let end = lines.iter().position(|byte| *byte == b'\n');
    let line = &lines[..end.unwrap_or(lines.len())];
    let mut datagram = format!("<{PRIORITY}>srv[{}]: ", std::process::id()).into_bytes();
    datagram.extend_from_slice(line);
    // SAFETY: the buffer is as long as is said.
    let sent = unsafe {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let (start, length) = (datagram.as_ptr().cast(), datagram.len());
        libc::send(socket.as_raw_fd(), start, length, flags)
    };
    match sent {
        0.. => Ok(end.map_or(lines.len(), |end| end + 1)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_file_is_written_at_its_end_and_only_its_owner_and_group_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for line in ["one\n", "two\n"] {
            let mut outlet = Outlet::open(&AccessLogTo::File(path.clone())).unwrap();
            let (written, result) = outlet.write(line.as_bytes());
            assert_eq!((written, result.is_ok()), (4, true));
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !MODE, 0);
    }

    #[test]
    fn a_pipe_that_no_process_reads_takes_what_it_has_room_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        let mut outlet = Outlet::open(&AccessLogTo::File(path.clone())).unwrap();
        let lines = "0123456\n".repeat(64 << 10);
        let (first, result) = outlet.write(lines.as_bytes());
        result.unwrap();
        assert!(
            (4096..lines.len()).contains(&first) && first.is_multiple_of(8),
            "{first}"
        );
        let mut reader = File::open(&path).unwrap();
        let mut read = vec![0; first];
        reader.read_exact(&mut read).unwrap();
        let (second, _) = outlet.write(&lines.as_bytes()[first..]);
        assert!(second > 0);
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let mut outlet = Outlet::open(&AccessLogTo::File("/dev/full".into())).unwrap();
        let (written, result) = outlet.write(b"line\n");
        assert_eq!(written, 0);
        let error = result.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        assert!(outlet.recovers_from(&error));
    }

    #[test]
    fn a_line_is_a_datagram() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let mut outlet = Outlet::Syslog(ours);
        let (written, result) = outlet.write(b"one\ntwo\n");
        assert_eq!((written, result.is_ok()), (8, true));
        let mut datagram = [0; 100];
        for line in ["one", "two"] {
            let length = theirs.recv(&mut datagram).unwrap();
            let text = std::str::from_utf8(&datagram[..length]).unwrap();
            let (start, said) = text.split_once("]: ").unwrap();
            assert!(start.starts_with("<190>srv[") && said == line, "{text}");
        }
    }
}
