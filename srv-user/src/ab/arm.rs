//! The arms of `srv ab`: ways of handing connections to workers, by name, and
//! what can run here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Pid;
use srv_common::Policy;

use super::scenario::Scenario;
use crate::arrivals::Service;
use crate::config::AcceptMode;
use crate::peer::haproxy::{self, Haproxy};
use crate::peer::nginx::{self, Content, Nginx, Options};
use crate::peer::server::Server;
use crate::{simulate, steer};

/// One way of handing connections to workers.
#[derive(Clone, Debug)]
pub struct Arm {
    /// Its name on the command line.
    pub name: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Srv(Policy, AcceptMode),
    Nginx { reuseport: bool },
    Haproxy,
}

/// An arm's server while it runs; dropping it stops it.
#[derive(Debug)]
pub enum Running {
    /// srv.
    Srv(Server),
    /// nginx.
    Nginx(Nginx),
    /// HAProxy.
    Haproxy(Haproxy),
}

/// What runs if nobody says: the subject first, so that it is the control too.
pub const DEFAULT: &str = "least+ring,hash,least,nginx,nginx-reuseport";

impl Arm {
    /// `POLICY`, `POLICY+own`, `POLICY+ring`, `ring` (hash behind the ring), an
    /// accept mode with one socket, or a peer.
    ///
    /// # Errors
    /// There is no such arm; the message says what there is.
    pub fn by_name(name: &str) -> Result<Self> {
        let kind = match name {
            "nginx" => Kind::Nginx { reuseport: false },
            "nginx-reuseport" => Kind::Nginx { reuseport: true },
            "haproxy" => Kind::Haproxy,
            "ring" => Kind::Srv(Policy::Hash, AcceptMode::Ring),
            "shared" => Kind::Srv(Policy::Hash, AcceptMode::Shared),
            "shared-herd" => Kind::Srv(Policy::Hash, AcceptMode::SharedHerd),
            "blocking" => Kind::Srv(Policy::Hash, AcceptMode::Blocking),
            _ => {
                let (policy, accept) = name.split_once('+').unwrap_or((name, "own"));
                let accept = match accept {
                    "own" => AcceptMode::Own,
                    "ring" => AcceptMode::Ring,
                    _ => bail!("no arm is called `{name}`: behind the + comes own or ring"),
                };
                let Some((_, policy)) = Policy::NAMED.iter().find(|(known, _)| *known == policy)
                else {
                    let policies: Vec<&str> = Policy::NAMED.iter().map(|(name, _)| *name).collect();
                    bail!(
                        "no arm is called `{name}`; there are the policies {} (each also with \
                         +ring), ring, shared, shared-herd, blocking, nginx, nginx-reuseport, haproxy",
                        policies.join(", ")
                    );
                };
                Kind::Srv(*policy, accept)
            }
        };
        Ok(Self {
            name: name.to_owned(),
            kind,
        })
    }

    /// The same once more, under another name: as the A/A control.
    pub fn again(&self) -> Self {
        Self {
            name: format!("{} again", self.name),
            kind: self.kind.clone(),
        }
    }

    /// Its counterpart in the simulation.
    ///
    /// # Errors
    /// It is a peer, of which only srv's own arms know the inside.
    pub fn simulated(&self) -> Result<simulate::Arm> {
        match self.kind {
            Kind::Srv(policy, accept) => Ok(simulate::Arm { policy, accept }),
            Kind::Nginx { .. } | Kind::Haproxy => bail!(
                "arm {} cannot be simulated, only srv's own can: name others with --arms",
                self.name
            ),
        }
    }

    /// Whether it is srv.
    pub fn is_srv(&self) -> bool {
        matches!(self.kind, Kind::Srv(..))
    }

    /// What runs, with its version.
    pub fn about(&self) -> String {
        match &self.kind {
            Kind::Srv(policy, accept) => format!(
                "srv {}, --policy {} --accept {}",
                env!("CARGO_PKG_VERSION"),
                policy.name(),
                accept.name()
            ),
            Kind::Nginx { reuseport } => {
                let listen = if *reuseport {
                    "a socket per worker"
                } else {
                    "one socket"
                };
                let version = nginx::version().unwrap_or_else(|_| "nginx".into());
                format!("{version}, {listen}")
            }
            Kind::Haproxy => {
                let version = haproxy::version().unwrap_or_else(|_| "HAProxy".into());
                format!("{version}, shards by-thread")
            }
        }
    }

    /// Why it cannot take part in `scenario` here, if so.
    pub fn obstacle(&self, scenario: &Scenario) -> Option<String> {
        match &self.kind {
            Kind::Srv(Policy::Hash, _) => None,
            Kind::Srv(..) => {
                let error = steer::Steering::load().err()?;
                Some(format!(
                    "steering cannot be loaded: {error:#} (see `srv doctor`)"
                ))
            }
            Kind::Nginx { reuseport } => {
                if scenario.spins {
                    return Some("its handler sleeps; it has none that burns CPU".into());
                }
                let required = nginx::require(&self.nginx_options(scenario, *reuseport));
                required.err().map(|error| format!("{error:#}"))
            }
            Kind::Haproxy if scenario.service != Service::Fixed(0) => {
                Some("it has no handler that keeps a worker".into())
            }
            Kind::Haproxy => haproxy::version().err().map(|error| format!("{error:#}")),
        }
        .or_else(|| {
            let foreign = !self.is_srv() && scenario.rtt.is_some();
            foreign.then(|| "only srv is placed behind the delayed path".into())
        })
    }

    /// Starts it on `host` and waits until it is ready.
    ///
    /// # Errors
    /// It does not start; the message carries what it said.
    pub fn start(&self, scenario: &Scenario, host: Option<IpAddr>) -> Result<Running> {
        let started = match &self.kind {
            Kind::Srv(policy, accept) => {
                let host = host.unwrap_or(Ipv4Addr::LOCALHOST.into());
                let workers = scenario.workers.to_string();
                let listen = SocketAddr::new(host, 0).to_string();
                Server::start([
                    "--listen",
                    &listen,
                    "--workers",
                    &workers,
                    "--policy",
                    policy.name(),
                    "--accept",
                    accept.name(),
                    "--synthetic",
                    "--worker-header",
                ])
                .map(Running::Srv)
            }
            Kind::Nginx { reuseport } => {
                Nginx::start(&self.nginx_options(scenario, *reuseport)).map(Running::Nginx)
            }
            Kind::Haproxy => Haproxy::start(scenario.workers).map(Running::Haproxy),
        };
        started.with_context(|| format!("start arm {}", self.name))
    }

    fn nginx_options(&self, scenario: &Scenario, reuseport: bool) -> Options {
        Options {
            workers: scenario.workers,
            reuseport,
            deferred: true,
            // Kept connections are to be kept as long as srv keeps them.
            tuning: "keepalive_requests 1000000;",
            content: Content::Work,
        }
    }
}

/// The arms of a list like [`DEFAULT`].
///
/// # Errors
/// One is unknown, named twice, or there is none.
pub fn list(names: &str) -> Result<Vec<Arm>> {
    let mut arms: Vec<Arm> = Vec::new();
    for name in names
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        let arm = Arm::by_name(name)?;
        ensure!(
            arms.iter().all(|other| other.name != arm.name),
            "arm {name} is named twice: the control is added by itself"
        );
        arms.push(arm);
    }
    ensure!(!arms.is_empty(), "no arms: name some, such as {DEFAULT}");
    Ok(arms)
}

impl Running {
    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Srv(server) => server.address(),
            Self::Nginx(nginx) => nginx.address(),
            Self::Haproxy(haproxy) => haproxy.address(),
        }
    }

    /// The master's process id.
    pub fn pid(&self) -> Pid {
        match self {
            Self::Srv(server) => server.pid(),
            Self::Nginx(nginx) => nginx.pid(),
            Self::Haproxy(haproxy) => haproxy.pid(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_are_found_by_name() {
        let names: Vec<String> = list(DEFAULT)
            .unwrap()
            .into_iter()
            .map(|arm| arm.name)
            .collect();
        assert_eq!(names.join(","), DEFAULT);
        let control = Arm::by_name("least+ring").unwrap().again();
        assert_eq!(control.name, "least+ring again");
        for name in [
            "p2c+ring",
            "source",
            "blocking",
            "haproxy",
            "round-robin+own",
        ] {
            assert_eq!(Arm::by_name(name).unwrap().name, name);
        }
        for (names, part) in [
            ("leest", "there are the policies hash"),
            ("least+rung", "own or ring"),
            ("hash,hash", "named twice"),
            (" , ", "no arms"),
        ] {
            let error = list(names).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
