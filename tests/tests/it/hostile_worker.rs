//! A worker in the hands of somebody else: it tries every call that could end the
//! service for its siblings, on everything that it holds, and says what it likes on its
//! channel to the master.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use rustix::fs::OFlags;
use rustix::process::Pid;
use srv_tests::server::{self, Server};
use tempfile::TempDir;

use crate::client::get;
use crate::gate;
use crate::probe::{group, pid};
use crate::serve::{Serve, serve};

/// What is done inside a worker, as a shared library.
pub(crate) fn library(folder: &Path) -> Result<OsString, String> {
    let source = folder.join("hostile_worker.c");
    let library = folder.join("hostile_worker.so");
    std::fs::write(&source, include_str!("hostile_worker.c")).unwrap();
    // Whatever links Rust programs here.
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library);
    match compiler.arg(&source).output() {
        Ok(output) if output.status.success() => Ok(library.into()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("run cc: {error}")),
    }
}

/// The server with the library in its workers, and the folder that has the library, if it
/// can be built here.
fn hostile(serve: Serve) -> Option<(Server, TempDir)> {
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path());
    if !gate::works("build a library", &library) {
        return None;
    }
    let mut command = Command::new(server::binary().unwrap());
    command.env("LD_PRELOAD", library.unwrap());
    let control = tempfile::tempdir().unwrap();
    Some((serve.start_as(command, control), folder))
}

/// Sends SIGRTMIN, with `victim` as its value.
fn order_attack(worker: Pid, victim: Pid) {
    let value = libc::sigval {
        sival_ptr: victim.as_raw_nonzero().get() as usize as *mut libc::c_void,
    };
    let worker = worker.as_raw_nonzero().get();
    // SAFETY: no memory is passed.
    let sent = unsafe { libc::sigqueue(worker, libc::SIGRTMIN(), value) };
    assert_eq!(sent, 0);
}

/// The flags of each of the master's TCP sockets.
fn listener_flags(master: Pid) -> Vec<OFlags> {
    let folder = format!("/proc/{}", master.as_raw_nonzero());
    let entries = std::fs::read_dir(format!("{folder}/fdinfo")).unwrap();
    let flags = entries.filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let link = std::fs::read_link(format!("{folder}/fd/{name}")).ok()?;
        link.to_str()?.starts_with("socket:").then_some(())?;
        let info = std::fs::read_to_string(format!("{folder}/fdinfo/{name}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
        Some(OFlags::from_bits_retain(flags))
    });
    flags.collect()
}

#[test]
fn no_call_of_its_reaches_its_siblings() {
    gate::needs!(steer, root);
    // The victim is of the same user.
    let Some((mut server, _folder)) = hostile(serve().workers(3).worker_header()) else {
        return;
    };
    let before = group(&server);
    let confinement = server.status().unwrap().workers_run_as.unwrap();
    let seccomp = confinement.seccomp.then_some(()).ok_or("no seccomp");
    gate::needs!("filter system calls": &seccomp);
    order_attack(pid(&before.workers[0]), pid(&before.workers[1]));
    server.child().await_line("HOSTILE done").unwrap();
    let said = server.child().stderr();
    let tried = said
        .lines()
        .filter_map(|line| line.strip_prefix("HOSTILE "));
    let mut succeeded = BTreeMap::new();
    let mut count = 0;
    for (call, errno) in tried.filter_map(|line| line.rsplit_once(": ")) {
        count += 1;
        let harmless = ["fcntl(2, F_GETFD)", "done"].contains(&call);
        // sendto is what answers are sent by: the kernel refuses these.
        let is_refused = errno == "38" || (call.starts_with("sendto") && errno != "0");
        if is_refused == harmless {
            succeeded.insert(call.to_owned(), errno.to_owned());
        }
    }
    // Three listeners, standard error, and the last two.
    assert_eq!(count, 3 * (17 + 7) + 7 + 2, "{said}");
    assert_eq!(succeeded, BTreeMap::new());
    for _ in 0..40 {
        assert_eq!(get(server.address(), "/").status(), 200);
    }
    let after = group(&server);
    assert!(after.program.steered >= before.program.steered + 40);
    let starts = |group: &srv::control::status::GroupStatus| -> Vec<u32> {
        group.workers.iter().map(|worker| worker.starts).collect()
    };
    assert_eq!(starts(&after), starts(&before));
    let flags = listener_flags(server.pid());
    assert!(
        flags
            .iter()
            .all(|flags| !flags.contains(OFlags::from_bits_retain(libc::O_ASYNC as u32)))
    );
    assert!(server.stop().unwrap().success());
}

#[test]
fn complaints_without_end_cost_one_replacement_and_a_line_each() {
    gate::needs!(steer, root);
    let Some((mut server, _folder)) = hostile(serve().workers(2)) else {
        return;
    };
    let worker = pid(&group(&server).workers[0]);
    let worker = worker.as_raw_nonzero().get();
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::kill(worker, libc::SIGRTMIN() + 1) }, 0);
    server.child().await_line("HOSTILE complained").unwrap();
    // The master has read on: the newcomer that the first refusal is answered with serves.
    server
        .child()
        .await_line("worker has left its slot")
        .unwrap();
    assert_eq!(get(server.address(), "/").status(), 200);
    let said = server.child().stderr();
    let count = |text| said.lines().filter(|line| line.contains(text)).count();
    assert_eq!(count("replacing worker 0: because FORGED"), 1, "{said}");
    assert!(count("a worker failed: because FORGED") <= 1, "{said}");
    assert!(
        !said.lines().any(|line| line.starts_with("FORGED")),
        "{said}"
    );
    assert!(server.stop().unwrap().success());
}
