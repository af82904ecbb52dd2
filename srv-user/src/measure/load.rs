//! Load: what to send where, and what became of every request. In the open
//! loop a request is due at its scheduled instant whatever became of those
//! before it, and its latency runs from that instant. A late generator shows as
//! latency and in [`Run::lateness`], never as fewer requests. In the closed
//! loop ([`Closed`]) there is no schedule: it runs from the sent instant.
//!
//! Knows nothing of how plans are drawn and leaves all judgement of the
//! records to others; `generator` does the sending. `srv load` is
//! [`command`].

pub mod args;
pub mod closed;
pub mod command;
mod doubts;
pub mod exchange;
mod figures;
pub(crate) mod files;
mod generator;
mod header;
mod lookup;
mod progress;
mod requests;
pub mod response;
mod statuses;
mod table;
mod target;
mod targets;
mod targets_file;
mod tls;
mod url;
mod watch;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::measure::arrivals::Draw;
pub use crate::measure::load::closed::Closed;
pub use crate::measure::load::exchange::Outcome;
use crate::measure::load::generator::Generator;
use crate::measure::stats::Summary;
pub use figures::Figures;
pub use header::Header;
pub use lookup::ConnectTo;
pub use statuses::Statuses;
pub use target::{Address, Server, Target, Tls};
pub use watch::Watch;

/// What to send where.
#[derive(Clone, Debug)]
pub struct Load {
    /// What is asked for: request n asks for target n, and after the last for
    /// the first again.
    pub targets: Vec<Target>,
    /// How requests come by connections.
    pub connections: Connections,
    /// After its scheduled instant a request has this long.
    pub timeout: Duration,
    /// Statuses that count as a success.
    pub success: Statuses,
}

/// How requests come by connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// A new one each, with `Connection: close`.
    PerRequest,
    /// This many to each server, opened beforehand and kept alive. A request takes
    /// the one that has been idle longest, and waits if all are in use.
    Pool(usize),
}

/// What became of one request. Instants are ns from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// When it was due.
    pub scheduled_ns: u64,
    /// When it was sent (for a new connection: when the connect began);
    /// `None` if it never had a connection.
    pub sent_ns: Option<u64>,
    /// When its outcome was known.
    pub finished_ns: u64,
    /// How long it asked the handler to work, µs.
    pub service_us: u32,
    /// The slot in the response's `X-Worker`.
    pub worker: Option<u16>,
    /// How it ended.
    pub outcome: Outcome,
    /// The status of a complete response.
    pub status: Option<u16>,
    /// Its place in [`Load::targets`].
    pub target: u32,
}

impl Record {
    /// From the scheduled instant to the outcome, ns.
    pub fn latency_ns(&self) -> u64 {
        self.finished_ns - self.scheduled_ns
    }
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Run {
    /// One record per request, in the order in which they became due.
    pub records: Vec<Record>,
    /// How late the generator itself was in picking up each request.
    pub lateness: Summary,
    /// What went wrong first, for people.
    pub first_error: Option<String>,
    /// Whether it ran to its end; else it was stopped through its [`Watch`].
    pub is_complete: bool,
    /// Requests that were due when it was stopped and have no record.
    pub unanswered: usize,
    /// How long it ran, ns.
    pub span_ns: u64,
    /// When the last request was picked up, ns from the start of the run.
    pub picked_up_ns: u64,
    /// The share of that time for which the generator's thread used a CPU.
    pub busy: f64,
    /// How often a request had to wait because this process had as many
    /// connections open as it may have files.
    pub put_off: usize,
}

/// When requests are due.
#[derive(Clone, Copy, Debug)]
pub enum Pace<'a> {
    /// At these instants, in order.
    Open(&'a [Draw]),
    /// When a client has nothing to wait for.
    Closed(&'a Closed),
}

impl Run {
    /// Requests that did not end in [`Outcome::Ok`], for whatever reason.
    pub fn lost(&self) -> usize {
        self.records
            .iter()
            .filter(|r| r.outcome != Outcome::Ok)
            .count()
    }

    /// Responses per worker, for workers 0 to `workers`.
    pub fn shares(&self, workers: usize) -> Vec<f64> {
        let mut shares = vec![0.0; workers];
        let slots = self.records.iter().filter_map(|record| record.worker);
        for slot in slots {
            if let Some(share) = shares.get_mut(usize::from(slot)) {
                *share += 1.0;
            }
        }
        shares
    }
}

impl Load {
    /// GETs of `path` from the server at `address`: a new connection each, 10 s
    /// for a response, which has to be a 200.
    pub fn get(address: SocketAddr, path: impl Into<String>) -> Self {
        let target = Target {
            server: Server {
                address: Address::Tcp(address),
                tls: None,
            },
            method: "GET".into(),
            host: address.to_string(),
            path: path.into(),
            headers: Vec::new(),
            body: None,
        };
        Self {
            targets: vec![target],
            connections: Connections::PerRequest,
            timeout: Duration::from_secs(10),
            success: Statuses::ok(),
        }
    }

    /// Sends `draws`, which are in order of arrival, and waits for every outcome.
    ///
    /// # Errors
    /// As for [`Self::run_watched`].
    pub fn run(&self, draws: &[Draw]) -> Result<Run> {
        self.run_watched(Pace::Open(draws), &Watch::new()?)
    }

    /// Lets clients send, each as soon as its former request has its outcome.
    ///
    /// # Errors
    /// As for [`Self::run_watched`].
    pub fn run_closed(&self, closed: &Closed) -> Result<Run> {
        self.run_watched(Pace::Closed(closed), &Watch::new()?)
    }

    /// Sends requests at their `pace` and waits for every outcome, or until
    /// `watch` says stop. Meanwhile this thread has the highest priority that
    /// it may have.
    ///
    /// # Errors
    /// This process cannot generate the load: no more files, a pool that cannot
    /// be opened, or clients that would have nothing to do.
    pub fn run_watched(&self, pace: Pace<'_>, watch: &Watch) -> Result<Run> {
        let generator = Generator::new(self, pace, watch)?;
        let _precedence = Precedence::take();
        generator.run()
    }
}

/// Clients of a server have cores of their own; these share the server's, and
/// must not wait behind it. Ends with the value, so that no child inherits it.
struct Precedence {
    before: i32,
}

impl Precedence {
    /// `None` where the user may not, which then shows as lateness.
    fn take() -> Option<Self> {
        const HIGHEST: i32 = -20;
        let before = rustix::process::getpriority_process(None).ok()?;
        rustix::process::setpriority_process(None, HIGHEST).ok()?;
        Some(Self { before })
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        // Lowering is always allowed.
        let _ = rustix::process::setpriority_process(None, self.before);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::measure::arrivals::{self, Service};

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Worker: 3\r\n\r\nok";

    /// A server that does on each connection what the request's number asks for.
    fn scripted() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || act(&mut stream.unwrap()));
            }
        });
        address
    }

    fn act(stream: &mut TcpStream) {
        let mut request = [0; 1024];
        loop {
            let count = stream.read(&mut request).unwrap_or(0);
            let Some(rest) = request[..count].strip_prefix(b"GET /") else {
                return;
            };
            let answer = match rest[0] {
                b'0' => OK,
                b'1' => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
                b'2' => &OK[..20],
                b'3' => "",
                _ => "nonsense\r\n\r\n",
            };
            stream.write_all(answer.as_bytes()).unwrap();
            match rest[0] {
                b'0' | b'1' => {}
                b'3' => assert_eq!(
                    stream.read(&mut request).unwrap_or(0),
                    0,
                    "the client gave up"
                ),
                _ => return,
            }
        }
    }

    fn load(target: SocketAddr, connections: Connections) -> Load {
        Load {
            connections,
            timeout: Duration::from_secs(1),
            ..Load::get(target, "/{us}")
        }
    }

    fn plan(numbers: &[u32]) -> Vec<Draw> {
        let draw = |(at_ms, &service_us): (usize, &u32)| Draw {
            at_ns: at_ms as u64 * 1_000_000,
            service_us,
        };
        numbers.iter().enumerate().map(draw).collect()
    }

    #[test]
    fn every_request_ends_in_its_own_outcome() {
        for connections in [Connections::PerRequest, Connections::Pool(2)] {
            let load = load(scripted(), connections);
            let run = load.run(&plan(&[0, 1, 2, 3, 4, 0, 0, 1, 0])).unwrap();
            use Outcome::*;
            let outcomes: Vec<Outcome> = run.records.iter().map(|r| r.outcome).collect();
            let expected = [Ok, Status, Reset, Timeout, Malformed, Ok, Ok, Status, Ok];
            assert_eq!(outcomes, expected, "{connections:?}");
            assert_eq!(run.lost(), 5);
            assert_eq!(run.shares(4), [0.0, 0.0, 0.0, 4.0]);
            assert_eq!(run.first_error.as_deref(), Some("status 404"));
            for record in &run.records {
                assert!(record.sent_ns.unwrap() >= record.scheduled_ns);
                assert!(record.finished_ns >= record.sent_ns.unwrap());
            }
        }
    }

    #[test]
    fn nobody_there_is_a_connect_error_each() {
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let run = load(free, Connections::PerRequest)
            .run(&plan(&[0, 0, 0]))
            .unwrap();
        assert!(
            run.records.iter().all(|r| r.outcome == Outcome::Connect),
            "{run:?}"
        );
        let error = load(free, Connections::Pool(1))
            .run(&plan(&[0]))
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("connections to {free}")),
            "{error}"
        );
    }

    /// A server of one thread that answers requests in the order in which they
    /// come, and does nothing for `STALL` before the `STALLED`th answer.
    fn stalling() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut answered = 0;
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 1024];
                loop {
                    let count = stream.read(&mut request).unwrap_or(0);
                    if count == 0 {
                        break;
                    }
                    answered += 1;
                    if answered == STALLED {
                        std::thread::sleep(STALL);
                    }
                    stream.write_all(OK.as_bytes()).unwrap();
                    if request[..count].ends_with(b"Connection: close\r\n\r\n") {
                        break;
                    }
                }
            }
        });
        address
    }

    const STALLED: usize = 100;
    const STALL: Duration = Duration::from_secs(1);

    /// wrk2's definition: the requests that a stalled server kept waiting count
    /// with their wait, wherever they waited.
    #[test]
    fn a_stall_shows_in_the_tail() {
        for connections in [Connections::PerRequest, Connections::Pool(1)] {
            let mut load = load(stalling(), connections);
            load.timeout = Duration::from_secs(10);
            let service = Service::Fixed(0);
            let plan = arrivals::constant(1, 100.0, Duration::from_secs(4), service);
            let run = load.run(&plan).unwrap();
            assert_eq!((run.records.len(), run.lost()), (400, 0), "{connections:?}");
            let latency = Summary::of(run.records.iter().map(Record::latency_ns));
            let stall_ns = STALL.as_nanos() as u64;
            // A quarter of the arrivals found it stalled, one in a hundred at its very start.
            assert!(
                latency.p99_9_ns >= stall_ns * 98 / 100,
                "{connections:?}: {latency:?}"
            );
            assert!(
                latency.p99_ns >= stall_ns * 90 / 100,
                "{connections:?}: {latency:?}"
            );
            if let Connections::Pool(_) = connections {
                // What a clock that starts at the sending would have seen.
                let from_sent = run
                    .records
                    .iter()
                    .map(|r| r.finished_ns - r.sent_ns.unwrap());
                let stalled = from_sent.filter(|ns| *ns >= stall_ns / 2).count();
                assert!(stalled <= 2, "{stalled} requests");
            }
        }
    }

    fn closed(clients: usize, requests: usize) -> Closed {
        Closed {
            clients,
            service: Service::Fixed(0),
            seed: 1,
            duration: None,
            requests: Some(requests),
        }
    }

    #[test]
    fn clients_in_a_closed_loop_never_have_two_requests() {
        for connections in [Connections::PerRequest, Connections::Pool(3)] {
            let run = load(scripted(), connections)
                .run_closed(&closed(3, 60))
                .unwrap();
            assert_eq!((run.records.len(), run.lost()), (60, 0), "{run:?}");
            assert!(run.is_complete && run.unanswered == 0);
            for (number, record) in run.records.iter().enumerate() {
                assert_eq!(record.sent_ns, Some(record.scheduled_ns));
                let earlier = &run.records[..number];
                let in_flight = earlier
                    .iter()
                    .filter(|e| e.finished_ns > record.scheduled_ns);
                assert!(in_flight.count() < 3, "request {number}: {run:?}");
            }
        }
    }

    #[test]
    fn a_closed_loop_draws_the_same_service_times_as_an_open_one() {
        let service = "two:0,1,0.5".parse::<Service>().unwrap();
        let closed = Closed {
            service,
            ..closed(1, 30)
        };
        let run = load(scripted(), Connections::PerRequest)
            .run_closed(&closed)
            .unwrap();
        let asked: Vec<u32> = run.records.iter().map(|r| r.service_us).collect();
        assert_eq!(asked, service.draws(1).take(30).collect::<Vec<_>>());
    }

    #[test]
    fn a_closed_loop_without_a_server_does_not_run_wild() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let free = listener.local_addr().unwrap();
        drop(listener);
        let closed = Closed {
            duration: Some(Duration::from_millis(200)),
            requests: None,
            ..closed(2, 0)
        };
        let run = load(free, Connections::PerRequest)
            .run_closed(&closed)
            .unwrap();
        assert!(
            (2..=44).contains(&run.records.len()),
            "{}",
            run.records.len()
        );
        assert_eq!(run.lost(), run.records.len());
    }

    #[test]
    fn a_closed_loop_that_cannot_be_is_refused() {
        let load = load(scripted(), Connections::Pool(2));
        let refusal = |closed: &Closed| load.run_closed(closed).unwrap_err().to_string();
        assert!(refusal(&closed(0, 1)).contains("0 clients"));
        assert!(refusal(&closed(3, 1)).contains("at least 3"));
        let endless = Closed {
            requests: None,
            ..closed(1, 1)
        };
        assert!(refusal(&endless).contains("without end"));
    }

    #[test]
    fn a_stopped_run_keeps_what_it_has() {
        let load = load(scripted(), Connections::PerRequest);
        let mut draws = plan(&[0, 3, 0]);
        draws[2].at_ns = 3_600_000_000_000;
        let watch = Watch::new().unwrap();
        let run = std::thread::scope(|scope| {
            scope.spawn(|| {
                while watch.finished() == 0 {
                    std::thread::yield_now();
                }
                watch.stop();
            });
            load.run_watched(Pace::Open(&draws), &watch).unwrap()
        });
        assert!(!run.is_complete);
        assert_eq!(run.records[0].outcome, Outcome::Ok);
        // The second may not have been due yet, but never was answered.
        assert!(run.records.len() == 1 && run.unanswered <= 1, "{run:?}");
    }

    #[test]
    fn a_request_that_finds_the_pool_in_use_waits() {
        let mut draws = plan(&[3, 0]);
        draws[1].at_ns = 500_000_000;
        let run = load(scripted(), Connections::Pool(1)).run(&draws).unwrap();
        assert_eq!(run.records[0].outcome, Outcome::Timeout);
        // It gets the connection's place when the first request's time is over.
        let sent_ns = run.records[1].sent_ns.expect("sent after all");
        assert!(sent_ns >= 1_000_000_000, "sent at {sent_ns}");
    }
}
