//! What systemd does to a service, done by the test: it listens to what the
//! service says and passes sockets to it.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use srv_tests::server::{self, Server};
use tempfile::TempDir;

use crate::client::{Client, get};
use crate::gate;
use crate::probe::{group, signal, until};
use crate::serve::serve;
use crate::support::executable;

/// The socket that a service's words go to.
struct Notified {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Notified {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let patience = Some(Duration::from_secs(30));
        socket.set_read_timeout(patience).unwrap();
        Self { socket, folder }
    }

    /// The next thing that is said and is not about the watchdog.
    fn said(&self) -> String {
        loop {
            let said = self.any();
            if said.trim() != "WATCHDOG=1" {
                return said;
            }
        }
    }

    fn any(&self) -> String {
        let mut packet = [0; 4096];
        let length = self.socket.recv(&mut packet).unwrap();
        String::from_utf8_lossy(&packet[..length]).into_owned()
    }

    fn start(&self) -> Server {
        let mut command = Command::new(server::binary().unwrap());
        command
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .env("WATCHDOG_USEC", "100000");
        let folder = tempfile::tempdir().unwrap();
        serve().workers(2).start_as(command, folder)
    }
}

#[test]
fn systemd_is_told_of_start_life_upgrade_and_stop() {
    let notified = Notified::new();
    let mut server = notified.start();
    let ready = |pid: u32| format!("READY=1\nMAINPID={pid}\n");
    assert_eq!(
        notified.said(),
        ready(server.pid().as_raw_nonzero().get() as u32)
    );
    for _ in 0..3 {
        assert_eq!(notified.any().trim(), "WATCHDOG=1");
    }
    assert!(server.srv(&["upgrade"]).unwrap().status.success());
    let pid = server.status().unwrap().pid;
    assert_eq!(notified.said(), ready(pid));
    until("the new one keeps the watchdog quiet, too", || {
        (notified.any().trim() == "WATCHDOG=1").then_some(())
    });
    signal(
        rustix::process::Pid::from_raw(pid as i32).unwrap(),
        Signal::TERM,
    );
    assert_eq!(notified.said().trim(), "STOPPING=1");
    server.child().await_exit().unwrap();
}

/// A listening socket as a socket unit makes it.
fn activation_socket(reuse_port: bool) -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(reuse_port).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    socket.listen(64).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // The shell passes it on.
    socket.set_cloexec(false).unwrap();
    (socket, address)
}

/// Starts srv with the socket as systemd would: number 3, with its own pid.
fn activated(socket: &Socket) -> Command {
    let fd = socket.as_raw_fd();
    let script = format!("exec 3<&{fd}; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"");
    let mut command = Command::new("bash");
    command.args(["-c", &script, "bash"]);
    command.arg(server::binary().unwrap());
    command
}

fn start(socket: &Socket, address: SocketAddr) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let address = address.to_string();
    serve()
        .workers(3)
        .listen(&address)
        .start_as(activated(socket), folder)
}

#[test]
fn what_waits_at_an_activation_socket_is_served_now_or_by_the_next() {
    let (socket, address) = activation_socket(true);
    let mut early = Client::connect(address);
    early.get("/");
    let mut server = start(&socket, address);
    assert_eq!(early.response().status(), 200);
    drop(early);
    assert_eq!(server.address(), address);
    assert_eq!(group(&server).workers.len(), 3);
    for _ in 0..20 {
        assert_eq!(get(address, "/").status(), 200);
    }
    signal(server.pid(), Signal::TERM);
    server.child().await_exit().unwrap();
    // Nobody serves; the socket takes connections for whoever is next.
    let mut between = Client::connect(address);
    between.get("/");
    let next = start(&socket, address);
    assert_eq!(between.response().status(), 200);
    drop((between, next));
}

#[test]
fn an_activation_socket_that_cannot_be_used_is_refused() {
    let refusal = |socket: &Socket, listen: String| {
        let mut command = activated(socket);
        command.args(["serve", "--workers", "2", "--listen", &listen]);
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let (socket, address) = activation_socket(false);
    let said = refusal(&socket, address.to_string());
    assert!(said.contains("ReusePort=yes"), "{said}");
    let (socket, address) = activation_socket(true);
    let said = refusal(&socket, "127.0.0.2:0".into());
    assert!(said.contains(&format!("add --listen {address}")), "{said}");
    let udp = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    udp.set_cloexec(false).unwrap();
    let said = refusal(&udp, "127.0.0.1:0".into());
    assert!(said.contains("does not listen"), "{said}");
}

/// The service unit's `AmbientCapabilities`, and nothing else, let another user steer.
#[test]
fn the_units_capabilities_are_enough_to_steer() {
    gate::needs!(steer, root);
    const NOBODY: u32 = 65_534;
    let unit = include_str!("../../../dist/srv.service");
    let mut lines = unit.lines();
    let named = lines.find_map(|line| line.strip_prefix("AmbientCapabilities="));
    let named = named
        .unwrap()
        .replace("CAP_", "+")
        .replace(' ', ",")
        .to_lowercase();
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    // Where everybody may read it.
    let binary = folder.path().join("srv");
    executable::copy(server::binary().unwrap(), &binary);
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--no-new-privs",
    ]);
    for set in ["inh-caps", "ambient-caps", "bounding-set"] {
        command.arg(format!("--{set}=-all,{named}"));
    }
    command.arg(binary);
    let mut server = serve().workers(2).start_as(command, folder);
    assert!(
        group(&server).program.attached,
        "{:?}",
        group(&server).program.why_not
    );
    get(server.address(), "/");
    assert_eq!(group(&server).program.steered, 1);
    // Nor are they too few to stop: some kernels drop SYNs for CAP_NET_ADMIN alone.
    assert!(server.child().stop().unwrap().success());
    let said = server.child().stderr();
    assert!(!said.contains("WARN"), "{said}");
}
