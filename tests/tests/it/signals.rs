//! What each signal does to a server, as `srv serve --help` says it.

use rustix::process::Signal;

use crate::agent::{Agent, answered_by, is_in_turn, nginx, said};
use crate::client::get;
use crate::probe::{group, pid, signal, until_group};
use crate::serve::serve;

/// To nginx it means to open the logs anew, and logrotate sends it.
#[test]
fn sigusr1_stops_no_server_outside_systemd() {
    let mut server = serve().workers(2).start();
    signal(server.pid(), Signal::USR1);
    server.child().await_line("SIGUSR1 has no effect").unwrap();
    assert_eq!(get(server.address(), "/").status(), 200);
    assert!(server.stop().unwrap().success());
}

/// An operator, or a terminal, may signal all processes of a server.
#[test]
fn signals_that_are_the_masters_end_no_worker() {
    let server = serve().workers(1).start();
    let worker = group(&server).workers.remove(0);
    for one in [
        Signal::HUP,
        Signal::INT,
        Signal::QUIT,
        Signal::USR1,
        Signal::USR2,
    ] {
        signal(pid(&worker), one);
        assert_eq!(get(server.address(), "/").status(), 200);
        assert_eq!(group(&server).workers[0].pid, worker.pid, "{one:?}");
    }
}

/// It drains and is replaced: nothing has died.
#[test]
fn a_worker_that_was_told_to_end_is_no_death() {
    let mut server = serve().workers(2).start();
    let worker = group(&server).workers.remove(0);
    signal(pid(&worker), Signal::TERM);
    let told = server.child().await_line("was told to end").unwrap();
    assert!(told.contains("INFO"), "{told}");
    until_group(&server, "it is replaced", |group| {
        group.workers[0].pid != worker.pid && group.workers[0].state == "ready"
    });
    server.child().stop().unwrap();
    let said = server.child().stderr();
    assert!(!said.contains("worker died"), "{said}");
}

/// The terminal from which it was started may be closed, and logrotate signals servers.
#[test]
fn signals_that_mean_nothing_to_an_agent_do_not_end_it() {
    let Some(nginx) = nginx(3) else { return };
    let address = nginx.address();
    let mut agent = Agent::attach(address, &["--policy", "round-robin"]);
    agent.status();
    for one in [Signal::HUP, Signal::USR1, Signal::USR2] {
        agent.child().signal(one).unwrap();
        agent.child().await_line("has no effect").unwrap();
        let answered = answered_by(address, 30);
        assert!(is_in_turn(&answered, 3), "{one:?}: {answered:?}");
    }
    assert!(agent.stop().success());
}

#[test]
fn the_help_lists_each_signal() {
    let serve = said("serve --help");
    let attach = said("attach --help");
    for name in ["TERM", "INT", "QUIT", "HUP", "USR1", "USR2"] {
        let name = format!("SIG{name}");
        assert!(serve.contains(&name), "{name}: {serve}");
        assert!(attach.contains(&name), "{name}: {attach}");
    }
}
