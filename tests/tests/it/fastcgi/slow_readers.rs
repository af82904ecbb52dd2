//! Clients that read little of a large answer: the application waits for them, and the worker keeps none
//! of the answer.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::process::Pid;
use srv::fastcgi::client::REQUEST_ID;
use srv::fastcgi::server::put_stdout;

use crate::client::{Client, get};
use crate::configured::Configured;
use crate::probe::{group, pid, until, worker};

const READERS: usize = 16;
const ANSWER_BYTES: usize = 100 << 20;
/// More than the sockets on the way to one client have room for.
const ON_THE_WAY_BYTES: usize = 16 << 20;
/// What the worker may need for each client.
const KEPT_BYTES: u64 = 512 << 10;
/// An application that could write nothing for so long waits for its client.
const STALLED: Duration = Duration::from_millis(500);

/// Answers with a long text, and says how much of it was taken when no more is.
fn answer(mut stream: UnixStream, taken: &Sender<usize>) {
    stream.set_write_timeout(Some(STALLED)).unwrap();
    let mut request = [0; 4096];
    assert_ne!(stream.read(&mut request).unwrap(), 0);
    let mut records = Vec::new();
    let header = format!("Content-Length: {ANSWER_BYTES}\n\n");
    put_stdout(&mut records, REQUEST_ID, header.as_bytes());
    stream.write_all(&records).unwrap();
    records.clear();
    put_stdout(&mut records, REQUEST_ID, &[b'x'; 60_000]);
    let (mut count, mut at) = (0, 0);
    while count < ANSWER_BYTES {
        match stream.write(&records[at..]) {
            Ok(written) => {
                count += written;
                at = (at + written) % records.len();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("write the answer: {error}"),
        }
    }
    taken.send(count).unwrap();
    // Until the client leaves.
    let _ = stream.read(&mut request);
}

/// The memory that is the process's own, bytes.
fn memory_bytes(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = line.unwrap().trim_end_matches("kB").trim().parse().unwrap();
    kib << 10
}

#[test]
fn slow_readers_of_large_answers_cost_the_worker_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let open = |mode| <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode);
    fs::set_permissions(folder.path(), open(0o755)).unwrap();
    fs::write(folder.path().join("a.txt"), "a text").unwrap();
    let socket = folder.path().join("application");
    let listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, open(0o777)).unwrap();
    let (taken, all_taken) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let taken = taken.clone();
            std::thread::spawn(move || answer(stream.unwrap(), &taken));
        }
    });
    let (root, socket) = (folder.path().display(), socket.display());
    let site = format!(
        "[[site]]\nroot = \"{root}\"\n[[site.route]]\nprefix = \"/app\"\n\
         fastcgi = {{ to = \"unix:{socket}\", suffix = \"\" }}\n"
    );
    let served = Configured::start(&site, &["--workers", "1"]);
    let address = served.server.address();
    assert_eq!(get(address, "/a.txt").body, b"a text");
    let worker = pid(&worker(&served.server, 0));
    let before = memory_bytes(worker);
    let mut readers: Vec<_> = (0..READERS).map(|_| Client::connect(address)).collect();
    for reader in &mut readers {
        reader.get("/app");
    }
    for count in all_taken.iter().take(READERS) {
        assert!(count < ON_THE_WAY_BYTES, "{count} bytes were taken");
    }
    for _ in 0..20 {
        assert_eq!(get(address, "/a.txt").body, b"a text");
    }
    assert_eq!(group(&served.server).totals.running, READERS as u64);
    let grown = memory_bytes(worker).saturating_sub(before);
    assert!(grown < READERS as u64 * KEPT_BYTES, "{grown} bytes more");
    drop(readers);
    until("all are cancelled", || {
        (group(&served.server).totals.running == 0).then_some(())
    });
}
