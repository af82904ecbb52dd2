//! The baseline servers by the names that `srv ab` has for them: which of them can take part in a
//! scenario, and how each is started. Knows nothing of what steers them.

use std::net::IpAddr;

use anyhow::Result;

use super::scenario::Scenario;
use crate::measure::arrivals::Service;
use crate::measure::baseline::launch::Launch;
use crate::measure::baseline::nginx::{Content, Options};
use crate::measure::baseline::node::{self, Scheduling};
use crate::measure::baseline::python::{self, Program};
use crate::measure::baseline::{BaselineServer, haproxy, nginx};
use crate::measure::load::Connections;

/// A baseline server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Baseline {
    Nginx { reuseport: bool },
    Haproxy,
    Python(Program),
    Node(Scheduling),
}

/// All of them, by name.
pub(super) const NAMED: [(&str, Baseline); 9] = [
    ("nginx", Baseline::Nginx { reuseport: false }),
    ("nginx-reuseport", Baseline::Nginx { reuseport: true }),
    ("haproxy", Baseline::Haproxy),
    ("gunicorn", Baseline::Python(Program::Gunicorn)),
    ("gunicorn-shared", Baseline::Python(Program::GunicornShared)),
    ("uvicorn", Baseline::Python(Program::Uvicorn)),
    ("granian", Baseline::Python(Program::Granian)),
    ("node", Baseline::Node(Scheduling::RoundRobin)),
    ("node-none", Baseline::Node(Scheduling::None)),
];

const SLEEPS_ONLY: &str = "its handler sleeps; it has none that burns CPU";

impl Baseline {
    pub(super) fn by_name(name: &str) -> Option<Self> {
        let mut all = NAMED.into_iter();
        all.find(|(known, _)| *known == name)
            .map(|(_, baseline)| baseline)
    }

    /// Whether its workers have a listening socket each, among which `srv attach` can choose.
    pub(super) fn has_own_sockets(self) -> bool {
        match self {
            Self::Nginx { reuseport } => reuseport,
            Self::Haproxy => true,
            Self::Python(program) => program.has_own_sockets(),
            Self::Node(_) => false,
        }
    }

    /// Whether it keeps connections for further requests.
    pub(super) fn keeps_connections(self) -> bool {
        !matches!(
            self,
            Self::Python(Program::Gunicorn | Program::GunicornShared)
        )
    }

    /// What runs, with its version.
    pub(super) fn about(self) -> String {
        let named = |version: Result<String>, name: &str| version.unwrap_or_else(|_| name.into());
        match self {
            Self::Nginx { .. } => {
                let version = named(nginx::version(), "nginx");
                format!("{version}, {}", self.sockets())
            }
            Self::Haproxy => {
                let version = named(haproxy::version(), "HAProxy");
                format!("{version}, shards by-thread")
            }
            Self::Python(program) => {
                let version = named(program.version(), program.name());
                format!("{version}, {}", self.sockets())
            }
            Self::Node(scheduling) => {
                let version = named(node::version(), "Node.js");
                let policy = scheduling.name();
                format!("{version}, a cluster, NODE_CLUSTER_SCHED_POLICY={policy}")
            }
        }
    }

    fn sockets(self) -> &'static str {
        match self.has_own_sockets() {
            true => "a socket per worker",
            false => "one socket",
        }
    }

    /// Why it cannot take part in `scenario` here, if so.
    pub(super) fn obstacle(self, scenario: &Scenario) -> Option<String> {
        if self == Self::Haproxy && scenario.service != Service::Fixed(0) {
            return Some("it has no handler that keeps a worker busy".into());
        }
        if self != Self::Haproxy && scenario.spins {
            return Some(SLEEPS_ONLY.into());
        }
        if scenario.connections != Connections::PerRequest && !self.keeps_connections() {
            return Some("it does not keep connections alive".into());
        }
        let installed = match self {
            Self::Nginx { reuseport } => nginx::require(&nginx_options(scenario, reuseport)),
            Self::Haproxy => haproxy::version().map(drop),
            Self::Python(program) => program.version().map(drop),
            Self::Node(_) => node::version().map(drop),
        };
        installed.err().map(|error| format!("{error:#}"))
    }

    /// Starts it on `host` and waits until it is ready.
    pub(super) fn start(
        self,
        scenario: &Scenario,
        host: IpAddr,
        launch: Launch,
    ) -> Result<BaselineServer> {
        let workers = scenario.workers;
        match self {
            Self::Nginx { reuseport } => {
                nginx::start(host, &nginx_options(scenario, reuseport), launch)
            }
            Self::Haproxy => haproxy::start(host, workers, launch),
            Self::Python(program) => python::start(program, host, workers, launch),
            Self::Node(scheduling) => node::start(scheduling, host, workers, launch),
        }
    }
}

fn nginx_options(scenario: &Scenario, reuseport: bool) -> Options {
    Options {
        workers: scenario.workers,
        reuseport,
        deferred: true,
        // As srv, nginx is not to close keep-alive connections.
        tuning: "keepalive_requests 1000000;".to_owned(),
        content: Content::Work,
    }
}
