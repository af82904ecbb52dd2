//! A server with a process for each worker: this program starts itself, and each child inherits
//! its worker. A child that ends is replaced; what waits at its listener waits for the next one.
//! The arguments are those of the example `threads`.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command};

use srv_steer::{Group, Worker};

const WORKERS: u32 = 4;
const CHILD: &str = "--worker";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:8080".into());
    if address == CHILD {
        return serve();
    }
    let connections: Option<u64> = arguments.next().map(|count| count.parse()).transpose()?;

    let mut group = Group::bind(address.parse::<SocketAddr>()?, WORKERS)?;
    let mut children = Vec::new();
    for slot in 0..WORKERS {
        children.push(start(&mut group, slot)?);
    }
    println!("listening on {}: {}", group.address(), group.state());
    let served = |group: &Group| -> u64 {
        let slots = group.figures().slots.iter();
        slots.map(|slot| slot.load.served.get()).sum()
    };
    while connections.is_none_or(|count| served(&group) < count) {
        group.maintain();
        for (slot, child) in (0..).zip(&mut children) {
            if let Some(status) = child.try_wait()? {
                eprintln!("worker {slot} has ended ({status}); another takes its place");
                group.worker_ended(slot);
                *child = start(&mut group, slot)?;
            }
        }
        std::thread::sleep(Group::MAINTENANCE_INTERVAL);
    }
    println!(
        "steered {} of {} connections",
        group.counts().steered,
        served(&group)
    );
    for child in &mut children {
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}

fn start(group: &mut Group, slot: u32) -> Result<Child, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(CHILD);
    group.pass_worker(slot, &mut command)?;
    let child = command.spawn()?;
    group.worker_begins(slot, child.id());
    Ok(child)
}

fn serve() -> Result<(), Box<dyn Error>> {
    let worker = Worker::inherited()?;
    loop {
        let (mut stream, _) = worker.accept()?;
        let _connection = worker.load().connection();
        let _request = worker.load().request();
        // A client that has gone is its own affair.
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n");
    }
}
