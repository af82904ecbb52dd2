//! Messages of other processes become events of the master, one at a time: the next message of a
//! process is read once the master has handled the last. A process that floods its channel fills
//! that channel, and neither the master's memory nor the queue of events.

use serde::de::DeserializeOwned;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::kernel::packets;
use crate::kernel::packets::MESSAGE_BYTES_MAX;

/// The event that a message of another process becomes.
pub trait ProcessEvent: Send + 'static {
    /// The same event, to be handled before the next message of that process is read: `read_on` is
    /// to be dropped then.
    fn one_at_a_time(self, read_on: oneshot::Sender<()>) -> Self;
}

/// Forwards the messages of the other end of `channel` until it hangs up, sends what is no message,
/// or sends one that `is_last`.
pub async fn forward<T: DeserializeOwned, E: ProcessEvent>(
    channel: &UnixDatagram,
    events: &UnboundedSender<E>,
    is_last: impl Fn(&T) -> bool,
    event: impl Fn(T) -> E,
) {
    let mut packet = vec![0; MESSAGE_BYTES_MAX];
    while let Ok(length) = channel.recv(&mut packet).await
        && let Ok(message) = packets::decode(&packet[..length])
    {
        let is_last = is_last(&message);
        let (read_on, is_handled) = oneshot::channel();
        // The receiver lives as long as the master.
        let _ = events.send(event(message).one_at_a_time(read_on));
        if is_last {
            return;
        }
        // Nothing is sent: the other end is dropped.
        let _ = is_handled.await;
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::Pid;
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::serve::channel::{self, ToMaster};
    use crate::serve::master::event::Event;

    #[test]
    fn a_flood_stays_in_the_channel() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let (mine, theirs) = packets::pair().unwrap();
            let mine = UnixDatagram::from_std(std::os::unix::net::UnixDatagram::from(mine));
            let mine = mine.unwrap();
            let theirs = channel::Channel::from_fd(theirs);
            let mut sent = 0;
            while theirs.send(&ToMaster::Obeyed(sent)).is_ok() {
                sent += 1;
            }
            assert!(sent > 100);
            let (events, mut incoming) = unbounded_channel();
            let forwarding = tokio::spawn(async move {
                let event = |said| Event::FromWorker(Pid::INIT, said);
                forward(&mine, &events, |_| false, event).await;
            });
            for nth in 0..sent {
                let event = incoming.recv().await.unwrap();
                // All other tasks have run.
                tokio::task::yield_now().await;
                assert!(incoming.is_empty());
                let Event::OneAtATime(said, _read_on) = event else {
                    panic!("another event")
                };
                let Event::FromWorker(_, ToMaster::Obeyed(said)) = *said else {
                    panic!("another message")
                };
                assert_eq!(said, nth);
            }
            drop(theirs);
            forwarding.await.unwrap();
        });
    }
}
