//! The root's name comes to mean another folder while the server runs: the folder is removed and
//! made anew, or a symbolic link is switched, as deployments do. The server follows the name.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::process::Pid;
use srv::control::status::GroupStatus;
use srv_tests::server::{Server, binary};
use tempfile::TempDir;

use crate::client::get;
use crate::gate;
use crate::loaded::without_loss;
use crate::probe::{group, state, until, until_group};
use crate::serve::serve;

/// A folder whose index page is `page`, and that other users may read.
fn folder(at: &Path, page: &str) {
    fs::create_dir(at).unwrap();
    fs::write(at.join("index.html"), page).unwrap();
}

/// A folder for the roots to lie in.
fn outer() -> TempDir {
    let outer = tempfile::tempdir().unwrap();
    fs::set_permissions(outer.path(), PermissionsExt::from_mode(0o755)).unwrap();
    outer
}

fn start(root: &Path) -> Server {
    serve().workers(2).root(root).start()
}

fn pids(group: &GroupStatus) -> Vec<u32> {
    group.workers.iter().map(|worker| worker.pid).collect()
}

/// Waits until every worker is another than in `before`, then asks for the page.
fn assert_replaced_and_serves(server: &Server, before: &[u32], page: &str) {
    until_group(server, "every worker has been replaced", |group| {
        let new = pids(group);
        before.iter().zip(&new).all(|(old, new)| old != new)
    });
    // One that was told to leave may still have been woken for a connection.
    for old in before {
        let old = Pid::from_raw(*old as i32).unwrap();
        until("the old worker has left", || {
            state(old).is_none_or(|state| state == 'Z').then_some(())
        });
    }
    for _ in 0..20 {
        assert_eq!(get(server.address(), "/").body, page.as_bytes());
    }
}

#[test]
fn a_root_that_is_removed_and_made_anew_is_followed() {
    let outer = outer();
    let dist = outer.path().join("dist");
    folder(&dist, "one");
    let server = start(&dist);
    let before = pids(&group(&server));
    assert_eq!(get(server.address(), "/").body, b"one");
    fs::remove_dir_all(&dist).unwrap();
    // Kept, or the kernel could give the new folder the old one's inode.
    fs::create_dir(outer.path().join("in between")).unwrap();
    folder(&dist, "two");
    assert_replaced_and_serves(&server, &before, "two");
}

#[test]
fn a_link_that_is_switched_under_load_is_followed_without_loss() {
    let outer = outer();
    let [current, next] = ["current", "next"].map(|name| outer.path().join(name));
    let release = |nth: usize| {
        let release = outer.path().join(nth.to_string());
        folder(&release, &nth.to_string());
        release
    };
    symlink(release(0), &current).unwrap();
    let arguments = ["--workers", "2", "--synthetic", "--root"];
    let server = Server::start(arguments.iter().chain(&[current.to_str().unwrap()])).unwrap();
    without_loss(server.address(), 200.0, || {
        for nth in 1..4 {
            let before = pids(&group(&server));
            symlink(release(nth), &next).unwrap();
            fs::rename(&next, &current).unwrap();
            assert_replaced_and_serves(&server, &before, &nth.to_string());
        }
    });
}

#[test]
fn a_reload_follows_at_once_and_says_so() {
    let outer = outer();
    let [dist, aside] = ["dist", "aside"].map(|name| outer.path().join(name));
    folder(&dist, "one");
    let file = outer.path().join("srv.toml");
    fs::write(&file, "root = \"dist\"\n").unwrap();
    let server = serve().workers(2).config(&file).start();
    let before = pids(&group(&server));
    fs::rename(&dist, aside).unwrap();
    folder(&dist, "two");
    let said = server.srv(&["reload"]).unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    // The tick may have been faster.
    let mut expected = ["reloaded: root", "reloaded: nothing has changed"].into_iter();
    assert!(expected.any(|what| said.starts_with(what)), "{said}");
    assert_replaced_and_serves(&server, &before, "two");
}

#[test]
fn a_current_directory_that_is_made_anew_is_followed() {
    let outer = outer();
    let [dist, aside] = ["dist", "aside"].map(|name| outer.path().join(name));
    folder(&dist, "one");
    let mut command = Command::new(binary().unwrap());
    command.current_dir(&dist);
    let server = serve()
        .workers(2)
        .root(".")
        .start_as(command, TempDir::new().unwrap());
    let before = pids(&group(&server));
    fs::rename(&dist, aside).unwrap();
    folder(&dist, "two");
    assert_replaced_and_serves(&server, &before, "two");
}

#[test]
fn a_new_folder_that_workers_may_not_read_is_followed_once_they_may() {
    gate::needs!(root);
    let outer = outer();
    let [dist, aside] = ["dist", "aside"].map(|name| outer.path().join(name));
    folder(&dist, "one");
    let mut server = start(&dist);
    let before = pids(&group(&server));
    fs::rename(&dist, aside).unwrap();
    fs::create_dir(&dist).unwrap();
    fs::set_permissions(&dist, PermissionsExt::from_mode(0o700)).unwrap();
    fs::write(dist.join("index.html"), "two").unwrap();
    let line = server.child().await_line("is another folder now").unwrap();
    assert!(line.contains("the old folder is still served"), "{line}");
    assert_eq!(get(server.address(), "/").body, b"one");
    assert_eq!(pids(&group(&server)), before);
    fs::set_permissions(&dist, PermissionsExt::from_mode(0o755)).unwrap();
    assert_replaced_and_serves(&server, &before, "two");
}

#[test]
fn while_the_name_means_nothing_the_old_folder_is_served() {
    let outer = outer();
    let [dist, aside] = ["dist", "aside"].map(|name| outer.path().join(name));
    folder(&dist, "one");
    let server = start(&dist);
    let before = pids(&group(&server));
    fs::rename(&dist, &aside).unwrap();
    let refused = server.srv(&["reload"]).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("--root"),
        "{said}"
    );
    assert_eq!(get(server.address(), "/").body, b"one");
    // A worker that starts now cannot have the folder; the others go on.
    let killed = rustix::process::Pid::from_raw(before[0] as i32).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    assert_eq!(get(server.address(), "/").body, b"one");
    fs::rename(&aside, &dist).unwrap();
    until("a new worker has found the folder", || {
        let worker = &group(&server).workers[0];
        (worker.state == "ready" && worker.pid != before[0]).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(get(server.address(), "/").body, b"one");
    }
    assert_eq!(
        group(&server).workers[1].pid,
        before[1],
        "it had no reason to go"
    );
}
