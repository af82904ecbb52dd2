//! Listeners that something changed behind the master's back: it sees it at its next
//! look, mends it, and replaces the workers, any of which could have done it.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use aya::programs::SkReuseport;
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::{SockRef, Socket};
use srv_steer::drop_syns;
use srv_tests::server::Server;

use crate::client::{Client, get};
use crate::gate;
use crate::probe::{group, until, until_group};
use crate::serve::serve;

/// The second listener of a server with three workers, taken from one of these.
fn listener(server: &Server) -> Socket {
    let sockets = server.srv(&["sockets", "--json"]).unwrap().stdout;
    let sockets: serde_json::Value = serde_json::from_slice(&sockets).unwrap();
    // In a list of its own, or within an object.
    let sockets = sockets.as_array().or_else(|| sockets["sockets"].as_array());
    let number = |name: &str| i32::try_from(sockets.unwrap()[1][name].as_i64().unwrap()).unwrap();
    let worker = pidfd_open(Pid::from_raw(number("pid")).unwrap(), PidfdFlags::empty()).unwrap();
    let taken: OwnedFd = pidfd_getfd(worker, number("fd"), PidfdGetfdFlags::empty()).unwrap();
    Socket::from(taken)
}

fn start() -> Option<Server> {
    let can = gate::steer() && gate::root();
    can.then(|| serve().workers(3).worker_header().start())
}

/// All workers are new, the program steers to each of them, and nothing was lost of what
/// came after the change was mended.
fn assert_whole(server: &Server) {
    let before = until_group(server, "all workers are replaced", |group| {
        let mut workers = group.workers.iter();
        workers.all(|worker| worker.starts == 2 && worker.state == "ready")
    });
    // Kept open, they go to each in turn.
    let mut kept: Vec<_> = (0..9).map(|_| Client::connect(server.address())).collect();
    for client in &mut kept {
        client.get("/");
        assert_eq!(client.response().status(), 200);
    }
    let now = group(server);
    let mut pairs = now.workers.iter().zip(&before.workers);
    let steered_to_all = pairs.all(|(now, then)| now.steered > then.steered);
    assert!(steered_to_all, "{now:?} after {before:?}");
    assert!(now.program.attached);
}

#[test]
fn a_listener_that_was_shut_down_listens_again() {
    let Some(mut server) = start() else { return };
    let listener = listener(&server);
    listener.shutdown(std::net::Shutdown::Read).unwrap();
    drop(listener);
    let line = server
        .child()
        .await_line("does not listen any more")
        .unwrap();
    assert!(
        line.contains("listener 1") && line.contains("this process has "),
        "{line}"
    );
    server.child().await_line("replacing the workers").unwrap();
    assert_whole(&server);
    assert!(server.stop().unwrap().success());
}

#[test]
fn a_program_that_was_taken_off_is_attached_again() {
    let Some(mut server) = start() else { return };
    get(server.address(), "/");
    SkReuseport::detach(listener(&server)).unwrap();
    // What comes meanwhile is hashed, and accepted.
    let said = until("it is seen", || {
        assert_eq!(get(server.address(), "/").status(), 200);
        let said = server.child().stderr();
        said.contains("was not attached any more").then_some(said)
    });
    assert!(said.contains("this process has "), "{said}");
    assert_whole(&server);
}

#[test]
fn a_program_that_took_its_place_is_replaced() {
    let Some(mut server) = start() else { return };
    get(server.address(), "/");
    attach_another(&listener(&server));
    until("it is seen", || {
        for _ in 0..20 {
            assert_eq!(get(server.address(), "/").status(), 200);
        }
        let said = server.child().stderr();
        let parts = ["another program decided", "replacing the workers"];
        parts.iter().all(|part| said.contains(part)).then_some(())
    });
    assert_whole(&server);
}

/// Has a classic filter choose the first listener for each connection.
fn attach_another(listener: &Socket) {
    let mut choose_first = [libc::sock_filter {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let program = libc::sock_fprog {
        len: 1,
        filter: choose_first.as_mut_ptr(),
    };
    // SAFETY: `program` is that long, and the kernel copies it.
    let attached = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    assert_eq!(attached, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn flags_and_options_are_what_they_were_again() {
    let Some(mut server) = start() else { return };
    let listener = listener(&server);
    let owner = || {
        // SAFETY: no memory is passed.
        unsafe { libc::fcntl(listener.as_raw_fd(), libc::F_GETOWN) }
    };
    // SAFETY: likewise. Without O_ASYNC nothing is sent to it.
    unsafe { libc::fcntl(listener.as_raw_fd(), libc::F_SETOWN, std::process::id()) };
    rustix::fs::fcntl_setfl(&listener, OFlags::empty()).unwrap();
    listener.set_linger(Some(Duration::ZERO)).unwrap();
    drop_syns(&SockRef::from(&listener)).unwrap();
    for what in [
        "has other flags",
        "sends signals",
        "resets what",
        "has a filter",
    ] {
        server.child().await_line(what).unwrap();
    }
    let flags = rustix::fs::fcntl_getfl(&listener).unwrap();
    assert!(flags.contains(OFlags::NONBLOCK));
    assert_eq!(listener.linger().unwrap(), None);
    assert_eq!(owner(), 0);
    assert_whole(&server);
    // A stop closes at once: no worker is stuck in accept.
    assert!(server.stop().unwrap().success());
}

/// Neither a little traffic nor pauses over several looks are taken for a change.
#[test]
fn a_healthy_server_is_left_alone() {
    let Some(mut server) = start() else { return };
    let kept = Client::connect(server.address());
    for pause_ms in [0, 1_100, 3_300, 0] {
        assert_eq!(get(server.address(), "/").status(), 200);
        std::thread::sleep(Duration::from_millis(pause_ms));
    }
    drop(kept);
    let group = group(&server);
    assert!(group.workers.iter().all(|worker| worker.starts == 1));
    let said = server.child().stderr();
    assert!(!said.contains("this process has "), "{said}");
}
