//! The master waits for nothing but its events: neither for a file system, nor for a
//! process that does not end, nor for systemd.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode};
use rustix::process::{Pid, Signal};
use srv_tests::server::{self, Server};

use crate::client::{Client, get};
use crate::frozen::{Unanswering, Unreapable};
use crate::gate;
use crate::probe::{group, pid, signal, state, status, until, until_group};
use crate::serve::serve;
use crate::support::executable;

/// Its event loop goes round: it answers, and replaces a worker that dies.
fn assert_lives(server: &Server) {
    let before = group(server).workers.remove(0);
    signal(pid(&before), Signal::KILL);
    until_group(server, "a killed worker is replaced", |group| {
        let worker = &group.workers[0];
        worker.pid != before.pid && worker.state == "ready"
    });
    assert_eq!(get(server.address(), "/").status(), 200);
}

/// Reloads of `server` read `path` in vain. `elsewhere` makes the configuration do without
/// it, which is reloaded at once; then `answer` lets the threads read on.
fn assert_a_reload_may_hang(
    server: &mut Server,
    path: &Path,
    elsewhere: impl FnOnce(),
    answer: impl FnOnce(),
) {
    signal(server.pid(), Signal::HUP);
    assert_lives(server);
    let late = server.child().await_line("took longer than").unwrap();
    let path = path.display().to_string();
    assert!(late.contains(&path), "{late}");
    let again = server.srv(&["reload"]).unwrap();
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains(&path), "{said}");
    assert_lives(server);
    // What does not answer is not asked for any more, and still does not answer.
    elsewhere();
    let again = server.srv(&["reload"]).unwrap();
    assert!(again.status.success(), "{again:?}");
    answer();
    server.child().await_line("answers again").unwrap();
}

#[test]
fn a_reload_that_reads_a_file_without_an_answer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("srv.toml");
    let text = "workers = 2\n";
    std::fs::write(&file, text).unwrap();
    let mut server = serve().config(&file).start();
    // To open a FIFO to read is to wait until it is opened to write.
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    std::fs::rename(&fifo, &file).unwrap();
    let aside = folder.path().join("aside");
    let elsewhere = || {
        std::fs::rename(&file, &aside).unwrap();
        std::fs::write(&file, text).unwrap();
    };
    let answer = || std::fs::write(&aside, text).unwrap();
    assert_a_reload_may_hang(&mut server, &file, elsewhere, answer);
    assert!(server.stop().unwrap().success());
}

/// From now on the folder's file system does not answer, if that can be had here.
fn unanswering(folder: &Path) -> Option<Unanswering> {
    let mounted = Unanswering::over(folder);
    let outcome = mounted.as_ref().map(drop).map_err(Clone::clone);
    gate::can("mount a file system that does not answer", outcome);
    mounted.ok()
}

#[test]
fn a_reload_that_looks_at_a_root_without_an_answer_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let Some(unanswering) = unanswering(root.path()) else {
        return;
    };
    let root = root.path().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("srv.toml");
    std::fs::write(&file, "workers = 2\n").unwrap();
    let mut server = serve().config(&file).start();
    std::fs::write(&file, format!("workers = 2\nroot = {root:?}\n")).unwrap();
    let elsewhere = || std::fs::write(&file, "workers = 2\n").unwrap();
    // Without its server, the file system says that it is not connected.
    let answer = || drop(unanswering);
    assert_a_reload_may_hang(&mut server, &root, elsewhere, answer);
    assert!(server.stop().unwrap().success());
}

/// A process that was killed ends at once, unless the kernel waits for a disk.
#[test]
fn a_worker_that_does_not_end_when_it_is_killed_is_given_up() {
    let mut server = serve()
        .workers(2)
        .synthetic()
        .with("--grace", "100ms")
        .start();
    let mut client = Client::connect(server.address());
    client.get("/work?sleep_us=60000000");
    let busy = until_group(&server, "the request is in service", |group| {
        group.totals.running == 1
    });
    let worker = busy.workers.iter().find(|worker| worker.running == 1);
    let worker = pid(worker.unwrap());
    let unreapable = Unreapable::new(worker);
    gate::needs!("trace": &unreapable);
    signal(server.pid(), Signal::TERM);
    assert_eq!(server.child().await_exit().unwrap().code(), Some(1));
    let said = server.child().stderr();
    let number = worker.as_raw_nonzero().to_string();
    let refusal = said.lines().find(|line| line.contains("have not ended"));
    assert!(refusal.is_some_and(|line| line.contains(&number)), "{said}");
}

/// A server whose binary is in this folder, where it can be replaced.
fn with_a_binary_in(folder: &Path) -> (Server, PathBuf) {
    let binary = folder.join("srv");
    executable::copy(server::binary().unwrap(), &binary);
    let control = tempfile::tempdir().unwrap();
    let serve = serve().workers(2).with("--upgrade-within", "1s");
    (serve.start_as(Command::new(&binary), control), binary)
}

#[test]
fn a_new_binary_that_does_not_end_when_it_is_killed_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, binary) = with_a_binary_in(folder.path());
    let (script, its_pid) = (folder.path().join("script"), folder.path().join("pid"));
    let text = format!(
        "#!/bin/sh\necho $$ >{}\nexec sleep 1000\n",
        its_pid.display()
    );
    executable::write(&script, text);
    std::fs::rename(&script, &binary).unwrap();
    signal(server.pid(), Signal::USR2);
    let successor = until("the new binary runs", || {
        let number = std::fs::read_to_string(&its_pid).ok()?;
        Pid::from_raw(number.trim_end().parse().ok()?)
    });
    let unreapable = Unreapable::new(successor);
    gate::needs!("trace": &unreapable);
    until("the new binary was killed", || {
        (state(successor) == Some('Z')).then_some(())
    });
    assert_lives(&server);
    server.child().await_line("not ready in time").unwrap();
    assert_lives(&server);
    drop(unreapable);
    assert!(server.stop().unwrap().success());
}

#[test]
fn a_new_binary_on_a_file_system_without_an_answer_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, _) = with_a_binary_in(folder.path());
    let Some(unanswering) = unanswering(folder.path()) else {
        return;
    };
    signal(server.pid(), Signal::USR2);
    assert_lives(&server);
    server.child().await_line("not ready in time").unwrap();
    drop(unanswering);
    // On a busy machine the next one may take longer than 1 s, too.
    until("the next upgrade succeeds", || {
        let upgraded = server.srv(&["upgrade"]).unwrap().status.success();
        upgraded.then_some(())
    });
    assert_eq!(get(server.address(), "/").status(), 200);
    // The new one is no child of this process.
    let new = Pid::from_raw(status(&server).pid as i32).unwrap();
    signal(new, Signal::TERM);
    server.child().await_exit().unwrap();
}

/// systemd has room for so many packets; one more waits until it reads.
#[test]
fn a_manager_that_does_not_listen_is_told_when_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let filler = UnixDatagram::unbound().unwrap();
    filler.connect(&path).unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send(b"FULL").is_ok() {}
    let mut command = Command::new(server::binary().unwrap());
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "20000");
    let control = tempfile::tempdir().unwrap();
    let mut server = serve().workers(2).start_as(command, control);
    assert_lives(&server);
    manager.set_nonblocking(true).unwrap();
    let mut heard = Vec::new();
    let mut hear = |part: &str| {
        until(part, || {
            let mut packet = [0; 4096];
            let length = manager.recv(&mut packet).ok()?;
            heard.push(String::from_utf8_lossy(&packet[..length]).into_owned());
            heard
                .last()
                .is_some_and(|last| last.contains(part))
                .then_some(())
        });
    };
    hear("READY=1");
    hear("WATCHDOG=1");
    signal(server.pid(), Signal::TERM);
    hear("STOPPING=1");
    assert!(server.child().await_exit().unwrap().success());
}
