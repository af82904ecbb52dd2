//! The arms of a comparison: a server under a name, started anew for each
//! round, and the order in which a round runs them.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use rustix::process::Pid;

use crate::floor::{self, Floor};
use crate::nginx::{self, Nginx};
use crate::server::Server;

/// One arm of a comparison.
#[derive(Clone, Debug)]
pub struct Arm {
    /// Its name in the report.
    pub name: &'static str,
    /// What runs.
    pub server: Kind,
}

/// Which server an arm runs.
#[derive(Clone, Debug)]
pub enum Kind {
    /// srv, with these arguments to `srv serve`.
    Srv(Vec<String>),
    /// nginx.
    Nginx(nginx::Options),
    /// The floor.
    Floor(floor::Options),
}

/// An arm's server while it runs; dropping it stops it.
#[derive(Debug)]
pub enum Running {
    /// srv.
    Srv(Server),
    /// nginx.
    Nginx(Nginx),
    /// The floor.
    Floor(Floor),
}

impl Arm {
    /// srv with `arguments`, separated by spaces.
    pub fn srv(name: &'static str, arguments: &str) -> Self {
        let arguments = arguments.split_whitespace().map(str::to_owned).collect();
        Self {
            name,
            server: Kind::Srv(arguments),
        }
    }

    /// nginx with `options`.
    pub fn nginx(name: &'static str, options: nginx::Options) -> Self {
        Self {
            name,
            server: Kind::Nginx(options),
        }
    }

    /// The floor with `options`.
    pub fn floor(name: &'static str, options: floor::Options) -> Self {
        Self {
            name,
            server: Kind::Floor(options),
        }
    }

    /// The same server under another name: the A/A control.
    pub fn as_control(&self, name: &'static str) -> Self {
        Self {
            name,
            server: self.server.clone(),
        }
    }

    /// Starts its server and waits until it is ready.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn start(&self) -> Result<Running> {
        let started = match &self.server {
            Kind::Srv(arguments) => Server::start(arguments).map(Running::Srv),
            Kind::Nginx(options) => {
                Nginx::start(Ipv4Addr::LOCALHOST.into(), options).map(Running::Nginx)
            }
            Kind::Floor(options) => Floor::start(options).map(Running::Floor),
        };
        started.with_context(|| format!("start arm `{}`", self.name))
    }
}

impl Running {
    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Srv(server) => server.address(),
            Self::Nginx(nginx) => nginx.address(),
            Self::Floor(floor) => floor.address(),
        }
    }

    /// The master's process id.
    pub fn pid(&self) -> Pid {
        match self {
            Self::Srv(server) => server.pid(),
            Self::Nginx(nginx) => nginx.pid(),
            Self::Floor(floor) => floor.pid(),
        }
    }
}

/// The arms in the order of round `round`: each round begins with another one,
/// so that none always runs after the same neighbour's warm caches.
pub fn in_round<A>(arms: &[A], round: usize) -> impl Iterator<Item = (usize, &A)> {
    let numbered = arms.iter().enumerate();
    numbered.cycle().skip(round % arms.len()).take(arms.len())
}
