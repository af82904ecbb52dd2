//! A server with a bare epoll loop in each worker: the ring accepts what a busy sibling cannot.
//! The arguments are those of the example `threads`.

use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use rustix::event::epoll;
use srv_steer::{Accepted, Group, Poller, Ring, Worker, monotonic_ns};

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

fn serve(worker: Worker, all_watch: &Barrier, served: &AtomicU64) -> Result<(), Box<dyn Error>> {
    let (mut ring, load) = worker.into_ring()?;
    let mut epoll = Epoll::new()?;
    ring.watch_own(&epoll)?;
    // The kernel wakes the first that watches a listener, which is to be its owner.
    all_watch.wait();
    ring.join(&epoll)?;
    loop {
        load.sleeps();
        let slept_from_ns = monotonic_ns();
        ring.wait(&mut epoll, timeout(&ring))?;
        let now_ns = monotonic_ns();
        load.wakes(now_ns);
        ring.watch_deferred(&epoll, &load, slept_from_ns, now_ns)?;
        match ring.accept(&epoll, &load, now_ns)? {
            Accepted::Connection(connection) => {
                let _connection = load.connection();
                let _request = load.request();
                let mut stream = TcpStream::from(connection.socket);
                stream.set_nonblocking(false)?;
                // A client that has gone is its own affair.
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"hello\n");
                served.fetch_add(1, Ordering::Relaxed);
            }
            Accepted::Nothing => {}
            Accepted::Failed(error) => {
                eprintln!("accept a connection: {error}");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Until the grace period of a sibling ends, if a connection was left to one.
fn timeout(ring: &Ring) -> Option<Duration> {
    let due_ns = ring.due_ns()?;
    Some(Duration::from_nanos(due_ns.saturating_sub(monotonic_ns())))
}

struct Epoll {
    fd: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Epoll {
    fn new() -> io::Result<Self> {
        Ok(Self {
            fd: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(16),
        })
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Poller for Epoll {
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.events.clear();
        let timeout = timeout.map(|timeout| rustix::event::Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let buffer = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.fd, buffer, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn token(&self, nth: usize) -> Option<u64> {
        self.events.get(nth).map(|event| event.data.u64())
    }
}
