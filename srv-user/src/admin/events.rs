//! The stream of events: the server's state twice a second, as server-sent events. However many
//! clients watch, it is made once; if none watches, it is not made. A client that is slow misses
//! states, and nothing is kept for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::stream::{self, Stream};
use http_body::Frame;
use hyper::body::Bytes;
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::source::{Snapshot, Source};
use crate::control::interval::GroupInterval;

/// The time between two states.
const EVERY: Duration = Duration::from_millis(500);
/// Most clients that watch.
pub(super) const WATCHERS_MAX: usize = 16;

/// The newest state, and those that watch it.
pub(super) struct Events {
    newest: watch::Sender<Bytes>,
    begins: Notify,
}

impl Events {
    /// Nothing is watched yet.
    pub(super) fn new() -> Self {
        Self {
            newest: watch::Sender::new(Bytes::new()),
            begins: Notify::new(),
        }
    }

    /// The events from now on; `None` if too many clients watch.
    pub(super) fn watch(
        &self,
    ) -> Option<impl Stream<Item = Result<Frame<Bytes>, Infallible>> + use<>> {
        if self.newest.receiver_count() >= WATCHERS_MAX {
            return None;
        }
        let watched = self.newest.subscribe();
        self.begins.notify_one();
        Some(stream::unfold(watched, |mut watched| async move {
            watched.changed().await.ok()?;
            let event = watched.borrow_and_update().clone();
            Some((Ok(Frame::data(event)), watched))
        }))
    }

    /// Makes the events, for as long as a client watches.
    pub(super) async fn make(&self, source: Arc<Source>) {
        let mut before: Option<(Instant, Arc<Snapshot>)> = None;
        loop {
            if self.newest.receiver_count() == 0 {
                before = None;
                self.begins.notified().await;
            }
            let event = match source.snapshot().await {
                Ok(snapshot) => {
                    let now = Instant::now();
                    let (at, earlier) = before.get_or_insert_with(|| (now, snapshot.clone()));
                    let event = state(&snapshot, &snapshot.since(earlier, now - *at));
                    before = Some((now, snapshot));
                    event
                }
                Err(error) => lost(&format!("{error:#}")),
            };
            self.newest.send_replace(event);
            sleep(EVERY).await;
        }
    }
}

fn state(snapshot: &Snapshot, rates: &[GroupInterval]) -> Bytes {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = now.unwrap_or_default().as_millis() as u64;
    match snapshot.to_json() {
        Ok(status) => {
            let event = json!({ "time_ms": now_ms, "status": status, "rates": rates });
            message("status", &event)
        }
        Err(error) => lost(&format!("write the status as JSON: {error}")),
    }
}

/// The server does not answer, for this reason.
fn lost(why: &str) -> Bytes {
    message("lost", &json!({ "error": why }))
}

/// JSON has no line break, so the data is one line.
fn message(kind: &str, data: &serde_json::Value) -> Bytes {
    Bytes::from(format!("event: {kind}\ndata: {data}\n\n"))
}
