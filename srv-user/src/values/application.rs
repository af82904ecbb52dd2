//! The address of an application, and the messages for a text that is not one.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Expected, expected};

/// The longest path of a socket, bytes (unix(7): `sun_path` has 108, with the zero at the end).
const PATH_BYTES_MAX: usize = 107;

/// Where an application listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ApplicationAddr {
    /// A socket in the file system.
    Unix(PathBuf),
    /// An IP address and a port.
    Tcp(SocketAddr),
}

impl FromStr for ApplicationAddr {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                _ if !path.starts_with('/') => {
                    expected("the absolute path of a socket after unix:, as in unix:/run/app.sock")
                }
                ..=PATH_BYTES_MAX => Ok(Self::Unix(path.into())),
                _ => expected(format!("a path of at most {PATH_BYTES_MAX} bytes")),
            };
        }
        if text.starts_with('/') {
            return expected(format!(
                "unix: before the path of a socket, as in unix:{text}"
            ));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(Self::Tcp(address)),
            _ => expected(
                "unix: and the path of a socket, such as unix:/run/php/php-fpm.sock, or an IP \
                 address and a port, such as 127.0.0.1:9000; names are not looked up",
            ),
        }
    }
}

impl fmt::Display for ApplicationAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_kinds_parse_and_are_written_alike() {
        for text in ["unix:/run/php/php8.2-fpm.sock", "127.0.0.1:9000", "[::1]:1"] {
            let address: ApplicationAddr = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_an_address_lacks_is_said() {
        let long = format!("unix:/{}", "x".repeat(PATH_BYTES_MAX));
        for (text, says) in [
            ("/run/app.sock", "unix:/run/app.sock"),
            ("unix:run/app.sock", "absolute path"),
            (long.as_str(), "107 bytes"),
            ("localhost:9000", "not looked up"),
            ("127.0.0.1", "and a port"),
            ("127.0.0.1:0", "and a port"),
        ] {
            let said = text.parse::<ApplicationAddr>().unwrap_err().to_string();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
