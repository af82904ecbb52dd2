//! Who may not join a running server: one line that says why and what to do. And
//! what a server with a joined one does not do.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::process::Signal;
use srv::control::joining::Joining;
use srv::control::{Request, ask};
use srv::serve::config;
use srv::serve::config::args::ServeArgs;
use srv_tests::child::Child;
use srv_tests::server::{Server, binary};

use crate::client::{Client, get, get_many};
use crate::gate;
use crate::probe::{signal, status, until, until_group};
use crate::serve::serve;
use crate::support::executable;

/// What a server says that may not join.
fn refusal(command: &mut Command) -> String {
    let output = command.env("NO_COLOR", "1").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "one line: {said}");
    said
}

fn joining(first: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary().unwrap());
    command.args(["serve", "--join", "--control"]);
    command.arg(first.control()).args(arguments);
    command
}

/// What a server says that may not join `first`, which goes on.
#[track_caller]
fn assert_refused(first: &Server, arguments: &[&str], parts: &[&str]) {
    let address = first.address().to_string();
    let listen = match arguments.contains(&"--listen") {
        true => Vec::new(),
        false => vec!["--listen", &address],
    };
    let said = refusal(joining(first, &listen).args(arguments));
    for part in parts {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    assert!(status(first).joined.is_none());
    assert_eq!(get(first.address(), "/").status(), 200);
}

#[test]
fn nobody_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary().unwrap());
    command.args(["serve", "--join", "--listen", "127.0.0.1:1", "--control"]);
    command.arg(folder.path().join("control"));
    let said = refusal(&mut command);
    assert!(said.contains("there is no server to join"), "{said}");
    assert!(said.contains("leave --join out"), "{said}");
}

#[test]
fn another_server_than_one_that_this_could_join() {
    let first = serve().workers(1).start();
    let address = first.address().to_string();
    let mend = format!("join it with --listen {address}");
    assert_refused(
        &first,
        &["--listen", "127.0.0.1:1"],
        &["other addresses", &mend],
    );
    let both = ["--listen", &address, "--listen", "127.0.0.1:1"];
    assert_refused(&first, &both, &["other addresses", &mend]);
    let own = ["--accept", "own"];
    assert_refused(
        &first,
        &own,
        &["--accept ring", "own", "give both the same"],
    );
    let policy = ["--policy", "least"];
    assert_refused(&first, &policy, &["--policy least", "--join"]);
    // One of them is the first's.
    let many = ["--workers", "256"];
    assert_refused(
        &first,
        &many,
        &["does not have 256 free slots", "255 are free"],
    );
    let shared = serve().workers(1).accept("shared").start();
    let accept = ["--accept", "shared"];
    assert_refused(&shared, &accept, &["one listener for all", "--accept ring"]);
}

#[test]
fn a_policy_may_have_fewer_slots() {
    gate::needs!(steer);
    let first = serve().workers(1).policy("hermes").start();
    let many = ["--workers", "64"];
    assert_refused(
        &first,
        &many,
        &[
            "does not have 64 free slots",
            "policy hermes",
            "63 are free",
        ],
    );
}

/// It answers before its first worker is ready; if that was faster, another is asked.
#[test]
fn one_that_is_starting() {
    let settings = config::settings(&ServeArgs::default()).unwrap();
    let question = Request::Join(Joining::new(&settings));
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control");
    let said = until("a server is asked that is starting", || {
        let mut command = Command::new(binary().unwrap());
        command.args(["serve", "--listen", "127.0.0.1:0", "--workers", "1"]);
        let mut first = Child::spawn(command.arg("--control").arg(&control)).unwrap();
        let said = until("it answers", || {
            let why = ask(Some(&control), &question).unwrap_err().to_string();
            (!why.starts_with("ask the server")).then_some(why)
        });
        first.await_line("listening on").unwrap();
        assert_eq!(first.stop().unwrap().code(), Some(0));
        said.contains("starting").then_some(said)
    });
    assert!(said.contains("try again when it is ready"), "{said}");
}

/// A server is to say so itself, not to be misunderstood.
#[test]
fn another_version() {
    let first = serve().workers(1).start();
    let mut stream = UnixStream::connect(first.control()).unwrap();
    let listen = first.address();
    let asked = format!(
        "{{\"join\":{{\"protocol\":0,\"group_bytes\":64,\"listen\":[\"{listen}\"],\
         \"accept\":\"ring\",\"workers\":1,\"pid\":1}}}}\n"
    );
    stream.write_all(asked.as_bytes()).unwrap();
    let mut said = String::new();
    BufReader::new(stream).read_line(&mut said).unwrap();
    for part in ["refused", "another version", "run the same binary"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(status(&first).joined.is_none());
}

#[test]
fn another_user() {
    gate::needs!(root);
    let first = serve().workers(1).start();
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    // Where the build lies, others than root may not get at it.
    let reachable = folder.path().join("srv");
    executable::copy(binary().unwrap(), &reachable);
    let control = first.control();
    let listen = first.address().to_string();
    let join = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(&reachable).args(["serve", "--join"]);
        command.args(["--listen", &listen, "--control"]);
        refusal(command.arg(&control))
    };
    let said = join();
    assert!(said.contains("it belongs to another user"), "{said}");
    // Who may ask it something may not have its listeners.
    let for_all = |path| std::fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    for_all(control.parent().unwrap());
    for_all(&control);
    let said = join();
    assert!(said.contains("only a server of the same user"), "{said}");
    assert!(status(&first).joined.is_none());
}

#[test]
fn a_third_server() {
    let first = serve().workers(1).start();
    let second = first.start_joined(["--workers", "1"]).unwrap();
    let listen = first.address().to_string();
    let said = refusal(&mut joining(&first, &["--listen", &listen]));
    let pid = second.pid().as_raw_nonzero().to_string();
    assert!(
        said.contains(&pid) && said.contains("only one can"),
        "{said}"
    );
    assert!(second.stop().unwrap().success());
    until("its place is free", || {
        status(&first).joined.is_none().then_some(())
    });
    drop(first.start_joined(["--workers", "1"]).unwrap());
}

#[test]
fn one_that_stops() {
    let first = serve().workers(1).synthetic().start();
    let mut client = Client::connect(first.address());
    client.get("/work?sleep_us=1000000");
    until_group(&first, "it is in service", |group| {
        group.totals.running == 1
    });
    signal(first.pid(), Signal::TERM);
    until("it drains", || {
        let state = &status(&first).groups[0].workers[0].state;
        (*state == "draining").then_some(())
    });
    let listen = first.address().to_string();
    let said = refusal(&mut joining(&first, &["--listen", &listen]));
    assert!(said.contains("is stopping"), "{said}");
    assert_eq!(client.response().status(), 200);
}

#[test]
fn one_that_is_being_upgraded() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("srv");
    executable::copy(binary().unwrap(), &copy);
    let control = tempfile::tempdir().unwrap();
    let mut first = serve().workers(1).start_as(Command::new(&copy), control);
    // What is there now never says anything.
    let script = folder.path().join("script");
    executable::write(&script, "#!/bin/sh\nexec sleep 1000\n");
    std::fs::rename(&script, &copy).unwrap();
    signal(first.pid(), Signal::USR2);
    first.child().await_line("upgrade: started").unwrap();
    assert_refused(&first, &[], &["is being upgraded", "try again"]);
}

/// And what may change goes on.
#[test]
fn neither_is_upgraded_or_resized_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("srv.toml");
    std::fs::write(&file, "workers = 1\nworker-header = true\n").unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let first = Server::start(config).unwrap();
    let mut second = first.start_joined(config).unwrap();
    let refused = |request: &Request| {
        let error = ask(Some(&first.control()), request).unwrap_err();
        assert!(error.to_string().contains("has joined this one"), "{error}");
    };
    refused(&Request::Upgrade);
    signal(second.pid(), Signal::USR2);
    let line = second.child().await_line("upgrade: ").unwrap();
    assert!(line.contains("this server has joined server"), "{line}");
    std::fs::write(&file, "workers = 2\nworker-header = true\n").unwrap();
    refused(&Request::Reload);
    signal(second.pid(), Signal::HUP);
    let line = second.child().await_line("reload: ").unwrap();
    assert!(line.contains("this server has joined server"), "{line}");
    let text = "workers = 1\nworker-header = true\n[limits]\nbody-bytes = 5\n";
    std::fs::write(&file, text).unwrap();
    ask(Some(&first.control()), &Request::Reload).unwrap();
    signal(second.pid(), Signal::HUP);
    second.child().await_line("reloaded: limits").unwrap();
    get_many(first.address(), 20);
}
