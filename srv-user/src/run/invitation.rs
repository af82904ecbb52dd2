//! How a process of the server reaches the coordinator: by the socket that it inherited, or, if it
//! has closed that one, by an abstract name and a token. Knows no claims.

use std::fmt::Write as _;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with, bind, listen,
    socket_with,
};
use serde::{Deserialize, Serialize};
use srv_common::claim::Kind;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;

use super::event::Event;
use super::members::{is, next};
use crate::kernel::watched::watch;

/// The number at which the coordinator inherits its end of the server's socket.
pub(super) const INVITED: RawFd = 3;
/// The number of its channel to `srv run`.
pub(super) const REPORT: RawFd = 4;

/// What the coordinator says to `srv run` when it has begun.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Up {
    /// It lets processes in.
    Ready(Invitation),
    /// It has ended, for this reason.
    Failed(String),
}

/// Bytes of a token, as in a message.
const TOKEN_BYTES: usize = 16;
/// A process that has connected to the abstract name has to show the token within this time.
const TOKEN_WITHIN: Duration = Duration::from_secs(5);
/// So many processes can be about to show it. Every process of the machine can connect.
const CONNECTING_MAX: usize = 64;

/// What a process has to know to connect by the abstract name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Invitation {
    /// The abstract name.
    pub(super) name: String,
    /// The token, in hexadecimal digits.
    pub(super) token: String,
}

/// By which processes reach the coordinators of a server, whichever runs.
pub(super) struct Entrance {
    /// The other end of the socket that each process inherits.
    inherited: OwnedFd,
    /// The abstract name's socket.
    listener: OwnedFd,
    token: [u8; TOKEN_BYTES],
    /// What a process has to know.
    pub(super) invitation: Invitation,
}

impl Entrance {
    /// A new name and token, beside the other end of `inherited`.
    ///
    /// # Errors
    /// If the kernel refuses the socket.
    pub(super) fn make(inherited: OwnedFd) -> anyhow::Result<Self> {
        let mut random = [0u8; TOKEN_BYTES + 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .context("ask the kernel for random bytes")?;
        let (token, name) = random.split_at(TOKEN_BYTES);
        let invitation = Invitation {
            name: format!("srv-run-{}", hexadecimal(name)),
            token: hexadecimal(token),
        };
        let listener = listen_on(&invitation.name)
            .with_context(|| format!("listen on the abstract name {}", invitation.name))?;
        Ok(Self {
            inherited,
            listener,
            token: token.try_into().context("cut a token")?,
            invitation,
        })
    }

    /// Lets processes in from now on. Each is reported as [`Event::Hello`].
    ///
    /// # Errors
    /// If the sockets cannot be watched.
    pub(super) fn open(self, events: &UnboundedSender<Event>) -> anyhow::Result<()> {
        let inherited = watch(self.inherited).context("watch the inherited socket")?;
        let listener = watch(self.listener).context("watch the abstract name")?;
        tokio::spawn(greet_heirs(inherited, events.clone()));
        tokio::spawn(greet_callers(listener, self.token, events.clone()));
        Ok(())
    }

    /// A copy, for a coordinator after the next.
    #[cfg(test)]
    pub(super) fn copy(&self) -> Self {
        Self {
            inherited: self.inherited.try_clone().unwrap(),
            listener: self.listener.try_clone().unwrap(),
            token: self.token,
            invitation: self.invitation.clone(),
        }
    }
}

fn listen_on(name: &str) -> rustix::io::Result<OwnedFd> {
    const BACKLOG: i32 = 256;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(
        &socket,
        &SocketAddrUnix::new_abstract_name(name.as_bytes())?,
    )?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Takes the connection that each process sends over the inherited socket. What is not a Hello is
/// passed over: any process of the server can send anything.
async fn greet_heirs(inherited: AsyncFd<OwnedFd>, events: UnboundedSender<Event>) {
    loop {
        match next(&inherited).await {
            Ok(Some((message, mut fds))) if is(&message, Kind::Hello) => {
                if let Some(connection) = fds.pop() {
                    let _ = events.send(Event::Hello(connection));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {}
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    let _ = events.send(Event::Uninvited);
}

/// Accepts connections at the abstract name. Those that show the token are let in.
async fn greet_callers(
    listener: AsyncFd<OwnedFd>,
    token: [u8; TOKEN_BYTES],
    events: UnboundedSender<Event>,
) {
    let places = Arc::new(Semaphore::new(CONNECTING_MAX));
    while let Ok(place) = places.clone().acquire_owned().await {
        let Ok(connection) = accept(&listener).await else {
            return;
        };
        let events = events.clone();
        tokio::spawn(async move {
            let _place = place;
            let shown = timeout(TOKEN_WITHIN, next(&connection)).await;
            if let Ok(Ok(Some((message, _)))) = shown
                && is(&message, Kind::Hello)
                && message.token == token
            {
                let _ = events.send(Event::Hello(connection.into_inner()));
            }
        });
    }
}

async fn accept(listener: &AsyncFd<OwnedFd>) -> std::io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        let mut readable = listener.readable().await?;
        match readable.try_io(|listener| Ok(acceptfrom_with(listener, flags)?)) {
            Ok(Ok((connection, _))) => return watch(connection),
            Ok(Err(error)) => {
                tracing::warn!("accept a process of the server: {error}");
                // Out of file descriptors, for example: the next try comes a moment later.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(_would_block) => {}
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
