//! What plays a server: its first process, its master, and its workers, which speak the protocol.

use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, pidfd_open};
use srv_common::claim::{Kind, Message};
use srv_steer::{Mapping, SharedMemory};

use crate::control::{self, Reply, Request, SocketStatus, Status};
use crate::kernel::packets::{pair, receive_into, send_with_fds};
use crate::run::coordinator::{Beginning, Coordinator, CoordinatorArgs};
use crate::run::invitation::{Entrance, Invitation};
use crate::run::keeper::follow;
use crate::run::kept::{Keeper, Kept};
use crate::values::{LogFormat, PolicyName};

/// How long a test waits for what must come.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);

/// A coordinator in a thread of the test, and the first process of its server. The test is the
/// keeper.
pub(super) struct Server {
    pub(super) inherited: OwnedFd,
    pub(super) invitation: Invitation,
    pub(super) control: tempfile::TempDir,
    pub(super) process: Child,
    args: CoordinatorArgs,
    entrance: Entrance,
    kept: Kept,
    coordinator: Option<Running>,
}

/// The thread of a coordinator.
struct Running {
    thread: JoinHandle<anyhow::Result<()>>,
    /// Ends it as a kill does, without its doing.
    kill: tokio::sync::oneshot::Sender<()>,
    /// The keeper, until the coordinator has ended.
    keeper: JoinHandle<Kept>,
}

impl Server {
    pub(super) fn start(uses_bpf: bool) -> Self {
        let process = Command::new("sleep").arg("1000").spawn().unwrap();
        Self::of(process, uses_bpf)
    }

    pub(super) fn of(process: Child, uses_bpf: bool) -> Self {
        let (inherited, invited) = pair().unwrap();
        let control = tempfile::tempdir().unwrap();
        let args = CoordinatorArgs {
            admin: None,
            server: process.id() as i32,
            policy: PolicyName(srv_common::Policy::Least),
            no_bpf: !uses_bpf,
            control: Some(control.path().join("control")),
            log: LogFormat::Text,
        };
        let entrance = Entrance::make(invited).unwrap();
        let mut server = Self {
            inherited,
            invitation: entrance.invitation.clone(),
            control,
            process,
            args,
            entrance,
            kept: Kept::default(),
            coordinator: None,
        };
        server.start_coordinator();
        server
    }

    fn start_coordinator(&mut self) {
        let (orders, channel) = pair().unwrap();
        let mut kept = self.kept.copy();
        let keeper = std::thread::spawn(move || {
            follow(&orders, &mut kept);
            kept
        });
        let server = rustix::process::Pid::from_child(&self.process);
        let beginning = Beginning {
            server: pidfd_open(server, PidfdFlags::empty()).unwrap(),
            entrance: self.entrance.copy(),
            kept: self.kept.copy(),
            keeper: Keeper::at(channel, rustix::process::getpid()),
        };
        let (kill, killed) = tokio::sync::oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let args = self.args.clone();
        let thread = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(async {
                let (mut coordinator, events) = Coordinator::begin(&args, beginning).unwrap();
                tell.send(()).unwrap();
                tokio::select! {
                    ended = coordinator.coordinate(&args, events) => ended,
                    _ = killed => Ok(()),
                }
            })
        });
        told.recv_timeout(TIMEOUT).unwrap();
        self.coordinator = Some(Running {
            thread,
            kill,
            keeper,
        });
    }

    /// Kills the coordinator, and starts another one.
    pub(super) fn kill_coordinator(&mut self) {
        let running = self.coordinator.take().unwrap();
        running.kill.send(()).unwrap();
        running.thread.join().unwrap().unwrap();
        self.kept = running.keeper.join().unwrap();
        self.start_coordinator();
    }

    pub(super) fn ask(&self, request: &Request) -> anyhow::Result<Reply> {
        let path = self.control.path().join("control");
        // The coordinator opens it after it lets processes in.
        await_that("the control socket is there", || path.exists());
        control::ask(Some(&path), request)
    }

    pub(super) fn status(&self) -> Status {
        match self.ask(&Request::Status).unwrap() {
            Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn sockets(&self) -> Vec<SocketStatus> {
        match self.ask(&Request::Sockets).unwrap() {
            Reply::Sockets(sockets) => sockets,
            other => panic!("{other:?}"),
        }
    }

    /// Ends the server, whose other processes are these, and awaits the coordinator's end.
    pub(super) fn end<T>(mut self, others: T) {
        drop(others);
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let coordinator = self.coordinator.take().unwrap();
        await_that("the coordinator ends", || coordinator.thread.is_finished());
        coordinator.thread.join().unwrap().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One process of the server.
pub(super) struct Process {
    pub(super) channel: OwnedFd,
    pub(super) bell: OwnedFd,
}

/// The answer to a claim.
pub(super) struct Own {
    pub(super) slot: u32,
    pub(super) memory: Mapping<srv_common::Group>,
    pub(super) replacement: Option<TcpListener>,
}

impl Process {
    pub(super) fn of(server: &Server) -> Self {
        let flags = SocketFlags::CLOEXEC;
        let (mine, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .unwrap();
        let hello = Message::new(Kind::Hello, 0).to_bytes();
        send_with_fds(&server.inherited, &hello, &[theirs.as_fd()]).unwrap();
        Self::with(mine)
    }

    /// One that has closed what it inherited.
    pub(super) fn by_name(server: &Server, token: &str) -> Self {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .unwrap();
        let name = SocketAddrUnix::new_abstract_name(server.invitation.name.as_bytes()).unwrap();
        rustix::net::connect(&socket, &name).unwrap();
        let mut hello = Message::new(Kind::Hello, 0);
        for (byte, digits) in hello.token.iter_mut().zip(token.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
        }
        send_with_fds(&socket, &hello.to_bytes(), &[]).unwrap();
        Self::with(socket)
    }

    pub(super) fn with(channel: OwnedFd) -> Self {
        set_socket_timeout(&channel, Timeout::Recv, Some(TIMEOUT)).unwrap();
        let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        Self { channel, bell }
    }

    pub(super) fn say(&self, kind: Kind, number: u32) {
        let message = Message::new(kind, number).to_bytes();
        send_with_fds(&self.channel, &message, &[]).unwrap();
    }

    /// The next message; `None` at the end.
    pub(super) fn hear(&self) -> Option<(Message, Vec<OwnedFd>)> {
        let mut packet = [0; Message::BYTES];
        let received = receive_into(&self.channel, &mut packet).unwrap();
        let (bytes, fds) = received.expect("a message within the timeout");
        (bytes > 0).then(|| (Message::from_bytes(packet), fds))
    }

    #[track_caller]
    pub(super) fn expect(&self, kind: Kind, number: u32) -> (Message, Vec<OwnedFd>) {
        let (message, fds) = self.hear().expect("a message");
        assert_eq!((message.kind(), message.claim), (Some(kind), number));
        (message, fds)
    }

    /// Whether the bell has rung since the last call.
    pub(super) fn has_rung(&self) -> bool {
        rustix::io::read(&self.bell, &mut [0; 8]).is_ok()
    }

    /// As [`Self::expect`]. A process that does not accept what waits may be told to rescan before.
    #[track_caller]
    pub(super) fn expect_beside_rescans(&self, kind: Kind, number: u32) -> Message {
        loop {
            let (message, _) = self.hear().expect("a message");
            if message.kind() != Some(Kind::Rescan) {
                assert_eq!((message.kind(), message.claim), (Some(kind), number));
                return message;
            }
        }
    }

    /// What came at once, without waiting.
    pub(super) fn has_more(&self) -> bool {
        let mut poll_fds = [rustix::event::PollFd::new(
            &self.channel,
            rustix::event::PollFlags::IN,
        )];
        let at_once = rustix::event::Timespec::default();
        rustix::event::poll(&mut poll_fds, Some(&at_once)).unwrap() > 0
    }

    pub(super) fn ask_for(&self, number: u32, socket: impl AsFd) {
        let claim = Message::new(Kind::Claim, number).to_bytes();
        let fds = [socket.as_fd(), self.bell.as_fd()];
        send_with_fds(&self.channel, &claim, &fds).unwrap();
    }

    #[track_caller]
    pub(super) fn claim(&self, number: u32, socket: impl AsFd) -> Own {
        self.ask_for(number, socket);
        let (message, mut fds) = self.expect(Kind::Own, number);
        let is_replaced = message.flags == Message::REPLACE;
        assert_eq!(fds.len(), 1 + usize::from(is_replaced));
        let replacement = fds.split_off(1).pop().map(TcpListener::from);
        let memory = SharedMemory::checked(fds.pop().unwrap()).unwrap();
        Own {
            slot: message.slot,
            memory: memory.map().unwrap(),
            replacement,
        }
    }

    /// Claims, and is ready.
    #[track_caller]
    pub(super) fn own(&self, number: u32, socket: impl AsFd) -> Own {
        let own = self.claim(number, socket);
        self.say(Kind::Ready, number);
        own
    }
}

#[track_caller]
pub(super) fn await_that(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The master of a server, which has its listener open until it is dropped.
pub(super) struct Master(Child);

impl Master {
    pub(super) fn with(listener: TcpListener) -> Self {
        Self(sleeping_with(listener))
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that has the listener open.
pub(super) fn sleeping_with(listener: TcpListener) -> Child {
    let mut command = Command::new("sleep");
    command.arg("1000").stdin(OwnedFd::from(listener));
    command.spawn().unwrap()
}
