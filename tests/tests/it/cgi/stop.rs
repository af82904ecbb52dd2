//! The end of `srv cgi`: scripts may finish, then they are killed, and nothing is left.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

use super::{COMPLETE, Cgi, answer};
use crate::probe::until;

const WAITS: &str =
    "#!/bin/sh\necho; echo started\nuntil [ -e go ]; do sleep 0.02; done\necho done\n";
const HANGS: &str = "#!/bin/sh\nsetsid sleep 1000 &\necho started >&2; sleep 1000\n";

#[test]
fn a_running_script_finishes() {
    let scripts = [("waits", WAITS), ("empty", "#!/bin/sh\necho\n")];
    let mut cgi = Cgi::start(&scripts, &["--grace", "20s"]);
    let mut running = cgi.begin("waits");
    running.read_exact(&mut [0; 9]).unwrap();
    let mut idle = cgi.connect();
    idle.write_all(&cgi.request("empty", true)).unwrap();
    answer(&mut idle);
    cgi.child.signal(Signal::TERM).unwrap();
    cgi.child.await_line("stopping").unwrap();
    assert_eq!(
        idle.read(&mut [0]).unwrap(),
        0,
        "an idle connection is closed"
    );
    until("it listens no more", || {
        UnixStream::connect(cgi.socket()).err()
    });
    std::fs::write(cgi.script("go"), "").unwrap();
    let mut rest = Vec::new();
    running.read_to_end(&mut rest).unwrap();
    assert!(
        String::from_utf8_lossy(&rest).contains("done\n"),
        "{rest:?}"
    );
    assert!(cgi.child.await_exit().unwrap().success());
    cgi.await_none_left();
}

#[test]
fn one_that_does_not_is_killed() {
    let mut cgi = Cgi::start(&[("hangs", HANGS)], &["--grace", "100ms"]);
    let mut running = cgi.begin("hangs");
    cgi.child.await_line("started").unwrap();
    cgi.child.signal(Signal::TERM).unwrap();
    let said = answer(&mut running);
    assert_eq!((said.status(), said.end), (503, Some((0, COMPLETE))));
    assert!(cgi.child.await_exit().unwrap().success());
    cgi.await_none_left();
}

#[test]
fn if_it_is_killed_its_scripts_end() {
    let mut cgi = Cgi::start(&[("hangs", HANGS)], &[]);
    let _running = cgi.begin("hangs");
    cgi.child.await_line("started").unwrap();
    cgi.child.signal(Signal::KILL).unwrap();
    cgi.await_none_left();
}

#[test]
fn another_takes_its_socket_over() {
    let cgi = Cgi::start(&[("a", "#!/bin/sh\necho\n")], &[]);
    let listen = format!("unix:{}", cgi.socket().display());
    let second = || {
        let mut command = crate::agent::srv();
        command.args([
            "cgi", "--user", "nobody", "--listen", &listen, "--root", "/",
        ]);
        command
    };
    let output = second().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another process listens there"), "{said}");
    if !crate::gate::root() {
        return;
    }
    cgi.child.signal(Signal::KILL).unwrap();
    until("it is gone", || UnixStream::connect(cgi.socket()).err());
    let mut next = srv_tests::child::Child::spawn(&mut second()).unwrap();
    next.await_line("listening on ").unwrap();
    assert!(next.stop().unwrap().success());
}
