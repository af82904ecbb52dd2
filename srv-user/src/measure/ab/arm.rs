//! The arms of `srv ab`: ways of distributing connections to workers, by name, and which
//! of them can run here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Pid;
use srv_common::Policy;
use tempfile::TempDir;

use super::scenario::Scenario;
use crate::attach;
use crate::control::attached::Attachment;
use crate::control::{self, Reply, Request};
use crate::measure::arrivals::Service;
use crate::measure::baseline::child::Child;
use crate::measure::baseline::nginx::{Content, Options};
use crate::measure::baseline::{BaselineServer, haproxy, nginx, python, srv};
use crate::measure::load::Connections;
use crate::measure::result::{ArmRole, label};
use crate::measure::simulate;
use srv_steer::AcceptMode;
use srv_steer::program;

/// One way of distributing connections to workers.
#[derive(Clone, Debug)]
pub struct Arm {
    /// Its name on the command line.
    pub name: String,
    /// Whether it is compared, or repeats another arm as the control.
    pub role: ArmRole,
    kind: Kind,
    /// Whether `srv attach` steers it.
    is_attached: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Srv(Policy, AcceptMode),
    Nginx { reuseport: bool },
    Haproxy,
    Python(python::Program),
}

/// An arm's server while it runs; dropping it stops it.
#[derive(Debug)]
pub struct Running {
    /// Dropped first, as it detaches.
    _agent: Option<Agent>,
    server: BaselineServer,
}

/// A running `srv attach`; dropping it detaches.
#[derive(Debug)]
struct Agent {
    _child: Child,
    // Held: dropping it removes the folder, in which its control socket is.
    _folder: TempDir,
}

/// What runs if no arm is named. The first is the subject, which is run again as the
/// control.
pub const DEFAULT: &str = "least+ring,hash,shared,least,nginx,nginx-reuseport";

/// Whether this process may steer, if one of `arms` needs that. A comparison that leaves
/// out the arms that it is about is not what was asked for.
///
/// # Errors
/// It may not; the message says why, and how to go on.
pub fn ensure_can_steer(arms: &[Arm]) -> Result<()> {
    let steering = arms.iter().filter(|arm| arm.steers());
    let names: Vec<&str> = steering.map(|arm| arm.name.as_str()).collect();
    if names.is_empty() {
        return Ok(());
    }
    program::SelectProgram::load().map(drop).with_context(|| {
        format!(
            "the arms {} steer, and this process cannot: run srv ab as root, or leave such arms \
             out with --unsteered",
            names.join(", ")
        )
    })
}

const SLEEPS_ONLY: &str = "its handler sleeps; it has none that burns CPU";

impl Arm {
    /// `POLICY`, `POLICY+own`, `POLICY+ring`, `ring` (hash and the ring), an
    /// accept mode with one socket, or a baseline server.
    ///
    /// # Errors
    /// There is no such arm; the message says what there is.
    pub fn by_name(name: &str) -> Result<Self> {
        let (server, is_attached) = match name.strip_suffix("+attach") {
            Some("nginx") => ("nginx-reuseport", true),
            Some(server) => (server, true),
            None => (name, false),
        };
        let kind = match server {
            "nginx" => Kind::Nginx { reuseport: false },
            "nginx-reuseport" => Kind::Nginx { reuseport: true },
            "haproxy" => Kind::Haproxy,
            "gunicorn" => Kind::Python(python::Program::Gunicorn),
            "granian" => Kind::Python(python::Program::Granian),
            "ring" => Kind::Srv(Policy::Hash, AcceptMode::Ring),
            "shared" => Kind::Srv(Policy::Hash, AcceptMode::Shared),
            "shared-herd" => Kind::Srv(Policy::Hash, AcceptMode::SharedHerd),
            "blocking" => Kind::Srv(Policy::Hash, AcceptMode::Blocking),
            _ => {
                let (policy, accept) = server.split_once('+').unwrap_or((server, "own"));
                let accept = match accept {
                    "own" => AcceptMode::Own,
                    "ring" => AcceptMode::Ring,
                    _ => bail!(
                        "no arm is called `{name}`: a policy may be followed by +own or \
                         +ring, a baseline server by +attach"
                    ),
                };
                let Some((_, policy)) = Policy::NAMED.iter().find(|(known, _)| *known == policy)
                else {
                    let policies: Vec<&str> = Policy::NAMED.iter().map(|(name, _)| *name).collect();
                    bail!(
                        "no arm is called `{name}`; there are the policies {} (each also with \
                         +ring), ring, shared, shared-herd, blocking, nginx, nginx-reuseport, \
                         haproxy, gunicorn, granian; of these nginx, haproxy, gunicorn and \
                         granian also with +attach, which `srv attach` steers",
                        policies.join(", ")
                    );
                };
                Kind::Srv(*policy, accept)
            }
        };
        ensure!(
            !is_attached || !matches!(kind, Kind::Srv(..)),
            "no arm is called `{name}`: srv steers itself"
        );
        Ok(Self {
            name: name.to_owned(),
            role: ArmRole::Candidate,
            kind,
            is_attached,
        })
    }

    /// The same once more, as the A/A control.
    pub fn as_control(&self) -> Self {
        Self {
            role: ArmRole::Control,
            ..self.clone()
        }
    }

    /// How it is called where people read it.
    pub fn label(&self) -> String {
        label(&self.name, self.role)
    }

    /// Its counterpart in the simulation.
    ///
    /// # Errors
    /// It is a baseline server, or a policy that depends on what is not simulated.
    pub fn simulated(&self) -> Result<simulate::Dispatch> {
        match self.kind {
            Kind::Srv(Policy::Hermes, _) => bail!(
                "arm {} cannot be simulated: it depends on what workers publish in their loops; \
                 name other arms with --arms",
                self.name
            ),
            Kind::Srv(policy, accept) => Ok(simulate::Dispatch { policy, accept }),
            Kind::Nginx { .. } | Kind::Haproxy | Kind::Python(_) => bail!(
                "arm {} cannot be simulated, only srv's own arms can: name other arms with --arms",
                self.name
            ),
        }
    }

    /// Whether it is srv.
    pub fn is_srv(&self) -> bool {
        matches!(self.kind, Kind::Srv(..))
    }

    /// Whether its server keeps connections for further requests.
    pub fn keeps_connections(&self) -> bool {
        !matches!(self.kind, Kind::Python(python::Program::Gunicorn))
    }

    /// What runs, with its version.
    pub fn about(&self) -> String {
        let about = self.about_server();
        match self.is_attached {
            true => format!("{about}, unmodified, steered by srv attach"),
            false => about,
        }
    }

    fn about_server(&self) -> String {
        match &self.kind {
            Kind::Srv(policy, accept) => format!(
                "srv {}, --policy {} --accept {}",
                env!("SRV_VERSION"),
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
            Kind::Python(server) => {
                let version = server.version().unwrap_or_else(|_| server.name().into());
                format!("{version}, a socket per worker")
            }
        }
    }

    /// Whether it needs a program in the kernel.
    fn steers(&self) -> bool {
        self.is_attached || matches!(self.kind, Kind::Srv(policy, _) if policy != Policy::Hash)
    }

    /// Why it cannot take part in `scenario` here, if so.
    pub fn obstacle(&self, scenario: &Scenario) -> Option<String> {
        let attached = self
            .is_attached
            .then(|| attach::programs::Programs::load(Policy::Least));
        if let Some(Err(error)) = attached {
            return Some(format!("srv attach cannot load its program: {error:#}"));
        }
        match &self.kind {
            Kind::Srv(Policy::Hash, _) => None,
            Kind::Srv(..) => {
                let error = program::SelectProgram::load().err()?;
                Some(format!(
                    "steering cannot be loaded: {error:#} (see `srv doctor`)"
                ))
            }
            Kind::Nginx { reuseport } => {
                if scenario.spins {
                    return Some(SLEEPS_ONLY.into());
                }
                let required = nginx::require(&self.nginx_options(scenario, *reuseport));
                required.err().map(|error| format!("{error:#}"))
            }
            Kind::Haproxy if scenario.service != Service::Fixed(0) => {
                Some("it has no handler that keeps a worker busy".into())
            }
            Kind::Haproxy => haproxy::version().err().map(|error| format!("{error:#}")),
            Kind::Python(_) if scenario.spins => Some(SLEEPS_ONLY.into()),
            Kind::Python(_)
                if scenario.connections != Connections::PerRequest && !self.keeps_connections() =>
            {
                Some("it does not keep connections alive".into())
            }
            Kind::Python(server) => server.version().err().map(|error| format!("{error:#}")),
        }
    }

    /// Starts it on `host` and waits until it is ready.
    ///
    /// # Errors
    /// It does not start; the message carries what it said.
    pub fn start(&self, scenario: &Scenario, host: Option<IpAddr>) -> Result<Running> {
        let host = host.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let start = || -> Result<Running> {
            let server = self.start_server(scenario, host)?;
            let agent = self.is_attached.then(|| attach(server.address()));
            Ok(Running {
                _agent: agent.transpose()?,
                server,
            })
        };
        start().with_context(|| format!("start arm {}", self.name))
    }

    fn start_server(&self, scenario: &Scenario, host: IpAddr) -> Result<BaselineServer> {
        match &self.kind {
            Kind::Srv(policy, accept) => {
                let workers = scenario.workers.to_string();
                let listen = SocketAddr::new(host, 0).to_string();
                srv::start([
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
            }
            Kind::Nginx { reuseport } => {
                nginx::start(host, &self.nginx_options(scenario, *reuseport))
            }
            Kind::Haproxy => haproxy::start(host, scenario.workers),
            Kind::Python(server) => python::start(*server, host, scenario.workers),
        }
    }

    fn nginx_options(&self, scenario: &Scenario, reuseport: bool) -> Options {
        Options {
            workers: scenario.workers,
            reuseport,
            deferred: true,
            // As srv, nginx is not to close keep-alive connections.
            tuning: "keepalive_requests 1000000;",
            content: Content::Work,
        }
    }
}

/// Steers the server that listens on `address`, as a user would.
fn attach(address: SocketAddr) -> Result<Agent> {
    let folder = tempfile::tempdir().context("create a temporary folder")?;
    let control = folder.path().join("control");
    let mut command = Command::new(srv::executable()?);
    command.args(["attach", "--listen", &address.to_string(), "--control"]);
    command.arg(&control);
    let mut child = Child::spawn(command.env("NO_COLOR", "1").env_remove("RUST_LOG"))?;
    child.await_ready("the program is attached", || {
        Ok(match control::ask(Some(&control), &Request::Status) {
            Ok(Reply::Attached(status)) => {
                (status.program.attachment == Attachment::Attached).then_some(())
            }
            // It has not opened the socket yet.
            _ => None,
        })
    })?;
    Ok(Agent {
        _child: child,
        _folder: folder,
    })
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
        self.server.address()
    }

    /// The master's process id.
    pub fn pid(&self) -> Pid {
        self.server.pid()
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
        let control = Arm::by_name("least+ring").unwrap().as_control();
        assert_eq!(control.label(), "least+ring (control)");
        for name in [
            "p2c+ring",
            "source",
            "blocking",
            "haproxy",
            "nginx+attach",
            "haproxy+attach",
            "gunicorn+attach",
            "granian",
            "round-robin+own",
        ] {
            assert_eq!(Arm::by_name(name).unwrap().name, name);
        }
        for (names, part) in [
            ("leest", "there are the policies hash"),
            ("least+rung", "+own or +ring"),
            ("least+attach", "steers itself"),
            ("hash,hash", "named twice"),
            (" , ", "no arms"),
        ] {
            let error = list(names).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
