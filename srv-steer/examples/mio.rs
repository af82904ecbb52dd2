//! As the example `epoll`, with mio's event loop and connections that it watches.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Token};
use srv_steer::{Accepted, Connection, Group, Poller, Worker, is_listener, monotonic_ns};

const WORKERS: u32 = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:8080".into());
    let connections: Option<u64> = arguments.next().map(|count| count.parse()).transpose()?;

    let mut group = Group::bind(address.parse::<SocketAddr>()?, WORKERS)?;
    let served = Arc::new(AtomicU64::new(0));
    let all_watch = Arc::new(Barrier::new(WORKERS as usize));
    let workers = group.workers()?;
    println!("listening on {}: {}", group.address(), group.state());
    for worker in workers {
        let (served, all_watch) = (served.clone(), all_watch.clone());
        std::thread::spawn(move || {
            if let Err(error) = serve(worker, &all_watch, &served) {
                eprintln!("a worker ends: {error}");
            }
        });
    }
    while connections.is_none_or(|count| served.load(Ordering::Relaxed) < count) {
        group.maintain();
        std::thread::sleep(Group::MAINTENANCE_INTERVAL);
    }
    println!(
        "steered {} of {} connections",
        group.counts().steered,
        served.load(Ordering::Relaxed)
    );
    Ok(())
}

/// A connection with its part of the load signal, which ends when the connection does.
struct Client {
    stream: TcpStream,
    _open: Connection,
}

fn serve(worker: Worker, all_watch: &Barrier, served: &AtomicU64) -> Result<(), Box<dyn Error>> {
    let (mut ring, load) = worker.into_ring()?;
    let mut poll = Mio::new()?;
    ring.watch_own(&poll)?;
    // The kernel wakes the first that watches a listener, which is to be its owner.
    all_watch.wait();
    ring.join(&poll)?;
    let mut clients: HashMap<Token, Client> = HashMap::new();
    loop {
        load.sleeps();
        let slept_from_ns = monotonic_ns();
        let due = ring
            .due_ns()
            .map(|due_ns| due_ns.saturating_sub(slept_from_ns));
        ring.wait(&mut poll, due.map(Duration::from_nanos))?;
        let now_ns = monotonic_ns();
        load.wakes(now_ns);
        ring.watch_deferred(&poll, &load, slept_from_ns, now_ns)?;
        if let Accepted::Connection(connection) = ring.accept(&poll, &load, now_ns)? {
            let mut stream = TcpStream::from_std(connection.socket.into());
            let token = Token(stream.as_raw_fd() as usize);
            poll.poll
                .registry()
                .register(&mut stream, token, Interest::READABLE)?;
            let _open = load.connection();
            clients.insert(token, Client { stream, _open });
        }
        let tokens: Vec<Token> = poll.events.iter().map(mio::event::Event::token).collect();
        for token in tokens
            .into_iter()
            .filter(|token| !is_listener(token.0 as u64))
        {
            let Some(client) = clients.get_mut(&token) else {
                continue;
            };
            let _request = load.request();
            match client.stream.read(&mut [0; 4096]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Ok(1..) => {
                    // A client that has gone is its own affair.
                    let _ = client.stream.write_all(b"hello\n");
                    served.fetch_add(1, Ordering::Relaxed);
                }
                Ok(0) | Err(_) => {}
            }
            clients.remove(&token);
        }
    }
}

struct Mio {
    poll: mio::Poll,
    events: Events,
}

impl Mio {
    fn new() -> io::Result<Self> {
        Ok(Self {
            poll: mio::Poll::new()?,
            events: Events::with_capacity(16),
        })
    }
}

impl AsFd for Mio {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the epoll instance is open for as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.poll.as_raw_fd()) }
    }
}

impl Poller for Mio {
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            ended => ended,
        }
    }

    fn token(&self, nth: usize) -> Option<u64> {
        self.events
            .iter()
            .nth(nth)
            .map(|event| event.token().0 as u64)
    }
}
