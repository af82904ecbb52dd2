//! The command line of `srv cgi`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use crate::values::{Bytes, Count, Expected, ListenAddr, LogFormat, Period, UserName, expected};

/// A script needs some memory to be executed at all.
const MEMORY_MIN: u64 = 16 << 20;

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket.
    Unix(PathBuf),
    /// An address and a port.
    Tcp(SocketAddr),
}

impl FromStr for Listen {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => expected("an absolute path after unix:, such as unix:/run/srv-cgi/socket"),
            None => Ok(Self::Tcp(text.parse::<ListenAddr>()?.0)),
        }
    }
}

/// The permissions of a socket's file, in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(pub u32);

impl FromStr for SocketMode {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match u32::from_str_radix(text, 8) {
            Ok(mode @ 0..=0o777) => Ok(Self(mode)),
            _ => expected("permissions in octal, such as 660"),
        }
    }
}

/// A variable for scripts: one with its value, or one whose value a client may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// `None`: the client's.
    pub value: Option<String>,
}

impl FromStr for Variable {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(is_plain) {
            return expected("NAME=VALUE or NAME, such as GIT_PROJECT_ROOT=/srv/git");
        }
        Ok(Self {
            name: name.to_owned(),
            value,
        })
    }
}

/// The arguments of `srv cgi`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Which script: the client's parameter SCRIPT_FILENAME, which has to lead to an executable regular file \
beneath a --root (symbolic links out of it are refused), or to be a --script. Scripts whose names begin \
with nph- are refused.

What a script gets: the meta-variables of RFC 3875, HTTP_..., those of --env, and PATH. Other \
parameters of the client are dropped, and so is HTTP_PROXY. Its folder is the current one, its body the \
standard input. It has its own session, no other descriptors, and no new privileges. What it writes to \
standard error becomes lines of the log. What it leaves running is killed when it ends.

What a client sees: status 404, 403 or 504 with FastCGI's end of request, if the script is not there, \
cannot be executed, or is not in time. If a script is killed within its answer, srv closes the connection \
without that end, so that no client takes the part for the whole. If too many scripts run and too many \
requests wait, FCGI_OVERLOADED.

Signals: SIGTERM, SIGINT  stop: accept nothing more; scripts that run may end within --grace, then they \
are killed.

Exit codes: 0 if it was stopped. 1 if it cannot start. 2 if the command line is wrong.")]
pub struct CgiArgs {
    /// Where clients connect: unix:PATH, or an address and a port. Whatever can connect executes
    /// scripts
    #[arg(long, value_name = "unix:PATH|ADDR")]
    pub listen: Listen,

    /// Permissions of the socket's file; a client needs write permission
    #[arg(long, value_name = "MODE", default_value = "660")]
    pub socket_mode: SocketMode,

    /// A folder of scripts, repeatable
    #[arg(long, value_name = "DIR", required_unless_present = "script")]
    pub root: Vec<PathBuf>,

    /// One script, wherever it is, repeatable
    #[arg(long, value_name = "FILE")]
    pub script: Vec<PathBuf>,

    /// User that scripts run as: a name, UID or UID:GID. Needed if root starts srv cgi
    #[arg(long, value_name = "USER")]
    pub user: Option<UserName>,

    /// Set a variable for all scripts (NAME=VALUE), or let clients set it (NAME), repeatable
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<Variable>,

    /// How many scripts run at once
    #[arg(long, value_name = "N", default_value = "16")]
    pub concurrent: Count<1, 4096>,

    /// How many requests wait for a script that ends; further ones are refused as overload
    #[arg(long, value_name = "N", default_value = "64")]
    pub waiting: Count<0, 65_536>,

    /// How long a script may run. At the end it gets SIGTERM, 1s later SIGKILL
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub time_limit: Period<1>,

    /// CPU time of each process of a script [default: no bound]
    #[arg(long, value_name = "TIME")]
    pub cpu_time: Option<Period<1000>>,

    /// Address space of each process of a script [default: no bound]
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<Bytes<MEMORY_MIN>>,

    /// Processes and threads of the user, those of other programs included [default: no bound]
    #[arg(long, value_name = "N")]
    pub processes: Option<Count<1, 4_194_304>>,

    /// Size of each file that a script writes [default: no bound]
    #[arg(long, value_name = "BYTES")]
    pub file_size: Option<Bytes<0>>,

    /// What a script may write to standard output; one that writes more is killed
    #[arg(long, value_name = "BYTES", default_value = "1GiB")]
    pub output: Bytes<1024>,

    /// At a stop, how long scripts may go on
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub grace: Period<0>,

    /// Format of the log on standard error: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log: LogFormat,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_an_absolute_path_or_an_address() {
        assert_eq!("unix:/run/x".parse(), Ok(Listen::Unix("/run/x".into())));
        let address = "127.0.0.1:9000".parse().unwrap();
        assert_eq!("127.0.0.1:9000".parse(), Ok(Listen::Tcp(address)));
        for wrong in ["unix:", "unix:x", "/run/x", "9000"] {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn variables_have_names() {
        let variable = "A_1=b=c".parse::<Variable>().unwrap();
        assert_eq!(
            (variable.name.as_str(), variable.value.as_deref()),
            ("A_1", Some("b=c"))
        );
        assert_eq!("A".parse::<Variable>().unwrap().value, None);
        for wrong in ["", "=b", "A B=c", "A-B"] {
            assert!(wrong.parse::<Variable>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!("660".parse(), Ok(SocketMode(0o660)));
        for wrong in ["", "8", "1777", "-1"] {
            assert!(wrong.parse::<SocketMode>().is_err(), "{wrong}");
        }
    }
}
