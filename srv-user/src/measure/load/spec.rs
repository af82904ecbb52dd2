//! What a run is to send, where, and when. Plain data: knows neither the generator nor
//! what becomes of the requests.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::closed::Closed;
use super::statuses::Statuses;
use super::target::{Address, Endpoint, Target};
use crate::measure::arrivals::Draw;

/// What to send where.
#[derive(Clone, Debug)]
pub struct Load {
    /// What is asked for: request n asks for target n, and after the last for
    /// the first again.
    pub targets: Vec<Target>,
    /// Which connections requests are sent on.
    pub connections: Connections,
    /// After its scheduled instant a request has this long.
    pub timeout: Duration,
    /// Statuses that count as a success.
    pub success: Statuses,
}

/// Which connections requests are sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// A new one each, with `Connection: close`.
    PerRequest,
    /// This many to each server, opened beforehand and kept alive. A request takes
    /// the one that has been idle longest, and waits if all are in use.
    Pool(usize),
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerRequest => write!(f, "a new one for each request"),
            Self::Pool(count) => write!(f, "{count}, kept alive"),
        }
    }
}

/// When requests are due.
#[derive(Clone, Copy, Debug)]
pub enum Pace<'a> {
    /// At these instants, in order.
    Open(&'a [Draw]),
    /// When a client has nothing to wait for.
    Closed(&'a Closed),
}

impl Load {
    /// GETs of `path` from the server at `address`: a new connection each, 10 s
    /// for a response, which has to be a 200.
    pub fn get(address: SocketAddr, path: impl Into<String>) -> Self {
        let target = Target {
            server: Endpoint {
                address: Address::Tcp(address),
                tls: None,
            },
            method: "GET".into(),
            host: address.to_string(),
            path: path.into(),
            headers: Vec::new(),
            body: None,
        };
        Self {
            targets: vec![target],
            connections: Connections::PerRequest,
            timeout: Duration::from_secs(10),
            success: Statuses::ok(),
        }
    }

    /// Whether the clients of `closed` can send this.
    ///
    /// # Errors
    /// There is no client, the run would have no end, or there are fewer connections than
    /// clients.
    pub(crate) fn check(&self, closed: &Closed) -> Result<()> {
        let clients = closed.clients;
        ensure!(clients > 0, "run 0 clients: at least one is needed");
        ensure!(
            closed.duration.is_some() || closed.requests.is_some(),
            "run {clients} clients without end: a duration or a number of requests is needed"
        );
        if let Connections::Pool(count) = self.connections {
            ensure!(
                count >= clients,
                "run {clients} clients over {count} keep-alive connections: each client needs \
                 its own; open at least {clients}"
            );
        }
        Ok(())
    }
}
