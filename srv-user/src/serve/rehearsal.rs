//! Tries what a worker's user can do, before there is a worker. A separate process tries it,
//! and becomes that user as a worker does. A thread of the master must never become another
//! user: any process of that user may send a signal to such a thread (kill(2)), and most
//! signals end all threads of the process.

use std::io;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::kernel::sealed;
use crate::serve::config::Serving;
use crate::serve::router::Router;
use crate::serve::sandbox::{self, User, capabilities};

/// How long the master waits for the result. A healthy file system needs milliseconds to open
/// a folder.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest message that the master reads.
const MESSAGE_BYTES_MAX: usize = 16 << 10;
const SUCCESS: &str = "can";

/// The arguments of the process ([`perform`]).
#[derive(Debug, Args)]
pub struct RehearsalArgs {
    /// `UID:GID`.
    #[arg(long)]
    user: String,
    /// Standard input has what the worker would serve, in the form that a worker receives.
    #[arg(long)]
    serving: bool,
}

/// Whether a worker can become `user`, and then serve what `serving` says. If it cannot, the
/// inner error is the reason.
///
/// # Errors
/// srv cannot try it: it could not start the process, the process was killed, or it did not
/// answer within 5 s.
pub fn rehearse(user: User, serving: Option<&Serving>) -> anyhow::Result<Result<(), String>> {
    // This is not the binary's path: the file there may have been replaced since the start.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("srv").arg("rehearse");
    command
        .arg("--user")
        .arg(format!("{}:{}", user.uid, user.gid));
    let input = match serving {
        None => Stdio::null(),
        Some(serving) => {
            // An argument has a bounded length, and many sites may exceed it.
            let serving = serde_json::to_vec(serving).context("encode what is served")?;
            command.arg("--serving");
            sealed::sealed(&serving)
                .context("put what is served into a file in memory")?
                .into()
        }
    };
    let child = command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.context("start a process that tries what a worker may do")?;
    let said = said_by(&mut child);
    // The process is not needed any more. If the file system does not answer, the process
    // cannot end until it does, so this does not wait for it. The master reaps every child
    // that ends.
    let _ = child.kill();
    if said.is_ok() {
        let _ = child.wait();
    }
    match said?.as_str() {
        SUCCESS => Ok(Ok(())),
        "" => bail!("the process that tried what a worker may do ended without a result"),
        refusal => Ok(Err(refusal.to_owned())),
    }
}

/// Makes sure that a child of this process can become `user`, and that this process can kill
/// it then.
///
/// # Errors
/// The reason why one of the two is not possible.
pub fn ensure_possible(user: User) -> anyhow::Result<()> {
    rehearse(user, None)?.map_err(|refusal| anyhow!(refusal))?;
    ensure!(
        user.is_current() || capabilities::held().contains(CapabilitySet::KILL),
        "stop a worker of another user: this process lacks CAP_KILL, which that needs"
    );
    Ok(())
}

fn said_by(child: &mut Child) -> anyhow::Result<String> {
    let mut stdout = child.stdout.take().context("no pipe")?;
    let mut ready = [PollFd::new(&stdout, PollFlags::IN)];
    let patience = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    while let Err(error) = rustix::event::poll(&mut ready, Some(&patience)) {
        if error != Errno::INTR {
            return Err(error).context("wait for what a worker may do");
        }
    }
    if ready[0].revents().is_empty() {
        bail!("try what a worker may do: the file system did not answer within {PATIENCE:?}");
    }
    // This reads one message, and does not wait for the end of the stream: another process of
    // that user can stop the process before its end.
    let mut said = vec![0; MESSAGE_BYTES_MAX];
    let length = stdout.read(&mut said)?;
    Ok(String::from_utf8_lossy(&said[..length]).into_owned())
}

/// The process itself: it becomes the user, opens the root, and writes the outcome to standard
/// output.
///
/// # Errors
/// If it cannot write there.
pub fn perform(args: &RehearsalArgs) -> io::Result<()> {
    let outcome = try_it(args);
    let said = outcome.map_or_else(|refusal| format!("{refusal:#}"), |()| SUCCESS.into());
    // One write, since the master reads once.
    io::stdout().write_all(said.as_bytes())?;
    io::stdout().flush()
}

fn try_it(args: &RehearsalArgs) -> anyhow::Result<()> {
    sandbox::become_user(Some(args.user.parse()?))?;
    match args.serving {
        false => Ok(()),
        true => Router::new(&serde_json::from_reader(io::stdin())?, None).map(drop),
    }
}
