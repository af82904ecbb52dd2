//! The arms of `srv ab`: ways of distributing connections to workers, by name, and which
//! of them can run here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Pid;
use srv_common::Policy;
use srv_common::histogram::Snapshot;
use tempfile::TempDir;

use super::baselines::{self, Baseline};
use super::scenario::Scenario;
use crate::attach;
use crate::control::attached::Attachment;
use crate::control::{self, Reply, Request};
use crate::measure::baseline::child::Child;
use crate::measure::baseline::launch::{Launch, NO_BPF};
use crate::measure::baseline::{BaselineServer, srv};
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
}

#[derive(Clone, Debug)]
enum Kind {
    Srv(Policy, AcceptMode),
    Baseline(Baseline, Way),
}

/// What steers a baseline server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nothing.
    Plain,
    /// `srv attach`, from outside.
    Attach,
    /// `srv run` with these flags, which starts it.
    Run(&'static [&'static str]),
}

/// The ways that follow a baseline server's name.
const WAYS: [(&str, Way); 4] = [
    ("+attach", Way::Attach),
    ("+run", Way::Run(&[])),
    ("+run-hash", Way::Run(&[NO_BPF])),
    ("+run-capacity", Way::Run(&["--capacity", "1"])),
];

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

impl Arm {
    /// `POLICY`, `POLICY+own`, `POLICY+ring`, `ring` (hash and the ring), an
    /// accept mode with one socket, or a baseline server, plain or with one of [`WAYS`].
    ///
    /// # Errors
    /// There is no such arm; the message says what there is.
    pub fn by_name(name: &str) -> Result<Self> {
        let (server, way) = split(name);
        let kind = match Baseline::by_name(server) {
            Some(baseline) => Kind::Baseline(way.checked(name, baseline)?, way),
            None => {
                let (policy, accept) = srv_mode(name, server)?;
                ensure!(
                    way == Way::Plain,
                    "no arm is called `{name}`: srv steers itself"
                );
                Kind::Srv(policy, accept)
            }
        };
        Ok(Self {
            name: name.to_owned(),
            role: ArmRole::Candidate,
            kind,
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
            Kind::Baseline(..) => bail!(
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
        match self.kind {
            Kind::Srv(..) => true,
            Kind::Baseline(baseline, _) => baseline.keeps_connections(),
        }
    }

    /// What runs, with its version.
    pub fn about(&self) -> String {
        match self.kind {
            Kind::Srv(policy, accept) => format!(
                "srv {}, --policy {} --accept {}",
                env!("SRV_VERSION"),
                policy.name(),
                accept.name()
            ),
            Kind::Baseline(baseline, way) => format!("{}{}", baseline.about(), way.about()),
        }
    }

    /// Whether it needs a program in the kernel.
    fn steers(&self) -> bool {
        match self.kind {
            Kind::Srv(policy, _) => policy != Policy::Hash,
            Kind::Baseline(_, way) => way.steers(),
        }
    }

    /// Why it cannot take part in `scenario` here, if so.
    pub fn obstacle(&self, scenario: &Scenario) -> Option<String> {
        let loaded = match self.kind {
            Kind::Baseline(_, Way::Attach) => attach::programs::Programs::load(Policy::Least)
                .map(drop)
                .context("srv attach cannot load its program"),
            _ if self.steers() => program::SelectProgram::load()
                .map(drop)
                .context("steering cannot be loaded (see `srv doctor`)"),
            _ => Ok(()),
        };
        if let Err(error) = loaded {
            return Some(format!("{error:#}"));
        }
        match self.kind {
            Kind::Srv(..) => None,
            Kind::Baseline(baseline, _) => baseline.obstacle(scenario),
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
            let is_attached = matches!(self.kind, Kind::Baseline(_, Way::Attach));
            let agent = is_attached.then(|| attach(server.address()));
            Ok(Running {
                _agent: agent.transpose()?,
                server,
            })
        };
        start().with_context(|| format!("start arm {}", self.name))
    }

    fn start_server(&self, scenario: &Scenario, host: IpAddr) -> Result<BaselineServer> {
        match self.kind {
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
            Kind::Baseline(baseline, way) => baseline.start(scenario, host, way.launch()),
        }
    }
}

impl Way {
    /// The baseline server that is steered in this way if an arm has the name of `baseline`.
    fn checked(self, name: &str, baseline: Baseline) -> Result<Baseline> {
        // It has been called `nginx+attach` since before there was another way.
        let baseline = match (self, baseline) {
            (Self::Attach, Baseline::Nginx { .. }) => Baseline::Nginx { reuseport: true },
            _ => baseline,
        };
        ensure!(
            self != Self::Attach || baseline.has_own_sockets(),
            "no arm is called `{name}`: its workers share one socket, and `srv attach` needs a \
             socket for each; `srv run` does not"
        );
        Ok(baseline)
    }

    fn steers(self) -> bool {
        match self {
            Self::Plain => false,
            Self::Attach => true,
            Self::Run(flags) => !flags.contains(&NO_BPF),
        }
    }

    fn launch(self) -> Launch {
        match self {
            Self::Plain | Self::Attach => Launch::Plain,
            Self::Run(flags) => Launch::Run(flags),
        }
    }

    fn about(self) -> String {
        match self {
            Self::Plain => String::new(),
            Self::Attach => ", unmodified, steered by srv attach".into(),
            Self::Run(flags) => {
                let flags: String = flags.iter().map(|flag| format!(" {flag}")).collect();
                format!(", unmodified, under srv run{flags}")
            }
        }
    }
}

/// The server that an arm's name begins with, and what steers it.
fn split(name: &str) -> (&str, Way) {
    let mut ways = WAYS.into_iter();
    let found = ways.find_map(|(suffix, way)| Some((name.strip_suffix(suffix)?, way)));
    found.unwrap_or((name, Way::Plain))
}

/// The policy and the accept mode of the arm `name`, which is srv: `server` without its suffix.
fn srv_mode(name: &str, server: &str) -> Result<(Policy, AcceptMode)> {
    match server {
        "ring" => return Ok((Policy::Hash, AcceptMode::Ring)),
        "shared" => return Ok((Policy::Hash, AcceptMode::Shared)),
        "shared-herd" => return Ok((Policy::Hash, AcceptMode::SharedHerd)),
        "blocking" => return Ok((Policy::Hash, AcceptMode::Blocking)),
        _ => {}
    }
    let (policy, accept) = server.split_once('+').unwrap_or((server, "own"));
    let accept = match accept {
        "own" => AcceptMode::Own,
        "ring" => AcceptMode::Ring,
        _ => bail!(
            "no arm is called `{name}`: a policy may be followed by +own or +ring, a baseline \
             server by {}",
            WAYS.map(|(suffix, _)| suffix).join(" or ")
        ),
    };
    let mut policies = Policy::NAMED.iter();
    let Some((_, policy)) = policies.find(|(known, _)| *known == policy) else {
        let policies: Vec<&str> = Policy::NAMED.iter().map(|(name, _)| *name).collect();
        bail!(
            "no arm is called `{name}`; there are the policies {} (each also with +ring), ring, \
             shared, shared-herd, blocking, and the baseline servers {} (each also with +run, \
             +run-hash and +run-capacity; those whose workers have a socket each also with +attach)",
            policies.join(", "),
            baselines::NAMED.map(|(name, _)| name).join(", ")
        );
    };
    Ok((*policy, accept))
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

    /// The process id of the coordinator, if the server runs under `srv run`.
    pub fn coordinator(&self) -> Option<Pid> {
        self.server.coordinator()
    }

    /// For how long connections waited until a worker accepted them, if the arm is srv's own server
    /// and knows.
    pub fn accept_delay(&self) -> Option<Snapshot> {
        srv::accept_delay(&self.server)
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
            "nginx+run",
            "nginx-reuseport+run-hash",
            "uvicorn+run",
            "granian+run-capacity",
            "node",
            "node-none+run",
        ] {
            assert_eq!(Arm::by_name(name).unwrap().name, name);
        }
        for (names, part) in [
            ("leest", "there are the policies hash"),
            ("least+rung", "+own or +ring"),
            ("least+attach", "steers itself"),
            ("least+run", "steers itself"),
            ("uvicorn+attach", "share one socket"),
            ("gunicorn+runs", "+run"),
            ("hash,hash", "named twice"),
            (" , ", "no arms"),
        ] {
            let error = list(names).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_arm_steers_unless_its_way_leaves_that_out() {
        for (name, steers) in [
            ("least", true),
            ("ring", false),
            ("nginx", false),
            ("nginx+attach", true),
            ("nginx+run", true),
            ("nginx+run-hash", false),
            ("granian+run-capacity", true),
        ] {
            assert_eq!(Arm::by_name(name).unwrap().steers(), steers, "{name}");
        }
        let about = Arm::by_name("node+run-hash").unwrap().about();
        assert!(about.ends_with("under srv run --no-bpf"), "{about}");
    }
}
