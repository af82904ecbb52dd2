//! The command line of `srv admin`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Args;

use super::{Server, find};
use crate::admin::{Inheritance, answer_for, answer_inherited};
use crate::serve::sandbox::User;
use crate::values::{AdminAddr, ListenAddr, LogFormat, UserName};

/// The arguments of `srv admin`.
#[derive(Debug, Args)]
#[command(after_help = "\
A server starts such a process by itself (`srv serve --admin`). By hand one can be started for a \
server that has none, or at a further address. It ends by SIGTERM or SIGINT.

Exit codes: 0 if a signal ended it. 1 if srv found no server, or cannot listen. 2 if the command \
line is wrong.")]
pub struct AdminArgs {
    /// The server or agent to answer for: the path of its control socket, or the address that it
    /// serves or steers [default: the only one]
    #[arg(long, value_name = "NAME", conflicts_with = "inherits")]
    pub of: Option<Of>,

    /// Where to answer: an address and a port, or unix: and a path
    #[arg(
        long,
        value_name = "ADDR",
        required_unless_present = "inherits",
        conflicts_with = "inherits"
    )]
    pub listen: Option<AdminAddr>,

    /// Format of the log on standard error: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log: LogFormat,

    /// The number of sockets that a server has opened for it
    #[arg(long, hide = true)]
    pub inherits: Option<u32>,

    /// The user to become
    #[arg(long, hide = true, requires = "inherits")]
    pub user: Option<UserName>,
}

/// How a server is named in one word.
#[derive(Clone, Debug)]
pub enum Of {
    /// By the address that it serves or steers.
    Address(SocketAddr),
    /// By its control socket.
    Control(PathBuf),
}

impl FromStr for Of {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.parse() {
            Ok(ListenAddr(address)) => Self::Address(address),
            Err(_) => Self::Control(text.into()),
        })
    }
}

impl AdminArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// There is no such server, or the process cannot begin.
    pub fn run(&self) -> anyhow::Result<()> {
        if let Some(sockets) = self.inherits {
            let user = self.user.as_ref().map(|name| User::named(&name.0));
            return answer_inherited(&Inheritance {
                sockets,
                user: user.transpose().context("become the user")?,
                log: self.log,
            });
        }
        let Some(listen) = &self.listen else {
            bail!("answer nowhere: pass --listen");
        };
        let control = match &self.of {
            Some(Of::Address(address)) => find::on(*address)?,
            Some(Of::Control(path)) => path.clone(),
            None => find::one(&Server {
                control: None,
                listen: None,
            })?,
        };
        answer_for(control, listen, self.log)
    }
}
