//! `srv run` until it has become COMMAND: it checks COMMAND, places the library, starts the
//! coordinator, and says in the environment how processes reach it. If any of this fails, COMMAND
//! runs plain, and one line says why.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{IntoRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use command_fds::{CommandFdExt as _, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::FdFlags;
use rustix::process::{Resource, getrlimit};
use srv_common::claim::{CAPACITY, SHARES_PORTS, VARIABLE};

use super::invitation::{INVITED, Invitation, REPORT, Up};
use super::{command, copies, exec, library};
use crate::control;
use crate::kernel::packets::{pair, receive_with_fds};
use crate::values::{AdminAddr, LogFormat, PolicyName};

/// The variable by which the dynamic loader gets the library.
const PRELOAD: &str = "LD_PRELOAD";
/// A coordinator that has not begun by then does not.
const BEGINS_WITHIN: Duration = Duration::from_secs(10);
/// The server's socket gets a number from here on, if there may be so many: beyond those that a
/// server closes or chooses by itself, and below what `select` can watch.
const HIGH_NUMBER: u64 = 1000;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// How the program chooses.
    pub policy: PolicyName,
    /// Whether a program is loaded.
    pub uses_bpf: bool,
    /// The control socket; `None` is one that `srv status` finds.
    pub control: Option<PathBuf>,
    /// Where to answer HTTP about the server; `None` is beside the control socket.
    pub admin: Option<AdminAddr>,
    /// The format of the coordinator's log.
    pub log: LogFormat,
    /// How many copies of COMMAND share its ports; `None` for COMMAND itself.
    pub copies: Option<u32>,
    /// Most requests in service of a process that accepts; `None` for no limit.
    pub capacity: Option<u32>,
    /// COMMAND and its arguments.
    pub command: Vec<OsString>,
}

/// Becomes COMMAND, or runs copies of it until they have ended.
///
/// # Errors
/// If COMMAND cannot be executed: the kernel's reason.
pub fn run(options: &RunOptions) -> io::Result<ExitCode> {
    let [name, arguments @ ..] = &options.command[..] else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let program = command::find(name)?;
    let mut environment: Vec<_> = std::env::vars_os().collect();
    match prepare(options, &program, arguments) {
        Ok(variables) => variables
            .into_iter()
            .for_each(|(name, value)| set(&mut environment, name, value)),
        Err(why) if options.copies.is_some() => {
            // Without the library, the second copy could not bind the port of the first.
            return Err(io::Error::other(format!("run copies of it: {why:#}")));
        }
        Err(why) => eprintln!(
            "srv run: {why:#}; {} runs plain, and the kernel's hash chooses",
            name.display()
        ),
    }
    match options.copies {
        Some(count) => copies::run(count, &program, &options.command, &environment),
        None => Err(exec::replace(&program, &options.command, &environment)),
    }
}

/// The variables by which the library gets into the server and finds the coordinator.
fn prepare(
    options: &RunOptions,
    program: &Path,
    arguments: &[OsString],
) -> anyhow::Result<[(&'static str, OsString); 2]> {
    command::ensure_loads_libraries(program, arguments)?;
    let library = library::place()?;
    let (socket, invitation) = start_coordinator(options).context("start the coordinator")?;
    let preload = preload(&library, std::env::var_os(PRELOAD).as_deref());
    let inode = rustix::fs::fstat(&socket).context("stat the server's socket")?;
    let number = leave_open(&socket).context("leave the server's socket open")?;
    let Invitation { name, token } = invitation;
    let mut variable = format!("{number}:{}:{name}:{token}", inode.st_ino);
    if options.copies.is_some() {
        variable = format!("{variable}:{SHARES_PORTS}");
    }
    if let Some(capacity) = options.capacity {
        variable = format!("{variable}:{CAPACITY}{capacity}");
    }
    Ok([(PRELOAD, preload), (VARIABLE, variable.into())])
}

/// The library comes first, before those that are loaded already.
fn preload(library: &Path, before: Option<&OsStr>) -> OsString {
    let mut list = library.as_os_str().to_owned();
    if let Some(before) = before.filter(|before| !before.is_empty()) {
        list.push(":");
        list.push(before);
    }
    list
}

fn set(environment: &mut Vec<(OsString, OsString)>, name: &str, value: OsString) {
    environment.retain(|(there, _)| there != name);
    environment.push((name.into(), value));
}

/// Starts the coordinator. Returns the server's end of its socket, and how else to reach it.
fn start_coordinator(options: &RunOptions) -> anyhow::Result<(OwnedFd, Invitation)> {
    let (server, invited) = pair().context("create a socket")?;
    let (reported, report) = pair().context("create a channel")?;
    let mut child = {
        let pid = std::process::id();
        let control = match &options.control {
            Some(path) => Some(std::path::absolute(path).context("find the control socket")?),
            // Without a folder for it, the server is steered all the same.
            None => control::runtime_folder()
                .map(|folder| folder.join(format!("run-{pid}.sock")))
                .ok(),
        };
        let admin = options.admin.as_ref().map(AdminAddr::anchored);
        let admin = admin.transpose().context("find the admin socket")?;
        let admin = admin.map(|admin| admin.to_string());
        let mappings = [(INVITED, invited), (REPORT, report)];
        let mappings = mappings.map(|(child_fd, parent_fd)| FdMapping {
            parent_fd,
            child_fd,
        });
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("srv")
            .args(["coordinate", "--server", &pid.to_string()])
            .args(["--policy", options.policy.0.name()])
            .args(["--log", options.log.name()])
            .args((!options.uses_bpf).then_some("--no-bpf"))
            .args(control.iter().flat_map(|path| {
                let path = path.as_os_str();
                [OsStr::new("--control"), path]
            }))
            .args(admin.iter().flat_map(|admin| ["--admin", admin]))
            .env_remove(PRELOAD)
            .env_remove(VARIABLE)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .fd_mappings(mappings.into())
            .context("number its file descriptors")?;
        command.spawn().context("execute srv")?
        // Here this process closes its copies of what the coordinator has.
    };
    // The child ends as soon as it has a child of its own. If SIGCHLD is ignored, the kernel reaps
    // it.
    let _ = child.wait();
    Ok((server, invitation(&reported)?))
}

/// Waits until the coordinator has begun.
fn invitation(reported: &OwnedFd) -> anyhow::Result<Invitation> {
    let mut poll_fds = [PollFd::new(reported, PollFlags::IN)];
    let timeout = Timespec::try_from(BEGINS_WITHIN).ok();
    loop {
        match poll(&mut poll_fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) => bail!("it has not begun within {} s", BEGINS_WITHIN.as_secs()),
            polled => {
                polled.context("wait until it has begun")?;
                break;
            }
        }
    }
    match receive_with_fds(reported).context("it has ended before it began")? {
        Some((Up::Ready(invitation), _)) => Ok(invitation),
        Some((Up::Failed(why), _)) => bail!("{why}"),
        None => bail!("it said nothing"),
    }
}

/// A copy of the socket at a high number, which stays open when this process becomes the server.
fn leave_open(socket: &OwnedFd) -> io::Result<RawFd> {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let number = HIGH_NUMBER.min(most / 2);
    let number = RawFd::try_from(number).unwrap_or_default();
    let copy = rustix::io::fcntl_dupfd_cloexec(socket, number)?;
    rustix::io::fcntl_setfd(&copy, FdFlags::empty())?;
    Ok(copy.into_raw_fd())
}
