//! As whom the master's threads run. A thread that became the workers' user could be
//! sent signals by any process of that user, and with it the master would end.

use std::collections::HashSet;
use std::process::Command;

use srv_tests::server::{Server, binary};

use crate::gate;
use crate::probe::until;

/// Calls by which a thread becomes another user.
const CHANGES: [&str; 5] = [
    "setuid(",
    "setreuid(",
    "setresuid(",
    "setfsuid(",
    "setgroups(",
];

/// Those in the trace that became another user, and whether each was a process of its
/// own: it had executed a program, which no thread of another process does.
fn changes(trace: &str, master: &str) -> Vec<(String, bool)> {
    let mut has_executed = HashSet::new();
    let mut changes = Vec::new();
    for line in trace.lines() {
        let Some((task, what)) = line.split_once(' ') else {
            continue;
        };
        let what = what.trim_start();
        if what.starts_with("execve(") {
            has_executed.insert(task);
        }
        if CHANGES.iter().any(|call| what.starts_with(call)) {
            let is_alone = has_executed.contains(task) && task != master;
            changes.push((line.to_owned(), is_alone));
        }
    }
    changes
}

#[test]
fn no_thread_of_the_masters_becomes_another_user() {
    let strace = Command::new("strace").arg("-V").output();
    gate::needs!(root, "trace system calls": &strace);
    let folder = tempfile::tempdir().unwrap();
    let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open_to_all).unwrap();
    let path = |name: &str| folder.path().join(name);
    let config = |root: &str| {
        std::fs::create_dir_all(path(root)).unwrap();
        let text = format!("workers = 1\nroot = \"{}\"\n", path(root).display());
        std::fs::write(path("srv.toml"), text).unwrap();
    };
    config("one");
    let mut command = Command::new("strace");
    // The traced process is the child, the tracer its grandchild.
    command.args(["-D", "-f", "-o"]).arg(path("trace"));
    let calls = CHANGES.map(|call| call.trim_end_matches('(')).join(",");
    command.arg("-e").arg(format!("trace=execve,{calls}"));
    command.arg(binary().unwrap());
    let arguments = ["--config".into(), path("srv.toml")];
    let control = tempfile::tempdir().unwrap();
    let server = Server::start_as(command, control, arguments).unwrap();
    for root in ["two", "one"] {
        config(root);
        let reload = server.srv(&["reload"]).unwrap();
        assert!(reload.status.success(), "{reload:?}");
    }
    let master = server.pid().as_raw_nonzero().to_string();
    assert!(server.stop().unwrap().success());
    let end = format!("{master} +++ exited with 0 +++");
    let trace = until("the trace is whole", || {
        let trace = std::fs::read_to_string(path("trace")).ok()?;
        let is_whole = trace
            .lines()
            .any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") == end);
        is_whole.then_some(trace)
    });
    let changes = changes(&trace, &master);
    // Of each start and of each root a rehearsal, and the workers.
    assert!(changes.len() >= 8, "{trace}");
    let wrong: Vec<_> = changes.iter().filter(|(_, is_alone)| !is_alone).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
