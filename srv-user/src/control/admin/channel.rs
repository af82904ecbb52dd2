//! The server's end of the channel to the admin process: one request after the other, each with
//! one reply. The process may ask for the status and switch the policy, and no more. It is not
//! trusted: how much it asks, and how long it may take, is bounded.

use std::io;
use std::os::unix::net;
use std::time::Duration;

use anyhow::ensure;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{sleep, timeout};

use crate::control::server::{PATIENCE, REQUEST_BYTES_MAX, put};
use crate::control::{Question, Reply, Request};

/// The shortest time between two requests: a status costs the server's event loop some
/// microseconds for each worker.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(10);

/// Answers until the process closes the channel, or does what it must not.
pub(super) async fn answer_all<E: From<Question>>(
    channel: net::UnixStream,
    events: &UnboundedSender<E>,
) {
    if let Err(error) = try_answer_all(channel, events).await {
        tracing::debug!("answer the admin process: {error:#}");
    }
}

async fn try_answer_all<E: From<Question>>(
    channel: net::UnixStream,
    events: &UnboundedSender<E>,
) -> anyhow::Result<()> {
    let (requests, mut replies) = UnixStream::from_std(channel)?.into_split();
    let mut requests = BufReader::new(requests);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut requests).take(REQUEST_BYTES_MAX);
        if bounded.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        ensure!(
            line.ends_with(b"\n"),
            "a request is too long, or has no end"
        );
        let mut packet = serde_json::to_vec(&reply(&line, events).await)?;
        packet.push(b'\n');
        match timeout(PATIENCE, replies.write_all(&packet)).await {
            Ok(written) => written?,
            Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
        sleep(BETWEEN_REQUESTS).await;
    }
}

async fn reply<E: From<Question>>(line: &[u8], events: &UnboundedSender<E>) -> Reply {
    match serde_json::from_slice(line) {
        Ok(request @ (Request::Status | Request::Policy(_))) => put(request, events).await,
        Ok(_) => Reply::Refused("the admin process may not ask for this".into()),
        Err(error) => Reply::Refused(format!("not a request: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, Write as _};

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[test]
    fn the_process_may_ask_for_the_status_and_not_for_an_upgrade() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        let (mine, theirs) = net::UnixStream::pair().unwrap();
        mine.set_nonblocking(true).unwrap();
        let asking = std::thread::spawn(move || {
            let mut said = Vec::new();
            let mut replies = std::io::BufReader::new(theirs.try_clone().unwrap());
            for request in ["\"upgrade\"\n", "\"status\"\n", "nonsense\n"] {
                (&theirs).write_all(request.as_bytes()).unwrap();
                let mut line = String::new();
                replies.read_line(&mut line).unwrap();
                said.push(line);
            }
            said
        });
        runtime.block_on(async {
            let (events, mut questions) = unbounded_channel::<Question>();
            let master = async {
                let question = questions.recv().await.unwrap();
                assert!(matches!(question.request, Request::Status));
                question.reply.send(Reply::Done("status".into())).unwrap();
            };
            tokio::join!(answer_all(mine, &events), master);
        });
        let said = asking.join().unwrap();
        assert!(said[0].contains("may not ask"), "{said:?}");
        assert!(said[1].contains("\"done\":\"status\""), "{said:?}");
        assert!(said[2].contains("not a request"), "{said:?}");
    }
}
