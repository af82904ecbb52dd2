//! An attached nginx that reloads, grows, shrinks, restarts and is upgraded:
//! the agent follows, and no client notices.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use srv::arrivals::{Service, poisson};
use srv::load::{Connections, Load};
use srv_tests::nginx::Nginx;

use crate::agent::{Agent, LOCALHOST, answered_by, is_in_turn, nginx, options};
use crate::probe::{signal, state, until};

/// Runs `meanwhile` under load; how many requests were answered.
///
/// # Panics
/// If a request failed.
pub fn without_loss(address: SocketAddr, meanwhile: impl FnOnce()) -> usize {
    let load = Load {
        target: address,
        host: None,
        path: "/work?sleep_us={us}".into(),
        connections: Connections::PerRequest,
        timeout: Duration::from_secs(20),
    };
    let is_over = AtomicBool::new(false);
    let run = || {
        let mut answered = 0;
        for seed in 0.. {
            let draws = poisson(seed, 300.0, Duration::from_secs(1), Service::Fixed(300));
            let run = load.run(&draws).unwrap();
            assert_eq!(run.lost(), 0, "of {}: {:?}", draws.len(), run.first_error);
            answered += draws.len();
            if is_over.load(Ordering::Relaxed) {
                break;
            }
        }
        answered
    };
    std::thread::scope(|scope| {
        let running = scope.spawn(run);
        let done = catch_unwind(AssertUnwindSafe(meanwhile));
        is_over.store(true, Ordering::Relaxed);
        let answered = running.join().unwrap();
        done.unwrap_or_else(|panic| resume_unwind(panic));
        answered
    })
}

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
    let agent = Agent::attach(address, &["--policy", "round-robin"]);
    without_loss(address, || nginx.reload(&options(4)).unwrap());
    until_in_turn(&agent, address, 4);
    let status = agent.status();
    for (listener, worker) in status.listeners.iter().zip(nginx.workers()) {
        assert_eq!(listener.workers, [worker.as_raw_nonzero().get() as u32]);
    }
}

/// nginx itself resets what waits at the sockets that it closes, so that only
/// growing has to be without loss.
#[test]
fn more_and_fewer_workers_are_followed() {
    let Some(mut nginx) = nginx(3) else { return };
    let address = nginx.address();
    let mut agent = Agent::attach(address, &["--policy", "round-robin"]);
    without_loss(address, || nginx.reload(&options(5)).unwrap());
    agent
        .child()
        .await_line("2 joined, 0 left; steering 5 sockets")
        .unwrap();
    until_in_turn(&agent, address, 5);
    nginx.reload(&options(2)).unwrap();
    agent
        .child()
        .await_line("0 joined, 3 left; steering 2 sockets")
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
    agent.child().await_line("steering 4 sockets").unwrap();
    until_in_turn(&agent, address, 4);
    assert_eq!(agent.stop().code(), Some(0));
}

#[test]
fn an_agent_ends_well_when_the_server_is_gone() {
    let Some(nginx) = nginx(2) else { return };
    let mut agent = Agent::attach(nginx.address(), &["--policy", "random"]);
    drop(nginx);
    agent.child().await_line("nobody listens on").unwrap();
    assert_eq!(agent.stop().code(), Some(0));
}

/// nginx whose parent is gone: in the foreground of its parent it takes no upgrade.
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
    without_loss(address, || {
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
