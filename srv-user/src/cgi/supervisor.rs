//! A process for each script, which executes it and ends all that the script has started: also what
//! has left the script's session, since orphans become the supervisor's children
//! (PR_SET_CHILD_SUBREAPER). It ends as the script did, by the same code or signal.
//!
//! It is a fork of this process, which has one thread, and executes nothing. It knows no client.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::reaper;
use super::scripts::Script;

/// How long a script has between SIGTERM and SIGKILL.
const BETWEEN_SIGNALS: Duration = Duration::from_secs(1);

/// What a shell says of a program that cannot be executed.
const CANNOT_EXECUTE: i32 = 126;

/// A bound that the kernel keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub resource: Resource,
    /// In the unit of the resource.
    pub value: u64,
}

/// What is executed.
pub(super) struct Plan {
    script: Script,
    path: CString,
    folder: CString,
    environment: Vec<CString>,
    limits: Vec<Limit>,
}

/// A script that was started, by its supervisor.
#[derive(Debug)]
pub(super) struct Running {
    /// The supervisor.
    pub pid: libc::pid_t,
    /// The script's ends of these are the other ones.
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

impl Plan {
    /// A script with its environment. `None`: its path has a NUL, which no path has.
    pub(super) fn new(
        script: Script,
        environment: Vec<CString>,
        limits: Vec<Limit>,
    ) -> Option<Self> {
        let folder = script.path.parent()?.as_os_str().as_bytes();
        Some(Self {
            path: CString::new(script.path.as_os_str().as_bytes()).ok()?,
            folder: CString::new(folder).ok()?,
            script,
            environment,
            limits,
        })
    }

    /// Starts it.
    ///
    /// # Errors
    /// The kernel has no more pipes or processes.
    pub(super) fn start(&self) -> io::Result<Running> {
        let (stdin, our_stdin) = pipe_with(PipeFlags::CLOEXEC)?;
        let (our_stdout, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (our_stderr, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let streams = [stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()];
        // All that is allocated is allocated before the fork.
        let variables: Vec<*const c_char> = pointers(&self.environment);
        let arguments = [self.path.as_ptr(), std::ptr::null()];
        let exec = Exec {
            plan: self,
            streams,
            arguments: &arguments,
            variables: &variables,
        };
        // SAFETY: this process has one thread, so that the child finds every lock free; and
        // the child never returns from `supervise`.
        let pid = unsafe {
            let before = block_signals();
            let parent = libc::getpid();
            let pid = libc::fork();
            if pid == 0 {
                exec.supervise(parent);
            }
            let failed = io::Error::last_os_error();
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
            if pid < 0 {
                return Err(failed);
            }
            pid
        };
        Ok(Running {
            pid,
            stdin: our_stdin,
            stdout: our_stdout,
            stderr: our_stderr,
        })
    }
}

fn pointers(lines: &[CString]) -> Vec<*const c_char> {
    let pointers = lines.iter().map(|line| line.as_ptr());
    pointers.chain([std::ptr::null()]).collect()
}

/// No handler of the parent's runtime runs in a child.
///
/// # Safety
/// None: it is marked since what it calls is.
unsafe fn block_signals() -> libc::sigset_t {
    // SAFETY: the sets are this function's own, and zeros are a valid set.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    }
}

/// What the child has to know, without an allocation to make.
struct Exec<'a> {
    plan: &'a Plan,
    streams: [RawFd; 3],
    arguments: &'a [*const c_char],
    variables: &'a [*const c_char],
}

impl Exec<'_> {
    /// The supervisor. All signals are blocked: it takes them one by one.
    ///
    /// # Safety
    /// To be called in a child that was just forked by a process with one thread.
    unsafe fn supervise(&self, parent: libc::pid_t) -> ! {
        // SAFETY: none of these calls depends on the state of the library that the fork left behind.
        unsafe {
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
            // If srv cgi dies, its scripts end.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            let own = libc::getpid();
            if libc::getppid() != parent {
                libc::_exit(CANNOT_EXECUTE);
            }
            let script = libc::fork();
            if script == 0 {
                self.execute(own);
            }
            close_all();
            if script < 0 {
                libc::_exit(CANNOT_EXECUTE);
            }
            let status = await_end(script);
            reaper::end_group(script);
            reaper::end_all_children();
            end_like(status);
        }
    }

    /// Becomes the script.
    ///
    /// # Safety
    /// As [`Self::supervise`].
    unsafe fn execute(&self, supervisor: libc::pid_t) -> ! {
        // SAFETY: as above; the pointers lead to what the plan owns and end with a null pointer.
        unsafe {
            libc::setsid();
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if libc::getppid() != supervisor {
                libc::_exit(CANNOT_EXECUTE);
            }
            for (to, from) in (0..).zip(self.streams) {
                libc::dup2(from, to);
            }
            for limit in &self.plan.limits {
                let both = Rlimit {
                    current: Some(limit.value),
                    maximum: Some(limit.value),
                };
                if setrlimit(limit.resource, both).is_err() {
                    fail(c"set its limits");
                }
            }
            if libc::chdir(self.plan.folder.as_ptr()) != 0 {
                fail(c"enter its folder");
            }
            // What is ignored stays so: SIGPIPE by Rust, others by what started srv.
            for signal in 1..=libc::SIGRTMAX() {
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            self.exec_checked();
            fail(c"execute it");
        }
    }

    /// Executes the very file that was checked. The kernel refuses that for a file that begins with
    /// `#!`, since its interpreter could not open a descriptor that is closed on exec (ENOENT); left
    /// open, the script's name would be `/dev/fd/5`. Such a script is executed by its name.
    ///
    /// # Safety
    /// As [`Self::execute`].
    unsafe fn exec_checked(&self) {
        let (arguments, variables) = (self.arguments.as_ptr(), self.variables.as_ptr());
        // SAFETY: both arrays end with a null pointer.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                self.plan.script.file.as_raw_fd(),
                c"".as_ptr(),
                arguments,
                variables,
                libc::AT_EMPTY_PATH,
            );
            if matches!(*libc::__errno_location(), libc::ENOENT | libc::ENOSYS) {
                libc::execve(self.plan.path.as_ptr(), arguments, variables);
            }
        }
    }
}

/// Says why the script does not run, where its own messages would be, and ends.
///
/// # Safety
/// None: it is marked since what it calls is.
unsafe fn fail(what: &CStr) -> ! {
    let why = io::Error::last_os_error();
    let code = why.raw_os_error().unwrap_or_default();
    // Written by hand: the message of an error is allocated.
    let mut number = [0; 12];
    let mut rest = &mut number[..];
    let _ = io::Write::write_fmt(&mut rest, format_args!("{code}"));
    let length = 12 - rest.len();
    for part in [
        &b"srv cgi cannot "[..],
        what.to_bytes(),
        b": errno ",
        &number[..length],
        b"\n",
    ] {
        // SAFETY: the part is as long as it says.
        unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: it ends this process.
    unsafe { libc::_exit(CANNOT_EXECUTE) }
}

/// The supervisor keeps no end of a pipe: its readers would never come to an end.
///
/// # Safety
/// The descriptors of this process are not used any more.
unsafe fn close_all() {
    // SAFETY: the caller's.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) != 0 {
            // Linux before 5.9.
            for fd in 0..65_536 {
                libc::close(fd);
            }
        }
    }
}

/// Waits until the script has ended; meanwhile reaps what else ends. After a SIGTERM, the script gets
/// one, too, and has a second left. Returns its status, or `None` if it has not ended by then.
///
/// # Safety
/// All signals are blocked.
unsafe fn await_end(script: libc::pid_t) -> Option<i32> {
    let mut ends_at: Option<Instant> = None;
    // SAFETY: the set and the time are this function's own.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        loop {
            loop {
                let mut status = 0;
                match libc::waitpid(-1, &raw mut status, libc::WNOHANG) {
                    pid if pid == script => return Some(status),
                    pid if pid > 0 => {}
                    _ => break,
                }
            }
            let left = match ends_at {
                None => Duration::from_secs(3600),
                Some(end) if end <= Instant::now() => return None,
                Some(end) => end - Instant::now(),
            };
            let left = libc::timespec {
                tv_sec: left.as_secs() as libc::time_t,
                tv_nsec: left.subsec_nanos().into(),
            };
            let signal = libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const left);
            if signal == libc::SIGTERM {
                ends_at.get_or_insert_with(|| Instant::now() + BETWEEN_SIGNALS);
                // The script may not have its own session yet.
                libc::kill(script, libc::SIGTERM);
                libc::kill(-script, libc::SIGTERM);
            }
        }
    }
}

/// Ends this process as the script has ended.
fn end_like(status: Option<i32>) -> ! {
    let signal = match status {
        Some(status) if libc::WIFEXITED(status) => {
            // SAFETY: it ends this process.
            unsafe { libc::_exit(libc::WEXITSTATUS(status)) }
        }
        Some(status) if libc::WIFSIGNALED(status) => libc::WTERMSIG(status),
        _ => libc::SIGKILL,
    };
    // SAFETY: the set is this function's own. The signal ends this process, without a dump of it.
    unsafe {
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        let _ = setrlimit(Resource::Core, none);
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        libc::_exit(128 + signal)
    }
}
