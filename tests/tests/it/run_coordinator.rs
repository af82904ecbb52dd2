//! The coordinator of `srv run` is killed, or told to end, while the server is under load: no
//! request is lost, and another coordinator goes on where the one before stopped.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use srv::control::status::GroupStatus;
use srv::control::{Reply, Request, Status, ask};
use srv::measure::arrivals::{Service, poisson};
use srv::measure::baseline::launch::CONTROL;
use srv::measure::load::Load;
use srv_tests::nginx::{Content, LEAVE, Nginx, Options};
use srv_tests::server::binary;

use crate::agent::LOCALHOST;
use crate::beside;
use crate::client::get;
use crate::gate;
use crate::probe::until;
use crate::unmodified::{Running, Unmodified, servers};

const PAGE: &str = "/index.html";
const WORK: &str = "/work?sleep_us=0";
/// Requests a second, each on a connection of its own.
const RATE: f64 = 500.0;

/// How many requests were lost while `act` ran, and how many there were.
fn lost_during(address: SocketAddr, path: &str, act: impl FnOnce()) -> (usize, usize) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let (mut lost, mut all) = (0, 0);
            for seed in 0.. {
                let draws = poisson(seed, RATE, Duration::from_millis(500), Service::Fixed(0));
                let run = Load::get(address, path).run(&draws).unwrap();
                if let Some(error) = &run.first_error {
                    eprintln!("first error: {error:?}");
                }
                lost += run.lost();
                all += run.records.len();
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
            }
            (lost, all)
        });
        let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        is_over.store(true, Ordering::Relaxed);
        let counts = load.join().unwrap();
        acted.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        counts
    })
}

/// What the coordinator says, if one answers.
fn asked(running: &Running) -> Option<Status> {
    match ask(Some(&running.folder().join(CONTROL)), &Request::Status) {
        Ok(Reply::Status(status)) => Some(status),
        _ => None,
    }
}

fn ready(group: &GroupStatus) -> BTreeSet<u32> {
    let workers = group.workers.iter();
    let ready = workers.filter(|worker| worker.state.name() == "ready");
    ready.map(|worker| worker.pid).collect()
}

/// Waits until a coordinator answers that has all workers, none of which is `other_than`; the
/// workers' processes.
fn await_workers(
    server: &Unmodified,
    running: &Running,
    other_than: &BTreeSet<u32>,
) -> BTreeSet<u32> {
    until("each worker has a slot", || {
        let status = asked(running)?;
        let ready = ready(status.groups.first()?);
        let is_complete = ready.len() == server.acceptors && ready.is_disjoint(other_than);
        is_complete.then_some(ready)
    })
}

/// Waits until these processes have ended.
fn await_end(pids: &BTreeSet<u32>) {
    until("the old workers have ended", || {
        let lives = |pid: &u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
        (!pids.iter().any(lives)).then_some(())
    });
}

/// Kills the coordinator, and waits for another one.
fn kill_coordinator(running: &Running) {
    let before = until("there is a coordinator", || {
        beside::coordinator(running.pid())
    });
    beside::kill(before);
    until("another coordinator is there", || {
        beside::coordinator(running.pid()).filter(|pid| *pid != before)
    });
}

fn reload(server: &Unmodified, running: &Running) {
    let before = await_workers(server, running, &BTreeSet::new());
    kill_process(running.pid(), Signal::HUP).unwrap();
    await_workers(server, running, &before);
    await_end(&before);
}

/// Connections are assigned by the program, as its own count says.
fn assert_steered(running: &Running) {
    let before = running.group().program;
    assert!(before.attached, "{before:?}");
    for _ in 0..16 {
        assert_eq!(get(running.address(), PAGE).status(), 200);
    }
    let after = running.group().program;
    assert!(
        after.steered >= before.steered + 16,
        "{before:?}, {after:?}"
    );
}

#[test]
fn another_takes_the_place_of_one_that_is_killed_and_nothing_is_lost() {
    gate::needs!(root, "run nginx": &servers::NGINX.installed());
    if !gate::steer() {
        return;
    }
    let server = &servers::NGINX;
    let running = server.run(&[]);
    let (lost, all) = lost_during(running.address(), PAGE, || {
        kill_coordinator(&running);
        await_workers(server, &running, &BTreeSet::new());
        assert_steered(&running);
        reload(server, &running);
    });
    assert_eq!(lost, 0, "of {all}");
    let workers = await_workers(server, &running, &BTreeSet::new());
    let killed = *workers.first().unwrap();
    let (lost, all) = lost_during(running.address(), PAGE, || {
        beside::kill(Pid::from_raw(killed as i32).unwrap());
        await_workers(server, &running, &[killed].into());
    });
    assert!(
        lost <= 1,
        "{lost} of {all}, of which the worker that was killed may have had one"
    );
    assert_steered(&running);
}

#[test]
fn it_is_killed_again_and_again_and_nothing_is_lost() {
    const KILLS: usize = 20;
    gate::needs!(root, "run nginx": &servers::NGINX.installed());
    let server = &servers::NGINX;
    let running = server.run(&[]);
    let (lost, all) = lost_during(running.address(), PAGE, || {
        for _ in 0..KILLS {
            kill_coordinator(&running);
            await_workers(server, &running, &BTreeSet::new());
        }
    });
    assert_eq!(lost, 0, "of {all}");
    if gate::steer() {
        assert_steered(&running);
    }
}

#[test]
fn sigterm_ends_steering_and_a_reload_loses_nothing_after_it() {
    gate::needs!(root, "run nginx": &servers::NGINX.installed());
    let server = &servers::NGINX;
    let running = server.run(&[]);
    let (lost, all) = lost_during(running.address(), PAGE, || {
        let coordinator = beside::coordinator(running.pid()).unwrap();
        kill_process(coordinator, Signal::TERM).unwrap();
        until("the kernel's hash chooses", || {
            let status = asked(&running)?;
            let policy = status.policy.to_string();
            (policy == "hash" && !status.groups[0].program.attached).then_some(())
        });
        reload(server, &running);
    });
    assert_eq!(lost, 0, "of {all}");
}

/// nginx that replaces its binary, whose first process is no child of the test. Dropping it ends the
/// one that runs.
struct Upgraded {
    nginx: Nginx,
    control: tempfile::TempDir,
}

impl Upgraded {
    const WORKERS: usize = 4;

    fn start() -> Self {
        let control = tempfile::tempdir().unwrap();
        let command = || {
            let mut command = Command::new("sh");
            command.args(["-c", LEAVE, "sh"]);
            command.arg(binary().unwrap()).arg("run");
            command.arg("--control").arg(control.path().join(CONTROL));
            // It executes what it was called by.
            command.args(["--", "/usr/sbin/nginx"]);
            command
        };
        let options = Options {
            workers: Self::WORKERS,
            reuseport: false,
            deferred: false,
            tuning: String::new(),
            content: Content::Work,
        };
        let nginx = Nginx::start_as(command, LOCALHOST, &options).unwrap();
        Self { nginx, control }
    }

    fn group(&self) -> Option<GroupStatus> {
        match ask(Some(&self.control.path().join(CONTROL)), &Request::Status) {
            Ok(Reply::Status(mut status)) => status.groups.pop(),
            _ => None,
        }
    }

    fn await_workers(&self, other_than: &BTreeSet<u32>) -> BTreeSet<u32> {
        until("each worker has a slot", || {
            let ready = ready(&self.group()?);
            (ready.len() == Self::WORKERS && ready.is_disjoint(other_than)).then_some(ready)
        })
    }

    fn first_process(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.nginx.folder().join("pid")).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    /// As nginx's manual says it, except that the old binary is ended as soon as the new one has
    /// begun: for a moment, no worker has a slot.
    fn upgrade(&self) {
        let old = self.first_process().unwrap();
        // nginx ignores the signal for as long as the process that started it has not ended, and
        // while a new binary runs.
        until("the new binary has begun", || {
            kill_process(old, Signal::USR2).unwrap();
            self.first_process().filter(|pid| *pid != old)
        });
        kill_process(old, Signal::QUIT).unwrap();
        let mark = self.nginx.folder().join("pid.oldbin");
        until("the old binary has ended", || {
            (!mark.exists()).then_some(())
        });
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        if let Some(pid) = self.first_process() {
            // It may have ended.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

#[test]
fn a_server_that_replaces_its_binary_loses_nothing() {
    const UPGRADES: usize = 4;
    gate::needs!(steer, root, "run nginx": &servers::NGINX.installed());
    let upgraded = Upgraded::start();
    let (lost, all) = lost_during(upgraded.nginx.address(), WORK, || {
        for _ in 0..UPGRADES {
            let before = upgraded.await_workers(&BTreeSet::new());
            upgraded.upgrade();
            upgraded.await_workers(&before);
        }
    });
    assert_eq!(lost, 0, "of {all}");
    let program = upgraded.group().unwrap().program;
    assert!(program.attached && program.steered > 0, "{program:?}");
}

#[test]
fn a_server_goes_on_without_its_keeper_and_its_coordinator() {
    gate::needs!(root, "run nginx": &servers::NGINX.installed());
    let server = &servers::NGINX;
    let running = server.run(&[]);
    let (lost, all) = lost_during(running.address(), PAGE, || {
        beside::kill(beside::keeper(running.pid()).unwrap());
        until("the keeper has gone", || {
            beside::keeper(running.pid()).is_none().then_some(())
        });
        await_workers(server, &running, &BTreeSet::new());
        beside::kill(beside::coordinator(running.pid()).unwrap());
        until("both have gone", || {
            beside::both(running.pid()).is_empty().then_some(())
        });
        for _ in 0..64 {
            assert_eq!(get(running.address(), PAGE).status(), 200);
        }
    });
    assert_eq!(lost, 0, "of {all}");
}
