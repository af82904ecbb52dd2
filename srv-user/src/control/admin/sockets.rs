//! The sockets at which the admin process answers: where they are, how they are opened, and what
//! becomes of them in an upgrade.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::{future, io, task};

use anyhow::{Context as _, bail};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::control::socket_file::SocketFile;
use crate::kernel::watched::watch;
use crate::values::AdminAddr;

/// Connections that wait for the process.
const BACKLOG: i32 = 128;
/// A client that takes nothing of an answer for so long is gone.
const SEND_WITHIN: Duration = Duration::from_secs(30);
/// The longest path of a Unix socket, bytes: `sun_path` without its terminating zero.
const PATH_BYTES_MAX: usize = 107;

/// A socket that another process has opened, and where it is.
pub type Inherited = (AdminAddr, OwnedFd);

/// The sockets of one server.
pub struct AdminSockets {
    all: Vec<AdminSocket>,
    /// Files of the predecessor's sockets that this server does not have.
    leftovers: Vec<PathBuf>,
}

struct AdminSocket {
    address: AdminAddr,
    fd: OwnedFd,
    /// Is removed with this. Of a socket that was inherited, the predecessor has the file at first.
    file: Mutex<Option<SocketFile>>,
}

impl AdminSockets {
    /// Opens the sockets for what `--admin` says. Without a path there, the Unix socket is beside
    /// the control socket. What a predecessor has opened at the same places is taken over.
    ///
    /// # Errors
    /// A place that was asked for cannot be had.
    pub fn open(
        asked: Option<&AdminAddr>,
        control: &Path,
        inherited: Vec<Inherited>,
    ) -> anyhow::Result<Self> {
        Self::open_where(asked, control, inherited, |place| asked == Some(place))
    }

    /// As [`open`](Self::open), where a process that has just ended may still have the sockets:
    /// the caller tries again.
    ///
    /// # Errors
    /// One of them cannot be had.
    pub fn reopen(asked: Option<&AdminAddr>, control: &Path) -> anyhow::Result<Self> {
        Self::open_where(asked, control, Vec::new(), |_| true)
    }

    fn open_where(
        asked: Option<&AdminAddr>,
        control: &Path,
        mut inherited: Vec<Inherited>,
        is_needed: impl Fn(&AdminAddr) -> bool,
    ) -> anyhow::Result<Self> {
        let beside = AdminAddr::Unix(control.with_extension("admin"));
        let places = match asked {
            None => vec![beside],
            Some(AdminAddr::None) => Vec::new(),
            Some(tcp @ AdminAddr::Tcp(_)) => vec![tcp.clone(), beside],
            Some(unix @ AdminAddr::Unix(_)) => vec![unix.clone()],
        };
        let mut all = Vec::new();
        for place in places {
            let nth = inherited.iter().position(|(at, _)| is_at(at, &place));
            if let Some((address, fd)) = nth.map(|nth| inherited.remove(nth)) {
                let file = Mutex::default();
                all.push(AdminSocket { address, fd, file });
                continue;
            }
            let opened = open(&place).with_context(|| format!("open the admin socket {place}"));
            match opened {
                Ok(socket) => all.push(socket),
                Err(error) if is_needed(&place) => return Err(error),
                // It was not asked for.
                Err(error) => tracing::warn!("{error:#}; `--admin none` opens none"),
            }
        }
        let leftovers = inherited.into_iter().filter_map(|(at, _)| match at {
            AdminAddr::Unix(path) => Some(path),
            AdminAddr::Tcp(_) | AdminAddr::None => None,
        });
        Ok(Self {
            all,
            leftovers: leftovers.collect(),
        })
    }

    /// Opens one socket.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn open_one(place: &AdminAddr) -> anyhow::Result<Self> {
        let socket = open(place).with_context(|| format!("open the admin socket {place}"))?;
        Ok(Self {
            all: vec![socket],
            leftovers: Vec::new(),
        })
    }

    /// Where a user may have to look: the kernel may have chosen the port.
    pub fn to_announce(&self) -> impl Iterator<Item = &AdminAddr> {
        let is_tcp = |address: &&AdminAddr| matches!(address, AdminAddr::Tcp(_));
        self.addresses().filter(is_tcp)
    }

    /// Where they are.
    pub fn addresses(&self) -> impl Iterator<Item = &AdminAddr> {
        self.all.iter().map(|socket| &socket.address)
    }

    /// The sockets themselves.
    pub fn handles(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.all.iter().map(|socket| socket.fd.as_fd())
    }

    /// The files of inherited sockets are this server's from now on.
    pub(super) fn adopt_files(&mut self) {
        for socket in &mut self.all {
            let file = socket
                .file
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner);
            if let (None, AdminAddr::Unix(path)) = (&file, &socket.address) {
                *file = SocketFile::adopt(path.clone());
            }
        }
        let leftovers = self.leftovers.drain(..);
        leftovers.for_each(|path| drop(SocketFile::adopt(path)));
    }

    /// The files are the successor's.
    pub(super) fn leave_files(&self) {
        for socket in &self.all {
            let mut file = socket.file.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(file) = file.take() {
                file.leave();
            }
        }
    }

    /// Waits until something connects.
    ///
    /// # Errors
    /// The event loop cannot watch a socket, or there is none.
    pub(super) async fn readable(&self) -> io::Result<()> {
        let watched = self.all.iter().map(|socket| watch(socket.fd.try_clone()?));
        let watched = watched.collect::<io::Result<Vec<_>>>()?;
        future::poll_fn(|context| {
            let mut all = watched.iter();
            match all.any(|socket| socket.poll_read_ready(context).is_ready()) {
                true => task::Poll::Ready(()),
                false => task::Poll::Pending,
            }
        })
        .await;
        Ok(())
    }
}

/// Whether a socket that is there is one for `place`. The kernel has chosen a port for port 0.
fn is_at(there: &AdminAddr, place: &AdminAddr) -> bool {
    match (there, place) {
        (AdminAddr::Tcp(there), AdminAddr::Tcp(place)) if place.port() == 0 => {
            there.ip() == place.ip()
        }
        _ => there == place,
    }
}

fn open(place: &AdminAddr) -> anyhow::Result<AdminSocket> {
    match place {
        AdminAddr::Unix(path) => open_unix(path.clone()),
        AdminAddr::Tcp(address) => {
            let socket = listen((*address).into()).map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => anyhow::anyhow!(
                    "{error}: stop the process that listens there (`ss -ltnp` lists listeners), \
                     or pass another --admin"
                ),
                io::ErrorKind::AddrNotAvailable => anyhow::anyhow!(
                    "{error}: no interface of this machine has that address; pass another --admin"
                ),
                _ => error.into(),
            })?;
            let address = socket
                .local_addr()?
                .as_socket()
                .context("read its address")?;
            Ok(AdminSocket {
                address: AdminAddr::Tcp(address),
                fd: socket.into(),
                file: Mutex::default(),
            })
        }
        AdminAddr::None => bail!("it has no address"),
    }
}

/// The accepted connections inherit the options.
fn listen(address: SockAddr) -> io::Result<Socket> {
    let domain = Domain::from(i32::from(address.family()));
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(SEND_WITHIN))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn open_unix(path: PathBuf) -> anyhow::Result<AdminSocket> {
    let bytes = path.as_os_str().len();
    if bytes > PATH_BYTES_MAX {
        bail!("a socket's path may have {PATH_BYTES_MAX} bytes at most, and this has {bytes}");
    }
    let (file, listener) = SocketFile::bind(path.clone(), "--admin")?;
    listener.set_nonblocking(true)?;
    Ok(AdminSocket {
        address: AdminAddr::Unix(path),
        fd: listener.into(),
        file: Mutex::new(Some(file)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(asked: Option<&str>, control: &Path) -> anyhow::Result<AdminSockets> {
        let asked = asked.map(|asked| asked.parse().unwrap());
        AdminSockets::open(asked.as_ref(), control, Vec::new())
    }

    fn places(sockets: &AdminSockets) -> Vec<String> {
        sockets.addresses().map(ToString::to_string).collect()
    }

    #[test]
    fn the_socket_beside_the_control_socket_is_there_unless_another_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("80.sock");
        let beside = folder.path().join("80.admin");
        let unix = format!("unix:{}", folder.path().join("my-admin.sock").display());
        let sockets = open(None, &control).unwrap();
        assert_eq!(places(&sockets), [format!("unix:{}", beside.display())]);
        assert!(beside.exists());
        // It is in use, and was not asked for.
        assert_eq!(places(&open(None, &control).unwrap()), [""; 0]);
        drop(sockets);
        assert!(!beside.exists());
        let tcp = open(Some("127.0.0.1:0"), &control).unwrap();
        assert_eq!(tcp.all.len(), 2);
        let taken = places(&tcp).remove(0);
        let refusal = open(Some(&taken), &control).map(drop).unwrap_err();
        assert!(format!("{refusal:#}").contains("pass another --admin"));
        assert_eq!(places(&open(Some(&unix), &control).unwrap()), [unix]);
        assert_eq!(places(&open(Some("none"), &control).unwrap()), [""; 0]);
    }

    #[test]
    fn a_successor_has_the_same_sockets_and_only_then_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("control");
        let old = open(Some("127.0.0.1:0"), &control).unwrap();
        let handles = old.handles().map(|fd| fd.try_clone_to_owned().unwrap());
        let inherited: Vec<_> = old.addresses().cloned().zip(handles).collect();
        let succeed = || {
            let copy = |(at, fd): &Inherited| (at.clone(), fd.try_clone().unwrap());
            let inherited = inherited.iter().map(copy).collect();
            let asked = "127.0.0.1:0".parse().unwrap();
            AdminSockets::open(Some(&asked), &control, inherited).unwrap()
        };
        let failed = succeed();
        assert_eq!(places(&failed), places(&old));
        drop(failed);
        let file = folder.path().join("control.admin");
        assert!(file.exists());
        let mut new = succeed();
        new.adopt_files();
        old.leave_files();
        drop(old);
        assert!(file.exists());
        drop(new);
        assert!(!file.exists());
    }
}
