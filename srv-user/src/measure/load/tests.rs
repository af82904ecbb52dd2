//! Runs of the generator against servers that a test scripts.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::*;
use crate::measure::arrivals::{self, Draw, Service};
use crate::measure::stats::Summary;

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
        assert_eq!(run.shares(4), [0, 0, 0, 4]);
        assert_eq!(run.first_error.as_deref(), Some("status 404"));
        for record in &run.records {
            assert!(record.sent_ns.unwrap() >= record.scheduled_ns);
            assert!(record.finished_ns >= record.sent_ns.unwrap());
        }
    }
}

#[test]
fn without_a_server_each_request_is_a_connect_error() {
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
