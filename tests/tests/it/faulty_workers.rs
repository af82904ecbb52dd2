//! Workers that do not do what the master tells them: each is replaced, the master says so,
//! and `srv status` names those that are behind meanwhile.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::net::Shutdown;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open};
use srv::control::status::GroupStatus;
use srv::serve::channel::Inherited;
use srv_tests::server;

use crate::client::get;
use crate::configured::Configured;
use crate::gate;
use crate::hostile_worker::library;
use crate::probe::{Stopped, group, pid, signal, until, until_group, worker};
use crate::serve::serve;

/// Each of the slots has a ready worker that does what was ordered last, and these have had
/// so many workers.
fn are_whole(group: &GroupStatus, starts: &[u32]) -> bool {
    let is_whole =
        |worker: &srv::control::status::WorkerStatus| worker.state == "ready" && !worker.behind;
    let found: Vec<_> = group.workers.iter().map(|worker| worker.starts).collect();
    found == starts && group.workers.iter().all(is_whole)
}

/// Has `process` get no further file descriptor.
fn fill(process: Pid) {
    let number = process.as_raw_nonzero().get();
    let is_free = |fd: &u32| !std::path::Path::new(&format!("/proc/{number}/fd/{fd}")).exists();
    let free = (0..).find(is_free).unwrap();
    let user = procfs::process::Process::new(number).unwrap().status();
    let user = user.unwrap();
    // A process of the same user needs no capability for that.
    let mut prlimit = Command::new("prlimit");
    prlimit.uid(user.ruid).gid(user.rgid);
    let limit = format!("--nofile={free}:{free}");
    let done = prlimit
        .args(["--pid", &number.to_string(), &limit])
        .status();
    assert!(done.unwrap().success());
}

/// The kernel cuts off descriptors that find no place (`MSG_CTRUNC`).
#[test]
fn a_worker_that_cannot_receive_a_listener_refuses_its_orders_and_is_replaced() {
    let mut configured = Configured::start("workers = 2\n", &[]);
    fill(pid(&worker(&configured.server, 0)));
    configured.rewrite("workers = 3\n");
    let (said, succeeded) = configured.reload();
    assert!(succeeded, "{said}");
    let child = configured.server.child();
    let line = child.await_line("replacing worker 0").unwrap();
    let why = "listeners of 3 slots: this worker has received those of 2";
    assert!(line.contains(why), "{line}");
    until_group(&configured.server, "worker 0 is another", |group| {
        are_whole(group, &[2, 1, 1])
    });
    assert!(configured.server.stop().unwrap().success());
}

#[test]
fn a_worker_that_runs_and_acknowledges_nothing_is_replaced() {
    gate::needs!(root);
    let mut configured = Configured::start("workers = 2\n", &["--hang-after", "0s"]);
    let mute = pidfd_open(pid(&worker(&configured.server, 0)), PidfdFlags::empty()).unwrap();
    let none = PidfdGetfdFlags::empty();
    let channel: OwnedFd = pidfd_getfd(&mute, Inherited::CHANNEL, none).unwrap();
    // What it says does not arrive any more; what it is told does.
    rustix::net::shutdown(&channel, Shutdown::Write).unwrap();
    configured.rewrite("workers = 2\nworker-header = true\n");
    let (said, _) = configured.reload();
    assert!(said.contains("worker 0 has not taken it over"), "{said}");
    let child = configured.server.child();
    let line = child.await_line("replacing worker 0").unwrap();
    assert!(line.contains("does not do what it was ordered"), "{line}");
    until_group(&configured.server, "worker 0 is another", |group| {
        are_whole(group, &[2, 1])
    });
    assert!(configured.server.stop().unwrap().success());
}

#[test]
fn status_names_workers_that_have_not_taken_over_the_newest_settings() {
    let text = |header: bool| format!("workers = 3\nworker-header = {header}\n");
    let configured = Configured::start(&text(false), &["--hang-after", "0s"]);
    let stopped = Stopped::new(pid(&worker(&configured.server, 1)));
    configured.rewrite(&text(true));
    let (said, succeeded) = configured.reload();
    assert!(succeeded, "{said}");
    let behind: Vec<_> = group(&configured.server)
        .workers
        .iter()
        .map(|worker| worker.behind)
        .collect();
    assert_eq!(behind, [false, true, false]);
    let status = configured.server.srv(&["status"]).unwrap().stdout;
    let status = String::from_utf8(status).unwrap();
    let line = "behind the newest settings: worker 1\n";
    assert!(status.contains(line), "{status}");
    drop(stopped);
    until_group(&configured.server, "it has taken them over", |group| {
        are_whole(group, &[1, 1, 1])
    });
}

#[test]
fn a_newcomer_that_stops_before_it_has_started_is_killed_and_followed_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path());
    gate::needs!("build a library": &library);
    let file = folder.path().join("stop");
    let mut command = Command::new(server::binary().unwrap());
    command.env("LD_PRELOAD", library.unwrap());
    command.env("STOP_WORKER", &file);
    let control = tempfile::tempdir().unwrap();
    let mut server = serve().workers(2).start_as(command, control);
    std::fs::write(&file, "").unwrap();
    signal(pid(&worker(&server, 0)), Signal::KILL);
    until("the newcomer has stopped", || {
        (!file.exists()).then_some(())
    });
    until_group(&server, "another has come up", |group| {
        are_whole(group, &[3, 1])
    });
    let said = server.child().stderr();
    assert!(said.contains("worker 0 (process"), "{said}");
    assert!(said.contains("has not come up in 15s"), "{said}");
    for _ in 0..20 {
        assert_eq!(get(server.address(), "/").status(), 200);
    }
    assert!(server.stop().unwrap().success());
}
