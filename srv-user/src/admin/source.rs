//! Where the process learns the server's state: over the channel that it has inherited, or at a
//! control socket. However many clients ask, the server is asked ten times a second at most.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use crate::control::attached::AttachedStatus;
use crate::control::interval::{self, GroupInterval};
use crate::control::{Reply, Request, Status};
use crate::values::{PolicyName, reported::Reported};

/// A server that does not answer within this time is stopped, or overloaded.
const PATIENCE: Duration = Duration::from_secs(2);
/// For so long a state is as good as a new one.
const FRESH_FOR: Duration = Duration::from_millis(100);
/// The longest reply, of 256 workers at many addresses, is a tenth of this.
const REPLY_BYTES_MAX: u64 = 16 << 20;

/// A server's state.
pub(super) enum Snapshot {
    /// Of `srv serve` or `srv run`.
    Server(Status),
    /// Of a group that an agent of `srv attach` steers.
    Attached(AttachedStatus),
}

impl Snapshot {
    /// What happened since an earlier state, from which this one was asked for so much later. No
    /// group is known if another server answers now.
    pub(super) fn since(&self, earlier: &Self, apart: Duration) -> Vec<GroupInterval> {
        match (earlier, self) {
            (Self::Server(earlier), Self::Server(later)) => {
                interval::of_server(earlier, later, apart)
            }
            (Self::Attached(earlier), Self::Attached(later)) => {
                vec![interval::of_attached(Some(earlier), later, apart)]
            }
            _ => Vec::new(),
        }
    }

    /// As `srv status --json` prints it.
    pub(super) fn to_json(&self) -> serde_json::Result<Value> {
        match self {
            Self::Server(status) => serde_json::to_value(status),
            Self::Attached(status) => Ok(json!({ "foreign": [serde_json::to_value(status)?] })),
        }
    }
}

/// What is asked for the server's state.
pub(super) struct Source(Mutex<State>);

struct State {
    way: Way,
    newest: Option<(Instant, Arc<Snapshot>)>,
}

/// How the server is reached.
enum Way {
    Channel(Channel),
    Control(PathBuf),
}

impl Source {
    /// Asks over a channel. The server has ended once the second value has.
    pub(super) fn over(channel: UnixStream) -> (Self, impl Future<Output = ()>) {
        let (replies, requests) = channel.into_split();
        let (sender, received) = mpsc::channel(1);
        let channel = Channel {
            requests,
            replies: received,
            owed: 0,
        };
        (Self::new(Way::Channel(channel)), forward(replies, sender))
    }

    /// Asks at a control socket.
    pub(super) fn at(control: PathBuf) -> Self {
        Self::new(Way::Control(control))
    }

    fn new(way: Way) -> Self {
        let newest = None;
        Self(Mutex::new(State { way, newest }))
    }

    /// The state now.
    ///
    /// # Errors
    /// The server does not answer, or not in time.
    pub(super) async fn snapshot(&self) -> anyhow::Result<Arc<Snapshot>> {
        let mut state = self.0.lock().await;
        if let Some((at, snapshot)) = &state.newest
            && at.elapsed() < FRESH_FOR
        {
            return Ok(snapshot.clone());
        }
        let snapshot = match state.way.ask(&Request::Status).await? {
            Reply::Status(status) => Snapshot::Server(status),
            Reply::Attached(status) => Snapshot::Attached(status),
            Reply::Refused(why) => bail!("the server refused: {why}"),
            other => bail!("asked for status, got {other:?}"),
        };
        let snapshot = Arc::new(snapshot);
        state.newest = Some((Instant::now(), snapshot.clone()));
        Ok(snapshot)
    }
}

impl Source {
    /// Has the server steer by another policy.
    ///
    /// # Errors
    /// The server does not answer, or not in time.
    pub(super) async fn switch(&self, policy: Reported<PolicyName>) -> anyhow::Result<Reply> {
        let mut state = self.0.lock().await;
        state.newest = None;
        state.way.ask(&Request::Policy(policy)).await
    }
}

impl Way {
    async fn ask(&mut self, request: &Request) -> anyhow::Result<Reply> {
        let mut packet = serde_json::to_vec(request)?;
        packet.push(b'\n');
        let answer = async {
            match self {
                Self::Channel(channel) => channel.ask(&packet).await,
                Self::Control(path) => ask_once(path.clone(), &packet).await,
            }
        };
        timeout(PATIENCE, answer).await.with_context(|| {
            format!(
                "the server has not answered within {} s",
                PATIENCE.as_secs()
            )
        })?
    }
}

async fn ask_once(path: PathBuf, packet: &[u8]) -> anyhow::Result<Reply> {
    let asked = || format!("ask the server at {}", path.display());
    let mut stream = UnixStream::connect(&path).await.with_context(asked)?;
    stream.write_all(packet).await.with_context(asked)?;
    let mut line = Vec::new();
    let mut reply = BufReader::new(stream).take(REPLY_BYTES_MAX);
    reply
        .read_until(b'\n', &mut line)
        .await
        .with_context(asked)?;
    serde_json::from_slice(&line).with_context(asked)
}

struct Channel {
    requests: OwnedWriteHalf,
    replies: mpsc::Receiver<Vec<u8>>,
    /// Replies to requests that were given up: they may still come, and before the next one.
    owed: usize,
}

impl Channel {
    async fn ask(&mut self, packet: &[u8]) -> anyhow::Result<Reply> {
        while self.owed > 0 {
            self.reply().await?;
        }
        self.owed = 1;
        self.requests
            .write_all(packet)
            .await
            .context("ask the server")?;
        let line = self.reply().await?;
        serde_json::from_slice(&line).context("read what the server says")
    }

    async fn reply(&mut self) -> anyhow::Result<Vec<u8>> {
        let line = self.replies.recv().await.context("the server has ended")?;
        self.owed -= 1;
        ensure!(
            line.ends_with(b"\n"),
            "its answer is too long, or has no end"
        );
        Ok(line)
    }
}

/// Passes replies on until the server closes the channel.
async fn forward(replies: OwnedReadHalf, sender: mpsc::Sender<Vec<u8>>) {
    let mut replies = BufReader::new(replies);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut replies).take(REPLY_BYTES_MAX);
        match bounded.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            // Requests that were given up are not awaited.
            Ok(_) => drop(sender.send(line).await),
        }
    }
}
