//! The file of a listening Unix socket: how it is created and removed. This module removes no file
//! except a socket, and at the end only the one that it has created.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a listening socket. When this is dropped the file is removed, if it is
/// still the same file.
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    /// Listens on `path`, to which only this user can connect (mode 0600). A socket on
    /// which no process listens any more, as a killed server leaves it, is replaced. `flag` is
    /// how the user can name another path.
    ///
    /// # Errors
    /// If a process listens on that socket, if the name belongs to anything but a
    /// socket, or if the kernel refuses to create one.
    pub(super) fn bind(path: PathBuf, flag: &str) -> anyhow::Result<(Self, UnixListener)> {
        make_way(&path, flag)?;
        let before = rustix::process::umask(Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(&path);
        rustix::process::umask(before);
        let listener = listener?;
        let file = fs::symlink_metadata(&path).context("stat the new socket")?;
        let identity = identity(&file);
        Ok((Self { path, identity }, listener))
    }

    /// The file of a socket that was taken over from another process; `None` if it is not there.
    pub(super) fn adopt(path: PathBuf) -> Option<Self> {
        let file = fs::symlink_metadata(&path).ok()?;
        let identity = identity(&file);
        { file.file_type() }
            .is_socket()
            .then_some(Self { path, identity })
    }

    /// Leaves the file where it is.
    pub(super) fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let path = self.path.display();
        let removed = match fs::symlink_metadata(&self.path) {
            Ok(file) if identity(&file) == self.identity => fs::remove_file(&self.path),
            Ok(_) => {
                tracing::warn!("leave {path} alone: it is not this server's socket");
                return;
            }
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("remove the socket {path}: {error}");
            }
            _ => {}
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Removes a socket that is not in use.
fn make_way(path: &Path, flag: &str) -> anyhow::Result<()> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("look what is there"),
    };
    if !file.file_type().is_socket() {
        bail!(
            "{} is there, which srv does not replace: pass another {flag}, or remove it",
            kind(&file)
        );
    }
    match connect_at_once(path) {
        Ok(()) => bail!("another server answers there: stop it, or pass another {flag}"),
        // That server has not accepted the connections that wait yet.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            bail!(
                "another server listens there and does not answer: stop it, or pass another {flag}"
            )
        }
        // A server that was killed has left this socket.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).context("remove the socket of a server that has ended")
        }
        Err(error) => Err(error).with_context(|| {
            format!(
                "try whether a server answers there (if none does, remove it, or pass another \
                 {flag})"
            )
        }),
    }
}

/// Unlike std's `connect`, this does not wait until there is room for one more connection that is
/// not accepted yet.
fn connect_at_once(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

fn kind(file: &Metadata) -> &'static str {
    let kind = file.file_type();
    if kind.is_file() {
        "a regular file"
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else {
        "a special file"
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn refusal(path: &Path) -> String {
        let bound = SocketFile::bind(path.to_owned(), "--control");
        format!("{:#}", bound.map(drop).expect_err("a refusal"))
    }

    #[test]
    fn only_a_socket_that_is_not_in_use_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("notes"), "precious").unwrap();
        assert!(refusal(&at("notes")).contains("a regular file is there"));
        assert_eq!(fs::read(at("notes")).unwrap(), b"precious");
        symlink(at("notes"), at("link")).unwrap();
        assert!(refusal(&at("link")).contains("a symbolic link"));
        assert!(at("link").is_symlink());
        fs::create_dir(at("folder")).unwrap();
        assert!(refusal(&at("folder")).contains("a folder"));
        let datagram = UnixDatagram::bind(at("datagram")).unwrap();
        assert!(refusal(&at("datagram")).contains("remove it"));
        assert!(at("datagram").exists());
        drop(datagram);
        let (first, listener) = SocketFile::bind(at("control"), "--control").unwrap();
        assert!(refusal(&at("control")).contains("another server"));
        drop(listener);
        // As a killed server leaves it.
        std::mem::forget(first);
        let (second, _listener) = SocketFile::bind(at("control"), "--control").unwrap();
        drop(second);
        assert!(!at("control").exists());
    }

    #[test]
    fn a_server_that_does_not_accept_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let _listener = UnixListener::bind(&path).unwrap();
        let mut waiting = Vec::new();
        loop {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let connected = socket.connect(&SockAddr::unix(&path).unwrap());
            waiting.push(socket);
            if connected.is_err() {
                break;
            }
        }
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || tell.send(refusal(&path)));
        let refusal = told.recv_timeout(std::time::Duration::from_secs(30));
        assert!(refusal.unwrap().contains("does not answer"));
    }

    #[test]
    fn at_the_end_only_its_own_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let (file, _listener) = SocketFile::bind(path.clone(), "--control").unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"another's");
    }
}
