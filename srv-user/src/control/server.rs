//! The master's end of the control socket: it accepts connections, reads one
//! request from each, and writes one reply. How many connections there are, and how
//! long each may take to ask, is bounded.

use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use super::joining::Joined;
use super::socket_file::SocketFile;
use super::{Reply, Request};
use crate::kernel::packets::send_with_fds;

/// The time within which a request has to be sent, and within which its reply has to be read.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// The longest request.
pub(super) const REQUEST_BYTES_MAX: u64 = 16 << 10;
/// Connections that are served at once. If one more comes, the one that has been silent for longest
/// is closed.
const CONNECTIONS_MAX: usize = 64;

/// A request on its way to the master.
pub struct Question {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
}

/// The master's end. When this is dropped, the socket file is removed.
pub struct Server {
    _file: SocketFile,
    listening: JoinHandle<()>,
}

impl Server {
    /// Listens on `path`. Only this user can connect (mode 0600). Questions arrive as `events`.
    ///
    /// # Errors
    /// If a living server has that socket, if a file of another kind has that name, or
    /// if the socket cannot be created.
    pub fn open<E: From<Question> + Send + 'static>(
        path: PathBuf,
        events: UnboundedSender<E>,
    ) -> anyhow::Result<Self> {
        let what = format!("open the control socket {}", path.display());
        let open = || {
            let (file, listener) = SocketFile::bind(path, "--control")?;
            listener.set_nonblocking(true)?;
            anyhow::Ok((file, UnixListener::from_std(listener)?))
        };
        let (file, listener) = open().context(what)?;
        let listening = tokio::spawn(answer_all(listener, events));
        Ok(Self {
            _file: file,
            listening,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// A connection that is being served.
struct Served {
    task: AbortHandle,
    has_asked: Arc<AtomicBool>,
}

/// The connections that are being served, the oldest first.
#[derive(Default)]
struct AllServed(Vec<Served>);

impl AllServed {
    /// Makes room for one more, at the cost of the one that has been silent for longest.
    /// Returns whether there is room.
    fn make_room(&mut self) -> bool {
        self.0.retain(|served| !served.task.is_finished());
        if self.0.len() < CONNECTIONS_MAX {
            return true;
        }
        let is_silent = |served: &Served| !served.has_asked.load(Ordering::Relaxed);
        let Some(nth) = self.0.iter().position(is_silent) else {
            return false;
        };
        self.0.remove(nth).task.abort();
        true
    }
}

async fn answer_all<E: From<Question> + Send + 'static>(
    listener: UnixListener,
    events: UnboundedSender<E>,
) {
    let mut all = AllServed::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // If all of the others wait for the master, this one is closed.
                if all.make_room() {
                    let has_asked = Arc::new(AtomicBool::new(false));
                    let answering = answer(stream, events.clone(), has_asked.clone());
                    let task = tokio::spawn(answering).abort_handle();
                    all.0.push(Served { task, has_asked });
                }
            }
            Err(error) => {
                tracing::warn!("accept on the control socket: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One request, one reply. A connection that does not ask properly gets none.
pub(super) async fn answer<E: From<Question>>(
    mut stream: UnixStream,
    events: UnboundedSender<E>,
    has_asked: Arc<AtomicBool>,
) -> io::Result<()> {
    let mut line = Vec::new();
    let reading = (&mut stream).take(REQUEST_BYTES_MAX);
    let mut reading = tokio::io::BufReader::new(reading);
    timeout(PATIENCE, reading.read_until(b'\n', &mut line)).await??;
    has_asked.store(true, Ordering::Relaxed);
    let reply = match serde_json::from_slice(&line) {
        Ok(Request::Join(_)) if !is_same_user(&stream) => {
            Reply::Refused("only a server of the same user may join this one".into())
        }
        Ok(request) => put(request, &events).await,
        Err(error) => Reply::Refused(format!("not a request: {error}")),
    };
    timeout(PATIENCE, send(&mut stream, &reply)).await?
}

/// Puts a request to the master.
pub(super) async fn put<E: From<Question>>(request: Request, events: &UnboundedSender<E>) -> Reply {
    let (reply, answered) = oneshot::channel();
    let _ = events.send(Question { request, reply }.into());
    answered
        .await
        .unwrap_or_else(|_| Reply::Refused("the server is stopping".into()))
}

async fn send(stream: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let mut packet = serde_json::to_vec(reply)?;
    packet.push(b'\n');
    let Reply::Joined(Joined { channel: Some(fd) }) = reply else {
        return stream.write_all(&packet).await;
    };
    stream.writable().await?;
    stream.try_io(Interest::WRITABLE, || {
        send_with_fds(&*stream, &packet, &[fd.as_fd()])
    })
}

/// The mode of the file admits no other user, but it can be changed.
fn is_same_user(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own)
}
