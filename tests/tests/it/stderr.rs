//! A log that cannot be written, and output that nothing reads: no process ends or stands
//! still for it, and lines that were lost are counted.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal};
use srv::control::{Reply, Request, Status, ask};
use srv_tests::server::binary;
use tempfile::TempDir;

use crate::agent::{nginx, said};
use crate::client::{Client, get};
use crate::gate;
use crate::probe::{pid, signal, until};

/// How standard error is of no use.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Broken {
    /// Each write fails: no space.
    Full,
    /// A pipe whose reader has gone.
    ReaderGone,
    /// A pipe whose reader does not read; it is full.
    NotRead,
    /// A terminal that was closed.
    Closed,
}

const ALL: [Broken; 4] = [
    Broken::Full,
    Broken::ReaderGone,
    Broken::NotRead,
    Broken::Closed,
];

/// An srv whose standard error is not the test's.
struct Process {
    child: Child,
    folder: TempDir,
}

impl Process {
    /// Starts srv with these arguments and `--control`.
    fn start(arguments: &[&str], stderr: OwnedFd) -> Self {
        let mut command = Command::new(binary().unwrap());
        command.env_remove("RUST_LOG");
        Self::start_as(command, arguments, stderr)
    }

    fn start_as(mut command: Command, arguments: &[&str], stderr: OwnedFd) -> Self {
        let folder = tempfile::tempdir().unwrap();
        command.args(arguments).stdin(Stdio::null()).stderr(stderr);
        command.arg("--control").arg(folder.path().join("control"));
        let child = command.spawn().unwrap();
        Self { child, folder }
    }

    fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Its answer, once it answers.
    fn answer(&mut self, request: &Request) -> Reply {
        let control = self.control();
        until("it answers", || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {ended:?}");
            ask(Some(&control), request).ok()
        })
    }

    fn status(&mut self) -> Status {
        match self.answer(&Request::Status) {
            Reply::Status(status) => status,
            other => panic!("asked for status, got {other:?}"),
        }
    }

    fn address(&mut self) -> SocketAddr {
        let workers = |status: &Status| {
            let workers = &status.groups[0].workers;
            workers.iter().all(|worker| worker.state == "ready")
        };
        until("it serves", || Some(self.status()).filter(workers)).groups[0].listen
    }

    /// Has a worker die and be replaced, which is logged.
    fn lose_a_worker(&mut self) {
        let before = self.status().groups.remove(0).workers.remove(0);
        signal(pid(&before), Signal::KILL);
        until("a killed worker is replaced", || {
            let worker = self.status().groups.remove(0).workers.remove(0);
            (worker.pid != before.pid && worker.state == "ready").then_some(())
        });
    }

    fn stop(&mut self) -> ExitStatus {
        signal(self.pid(), Signal::TERM);
        until("it ends", || self.child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Both ends of a pipe, which children do not inherit.
fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = io::pipe().unwrap();
    (OwnedFd::from(reader).into(), writer.into())
}

/// The master's and the process's end of a terminal.
fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut ours, mut theirs) = (0, 0);
    let (name, mode, size) = (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
    // SAFETY: it writes two numbers; null leaves out what else it could set.
    let opened = unsafe { libc::openpty(&raw mut ours, &raw mut theirs, name, mode, size) };
    assert_eq!(opened, 0, "{}", io::Error::last_os_error());
    // SAFETY: both were opened just now and belong to nothing else.
    let ends = unsafe { [ours, theirs].map(|fd| OwnedFd::from_raw_fd(fd)) };
    for end in &ends {
        rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC).unwrap();
    }
    let [ours, theirs] = ends;
    (ours, theirs)
}

/// Fills a pipe. Its description is not the one that others write to.
fn fill(pipe: &OwnedFd) {
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let pipe = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap();
    for chunk in [&[b'.'; 4096][..], b"."] {
        while rustix::io::write(&pipe, chunk).is_ok() {}
    }
}

/// A process with such a standard error; what keeps it so.
fn start(broken: Broken, arguments: &[&str]) -> (Process, Option<File>) {
    match broken {
        Broken::Full => {
            let full = File::options().write(true).open("/dev/full").unwrap();
            (Process::start(arguments, full.into()), None)
        }
        Broken::ReaderGone => {
            let (reader, writer) = pipe();
            drop(reader);
            (Process::start(arguments, writer), None)
        }
        Broken::NotRead => {
            let (reader, writer) = pipe();
            fill(&writer);
            (Process::start(arguments, writer), Some(reader))
        }
        Broken::Closed => {
            let (ours, theirs) = terminal();
            let mut command = Command::new(binary().unwrap());
            // SAFETY: after the fork it makes system calls and nothing else.
            unsafe {
                command.pre_exec(|| {
                    rustix::process::setsid()?;
                    match libc::ioctl(libc::STDERR_FILENO, libc::TIOCSCTTY, 0) {
                        0 => Ok(()),
                        _ => Err(io::Error::last_os_error()),
                    }
                });
            }
            let mut process = Process::start_as(command, arguments, theirs);
            // Not before it has caught the signal that comes of it.
            process.answer(&Request::Status);
            drop(ours);
            (process, None)
        }
    }
}

const SERVE: [&str; 5] = ["serve", "--listen", "127.0.0.1:0", "--workers", "2"];

#[test]
fn a_server_outlives_each_way_to_lose_standard_error() {
    for broken in ALL {
        println!("{broken:?}");
        let (mut server, _keeps) = start(broken, &SERVE);
        let address = server.address();
        for _ in 0..3 {
            server.lose_a_worker();
        }
        assert_eq!(get(address, "/").status(), 200, "{broken:?}");
        assert_eq!(server.stop().code(), Some(0), "{broken:?}");
    }
}

#[test]
fn a_server_that_cannot_start_says_so_by_its_exit_code_alone() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--root", "nowhere"];
    let mut server = Process::start(&arguments, full.into());
    assert_eq!(server.child.wait().unwrap().code(), Some(1));
}

/// A worker has something to say when its master dies: that it drains.
#[test]
fn workers_without_standard_error_finish_what_they_have() {
    // More than the sockets' buffers hold.
    const BYTES: usize = 32 << 20;
    let (reader, writer) = pipe();
    let mut server = Process::start(&[&SERVE[..], &["--synthetic"]].concat(), writer);
    let address = server.address();
    let mut client = Client::connect(address);
    client.get(&format!("/work?bytes={BYTES}"));
    until("the request is in service", || {
        (server.status().groups[0].totals.running == 1).then_some(())
    });
    drop(reader);
    signal(server.pid(), Signal::KILL);
    until("the workers have seen it", || {
        TcpStream::connect(address).is_err().then_some(())
    });
    assert_eq!(client.response().body.len(), BYTES);
}

#[test]
fn an_agent_outlives_each_way_to_lose_standard_error() {
    let Some(nginx) = nginx(2) else { return };
    let address = nginx.address().to_string();
    for broken in ALL {
        println!("{broken:?}");
        let (mut agent, _keeps) = start(broken, &["attach", "--listen", &address]);
        for policy in ["random", "round-robin", "least"] {
            // Each is logged.
            agent.answer(&Request::Policy(policy.into()));
        }
        assert_eq!(agent.stop().code(), Some(0), "{broken:?}");
    }
}

/// Reads lines until one has `part`.
fn read_until(mut from: File, part: &str) -> String {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            let _ = tell.send(chunk[..count].to_vec());
        }
    });
    let mut text = String::new();
    while !text.contains(part) || !text.ends_with('\n') {
        let chunk = told.recv_timeout(Duration::from_secs(30));
        let chunk = chunk.unwrap_or_else(|_| panic!("waited in vain for {part:?}: {text}"));
        text += &String::from_utf8_lossy(&chunk);
    }
    text
}

#[test]
fn a_reader_that_reads_again_is_told_how_many_lines_were_lost() {
    for json in [false, true] {
        let log = ["--log", if json { "json" } else { "text" }];
        let (mut server, reader) = start(Broken::NotRead, &[&SERVE[..], &log].concat());
        server.address();
        // Each says that the worker died, and the first how the server is.
        for _ in 0..3 {
            server.lose_a_worker();
        }
        let text = read_until(reader.unwrap(), "log lines were lost");
        let mut lines = text.lines();
        let told = lines.find(|line| line.contains("were lost")).unwrap();
        let told = told.trim_start_matches('.');
        let lost: u64 = match json {
            false => {
                assert!(told.contains(" WARN "), "{told}");
                let words = told.split("  WARN ").nth(1).unwrap();
                words.split(' ').next().unwrap().parse().unwrap()
            }
            true => {
                let line: serde_json::Value = serde_json::from_str(told).unwrap();
                assert_eq!(line["level"], "WARN", "{told}");
                line["fields"]["lost_lines"].as_u64().unwrap()
            }
        };
        // How it steers, where it listens, and three deaths.
        assert!(lost >= 5, "{told}");
        assert_eq!(server.stop().code(), Some(0));
    }
}

/// A small file system, mounted until this is dropped.
struct Small(TempDir);

impl Small {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "srv-test"])
            .arg(folder.path())
            .output()
            .unwrap();
        let refused = String::from_utf8_lossy(&mounted.stderr).into_owned();
        let outcome = mounted.status.success().then_some(()).ok_or(refused);
        gate::can("mount a file system", outcome).then_some(Self(folder))
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(self.0.path(), name)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmount = Command::new("umount")
            .arg("--lazy")
            .arg(self.0.path())
            .status();
        unmount.unwrap();
    }
}

#[test]
fn a_full_file_system_that_has_space_again_is_told_how_many_lines_were_lost() {
    let Some(small) = Small::new() else { return };
    let log = File::create(small.path("log")).unwrap();
    let mut server = Process::start(&SERVE, log.into());
    server.address();
    let mut fill = File::create(small.path("fill")).unwrap();
    while fill.write_all(&[b'.'; 1024]).is_ok() {}
    // What is left of the log's last page is written.
    let text = || std::fs::read_to_string(small.path("log")).unwrap();
    let mut length = 0;
    until("the log is full", || {
        let before = std::mem::replace(&mut length, text().len());
        server.lose_a_worker();
        (before == length && length > 0).then_some(())
    });
    drop(fill);
    std::fs::remove_file(small.path("fill")).unwrap();
    until("the lost lines are counted", || {
        let text = text();
        let told = text.lines().find(|line| line.contains("lines were lost"))?;
        assert!(told.contains("No space left on device"), "{told}");
        Some(())
    });
    assert_eq!(server.stop().code(), Some(0));
}

/// `O_NONBLOCK` belongs to all that share a description: the shell, and what else it runs.
#[test]
fn a_standard_error_that_is_shared_keeps_its_flags() {
    let (_ours, theirs) = terminal();
    let (_reader, writer) = pipe();
    for shared in [theirs, writer] {
        let mut server = Process::start(&SERVE, shared.try_clone().unwrap());
        server.address();
        let flags = rustix::fs::fcntl_getfl(&shared).unwrap();
        assert!(!flags.contains(OFlags::NONBLOCK), "{flags:?}");
    }
}

#[test]
fn a_command_whose_output_is_not_wanted_succeeds_and_one_that_cannot_print_says_so() {
    let mut server = Process::start(&SERVE, File::create("/dev/null").unwrap().into());
    server.address();
    let control = server.control();
    let run = |stdout: OwnedFd| {
        let mut command = Command::new(binary().unwrap());
        command.args(["status", "--control"]).arg(&control);
        command.stdout(stdout).output().unwrap()
    };
    let (reader, writer) = pipe();
    drop(reader);
    let output = run(writer);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = run(full.into());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(why.contains("No space left on device"), "{why}");
}

#[test]
fn an_observer_whose_reader_has_gone_ends() {
    let Some(nginx) = nginx(2) else { return };
    let address = nginx.address().to_string();
    let (reader, writer) = pipe();
    drop(reader);
    let mut command = Command::new(binary().unwrap());
    command.args(["observe", "--listen", &address]);
    let output = command.stdout(writer).output().unwrap();
    // No connection came, so there is no verdict.
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(!said("doctor").is_empty());
}
