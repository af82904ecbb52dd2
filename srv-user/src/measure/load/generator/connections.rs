//! Which connection a request is sent on, and what becomes of it afterwards: a new one each,
//! or one of the pool.

use anyhow::{Context as _, Result};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::source::Source;
use super::{CLOSING_MAX, Flight, Generator};
use crate::measure::load::exchange::{Exchange, Progress, Wire};
use crate::measure::load::record::Outcome;
use crate::measure::load::spec::Connections;

impl Generator<'_> {
    /// Sends a request, on `wire` if that is still open, else on a new connection.
    pub(super) fn launch(&mut self, number: usize, wire: Option<Wire>) -> Result<()> {
        let target = self.target(number);
        let request = self.requests.get(target, self.draws[number].service_us);
        let sent_ns = self.now_ns();
        if let Source::Clients(_) = self.source {
            // There is no schedule but the sending itself.
            self.draws[number].at_ns = sent_ns;
        }
        let wire = wire.and_then(still_open);
        let is_watched = wire.is_some();
        let server = &self.lanes[self.lane_of[target]].server;
        let (exchange, progress) = match wire {
            Some(wire) => Exchange::reuse(wire, request),
            None => match Exchange::connect(server, request) {
                Ok(connecting) => connecting,
                Err(errno) => return self.without_socket(number, errno),
            },
        };
        self.in_flight += 1;
        let flight = self.flights[number].insert(Box::new(Flight { sent_ns, exchange }));
        if !is_watched && let Some(interest) = interest(&progress) {
            let token = EventData::new_u64(number as u64);
            let socket = flight.exchange.wire().socket();
            epoll::add(&self.epoll, socket, token, interest).context("watch a connection")?;
            return Ok(());
        }
        self.settle(number, progress)
    }

    /// There is no socket for the request. If this process has as many files open
    /// as it may, the request waits until another one's connection ends.
    pub(super) fn without_socket(&mut self, number: usize, errno: Errno) -> Result<()> {
        match errno {
            Errno::MFILE | Errno::NFILE if self.in_flight > 0 || !self.closing.is_empty() => {
                self.out_of_files = self.in_flight > 0;
                self.put_off += 1;
                self.closing.clear();
                self.give_back(number, None);
                let lane = self.lane_of[self.target(number)];
                self.lanes[lane].waiting.push_front(number);
            }
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => {
                self.first_unsent.get_or_insert_with(|| no_socket(errno));
                self.give_back(number, None);
                self.finish(number, Outcome::NoSocket, None);
            }
            errno => return Err(errno).context("open a socket for the next request"),
        }
        Ok(())
    }

    /// What becomes of a request's connection; `keep_alive` as answered.
    pub(super) fn let_go(&mut self, number: usize, wire: Wire, keep_alive: Option<bool>) {
        self.out_of_files = false;
        match (self.load.connections, keep_alive) {
            (Connections::PerRequest, Some(_)) => {
                // What has ended by now brings no other event.
                let wire = still_open(wire);
                self.closing.extend(wire.map(|wire| (number, wire)));
                if self.closing.len() > CLOSING_MAX {
                    self.closing.pop_front();
                }
            }
            (Connections::PerRequest, None) => {}
            (Connections::Pool(_), keep_alive) => {
                self.give_back(number, (keep_alive == Some(true)).then_some(wire));
            }
        }
    }

    /// Gives a request's place in the pool back, with its connection or without.
    pub(super) fn give_back(&mut self, number: usize, wire: Option<Wire>) {
        if let Connections::Pool(_) = self.load.connections {
            let lane = self.lane_of[self.target(number)];
            self.lanes[lane].idle.push_back(wire);
        }
    }

    pub(super) fn serve_waiting(&mut self, lane: usize) -> Result<()> {
        while let Some(&number) = self.lanes[lane].waiting.front() {
            if self.records[number].is_some() {
                self.lanes[lane].waiting.pop_front();
                continue;
            }
            let place = match self.load.connections {
                _ if self.out_of_files => None,
                Connections::PerRequest => Some(None),
                Connections::Pool(_) => self.lanes[lane].idle.pop_front(),
            };
            let Some(place) = place else { break };
            self.lanes[lane].waiting.pop_front();
            self.launch(number, place)?;
        }
        Ok(())
    }
}

/// What to wait for. One event at a time: an idle pooled connection must not wake the generator.
pub(super) fn interest(progress: &Progress) -> Option<EventFlags> {
    match progress {
        Progress::Writing => Some(EventFlags::OUT | EventFlags::IN | EventFlags::ONESHOT),
        // Once for what comes, and once more for the end.
        Progress::Reading => Some(EventFlags::IN | EventFlags::ET),
        Progress::Answered(_) | Progress::Failed(..) => None,
    }
}

/// The connection, if it can carry a request.
fn still_open(mut wire: Wire) -> Option<Wire> {
    wire.is_open().then_some(wire)
}

pub(super) fn no_socket(errno: Errno) -> String {
    format!("open a socket: {errno} (raise `ulimit -n`)")
}
