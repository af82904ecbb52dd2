//! A closed loop: clients that each send the next request when the former one has its
//! outcome. Its rate depends on how fast the server answers, so that a stall hides the
//! requests that were not sent because of it. It is there for comparisons with figures that
//! others measured this way. Knows no socket and no clock.

use std::collections::VecDeque;
use std::time::Duration;

use crate::measure::arrivals::{Draw, Service, Services};
use crate::measure::load::record::Outcome;

/// What clients in a closed loop are to do; it ends with whichever of the two
/// bounds comes first, and then awaits what is in flight.
#[derive(Clone, Debug)]
pub struct Closed {
    /// How many.
    pub clients: usize,
    /// Law of the service times. The n-th request sent has the n-th service
    /// time, whichever client sends it.
    pub service: Service,
    /// Of the service times.
    pub seed: u64,
    /// No request starts later than this.
    pub duration: Option<Duration>,
    /// At most this many requests.
    pub requests: Option<usize>,
}

/// If a client could not connect, it tries again after this time: a refusal comes at once,
/// and the client would do nothing but collect refusals.
const REST_NS: u64 = 10_000_000;

/// The clients of a run in progress.
#[derive(Debug)]
pub(crate) struct Clients {
    services: Services,
    free: usize,
    /// When those become free that have to rest, in order.
    resting: VecDeque<u64>,
    left: usize,
    end_ns: u64,
}

impl Clients {
    pub(crate) fn new(closed: &Closed) -> Self {
        let end_ns = closed.duration.map_or(u64::MAX, |d| d.as_nanos() as u64);
        Self {
            services: closed.service.draws(closed.seed),
            free: closed.clients,
            resting: VecDeque::new(),
            left: closed.requests.unwrap_or(usize::MAX),
            end_ns,
        }
    }

    /// The request that a free client sends now.
    pub(crate) fn next(&mut self, now_ns: u64) -> Option<Draw> {
        while self.resting.front().is_some_and(|&at_ns| at_ns <= now_ns) {
            self.resting.pop_front();
            self.free += 1;
        }
        if self.free == 0 || self.is_over(now_ns) {
            return None;
        }
        self.free -= 1;
        self.left -= 1;
        Some(Draw {
            at_ns: now_ns,
            service_us: self.services.next()?,
        })
    }

    /// A client's request has its outcome.
    pub(crate) fn finish(&mut self, now_ns: u64, outcome: Outcome) {
        match outcome {
            // The reason for which a request could not be sent lasts longer than a moment.
            Outcome::Connect | Outcome::NoPort | Outcome::NoSocket => {
                self.resting.push_back(now_ns + REST_NS);
            }
            _ => self.free += 1,
        }
    }

    /// When a client becomes free by itself.
    pub(crate) fn wake_ns(&self) -> Option<u64> {
        self.resting.front().copied()
    }

    /// Whether no further request starts.
    pub(crate) fn is_over(&self, now_ns: u64) -> bool {
        self.left == 0 || now_ns >= self.end_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(requests: Option<usize>) -> Clients {
        Clients::new(&Closed {
            clients: 2,
            service: Service::Fixed(7),
            seed: 1,
            duration: Some(Duration::from_secs(1)),
            requests,
        })
    }

    #[test]
    fn a_client_sends_when_its_former_request_is_answered() {
        let mut clients = clients(None);
        assert_eq!(clients.next(5).map(|draw| draw.at_ns), Some(5));
        assert!(clients.next(5).is_some());
        assert_eq!(clients.next(6), None);
        clients.finish(7, Outcome::Ok);
        assert_eq!(clients.next(8).map(|draw| draw.service_us), Some(7));
        assert_eq!(clients.next(8), None);
    }

    #[test]
    fn both_bounds_end_it() {
        let mut short = clients(Some(1));
        assert!(short.next(0).is_some() && short.next(0).is_none() && short.is_over(0));
        let mut long = clients(None);
        assert!(!long.is_over(999_999_999));
        assert!(long.next(1_000_000_000).is_none() && long.is_over(1_000_000_000));
    }

    #[test]
    fn a_client_whose_connect_failed_rests() {
        let mut clients = clients(None);
        let (_, _) = (clients.next(0), clients.next(0));
        clients.finish(1, Outcome::Connect);
        assert_eq!(clients.next(2), None);
        let wake_ns = clients.wake_ns().unwrap();
        assert_eq!(wake_ns, 1 + REST_NS);
        assert!(clients.next(wake_ns).is_some() && clients.wake_ns().is_none());
    }
}
