//! Where the requests of a run come from: a plan, or clients in a closed loop.

use crate::measure::arrivals::Draw;
use crate::measure::load::closed::Clients;

/// Where requests come from.
pub(super) enum Source<'a> {
    /// What is left of a plan.
    Plan(std::slice::Iter<'a, Draw>),
    Clients(Clients),
}

impl Source<'_> {
    /// The next request, if it is due.
    pub(super) fn next(&mut self, now_ns: u64) -> Option<Draw> {
        match self {
            Self::Plan(draws) => {
                let draw = *draws.as_slice().first()?;
                (draw.at_ns <= now_ns).then(|| {
                    draws.next();
                    draw
                })
            }
            Self::Clients(clients) => clients.next(now_ns),
        }
    }

    /// When the next request is due that no outcome has to precede.
    pub(super) fn wake_ns(&self) -> Option<u64> {
        match self {
            Self::Plan(draws) => draws.as_slice().first().map(|draw| draw.at_ns),
            Self::Clients(clients) => clients.wake_ns(),
        }
    }

    pub(super) fn is_over(&self, now_ns: u64) -> bool {
        match self {
            Self::Plan(draws) => draws.as_slice().is_empty(),
            Self::Clients(clients) => clients.is_over(now_ns),
        }
    }
}
