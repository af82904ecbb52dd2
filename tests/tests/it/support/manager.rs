//! systemd's part in a service's life, done by the test: it hears what the service
//! says, keeps the sockets that it is given, and passes them to the next.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Pid, Signal};
use socket2::Socket;
use srv_tests::server::{self, Server};
use tempfile::TempDir;

use crate::probe::{group, pid, signal, state, until};

/// A service manager for one service.
pub(crate) struct Manager {
    folder: TempDir,
    /// What a socket unit would hold.
    pub activated: Vec<Socket>,
    heard: Arc<Mutex<Heard>>,
    listening: Option<JoinHandle<()>>,
}

/// What the service said so far, and what is stored of it.
#[derive(Default)]
pub(crate) struct Heard {
    pub stored: Vec<Stored>,
    pub said: Vec<String>,
}

/// A socket in the store.
pub(crate) struct Stored {
    pub name: String,
    pub socket: Socket,
}

const END: &str = "END";

impl Manager {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let heard = Arc::<Mutex<Heard>>::default();
        let hearer = heard.clone();
        let listen = move || {
            while let Some((said, fds)) = receive(&socket) {
                hearer.lock().unwrap().obey(said, fds);
            }
        };
        Self {
            folder,
            activated: Vec::new(),
            heard,
            listening: Some(std::thread::spawn(listen)),
        }
    }

    pub(crate) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap()
    }

    /// The names in the store that begin so.
    pub(crate) fn names(&self, prefix: &str) -> usize {
        let heard = self.heard();
        let named = |stored: &&Stored| stored.name.starts_with(prefix);
        heard.stored.iter().filter(named).count()
    }

    /// Starts the service with what it is to have: the socket unit's first, as systemd
    /// does, then the store's, the newest first.
    pub(crate) fn start(&self, arguments: &[&str]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        self.heard().said.clear();
        let server = Server::start_as(self.command(), folder, arguments).unwrap();
        until(
            "the server is ready, and has said so after all else",
            || {
                let is_ready = |said: &String| said.starts_with("READY=1\n");
                self.heard().said.iter().any(is_ready).then_some(())
            },
        );
        server
    }

    /// As [`Self::start`], not started.
    pub(crate) fn command(&self) -> Command {
        let heard = self.heard();
        let activated = self.activated.iter().map(|socket| ("srv.socket", socket));
        let stored = heard.stored.iter().rev();
        let stored = stored.map(|stored| (stored.name.as_str(), &stored.socket));
        let (names, sockets): (Vec<_>, Vec<_>) = activated.chain(stored).unzip();
        let mut command = Command::new("bash");
        command.args(["-c", "export LISTEN_PID=$$; exec \"$@\"", "bash"]);
        command.arg(server::binary().unwrap());
        command.env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        command.env("FDSTORE", "1000");
        if !sockets.is_empty() {
            command.env("LISTEN_FDS", sockets.len().to_string());
            command.env("LISTEN_FDNAMES", names.join(":"));
        }
        let mapping = |(child_fd, socket): (i32, &Socket)| FdMapping {
            parent_fd: socket.as_fd().try_clone_to_owned().unwrap(),
            child_fd,
        };
        let mappings = (3..).zip(sockets).map(mapping).collect();
        command.fd_mappings(mappings).unwrap();
        command
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let socket = UnixDatagram::unbound().unwrap();
        let notify = self.folder.path().join("notify");
        socket.send_to(END.as_bytes(), notify).unwrap();
        if let Some(listening) = self.listening.take() {
            // If it panicked, the test has failed for want of what it should have heard.
            let _ = listening.join();
        }
    }
}

impl Heard {
    fn obey(&mut self, said: String, fds: Vec<OwnedFd>) {
        let name = said.lines().find_map(|line| line.strip_prefix("FDNAME="));
        let name = name.unwrap_or_default().to_owned();
        if said.lines().any(|line| line == "FDSTOREREMOVE=1") {
            return self.stored.retain(|stored| stored.name != name);
        }
        if !said.lines().any(|line| line == "FDSTORE=1") {
            return self.said.push(said);
        }
        for socket in fds.into_iter().map(Socket::from) {
            let cookie = socket.cookie().unwrap();
            let is_it = |stored: &Stored| stored.socket.cookie().unwrap() == cookie;
            // A second copy is closed, and its name is not looked at.
            if !self.stored.iter().any(is_it) {
                let name = name.clone();
                self.stored.push(Stored { name, socket });
            }
        }
    }
}

fn receive(socket: &UnixDatagram) -> Option<(String, Vec<OwnedFd>)> {
    let mut packet = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let buffers = &mut [IoSliceMut::new(&mut packet)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let length = rustix::net::recvmsg(socket, buffers, &mut control, flags);
    let length = length.unwrap().bytes;
    let rights = control.drain().filter_map(|ancillary| match ancillary {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds = rights.flatten().collect();
    let said = String::from_utf8_lossy(&packet[..length]).into_owned();
    (said != END).then_some((said, fds))
}

/// The server's workers.
pub(crate) fn workers(server: &Server) -> Vec<Pid> {
    let workers = group(server).workers;
    let living = workers.iter().filter(|worker| worker.pid != 0);
    living.map(pid).collect()
}

/// Kills master and workers, which get nothing done any more.
pub(crate) fn kill_all(server: &mut Server, workers: &[Pid]) {
    signal(server.pid(), Signal::KILL);
    for worker in workers {
        // One that was only idle may have found out and left.
        let _ = rustix::process::kill_process(*worker, Signal::KILL);
    }
    server.child().await_exit().unwrap();
    for worker in workers {
        let is_gone = || state(*worker).is_none_or(|state| state == 'Z');
        until("a worker is gone", || is_gone().then_some(()));
    }
}
