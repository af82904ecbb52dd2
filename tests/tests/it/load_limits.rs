//! Where `srv load` itself is the limit, or its machine: that is named, and
//! counted apart from what the server lost.

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use srv::measure::load::Figures;
use srv_tests::child::Child;
use srv_tests::server::{Server, binary};

use crate::gate;
use crate::load::{figures, load};
use crate::probe::{Stopped, until_group};
use crate::serve::serve;

fn doubts(figures: &Figures, part: &str) -> bool {
    figures.doubts.iter().any(|doubt| doubt.contains(part))
}

/// In a network namespace that has ten ports for clients.
#[test]
fn no_local_port_is_not_the_servers_loss() {
    gate::needs!(root);
    let server = Server::start_as(
        {
            let script = "ip link set lo up && \
                          echo 40000 40009 >/proc/sys/net/ipv4/ip_local_port_range && exec \"$@\"";
            let mut command = Command::new("unshare");
            command.args(["--net", "sh", "-c", script, "sh"]);
            command.arg(binary().unwrap());
            command
        },
        tempfile::tempdir().unwrap(),
        ["--workers", "1", "--listen", "127.0.0.1:8080"],
    )
    .unwrap();
    let burst = |more: &[&str]| -> Output {
        let namespace = fs::File::open(format!("/proc/{}/ns/net", server.pid().as_raw_nonzero()));
        let namespace = namespace.unwrap();
        let send = || {
            let to = ThreadNameSpaceType::NETWORK;
            move_into_thread_name_spaces(namespace.as_fd(), to).unwrap();
            let flags = "--rate 1000 --arrivals burst:30 --duration 30ms --json";
            let url = "http://127.0.0.1:8080/";
            load(flags.split(' ').chain([url]).chain(more.iter().copied()))
        };
        std::thread::scope(|scope| scope.spawn(send).join().unwrap())
    };
    let output = burst(&[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = figures(&output);
    // All 30 are due at the same instant, before any of them can be answered.
    assert_eq!((told.requests, told.answered), (30, 10), "{told:?}");
    assert_eq!(told.unsent, [("no-port".to_owned(), 20)].into(), "{told:?}");
    assert!(told.lost.is_empty(), "{told:?}");
    assert!(doubts(
        &told,
        "20 requests were not sent: this machine had no local port"
    ));
    assert!(doubts(&told, "ports 40000 to 40009"), "{told:?}");
    assert_eq!(burst(&["--strict"]).status.code(), Some(1));
}

/// Requests that wait for a file until their time is over were never sent.
#[test]
fn no_file_is_not_the_servers_loss() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // It never answers: what is sent times out.
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let script = "ulimit -n 40; exec \"$0\" load \"$1\" --rate 1000 --arrivals burst:100 \
                  --duration 100ms --timeout 500ms --json";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .arg(binary().unwrap())
        .arg(&url);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = figures(&output);
    let (timed_out, unsent) = (told.lost["timeout"], told.unsent["no-socket"]);
    assert_eq!(timed_out + unsent, 100, "{told:?}");
    // The limit is 40 files, and some are not connections.
    assert!((20..40).contains(&timed_out), "{told:?}");
    assert!(doubts(&told, "could not open more sockets"), "{told:?}");
}

/// The generator stands still for longer than a request has time.
#[test]
fn requests_that_a_late_generator_skips_are_not_the_servers_loss() {
    let server = serve().workers(1).start();
    let folder = tempfile::tempdir().unwrap();
    let said = folder.path().join("stdout");
    let mut command = Command::new(binary().unwrap());
    command
        .args(["load", &format!("http://{}/", server.address())])
        .args("--rate 500 --duration 4s --timeout 200ms --json".split(' '))
        .stdout(fs::File::create(&said).unwrap());
    let mut child = Child::spawn(&mut command).unwrap();
    until_group(&server, "requests were served", |group| {
        group.totals.served >= 50
    });
    let stopped = Stopped::new(child.pid());
    // Not an event: the stop itself has to last for longer than the timeout.
    std::thread::sleep(Duration::from_secs(1));
    drop(stopped);
    assert_eq!(
        child.await_exit().unwrap().code(),
        Some(0),
        "{}",
        child.stderr()
    );
    let told: Figures = serde_json::from_slice(&fs::read(&said).unwrap()).unwrap();
    // 0.8 s of 500 requests a second were over before they were picked up.
    assert!(told.unsent["late"] >= 100, "{told:?}");
    assert!(doubts(&told, "late by more than --timeout"), "{told:?}");
    assert!(child.stderr().contains("not sent"), "{}", child.stderr());
}

/// A name with both addresses, one of which nothing listens on.
#[test]
fn the_address_of_a_name_that_listens_is_used() {
    gate::needs!(root);
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        gate::needs!("listen on both families": &TcpListener::bind(listen));
        let server = serve().workers(1).listen(listen).start();
        let folder = tempfile::tempdir().unwrap();
        let hosts = folder.path().join("hosts");
        fs::write(&hosts, "::1 both.test\n127.0.0.1 both.test\n").unwrap();
        let url = format!("http://both.test:{}/", server.address().port());
        let output = with_hosts(&hosts, &url);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let told = figures(&output);
        assert_eq!(told.answered, told.requests);
        assert_eq!(told.asked.addresses, [server.address().to_string()]);
    }
}

fn with_hosts(hosts: &Path, url: &str) -> Output {
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(hosts);
    command.arg(binary().unwrap());
    command.args(["load", url, "--clients", "1", "--requests", "3", "--json"]);
    command.output().unwrap()
}
