//! The servers of a run: the pool of connections to each, opened before the run,
//! and the requests that wait for one of them.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::measure::load::exchange::Wire;
use crate::measure::load::spec::{Connections, Load};
use crate::measure::load::target::{Address, Endpoint};

/// One server: connections to it, and requests that wait for one.
pub(super) struct Lane {
    pub(super) server: Endpoint,
    /// Due, and waiting for a connection.
    pub(super) waiting: VecDeque<usize>,
    /// The pool's free places, those with an open connection and those without.
    pub(super) idle: VecDeque<Option<Wire>>,
}

/// A lane for each server among the targets, with its pool, and the lane of each target.
pub(super) fn open_lanes(load: &Load, epoll: &OwnedFd) -> Result<(Vec<Lane>, Vec<usize>)> {
    let mut lanes: Vec<Lane> = Vec::new();
    let mut lane_of = Vec::with_capacity(load.targets.len());
    for server in load.targets.iter().map(|target| &target.server) {
        let known = lanes.iter().position(|lane| lane.server == *server);
        lane_of.push(known.unwrap_or(lanes.len()));
        if known.is_none() {
            lanes.push(Lane {
                server: server.clone(),
                waiting: VecDeque::new(),
                idle: open_pool(load, server, epoll)?,
            });
        }
    }
    Ok((lanes, lane_of))
}

/// Opens the pool's connections; each is watched, for nothing yet.
fn open_pool(load: &Load, server: &Endpoint, epoll: &OwnedFd) -> Result<VecDeque<Option<Wire>>> {
    let Connections::Pool(count) = load.connections else {
        return Ok(VecDeque::new());
    };
    ensure!(
        count > 0,
        "open a pool of 0 connections: it needs at least one"
    );
    let open = |nth| -> Result<Option<Wire>> {
        let wire = open_wire(server, load.timeout).with_context(|| {
            let address = &server.address;
            format!("open {count} connections to {address}: after {nth} of them")
        })?;
        let token = EventData::new_u64(super::IDLE);
        epoll::add(epoll, wire.socket(), token, EventFlags::ONESHOT)
            .context("watch a connection")?;
        Ok(Some(wire))
    };
    (0..count).map(open).collect()
}

/// A connection that is open, its TLS session included.
fn open_wire(server: &Endpoint, within: Duration) -> Result<Wire> {
    let socket: OwnedFd = match &server.address {
        Address::Tcp(address) => TcpStream::connect_timeout(address, within)?.into(),
        Address::Unix(path) => UnixStream::connect(path)?.into(),
    };
    for timeout in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&socket, timeout, Some(within)).context("set a timeout")?;
    }
    let mut wire = Wire::over(socket, server);
    wire.shake_hands().context("TLS handshake")?;
    rustix::io::ioctl_fionbio(wire.socket(), true).context("set a connection to non-blocking")?;
    Ok(wire)
}
