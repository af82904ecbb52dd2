//! A log writer that dies, stands still or has no room, and workers and servers that end: each request
//! is answered, and is in the log or counted as lost.

use std::fs;
use std::io::Read as _;
use std::process::Command;

use rustix::process::{Pid, Signal};
use srv_tests::server::Server;

use super::{accounts, in_folder, lines, log_status, logging_to, until_settled};
use crate::client::{get, get_many};
use crate::gate;
use crate::loaded::without_loss;
use crate::probe::{Stopped, pid, signal, until, until_group, worker};
use crate::upgradable::Upgradable;

fn writer(server: &Server) -> Pid {
    until("a log writer runs", || {
        Pid::from_raw(log_status(server).writer? as i32)
    })
}

#[test]
fn workers_and_log_writers_that_die_lose_no_line() {
    let (_folder, log) = in_folder();
    let server = logging_to(&log, &[]);
    let process = fs::read_to_string(format!("/proc/{}/status", writer(&server).as_raw_nonzero()));
    let process = process.unwrap();
    for given_up in ["CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(process.contains(given_up), "{process}");
    }
    let requests = without_loss(server.address(), 300.0, || {
        for _ in 0..2 {
            let before = writer(&server);
            signal(before, Signal::KILL);
            until("there is another", || {
                (writer(&server) != before).then_some(())
            });
        }
    });
    // Records that the killed ones had taken count as lost.
    let (written, lost) = until_settled(&server);
    assert_eq!(
        (written + lost, lines(&log).len() as u64 >= written),
        (requests as u64, true)
    );
    // A worker that is killed while it sleeps has left its records in its ring.
    let before = lines(&log).len();
    let paused = Stopped::new(writer(&server));
    get_many(server.address(), 20);
    for slot in 0..2 {
        signal(pid(&worker(&server, slot)), Signal::KILL);
    }
    until_group(&server, "others are ready", |group| {
        group
            .workers
            .iter()
            .all(|worker| worker.starts == 2 && worker.state == "ready")
    });
    drop(paused);
    until("all is written", || {
        (lines(&log).len() == before + 20).then_some(())
    });
}

#[test]
fn a_log_writer_that_stands_still_delays_no_request() {
    let (_folder, log) = in_folder();
    let mut server = logging_to(&log, &[]);
    let paused = Stopped::new(writer(&server));
    // A ring has room for a few hundred long records.
    let path = format!("/{}", "x".repeat(4000));
    let sent = 400;
    until("a ring is full", || {
        for _ in 0..sent {
            assert_eq!(get(server.address(), &path).status(), 404);
        }
        (accounts(&server).2 > 0).then_some(())
    });
    drop(paused);
    let (written, lost) = until_settled(&server);
    assert!(lost > 0 && written > 0);
    server.child().await_line("were lost; none since").unwrap();
    assert_eq!(lines(&log).len() as u64, written);
    get(server.address(), "/again");
    until("it is written", || {
        lines(&log).last()?.contains("/again").then_some(())
    });
}

#[test]
fn a_pipe_that_no_process_reads_loses_lines_and_no_request() {
    let (_folder, pipe) = in_folder();
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
    let server = logging_to(&pipe, &[]);
    let path = format!("/{}", "x".repeat(4000));
    until("the pipe is full, and lines wait", || {
        assert_eq!(get(server.address(), &path).status(), 404);
        (log_status(&server).waiting > 0).then_some(())
    });
    let mut reader = fs::File::open(&pipe).unwrap();
    let mut read = Vec::new();
    let mut buffer = [0; 64 << 10];
    let (ended, ..) = accounts(&server);
    let count = |read: &[u8]| read.iter().filter(|byte| **byte == b'\n').count() as u64;
    while count(&read) < ended {
        let length = reader.read(&mut buffer).unwrap();
        read.extend_from_slice(&buffer[..length]);
    }
    assert_eq!(until_settled(&server), (ended, 0));
    assert!(
        read.split(|byte| *byte == b'\n')
            .all(|line| line.is_empty() || line.ends_with(b"\"-\""))
    );
}

#[test]
fn a_full_disk_loses_lines_and_writing_works_again() {
    let (folder, _) = in_folder();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mount = |arguments: &[&str]| {
        let output = Command::new(arguments[0])
            .args(&arguments[1..])
            .arg(&disk)
            .output();
        let output = output.map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(()).ok_or(said)
    };
    let mounted = mount(&["mount", "-t", "tmpfs", "-o", "size=64k", "srv-test"]);
    if !gate::can("mount a small file system", mounted) {
        return;
    }
    let log = disk.join("access.log");
    let mut server = logging_to(&log, &[]);
    let path = format!("/{}", "x".repeat(4000));
    until("it is full", || {
        assert_eq!(get(server.address(), &path).status(), 404);
        (log_status(&server).waiting > 0).then_some(())
    });
    server
        .child()
        .await_line("No space left on device")
        .unwrap();
    mount(&["mount", "-o", "remount,size=8m"]).unwrap();
    get(server.address(), "/again");
    server.child().await_line("it works again").unwrap();
    let (written, lost) = until_settled(&server);
    assert_eq!((written, lost), (accounts(&server).0, 0));
    assert!(fs::read_to_string(&log).unwrap().contains("/again"));
    server.stop().unwrap();
    mount(&["umount"]).unwrap();
}

/// A stop and an upgrade leave nothing in the rings.
#[test]
fn what_a_server_has_answered_is_in_the_log_when_it_has_ended() {
    let (_folder, log) = in_folder();
    let server = logging_to(&log, &[]);
    get_many(server.address(), 100);
    server.stop().unwrap();
    assert_eq!(lines(&log).len(), 100);
    let flags = [
        "--workers",
        "2",
        "--synthetic",
        "--access-log",
        log.to_str().unwrap(),
    ];
    let server = Upgradable::start(&flags);
    let requests = without_loss(server.server.address(), 300.0, || {
        let (said, is_done) = server.upgrade();
        assert!(is_done, "{said}");
    });
    until("the old and the new server have written all", || {
        (lines(&log).len() == 100 + requests).then_some(())
    });
}
