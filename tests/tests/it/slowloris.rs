//! Slowloris: thousands of connections whose request headers trickle in and
//! never end. Others are answered all the while, and they are closed in time.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use srv::measure::arrivals::{Service, poisson};
use srv::measure::load::{Load, Run};
use srv::measure::stats::{Spread, Summary};
use srv_tests::server::Server;

use crate::gate;
use crate::probe::{group, open_files, pid, refused, stress, until_group};
use crate::serve::serve;

const CONNECTIONS: usize = 5_000;
/// Each connection's next byte comes after so long.
const PACE: Duration = Duration::from_secs(1);
/// So many have theirs at once.
const AT_ONCE: usize = 25;

fn start(header_timeout: &str) -> Server {
    serve()
        .workers(2)
        .synthetic()
        .with("--header-timeout", header_timeout)
        .start()
}

/// Clients in the middle of a header.
struct Slowloris {
    streams: Vec<TcpStream>,
    /// How many were told 408.
    told: usize,
}

impl Slowloris {
    fn open(target: SocketAddr) -> Self {
        let open = |_| {
            let mut stream = TcpStream::connect(target).unwrap();
            // Reset: thousands of ports in TIME_WAIT would be missed by other tests.
            let socket = socket2::SockRef::from(&stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            stream.set_nodelay(true).unwrap();
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
                .unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        };
        Self {
            streams: (0..CONNECTIONS).map(open).collect(),
            told: 0,
        }
    }

    /// Goes on with all headers until the server has closed all connections, or `over`.
    fn trickle(&mut self, over: &AtomicBool) {
        while !self.streams.is_empty() && !over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let (told, count) = (&mut self.told, self.streams.len() as u32);
            let mut nth = 0;
            self.streams.retain_mut(|stream| {
                if nth % AT_ONCE as u32 == 0 && !over.load(Ordering::Relaxed) {
                    std::thread::sleep((PACE * nth / count).saturating_sub(begun.elapsed()));
                }
                nth += 1;
                let answer = next_byte(stream);
                *told += usize::from(answer.as_deref() == Some(b"HTTP/1.1 408"));
                answer.is_none()
            });
            std::thread::sleep(PACE.saturating_sub(begun.elapsed()));
        }
    }
}

/// Sends one more byte, or what came instead.
fn next_byte(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut answer = vec![0; 12];
    match stream.read(&mut answer) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            // A refusal that crosses it is read in the next round.
            let _ = stream.write(b"x");
            None
        }
        read => {
            answer.truncate(read.unwrap_or(0));
            Some(answer)
        }
    }
}

fn honest(target: SocketAddr, lasts: Duration) -> Run {
    let load = Load {
        timeout: Duration::from_secs(20),
        ..Load::get(target, "/work?sleep_us={us}")
    };
    let draws = poisson(6, 500.0, lasts, Service::Fixed(100));
    let run = load.run(&draws).unwrap();
    assert_eq!(run.records.len(), draws.len());
    assert_eq!(run.lost(), 0, "{:?}", run.first_error);
    run
}

/// Both ends of a connection are files; servers inherit the limit.
fn can_hold_them() -> bool {
    let needed = CONNECTIONS as u64 + 1_000;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < needed) {
        let raised = Rlimit {
            current: Some(needed),
            maximum: limit.maximum,
        };
        let raised = setrlimit(Resource::Nofile, raised);
        return gate::can(
            "hold 5,000 connections",
            raised.map_err(|error| error.to_string()),
        );
    }
    true
}

#[test]
fn five_thousand_trickling_headers_stop_nobody_and_are_stopped() {
    if !can_hold_them() {
        return;
    }
    let server = start("12s");
    let workers = group(&server).workers;
    let files = || workers.iter().map(|worker| open_files(pid(worker)));
    let before: Vec<_> = files().collect();
    let mut slowloris = Slowloris::open(server.address());
    std::thread::scope(|scope| {
        let trickling = scope.spawn(|| {
            slowloris.trickle(&AtomicBool::new(false));
            slowloris.told
        });
        until_group(&server, "all of them are open", |group| {
            group.totals.active >= CONNECTIONS as u64
        });
        honest(server.address(), Duration::from_secs(1));
        assert_eq!(refused(&server, "timeout"), 0, "they were there meanwhile");
        assert_eq!(trickling.join().unwrap(), CONNECTIONS, "told 408");
    });
    assert_eq!(refused(&server, "timeout"), CONNECTIONS as u64);
    until_group(&server, "all are closed", |group| group.totals.active == 0);
    assert_eq!(files().collect::<Vec<_>>(), before);
}

/// What runs beside the honest requests of one arm.
#[derive(Clone, Copy, Debug)]
enum Beside {
    Nothing,
    /// The same slowloris at another server: it takes its share of the CPUs, too.
    AtAnother,
    AtThis,
}

const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_secs(3);

/// The figures of docs/reliability.md: `SRV_STRESS=1`, in release, with nothing beside it.
#[test]
fn what_others_feel_of_it() {
    if !stress(false, true) || !can_hold_them() {
        return;
    }
    let arms = [Beside::Nothing, Beside::AtAnother, Beside::AtThis];
    let (server, another) = (start("10min"), start("10min"));
    let mut p99s_us = [const { Vec::new() }; 3];
    for round in 0..ROUNDS {
        for nth in 0..arms.len() {
            // Each arm comes after each other one.
            let arm = (nth + round) % arms.len();
            p99s_us[arm].push(match arms[arm] {
                Beside::Nothing => p99_us(&honest(server.address(), ROUND)),
                Beside::AtAnother => p99_beside_us(server.address(), &another),
                Beside::AtThis => p99_beside_us(server.address(), &server),
            });
        }
    }
    let told = |name: &str, figures: &[f64], digits: usize| {
        let spread = Spread::of(figures);
        println!(
            "{name}: {:.digits$} ({:.digits$} to {:.digits$})",
            spread.median, spread.min, spread.max
        );
    };
    println!(
        "p99 of 500 honest requests a second, us, {ROUNDS} rounds of {ROUND:?}, {CONNECTIONS} trickling headers"
    );
    for (arm, figures) in arms.iter().zip(&p99s_us) {
        told(&format!("  {arm:?}"), figures, 0);
    }
    let ratio = |to: usize| -> Vec<f64> {
        let rounds = p99s_us[2].iter().zip(&p99s_us[to]);
        rounds.map(|(with, other)| with / other).collect()
    };
    told("  AtThis / Nothing, round by round", &ratio(0), 2);
    told("  AtThis / AtAnother, round by round", &ratio(1), 2);
}

/// While `attacked` has its slowloris.
fn p99_beside_us(target: SocketAddr, attacked: &Server) -> f64 {
    let mut slowloris = Slowloris::open(attacked.address());
    until_group(attacked, "all of them are open", |group| {
        group.totals.active >= CONNECTIONS as u64
    });
    let over = AtomicBool::new(false);
    let p99_us = std::thread::scope(|scope| {
        scope.spawn(|| slowloris.trickle(&over));
        let run = scope.spawn(|| honest(target, ROUND)).join();
        over.store(true, Ordering::Relaxed);
        p99_us(&run.unwrap())
    });
    assert_eq!(slowloris.streams.len(), CONNECTIONS);
    drop(slowloris);
    until_group(attacked, "all are closed", |group| group.totals.active == 0);
    p99_us
}

fn p99_us(run: &Run) -> f64 {
    let latencies = run.records.iter().map(|record| record.latency_ns());
    Summary::of(latencies).p99_ns as f64 / 1e3
}
