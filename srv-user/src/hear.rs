//! What another process says becomes the master's events, one at a time: the next message is
//! read once the master has handled the last. A process that floods its channel fills that,
//! and neither the master's memory nor the queue before other processes.

use serde::de::DeserializeOwned;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::channel::{self, MESSAGE_BYTES_MAX};
use crate::master::Event;

/// Passes on what the other end of `channel` says until it hangs up, says what is no message,
/// or says what `is_last`.
pub async fn pass_on<T: DeserializeOwned>(
    channel: &UnixDatagram,
    events: &UnboundedSender<Event>,
    is_last: impl Fn(&T) -> bool,
    event: impl Fn(T) -> Event,
) {
    let mut packet = vec![0; MESSAGE_BYTES_MAX];
    while let Ok(length) = channel.recv(&mut packet).await
        && let Ok(message) = channel::decode(&packet[..length])
    {
        let is_last = is_last(&message);
        let (read_on, is_handled) = oneshot::channel();
        // The receiver lives as long as the master.
        let _ = events.send(Event::Said(Box::new(event(message)), read_on));
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
    use crate::channel::ToMaster;

    #[test]
    fn a_flood_stays_in_the_channel() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let (mine, theirs) = channel::pair().unwrap();
            let mine = UnixDatagram::from_std(std::os::unix::net::UnixDatagram::from(mine));
            let mine = mine.unwrap();
            let theirs = channel::Channel::from_fd(theirs);
            let mut sent = 0;
            while theirs.send(&ToMaster::Obeyed(sent)).is_ok() {
                sent += 1;
            }
            assert!(sent > 100);
            let (events, mut incoming) = unbounded_channel();
            let hear = tokio::spawn(async move {
                let event = |said| Event::FromWorker(Pid::INIT, said);
                pass_on(&mine, &events, |_| false, event).await;
            });
            for nth in 0..sent {
                let event = incoming.recv().await.unwrap();
                // All others have had their turns.
                tokio::task::yield_now().await;
                assert!(incoming.is_empty());
                let Event::Said(said, _read_on) = event else {
                    panic!("another event")
                };
                let said = match *said {
                    Event::FromWorker(_, ToMaster::Obeyed(said)) => said,
                    _ => panic!("another message"),
                };
                assert_eq!(said, nth);
            }
            drop(theirs);
            hear.await.unwrap();
        });
    }
}
