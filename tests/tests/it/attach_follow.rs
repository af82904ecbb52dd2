//! An attached nginx that reloads, changes its number of workers, restarts and is upgraded: the agent
//! follows, and no client notices.

use std::net::SocketAddr;
use std::process::Command;

use rustix::process::{Pid, Signal};
use srv_tests::nginx::Nginx;

use crate::agent::{Agent, LOCALHOST, answered_by, is_in_turn, nginx, options};
use crate::loaded::without_loss;
use crate::probe::{signal, state, until};

const PER_SECOND: f64 = 300.0;

fn until_in_turn(agent: &Agent, address: SocketAddr, workers: usize) {
    agent.until("the program has every socket", |status| {
        let members = status.listeners.iter().filter(|each| each.slot.is_some());
        (status.listeners.len(), members.count()) == (workers, workers)
    });
    let answered = answered_by(address, workers * 4);
    assert!(is_in_turn(&answered, workers), "{answered:?}");
}

#[test]
fn a_reload_is_followed() {
    let Some(mut nginx) = nginx(4) else { return };
    let address = nginx.address();
    let mut agent = Agent::attach(address, &["--policy", "round-robin"]);
    without_loss(address, PER_SECOND, || nginx.reload(&options(4)).unwrap());
    let followed = agent.child().await_line("has new processes").unwrap();
    let worker = nginx.workers()[0].as_raw_nonzero().to_string();
    assert!(followed.contains(&worker), "{worker}: {followed}");
    until_in_turn(&agent, address, 4);
    let status = agent.status();
    for (listener, worker) in status.listeners.iter().zip(nginx.workers()) {
        assert_eq!(listener.workers, [worker.as_raw_nonzero().get() as u32]);
    }
}

/// When nginx closes sockets, the kernel resets the connections that wait there. Therefore only a
/// change to more workers has to be without loss.
#[test]
fn more_and_fewer_workers_are_followed() {
    let Some(mut nginx) = nginx(3) else { return };
    let address = nginx.address();
    let mut agent = Agent::attach(address, &["--policy", "round-robin"]);
    without_loss(address, PER_SECOND, || nginx.reload(&options(5)).unwrap());
    agent
        .child()
        .await_line("2 sockets joined, 0 left; the program steers 5 sockets")
        .unwrap();
    until_in_turn(&agent, address, 5);
    nginx.reload(&options(2)).unwrap();
    agent
        .child()
        .await_line("0 sockets joined, 3 left; the program steers 2 sockets")
        .unwrap();
    until_in_turn(&agent, address, 2);
}

#[test]
fn a_restart_is_followed() {
    let Some(mut nginx) = nginx(3) else { return };
    let address = nginx.address();
    let mut agent = Agent::attach(address, &["--policy", "round-robin"]);
    answered_by(address, 6);
    nginx.restart(&options(4)).unwrap();
    agent
        .child()
        .await_line("the program steers 4 sockets")
        .unwrap();
    until_in_turn(&agent, address, 4);
    assert_eq!(agent.stop().code(), Some(0));
}

#[test]
fn an_agent_ends_without_error_after_the_server_is_gone() {
    let Some(nginx) = nginx(2) else { return };
    let mut agent = Agent::attach(nginx.address(), &["--policy", "random"]);
    drop(nginx);
    agent.child().await_line("no process listens on").unwrap();
    assert_eq!(agent.stop().code(), Some(0));
}

/// nginx without its parent: if nginx runs in the foreground of its parent, it does not upgrade.
struct Daemon {
    nginx: Nginx,
}

impl Daemon {
    fn start(workers: usize) -> Self {
        let shell = || {
            let mut command = Command::new("sh");
            // The shell outlives nginx's start, not more.
            // To be executed anew, nginx has to know where it lies.
            let script = "nginx=$(command -v nginx); \"$nginx\" \"$@\" & sleep 1";
            command.args(["-c", script, "sh"]);
            command
        };
        let nginx = Nginx::start_as(shell, LOCALHOST, &options(workers)).unwrap();
        until("nginx is on its own", || is_gone(nginx.pid()).then_some(()));
        Self { nginx }
    }

    fn master(&self) -> Pid {
        let path = self.nginx.folder().join("pid");
        until("nginx says its process id", || {
            let text = std::fs::read_to_string(&path).ok()?;
            Pid::from_raw(text.trim().parse().ok()?)
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let master = self.master();
        signal(master, Signal::TERM);
        until("nginx has ended", || is_gone(master).then_some(()));
    }
}

fn is_gone(pid: Pid) -> bool {
    state(pid).is_none_or(|state| state == 'Z')
}

#[test]
fn an_upgrade_of_the_binary_is_followed() {
    if nginx(2).is_none() {
        return;
    }
    let mut daemon = Daemon::start(3);
    let address = daemon.nginx.address();
    let agent = Agent::attach(address, &["--policy", "round-robin"]);
    let old = daemon.master();
    without_loss(address, PER_SECOND, || {
        signal(old, Signal::USR2);
        for _ in 0..3 {
            daemon
                .nginx
                .child()
                .await_line("start worker process ")
                .unwrap();
        }
        signal(old, Signal::QUIT);
        until("the old master has ended", || is_gone(old).then_some(()));
    });
    assert_ne!(daemon.master(), old);
    until_in_turn(&agent, address, 3);
}
