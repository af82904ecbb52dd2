//! The process: what it gives up before it accepts, its connections, and its stop.

use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use super::args::{CgiArgs, Listen};
use super::connection;
use super::listener::Listener;
use super::scripts::Scripts;
use super::shared::{Phase, Shared};
use crate::logging;
use crate::serve::sandbox::{User, capabilities};
use crate::serve::systemd;

/// After a failure to accept, such as too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// How long killed scripts have to be gone.
const KILLED_WITHIN: Duration = Duration::from_secs(3);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start.
pub fn run(args: &CgiArgs) -> anyhow::Result<()> {
    logging::start(args.log == crate::values::LogFormat::Json);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let (listener, scripts) = {
        let _runtime = runtime.enter();
        open(args)?
    };
    let (phase, phases) = watch::channel(Phase::Serving);
    let shared = Rc::new(Shared::new(args, scripts, phases));
    LocalSet::new().block_on(&runtime, serve(listener, shared, phase, args.grace.0))
}

/// Opens what needs rights, and then gives them up for good.
fn open(args: &CgiArgs) -> anyhow::Result<(Listener, Scripts)> {
    let user = args
        .user
        .as_ref()
        .map(|name| User::named(&name.0))
        .transpose()?;
    let is_root = rustix::process::geteuid().is_root();
    ensure!(
        !is_root || user.is_some_and(|user| user.uid != 0 && user.gid != 0),
        "srv cgi does not execute scripts as root: pass --user, such as --user www-data"
    );
    keep_no_descriptors();
    let owner = user.filter(|_| is_root);
    let listener = Listener::bind(&args.listen, args.socket_mode, owner)
        .with_context(|| format!("listen on {}", name(&args.listen)))?;
    if let Listener::Tcp(_, address) = &listener
        && !address.ip().is_loopback()
    {
        tracing::warn!("whatever can connect to {address} executes scripts: use a Unix socket");
    }
    capabilities::bound(rustix::thread::CapabilitySet::empty())
        .context("empty the capability bounding set")?;
    if let Some(user) = user.filter(|user| !user.is_current()) {
        user.become_it()?;
    }
    capabilities::drop_all().context("drop all capabilities")?;
    rustix::thread::set_no_new_privs(true).context("set no_new_privs")?;
    // The children of a script that has killed its supervisor become this process's.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("adopt the children of scripts")?;
    // As the user that executes them: what it cannot reach is no root.
    let scripts = Scripts::open(&args.root, &args.script)?;
    Ok((listener, scripts))
}

fn name(listen: &Listen) -> String {
    match listen {
        Listen::Unix(path) => format!("unix:{}", path.display()),
        Listen::Tcp(address) => address.to_string(),
    }
}

/// What this process has inherited open, scripts do not inherit.
fn keep_no_descriptors() {
    let listed = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let names = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let fds = names.filter_map(|name| name.parse::<RawFd>().ok());
    for fd in fds.filter(|fd| *fd > 2) {
        // SAFETY: a flag of a descriptor is set, which closes nothing of this process.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

async fn serve(
    listener: Listener,
    shared: Rc<Shared>,
    phase: watch::Sender<Phase>,
    grace: Duration,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("take SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("take SIGINT")?;
    let strays = tokio::task::spawn_local(shared.supervisors.clone().end_strays());
    let mut connections = JoinSet::new();
    tracing::info!("listening on {listener}");
    systemd::ready();
    loop {
        let has_room = connections.len() < shared.values.max_connections as usize;
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if has_room => match accepted {
                Ok(stream) => {
                    let shared = shared.clone();
                    connections.spawn_local(async move { connection::serve(stream, &shared).await });
                }
                Err(error) => {
                    tracing::warn!("accept a connection: {error}; accepting none for 50 ms");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
    systemd::stopping();
    drop(listener);
    let running = connections.len();
    tracing::info!("stopping, connections: {running}");
    phase.send_replace(Phase::Stopping);
    let all_ended =
        async |connections: &mut JoinSet<()>| while connections.join_next().await.is_some() {};
    if tokio::time::timeout(grace, all_ended(&mut connections))
        .await
        .is_err()
    {
        phase.send_replace(Phase::Killing);
        let _ = tokio::time::timeout(KILLED_WITHIN, all_ended(&mut connections)).await;
    }
    strays.abort();
    tracing::info!("stopped");
    Ok(())
}
