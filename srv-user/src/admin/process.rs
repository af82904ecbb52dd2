//! The process: what it inherits or opens, what it gives up before it answers, and its end.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rustix::io::FdFlags;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{LocalSet, spawn_local};

use super::clients::{Clients, serve};
use super::events::Events;
use super::listener::Listener;
use super::router::Site;
use super::source::Source;
use crate::control::admin::{AdminSockets, CHANNEL, FIRST_SOCKET};
use crate::logging;
use crate::serve::sandbox::{self, User};
use crate::values::{AdminAddr, LogFormat};

/// What a server has its process inherit.
#[derive(Debug)]
pub struct Inheritance {
    /// How many sockets, from [`FIRST_SOCKET`] on.
    pub sockets: u32,
    /// The user to become.
    pub user: Option<User>,
    /// The format of the log.
    pub log: LogFormat,
}

/// Answers at inherited sockets until the server has ended.
///
/// # Errors
/// It cannot begin.
pub fn answer_inherited(inheritance: &Inheritance) -> anyhow::Result<()> {
    let adopted = adopt(CHANNEL).context("adopt the channel to the server")?;
    let sockets = (FIRST_SOCKET..).take(inheritance.sockets as usize);
    let sockets = sockets.map(adopt).collect::<anyhow::Result<Vec<_>>>();
    let sockets = sockets.context("adopt the admin sockets")?;
    logging::start(inheritance.log == LogFormat::Json);
    become_user(inheritance.user)?;
    let runtime = runtime()?;
    LocalSet::new().block_on(&runtime, async {
        ignore_signals()?;
        let channel = net::UnixStream::from(adopted);
        channel
            .set_nonblocking(true)
            .context("set the channel to non-blocking")?;
        let (source, end) = Source::over(UnixStream::from_std(channel)?);
        let listeners = sockets.into_iter().map(Listener::of);
        let listeners = listeners.collect::<anyhow::Result<Vec<_>>>()?;
        // From here on it opens nothing.
        sandbox::confine(&[], &BTreeSet::new()).context("enter the sandbox")?;
        begin(source, listeners);
        end.await;
        Ok(())
    })
}

/// Answers for the server at this control socket, at one address, until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot begin.
pub fn answer_for(control: PathBuf, address: &AdminAddr, log: LogFormat) -> anyhow::Result<()> {
    ensure!(
        *address != AdminAddr::None,
        "answer at no address: name one, such as --listen 127.0.0.1:9000"
    );
    logging::start(log == LogFormat::Json);
    let runtime = runtime()?;
    LocalSet::new().block_on(&runtime, async {
        let mut terminate = signal(SignalKind::terminate()).context("install a signal handler")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("install a signal handler")?;
        let sockets = AdminSockets::open_one(address)?;
        let mut listeners = Vec::new();
        for (at, socket) in sockets.addresses().zip(sockets.handles()) {
            listeners.push(Listener::of(socket.try_clone_to_owned()?)?);
            tracing::info!("answering at {at} for the server at {}", control.display());
        }
        begin(Source::at(control), listeners);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

fn begin(source: Source, listeners: Vec<Listener>) {
    let site = Rc::new(Site {
        source: Arc::new(source),
        balance: RefCell::default(),
        events: Events::new(),
    });
    let clients = Rc::new(RefCell::new(Clients::default()));
    for listener in listeners {
        spawn_local(serve(listener, site.clone(), clients.clone()));
    }
    spawn_local(async move { site.events.make(site.source.clone()).await });
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.context("start the event loop")
}

/// Root's process becomes nobody if no user is named.
fn become_user(user: Option<User>) -> anyhow::Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    match user {
        Some(_) => sandbox::become_user(user),
        None if is_root => sandbox::become_user(Some(User::nobody())).or_else(|error| {
            tracing::warn!("the admin process keeps its user: {error:#}");
            Ok(())
        }),
        None => Ok(()),
    }
}

/// These may come to all processes of the server. This one ends with the server, and answers
/// meanwhile that it is not ready.
fn ignore_signals() -> anyhow::Result<()> {
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
        SignalKind::quit(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ] {
        // Once tokio has a handler, the signal has no effect but that.
        drop(signal(kind).context("install a signal handler")?);
    }
    Ok(())
}

/// A socket that this process has inherited.
fn adopt(fd: i32) -> anyhow::Result<OwnedFd> {
    // SAFETY: the call looks at a number, and fails if no file has it.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    ensure!(
        flags >= 0,
        "{}: only a server starts this command with --inherits",
        std::io::Error::last_os_error()
    );
    // SAFETY: it is open, and each is adopted once, before this process opens anything.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)
        .with_context(|| format!("set close-on-exec of {}", fd.as_raw_fd()))?;
    Ok(fd)
}
