//! The binary is replaced while it serves: nothing is lost, and one that does
//! not come up changes nothing.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::unix::fs::symlink;

use rustix::process::{Pid, Signal};
use srv_tests::server;

use crate::client::{Client, get};
use crate::gate;
use crate::loaded::without_loss;
use crate::probe::{Stopped, endurance, group, pid, signal, state, status, until, until_group};
use crate::upgradable::{Upgradable, install};

fn is_gone(pid: Pid) -> bool {
    state(pid).is_none_or(|state| state == 'Z')
}

#[test]
fn upgrades_under_load_lose_nothing() {
    if gate::steer() {
        upgrade_under_load(&["--policy", "least"], true);
    }
}

#[test]
fn upgrades_under_load_lose_nothing_where_each_has_its_own() {
    if gate::steer() {
        upgrade_under_load(&["--policy", "least", "--accept", "own"], true);
    }
}

#[test]
fn upgrades_under_load_lose_nothing_without_a_program() {
    upgrade_under_load(&["--no-bpf"], false);
}

fn upgrade_under_load(arguments: &[&str], steers: bool) {
    let always = ["--workers", "3", "--synthetic"];
    let arguments = [&always, arguments].concat();
    let upgradable = Upgradable::start(&arguments);
    let server = &upgradable.server;
    let upgrades = endurance(3, 50);
    let answered = without_loss(server.address(), 300.0, || {
        for nth in 0..upgrades {
            let before = upgradable.master();
            if nth < 3 {
                install(&upgradable.binary);
            }
            if nth % 2 == 0 {
                let (said, succeeded) = upgradable.upgrade();
                assert!(
                    succeeded && said.starts_with("upgraded: process "),
                    "{said}"
                );
            } else {
                signal(before, Signal::USR2);
            }
            until("the old one has gone", || is_gone(before).then_some(()));
            assert_ne!(upgradable.master(), before);
            until_group(server, "the new one serves", |group| {
                group.totals.served > 20 && (!steers || group.program.steered > 20)
            });
            assert_eq!(group(server).program.attached, steers);
        }
    });
    println!("{upgrades} upgrades, {answered} requests, none lost");
}

#[test]
fn the_new_binary_is_the_one_that_is_there_now() {
    let upgradable = Upgradable::start(&["--workers", "2"]);
    let before = upgradable.master();
    std::fs::rename(&upgradable.binary, upgradable.binary.with_extension("old")).unwrap();
    install(&upgradable.binary);
    assert!(upgradable.upgrade().1);
    let master = upgradable.master();
    assert_ne!(master, before);
    let runs = std::fs::read_link(format!("/proc/{}/exe", master.as_raw_nonzero())).unwrap();
    assert_eq!(runs, upgradable.binary);
}

/// As deployments do: a link leads to the release that is current.
#[test]
fn a_link_that_is_switched_to_the_next_release_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let [current, next] = ["current", "next"].map(|name| folder.path().join(name));
    for release in ["1", "2"] {
        std::fs::create_dir(folder.path().join(release)).unwrap();
        install(&folder.path().join(release).join("srv"));
    }
    symlink("1", &current).unwrap();
    let second = folder.path().join("2/srv").canonicalize().unwrap();
    let upgradable = Upgradable::start_as(current.join("srv"), folder, &["--workers", "1"]);
    symlink("2", &next).unwrap();
    std::fs::rename(&next, &current).unwrap();
    let (said, succeeded) = upgradable.upgrade();
    assert!(succeeded, "{said}");
    let exe = format!("/proc/{}/exe", upgradable.master().as_raw_nonzero());
    assert_eq!(std::fs::read_link(exe).unwrap(), second);
}

#[test]
fn a_request_in_service_is_finished_by_the_old_one() {
    let upgradable = Upgradable::start(&["--workers", "2", "--synthetic"]);
    let mut client = Client::connect(upgradable.server.address());
    client.get("/work?sleep_us=700000");
    until_group(&upgradable.server, "it is in service", |group| {
        group.totals.running == 1
    });
    let (said, succeeded) = upgradable.upgrade();
    assert!(succeeded, "{said}");
    assert_eq!(
        group(&upgradable.server).totals.running,
        0,
        "not the new one's"
    );
    assert_eq!(client.response().status(), 200);
    client.assert_closed();
}

/// And one that is new has as many listeners as the one that stays, which had more workers.
#[test]
fn an_address_that_the_new_one_is_not_asked_for_is_emptied_and_closed() {
    let listen = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0"];
    let upgradable = Upgradable::start(&[&["--workers", "3"], &listen[..]].concat());
    let server = &upgradable.server;
    let [stays, goes] = server.addresses().try_into().unwrap();
    let workers = group(server).workers;
    let stopped: Vec<_> = workers.iter().map(|at| Stopped::new(pid(at))).collect();
    let waiting = |_| {
        let mut client = Client::connect(goes);
        client.get("/");
        client
    };
    let waiting: Vec<_> = (0..10).map(waiting).collect();
    upgradable.replace(&format!(
        "#!/bin/sh\nexec {} serve --control {} --workers 2 --listen {stays} --listen 127.0.0.3:0\n",
        server::binary().unwrap().display(),
        server.control().display()
    ));
    let (said, succeeded) = upgradable.upgrade();
    assert!(succeeded, "{said}");
    for mut client in waiting {
        assert_eq!(client.response().status(), 200);
    }
    drop(stopped);
    until("the address is closed", || {
        let refused = TcpStream::connect(goes).err()?;
        (refused.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
    let groups = status(server).groups;
    assert_eq!(groups[0].listen, stays);
    for group in groups {
        for _ in 0..10 {
            assert_eq!(get(group.listen, "/").status(), 200);
        }
    }
}

#[test]
fn a_binary_that_does_not_come_up_changes_nothing() {
    let mut upgradable = Upgradable::start(&[
        "--workers",
        "2",
        "--worker-header",
        "--upgrade-within",
        "500ms",
    ]);
    let before: Vec<_> = group(&upgradable.server)
        .workers
        .iter()
        .map(|at| at.pid)
        .collect();
    upgradable.replace("#!/bin/sh\nexit 3\n");
    let (said, succeeded) = upgradable.upgrade();
    assert!(
        !succeeded && said.contains("did not come up: it ended"),
        "{said}"
    );
    upgradable.assert_unchanged(&before);
    // One that is silent, until it is given up.
    upgradable.replace("#!/bin/sh\nexec sleep 1000\n");
    signal(upgradable.server.pid(), Signal::USR2);
    upgradable
        .server
        .child()
        .await_line("it was not ready in time")
        .unwrap();
    upgradable.assert_unchanged(&before);
    // One that is not a program at all.
    upgradable.replace("");
    let (said, succeeded) = upgradable.upgrade();
    assert!(!succeeded, "{said}");
    upgradable.assert_unchanged(&before);
    // And one that refuses what it is to take over.
    upgradable.replace(&format!(
        "#!/bin/sh\nexec {} \"$@\" --accept shared\n",
        server::binary().unwrap().display()
    ));
    let (said, succeeded) = upgradable.upgrade();
    assert!(!succeeded && said.contains("did not come up"), "{said}");
    upgradable.assert_unchanged(&before);
}

/// The successor is ready and has been told to take, and dies then.
#[test]
fn what_was_let_go_of_is_taken_back() {
    let upgradable = Upgradable::start(&["--workers", "2", "--worker-header"]);
    let before: Vec<_> = group(&upgradable.server)
        .workers
        .iter()
        .map(|at| at.pid)
        .collect();
    // It says what a successor says, and ends.
    upgradable.replace("#!/bin/sh\nprintf '\"Ready\"' >&3\nexit 0\n");
    let (said, succeeded) = upgradable.upgrade();
    assert!(!succeeded && said.contains("it ended"), "{said}");
    until("it answers again", || {
        upgradable.server.control().exists().then_some(())
    });
    upgradable.assert_unchanged(&before);
}
