//! What systemd keeps of a server that ends, however it ends, is the next one's:
//! its listeners, in their slots, and every connection that waits at them.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};

use rustix::process::Signal;
use srv::control::{Reply, Request, SocketStatus, ask};
use srv_tests::server::Server;

use crate::client::{Client, get};
use crate::gate;
use crate::loaded::without_loss;
use crate::manager::{Manager, kill_all, workers};
use crate::probe::{Stopped, endurance, group, signal, status, until, until_group};
use crate::serve::serve;

fn sockets(server: &Server) -> Vec<SocketStatus> {
    match ask(Some(&server.control()), &Request::Sockets).unwrap() {
        Reply::Sockets(sockets) => sockets,
        other => panic!("asked for sockets, got {other:?}"),
    }
}

/// In order of slots.
fn cookies(server: &Server) -> Vec<u64> {
    sockets(server).iter().map(|socket| socket.cookie).collect()
}

/// Requests at `address` that nobody accepts yet.
fn waiting(address: SocketAddr, count: usize) -> Vec<Client> {
    let ask = |_| {
        let mut client = Client::connect(address);
        client.get("/");
        client
    };
    (0..count).map(ask).collect()
}

fn assert_answered(clients: Vec<Client>) {
    for mut client in clients {
        assert_eq!(client.response().status(), 200);
    }
}

/// Kills a server at which `count` requests wait, and leaves more after its death.
fn die_with_waiting(server: &mut Server, count: usize) -> Vec<Client> {
    let workers = workers(server);
    let stopped: Vec<_> = workers.iter().map(|worker| Stopped::new(*worker)).collect();
    let mut clients = waiting(server.address(), count);
    kill_all(server, &workers);
    drop(stopped);
    clients.extend(waiting(server.address(), count));
    clients
}

/// A killed server's queues are the next one's, with another number of workers, too.
fn die_and_return(accept: &str, first: usize, next: usize) {
    let manager = Manager::new();
    let start = |count: usize, listen: &str| {
        let count = count.to_string();
        let flags = ["--accept", accept, "--workers", &count, "--listen", listen];
        manager.start(&flags)
    };
    let mut server = start(first, "127.0.0.1:0");
    let address = server.address();
    let before = cookies(&server);
    let listeners = if accept == "shared" { 1 } else { first };
    assert_eq!(manager.names("srv-listener-"), listeners);
    for _ in 0..2 {
        let clients = die_with_waiting(&mut server, 20);
        server = start(next, &address.to_string());
        assert_answered(clients);
        let after = cookies(&server);
        let kept = before.len().min(after.len());
        assert_eq!(before[..kept], after[..kept], "each in its slot");
        let listeners = if accept == "shared" {
            1
        } else {
            first.max(next)
        };
        assert_eq!(after.len(), listeners);
        assert_eq!(manager.names("srv-listener-"), listeners);
        for _ in 0..10 {
            assert_eq!(get(address, "/").status(), 200);
        }
    }
    if accept == "ring" && gate::steer() {
        let program = group(&server).program;
        assert!(program.attached, "{:?}", program.why_not);
        assert!(program.steered > 0);
    }
    assert!(server.stop().unwrap().success());
    until("a clean stop leaves nothing", || {
        (manager.names("") == 0).then_some(())
    });
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn what_waits_at_a_killed_server_is_the_next_ones() {
    die_and_return("ring", 3, 3);
}

#[test]
fn fewer_workers_take_back_all_listeners() {
    die_and_return("ring", 4, 2);
    die_and_return("own", 4, 1);
}

#[test]
fn more_workers_add_to_the_listeners_that_they_take_back() {
    die_and_return("ring", 2, 4);
    die_and_return("own", 1, 3);
}

#[test]
fn one_listener_for_all_is_taken_back() {
    die_and_return("shared", 3, 2);
}

/// One under load, by systemd's restart signal and by kill -9.
#[test]
fn restarts_under_load_lose_nothing() {
    let manager = Manager::new();
    let start = |listen: &str| {
        let flags = ["--workers", "3", "--synthetic", "--listen", listen];
        manager.start(&flags)
    };
    let mut server = start("127.0.0.1:0");
    let address = server.address();
    let restarts = endurance(4, 50);
    let answered = without_loss(address, 200.0, || {
        for nth in 0..restarts {
            until_group(&server, "it serves", |group| group.totals.served > 10);
            let workers = workers(&server);
            if nth % 2 == 0 {
                signal(server.pid(), Signal::USR1);
                assert!(server.child().await_exit().unwrap().success());
            } else {
                signal(server.pid(), Signal::KILL);
                // systemd ends what a dead main process has left.
                for worker in workers {
                    let _ = rustix::process::kill_process(worker, Signal::TERM);
                }
                server.child().await_exit().unwrap();
            }
            server = start(&address.to_string());
        }
    });
    println!("{restarts} restarts, {answered} requests, none lost");
}

#[test]
fn an_address_that_is_not_asked_for_any_more_is_emptied_and_closed() {
    let manager = Manager::new();
    let any = "127.0.0.1:0";
    let mut server = manager.start(&["--workers", "3", "--listen", any, "--listen", any]);
    let [stays, goes] = server.addresses().try_into().unwrap();
    assert_eq!(manager.names("srv-listener-"), 6);
    let workers = workers(&server);
    let stopped: Vec<_> = workers.iter().map(|worker| Stopped::new(*worker)).collect();
    let mut clients = waiting(stays, 10);
    clients.extend(waiting(goes, 10));
    kill_all(&mut server, &workers);
    drop(stopped);
    let stays_too = stays.to_string();
    // Port 0 at the same host would be the old one.
    let other = "127.0.0.2:0";
    let server = manager.start(&["--workers", "2", "--listen", &stays_too, "--listen", other]);
    assert_answered(clients);
    until("the address is closed", || {
        let refused = TcpStream::connect(goes).err()?;
        (refused.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
    // The first has one more than workers, and the second as many as the first.
    assert_eq!(manager.names("srv-listener-"), 6);
    assert_eq!(sockets(&server).len(), 6);
    for address in server.addresses() {
        assert_eq!(get(*address, "/").status(), 200);
    }
}

/// As one leaves them that was killed while it emptied an address.
#[test]
fn a_filter_that_drops_syns_is_taken_off() {
    let manager = Manager::new();
    let mut server = manager.start(&["--workers", "2"]);
    let address = server.address();
    let workers = workers(&server);
    kill_all(&mut server, &workers);
    for stored in &manager.heard().stored {
        srv_steer::drop_syns(&stored.socket).unwrap();
    }
    let address = address.to_string();
    let server = manager.start(&["--workers", "2", "--listen", &address]);
    assert_eq!(get(server.address(), "/").status(), 200);
}

#[test]
fn what_was_grown_beside_a_socket_units_comes_back_behind_it() {
    let mut manager = Manager::new();
    let unit = listening();
    let address = unit.local_addr().unwrap().as_socket().unwrap();
    let cookie = unit.cookie().unwrap();
    manager.activated.push(unit);
    let listen = address.to_string();
    let flags = ["--workers", "3", "--listen", &listen];
    let mut server = manager.start(&flags);
    let before = cookies(&server);
    assert_eq!((before.len(), before[0]), (3, cookie));
    assert_eq!(
        manager.names("srv-listener-"),
        2,
        "the unit's is not stored"
    );
    let clients = die_with_waiting(&mut server, 10);
    server = manager.start(&flags);
    assert_answered(clients);
    assert_eq!(cookies(&server), before);
    // The socket unit is stopped, and another slot is the first one's.
    let workers = workers(&server);
    kill_all(&mut server, &workers);
    manager.activated.clear();
    server = manager.start(&flags);
    assert_eq!(cookies(&server)[..2], before[1..]);
    assert_eq!(manager.names("srv-listener-0-"), 1, "renamed");
    assert_eq!(manager.names("srv-listener-"), 3);
    assert!(server.stop().unwrap().success());
    until("a clean stop leaves nothing", || {
        (manager.names("") == 0).then_some(())
    });
}

fn listening() -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(64).unwrap();
    socket
}

#[test]
fn a_successor_takes_over_what_is_kept() {
    let manager = Manager::new();
    let mut server = manager.start(&["--workers", "2"]);
    let address = server.address();
    let before = cookies(&server);
    let old = server.pid();
    assert!(server.srv(&["upgrade"]).unwrap().status.success());
    let successor = rustix::process::Pid::from_raw(status(&server).pid as i32).unwrap();
    assert_ne!(successor, old);
    assert_eq!(cookies(&server), before);
    // It has not taken anything out of the store as it left.
    until("the old one is gone", || {
        let gone = crate::probe::state(old).is_none_or(|state| state == 'Z');
        gone.then_some(())
    });
    assert_eq!(manager.names("srv-listener-"), 2);
    signal(successor, Signal::USR1);
    server.child().await_exit().unwrap();
    let clients = waiting(address, 10);
    let server = manager.start(&["--workers", "2", "--listen", &address.to_string()]);
    assert_answered(clients);
    assert_eq!(cookies(&server), before);
}

#[test]
fn a_reload_stores_what_it_opens() {
    let manager = Manager::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("srv.toml");
    std::fs::write(&file, "workers = 1\n").unwrap();
    let server = manager.start(&["--config", file.to_str().unwrap()]);
    assert_eq!(manager.names("srv-listener-"), 1);
    std::fs::write(&file, "workers = 3\n").unwrap();
    assert!(server.srv(&["reload"]).unwrap().status.success());
    until("the new ones are stored", || {
        (manager.names("srv-listener-") == 3).then_some(())
    });
}

#[test]
fn listeners_of_another_accept_mode_are_given_up() {
    let manager = Manager::new();
    let mut server = manager.start(&["--workers", "2", "--accept", "ring"]);
    let address = server.address().to_string();
    let workers = workers(&server);
    kill_all(&mut server, &workers);
    let shared = ["--workers", "2", "--accept", "shared", "--listen", &address];
    let output = manager
        .command()
        .arg("serve")
        .args(shared)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("another accept mode"),
        "{said}"
    );
    until("they are given up", || {
        (manager.names("") == 0).then_some(())
    });
    let server = manager.start(&shared);
    assert_eq!(get(server.address(), "/").status(), 200);
}

/// Without a store a restart is a stop: a socket that nobody keeps must not take more.
#[test]
fn where_nobody_keeps_listeners_a_restart_is_a_stop() {
    let manager = Manager::new();
    let mut command = manager.command();
    command.env_remove("FDSTORE");
    let folder = tempfile::tempdir().unwrap();
    let mut server = serve().workers(2).synthetic().start_as(command, folder);
    let mut client = Client::connect(server.address());
    client.get("/work?sleep_us=300000");
    until_group(&server, "a request is in service", |group| {
        group.totals.running == 1
    });
    signal(server.pid(), Signal::USR1);
    let line = server.child().await_line("systemd does not keep").unwrap();
    assert!(line.contains("FDSTORE"), "{line}");
    assert_eq!(client.response().status(), 200);
    assert!(server.child().await_exit().unwrap().success());
}

#[test]
fn the_unit_lets_systemd_keep_listeners() {
    let unit = include_str!("../../../dist/srv.service");
    let value = |key: &str| {
        let mut lines = unit.lines();
        lines.find_map(|line| line.strip_prefix(key)).expect(key)
    };
    assert_eq!(value("RestartKillSignal="), "SIGUSR1");
    // Older systemds do not say it themselves.
    assert_eq!(
        value("FileDescriptorStoreMax="),
        value("Environment=FDSTORE=")
    );
}

/// Whoever started in the place of one would take the listeners from under the other.
#[test]
fn while_two_servers_are_joined_nothing_is_kept() {
    let manager = Manager::new();
    let first = manager.start(&["--workers", "2", "--listen", "127.0.0.1:0"]);
    assert_eq!(manager.names("srv-listener-"), 2);
    let second = first.start_joined(["--workers", "2"]).unwrap();
    until("nothing is kept", || (manager.names("") == 0).then_some(()));
    assert!(second.stop().unwrap().success());
    until(
        "everything is kept again, the listeners of the other too",
        || (manager.names("srv-listener-") == 4).then_some(()),
    );
    assert!(first.stop().unwrap().success());
    until("a clean stop leaves nothing", || {
        (manager.names("") == 0).then_some(())
    });
}
