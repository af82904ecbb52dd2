//! A server with a thread for each worker, which blocks in `accept`.
//!
//! `cargo run --example threads -- 127.0.0.1:8080` serves until it is killed. With a number of
//! connections as second argument it ends after so many, and prints what the program counted.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use srv_steer::Group;

const WORKERS: u32 = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:8080".into());
    let connections: Option<u64> = arguments.next().map(|count| count.parse()).transpose()?;

    let mut group = Group::bind(address.parse::<SocketAddr>()?, WORKERS)?;
    let served = Arc::new(AtomicU64::new(0));
    let workers = group.workers()?;
    println!("listening on {}: {}", group.address(), group.state());
    for worker in workers {
        let served = served.clone();
        std::thread::spawn(move || {
            loop {
                let Ok((mut stream, _)) = worker.accept() else {
                    continue;
                };
                let _connection = worker.load().connection();
                let _request = worker.load().request();
                // A client that has gone is its own affair.
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n");
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while connections.is_none_or(|count| served.load(Ordering::Relaxed) < count) {
        for stall in group.maintain() {
            eprintln!(
                "worker {}: {:?} for {:?}",
                stall.slot, stall.stage, stall.lasted
            );
        }
        std::thread::sleep(Group::MAINTENANCE_INTERVAL);
    }
    println!(
        "steered {} of {} connections",
        group.counts().steered,
        served.load(Ordering::Relaxed)
    );
    Ok(())
}
