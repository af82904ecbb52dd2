//! The channel between two masters, of an upgrade or of two servers on one address. No
//! message is lost while the other master is stopped or slow, and neither master waits for
//! the other: what the channel has no room for waits here, in order.

use std::collections::VecDeque;
use std::io;
use std::mem::discriminant;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;

use super::receive::{self, ProcessEvent};

/// What one master says to another.
pub trait Message: Serialize + Send + 'static {
    /// The slot that the message is about, if it is about one.
    fn slot(&self) -> Option<u32> {
        None
    }
}

/// The other master, to which this one says `T`.
pub struct Peer<T> {
    channel: UnixDatagram,
    /// The same for the event loop, once this master listens.
    watched: Option<Arc<tokio::net::UnixDatagram>>,
    waiting: Arc<Mutex<Waiting<T>>>,
}

impl<T: Message> Peer<T> {
    /// The master at the other end of `channel` ([`crate::kernel::packets::pair`]).
    pub fn new(channel: OwnedFd) -> Self {
        Self {
            channel: UnixDatagram::from(channel),
            watched: None,
            waiting: Arc::new(Mutex::new(Waiting(VecDeque::new()))),
        }
    }

    /// Tells the other side, now or as soon as the channel has room. If the other side is
    /// gone, its end is told elsewhere.
    pub fn tell(&self, message: T) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_watched = !waiting.0.is_empty();
        waiting.push(message);
        let is_done = waiting.send(|packet| self.channel.send(packet));
        if !is_done
            && !is_watched
            && let Some(channel) = &self.watched
        {
            tokio::spawn(send_later(channel.clone(), self.waiting.clone()));
        }
    }

    /// Passes on what the other side says; `None` once it has hung up.
    ///
    /// # Errors
    /// If the channel cannot be watched.
    pub fn listen<U: DeserializeOwned + Send + 'static, E: ProcessEvent>(
        &mut self,
        events: UnboundedSender<E>,
        event: impl Fn(Option<U>) -> E + Send + Sync + 'static,
    ) -> io::Result<()> {
        let channel = tokio::net::UnixDatagram::from_std(self.channel.try_clone()?)?;
        let channel = Arc::new(channel);
        self.watched = Some(channel.clone());
        tokio::spawn(async move {
            receive::forward(&channel, &events, |_| false, |said| event(Some(said))).await;
            // The receiver lives as long as the master.
            let _ = events.send(event(None));
        });
        Ok(())
    }
}

/// Messages that the channel has had no room for.
struct Waiting<T>(VecDeque<T>);

impl<T: Message> Waiting<T> {
    /// At most one message of each kind waits for each slot, the last: it says how things
    /// are, so those before it do not matter any more.
    fn push(&mut self, message: T) {
        let subject = |message: &T| (discriminant(message), message.slot());
        self.0.retain(|other| subject(other) != subject(&message));
        self.0.push_back(message);
    }

    /// Sends what there is room for. Whether nothing is left.
    fn send(&mut self, send: impl Fn(&[u8]) -> io::Result<usize>) -> bool {
        while let Some(message) = self.0.front() {
            let packet = serde_json::to_vec(message).unwrap_or_default();
            match send(&packet) {
                Ok(_) => self.0.pop_front(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    tracing::debug!("tell the other master: {error}");
                    self.0.pop_front()
                }
            };
        }
        true
    }
}

async fn send_later<T: Message>(
    channel: Arc<tokio::net::UnixDatagram>,
    waiting: Arc<Mutex<Waiting<T>>>,
) {
    while channel.writable().await.is_ok() {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.send(|packet| channel.try_send(packet)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::kernel::packets;
    use crate::serve::master::event::Event;
    use crate::serve::master::join::{ToPrimary, ToSecondary};

    fn block_on(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(test);
    }

    /// A master that listens, and the other one's end of the channel.
    fn pair<T: Message>() -> (Peer<T>, tokio::net::UnixDatagram) {
        let (mine, theirs) = packets::pair().unwrap();
        let mut peer = Peer::new(mine);
        let (events, _) = unbounded_channel();
        peer.listen::<ToPrimary, _>(events, Event::FromSecondary)
            .unwrap();
        let theirs = tokio::net::UnixDatagram::from_std(UnixDatagram::from(theirs));
        (peer, theirs.unwrap())
    }

    async fn receive(channel: &tokio::net::UnixDatagram) -> String {
        let mut packet = [0; 100];
        let length = channel.recv(&mut packet).await.unwrap();
        String::from_utf8(packet[..length].to_vec()).unwrap()
    }

    #[test]
    fn what_the_channel_has_no_room_for_comes_later_and_in_order() {
        block_on(async {
            let (peer, theirs) = pair();
            for slot in 0..2_000 {
                peer.tell(ToPrimary::Registered(slot));
                peer.tell(ToPrimary::Ready(slot));
            }
            assert!(!peer.waiting.lock().unwrap().0.is_empty());
            for slot in 0..2_000 {
                assert_eq!(receive(&theirs).await, format!("{{\"Registered\":{slot}}}"));
                assert_eq!(receive(&theirs).await, format!("{{\"Ready\":{slot}}}"));
            }
        });
    }

    #[test]
    fn messages_that_wait_are_bounded_and_the_last_of_each_kind_is_among_them() {
        block_on(async {
            let (peer, theirs) = pair();
            for nth in 0..2_000 {
                peer.tell(ToSecondary::Stalled {
                    slot: nth % 2,
                    lasted: Duration::from_secs(nth.into()),
                });
                peer.tell(ToSecondary::Probe(nth % 2));
            }
            assert_eq!(peer.waiting.lock().unwrap().0.len(), 4);
            peer.tell(ToSecondary::Take);
            let mut said = vec![receive(&theirs).await];
            while said.last().is_none_or(|said| said != "\"Take\"") {
                said.push(receive(&theirs).await);
            }
            let stalled = |slot, lasted| {
                format!(
                    "{{\"Hangs\":{{\"slot\":{slot},\"lasted\":{{\"secs\":{lasted},\"nanos\":0}}}}}}"
                )
            };
            let probe = |slot| format!("{{\"Nudge\":{slot}}}");
            let last = [
                stalled(0, 1998),
                probe(0),
                stalled(1, 1999),
                probe(1),
                "\"Take\"".into(),
            ];
            assert_eq!(said[said.len() - 5..], last);
        });
    }
}
