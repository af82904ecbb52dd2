//! Where a server answers HTTP about itself, and the messages for a text that says no such place.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Expected, ListenAddr, expected};

/// The longest path of a socket, bytes (unix(7): `sun_path` has 108, with the zero at the end).
const PATH_BYTES_MAX: usize = 107;
/// How the names of Unix admin sockets end.
const ENDINGS: [&str; 2] = ["admin", "admin.sock"];

/// Where to answer: an address, a Unix socket, or nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum AdminAddr {
    /// An IP address and a port; port 0 is any free one.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
    /// Nowhere.
    None,
}

/// Whether a Unix socket of this name is an admin socket and no control socket.
pub fn is_admin_socket(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    ENDINGS
        .iter()
        .any(|ending| name.ends_with(ending.as_bytes()))
}

impl AdminAddr {
    /// The same with an absolute path: it means the same file in every folder.
    ///
    /// # Errors
    /// The current folder does not exist any more.
    pub fn anchored(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(path) => Self::Unix(std::path::absolute(path)?),
            other => other.clone(),
        })
    }
}

impl FromStr for AdminAddr {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        if text == "none" {
            return Ok(Self::None);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => expected("the path of a socket after unix:, as in unix:/run/srv/admin.sock"),
                _ if !is_admin_socket(Path::new(path)) => expected(
                    "a name that ends in admin or admin.sock, by which `srv status` tells this \
                     socket from a control socket, as in unix:/run/srv/admin.sock",
                ),
                1..=PATH_BYTES_MAX => Ok(Self::Unix(path.into())),
                _ => expected(format!("a path of at most {PATH_BYTES_MAX} bytes")),
            };
        }
        if text.contains('/') && !text.contains("://") {
            return expected(format!(
                "unix: before the path of a socket, as in unix:{text}"
            ));
        }
        text.parse().map(|ListenAddr(address)| Self::Tcp(address))
    }
}

impl fmt::Display for AdminAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::None => f.write_str("none"),
        }
    }
}

impl From<AdminAddr> for String {
    fn from(address: AdminAddr) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for AdminAddr {
    type Error = Expected;

    fn try_from(text: String) -> Result<Self, Expected> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_all_kinds_parse_and_are_written_alike() {
        for text in [
            "127.0.0.1:9000",
            "[::1]:0",
            "unix:/run/admin.sock",
            "unix:a.admin",
            "none",
        ] {
            let address: AdminAddr = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_an_address_lacks_is_said() {
        let long = format!("unix:/{}/admin", "x".repeat(PATH_BYTES_MAX));
        for (text, says) in [
            ("/run/admin.sock", "unix:/run/admin.sock"),
            ("unix:", "after unix:"),
            ("unix:/run/80.sock", "ends in admin"),
            (long.as_str(), "107 bytes"),
            ("localhost:9000", "not looked up"),
            ("9000", "127.0.0.1:9000"),
        ] {
            let said = text.parse::<AdminAddr>().unwrap_err().to_string();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
