//! The end of a request, which every path of an answer comes to once: answers at once, answers that
//! hyper writes, streams of HTTP/2, applications, and refusals that `connection` writes itself.
//! This module knows no sockets.

use srv_common::StatusClass;
use srv_steer::monotonic_ns;

use super::Http;
use super::logged::Entry;
use crate::serve::access_log::record::Facts;
use crate::serve::router::Client;

/// A request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The status of its answer; 0: it had none.
    pub status: u16,
    /// When it began, ns of `CLOCK_MONOTONIC`: when the worker saw the event that brought its first
    /// byte, or, behind another request and with HTTP/2, the last byte of its header.
    pub begun_ns: u64,
    /// The bytes of the answer's body that srv has sent, or given to what sends them.
    pub body_bytes: u64,
}

impl Ended {
    /// A request that was answered with these bytes: a status line, and no body.
    pub fn by(answer: &[u8], begun_ns: u64) -> Self {
        let line = answer.strip_prefix(b"HTTP/1.1").unwrap_or(answer);
        Self {
            status: status_of(line),
            begun_ns,
            body_bytes: 0,
        }
    }
}

/// The status of a line of status without its version: ` 200 OK`; 0 if it is none.
pub(super) fn status_of(line: &[u8]) -> u16 {
    let [b' ', digits @ ..] = line else {
        return 0;
    };
    let Some(digits) = digits.first_chunk::<3>() else {
        return 0;
    };
    let digits = digits.map(|digit| u16::from(digit.wrapping_sub(b'0')));
    digits.iter().fold(0, |status, digit| status * 10 + digit)
}

impl Http {
    /// Counts a request that has ended now. Unless `entry` is `None`, its record is left for the access
    /// log.
    pub fn ended(&self, ended: Ended, entry: Option<&Entry<'_>>) {
        let now_ns = monotonic_ns();
        let duration_ns = now_ns.saturating_sub(ended.begun_ns);
        let class = StatusClass::of(ended.status);
        self.published.publish(|figures| {
            figures.ended.0[class as usize].bump(1);
            figures.request_duration.record(duration_ns);
        });
        let Some(entry) = entry else {
            return;
        };
        let facts = Facts {
            log: entry.log,
            ended_ns: now_ns,
            duration_us: duration_ns / 1_000,
            body_bytes: ended.body_bytes,
            status: ended.status,
            protocol: entry.protocol,
            tls: entry.client.tls,
            slot: self.log.slot(),
            accept_delay_us: entry.client.accept_delay_us(),
            client: entry.client.address,
        };
        self.log.push(&facts, &entry.said);
    }

    /// The same for a refusal of what is no request, from `client`.
    pub fn ended_unread(&self, ended: Ended, client: Client) {
        let entry = self.router.log().map(|log| Entry::unread(log, client));
        self.ended(ended, entry.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_an_answer() {
        for (answer, status) in [
            ("HTTP/1.1 408 Request Timeout\r\n", 408),
            (" 200 OK\r\n", 200),
            (" 20", 0),
            ("", 0),
        ] {
            assert_eq!(Ended::by(answer.as_bytes(), 0).status, status, "{answer}");
        }
    }
}
