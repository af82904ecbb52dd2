//! The control socket as a file, and as something to which anything may connect.

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use srv_tests::server::binary;

use crate::attach_refusals::listening;
use crate::gate;
use crate::serve::serve;
use crate::support::executable;

/// What `srv` says when it refuses to run with these arguments.
fn refusal(arguments: &[&str]) -> String {
    // If it runs after all, this ends it.
    let output = Command::new("timeout")
        .arg("20")
        .arg(binary().unwrap())
        .args(arguments)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

fn assert_kept(file: &Path, said: &str) {
    for part in ["a regular file", "--control", file.to_str().unwrap()] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    assert_eq!(fs::read(file).unwrap(), b"precious");
}

#[test]
fn a_regular_file_of_that_name_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes");
    fs::write(&file, "precious").unwrap();
    let path = file.to_str().unwrap();
    let serve = ["serve", "--workers", "1", "--listen", "127.0.0.1:0"];
    assert_kept(
        &file,
        &refusal(&[&serve[..], &["--control", path]].concat()),
    );
    let config = folder.path().join("srv.toml");
    fs::write(&config, format!("control = \"{path}\"\n")).unwrap();
    let config = ["--config", config.to_str().unwrap()];
    assert_kept(&file, &refusal(&[&serve[..], &config].concat()));
}

#[test]
fn an_agent_keeps_it_too() {
    gate::needs!(steer);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes");
    fs::write(&file, "precious").unwrap();
    let (_sockets, address) = listening(2);
    let attach = ["attach", "--listen", &address.to_string()];
    let said = refusal(&[&attach[..], &["--control", file.to_str().unwrap()]].concat());
    assert_kept(&file, &said);
}

#[test]
fn at_the_end_only_its_own_file_is_removed() {
    let server = serve().workers(1).start();
    let control = server.control();
    fs::remove_file(&control).unwrap();
    fs::write(&control, "another's").unwrap();
    let folder = control.parent().unwrap().to_owned();
    let kept = folder.join("kept");
    // The folder goes with the server; what was there is looked at before.
    fs::hard_link(&control, &kept).unwrap();
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = inode(&kept);
    let mut server = server;
    server.child().stop().unwrap();
    assert_eq!(inode(&control), before);
}

/// So many that say nothing cost neither the server its descriptors nor others their answers.
#[test]
fn silent_connections_are_bounded_and_closed() {
    let server = serve().workers(1).start();
    let connect = || {
        let stream = UnixStream::connect(server.control()).unwrap();
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).unwrap();
        stream
    };
    let silent: Vec<_> = (0..300).map(|_| connect()).collect();
    server.status().unwrap();
    let descriptors = || {
        let folder = format!("/proc/{}/fd", server.pid().as_raw_nonzero());
        fs::read_dir(folder).unwrap().count()
    };
    assert!(descriptors() < 150, "{} descriptors", descriptors());
    // Those that were cut for others, and those whose time is over, alike.
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    server.status().unwrap();
}

/// Wherever its socket is; another user is told whose it is.
#[test]
fn root_sees_every_server() {
    gate::needs!(root);
    let folder = tempfile::tempdir().unwrap();
    let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), open_to_all).unwrap();
    let reachable = folder.path().join("srv");
    executable::copy(binary().unwrap(), &reachable);
    let as_nobody = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(&reachable).env("XDG_RUNTIME_DIR", "/tmp");
        command.env_remove("SRV_BIN");
        command
    };
    let control = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(control.path(), Some(65_534), None).unwrap();
    let nobodys = serve().workers(1).start_as(as_nobody(), control);
    let roots = serve().workers(1).start();
    let status = Command::new(binary().unwrap())
        .arg("status")
        .output()
        .unwrap();
    let said = String::from_utf8(status.stdout).unwrap();
    for (server, uid) in [(&nobodys, 65_534), (&roots, 0)] {
        let line = format!(
            "server of user {uid}, --control {}",
            server.control().display()
        );
        assert!(said.contains(&line), "no `{line}` in: {said}");
        let master = format!("master {}", server.pid());
        assert!(said.contains(&master), "no `{master}` in: {said}");
    }
    let mut another = Command::new("setpriv");
    another.args(["--reuid=65533", "--regid=65533", "--clear-groups"]);
    another
        .arg(&reachable)
        .arg("status")
        .env_remove("XDG_RUNTIME_DIR");
    let refused = another.output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    let roots = format!("user 0 runs one (process {})", roots.pid());
    for part in ["no server of yours", &roots, "sudo srv status"] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
}
