//! The listener of `srv cgi`, and the file of a Unix socket.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::Mode;
use tokio::io::{AsyncRead, AsyncWrite};

use super::args::{Listen, SocketMode};
use crate::serve::sandbox::User;

/// A connection, of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A listening socket.
#[derive(Debug)]
pub(super) enum Listener {
    Unix(tokio::net::UnixListener, SocketFile),
    Tcp(tokio::net::TcpListener, SocketAddr),
}

/// The file of a Unix socket, which is removed with it.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Listener {
    /// Listens. A socket on which no process listens any more is replaced. If `owner` is there, the
    /// file is its own.
    ///
    /// # Errors
    /// What the kernel says; or the name belongs to something else.
    pub(super) fn bind(
        listen: &Listen,
        SocketMode(mode): SocketMode,
        owner: Option<User>,
    ) -> anyhow::Result<Self> {
        match listen {
            Listen::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                let address = listener.local_addr()?;
                Ok(Self::Tcp(
                    tokio::net::TcpListener::from_std(listener)?,
                    address,
                ))
            }
            Listen::Unix(path) => {
                make_way(path)?;
                // No client connects before the permissions are what they are to be.
                let before = rustix::process::umask(Mode::from_raw_mode(0o177));
                let listener = std::os::unix::net::UnixListener::bind(path);
                rustix::process::umask(before);
                let listener = listener?;
                listener.set_nonblocking(true)?;
                let file = SocketFile(path.clone());
                if let Some(User { uid, gid }) = owner {
                    chown(path, Some(uid), Some(gid)).context("give the socket to --user")?;
                }
                fs::set_permissions(path, fs::Permissions::from_mode(mode))
                    .context("set the socket's permissions")?;
                Ok(Self::Unix(
                    tokio::net::UnixListener::from_std(listener)?,
                    file,
                ))
            }
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Unix(listener, _) => Box::new(listener.accept().await?.0),
            Self::Tcp(listener, _) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(_, SocketFile(path)) => write!(f, "unix:{}", path.display()),
            Self::Tcp(_, address) => write!(f, "{address}"),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Its folder may belong to another user than this process is by now.
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!("remove the socket {}: {error}", self.0.display());
        }
    }
}

/// Removes a socket that is not in use.
fn make_way(path: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("look what is there"),
        Ok(file) if file.file_type().is_socket() => {}
        Ok(_) => {
            bail!("a file is there, which srv does not replace: remove it, or pass another path")
        }
    }
    match UnixStream::connect(path) {
        Ok(_) => bail!("another process listens there: stop it, or pass another path"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).context("remove the socket of a process that has ended")
        }
        Err(error) => Err(error).context("try whether a process listens there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_without_a_listener_makes_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        make_way(&path).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let refusal = make_way(&path).unwrap_err().to_string();
        assert!(refusal.contains("another process listens"), "{refusal}");
        drop(listener);
        make_way(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        assert!(make_way(&path).is_err() && path.exists());
    }
}
