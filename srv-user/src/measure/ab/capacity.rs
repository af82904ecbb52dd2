//! Whether this machine can generate what a scenario asks for.

use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::scenario::Scenario;
use crate::measure::load::Connections;
use crate::measure::stats::median;

/// Any machine can open this many per second.
const UNQUESTIONED: f64 = 5000.0;
/// A request costs the generator at least this many times as much as a connection alone:
/// it is also written, awaited and read.
const REQUEST_OVER_CONNECT: f64 = 2.0;

/// Refuses a rate of new connections that one thread cannot open.
///
/// # Errors
/// It cannot; the message says how many it could.
pub(super) fn check(scenario: &Scenario) -> Result<()> {
    let Some(rate) = scenario.per_second() else {
        return Ok(());
    };
    if scenario.connections != Connections::PerRequest || rate <= UNQUESTIONED {
        return Ok(());
    }
    let possible = 1.0 / (connect_s()? * REQUEST_OVER_CONNECT);
    ensure!(
        rate <= possible,
        "scenario {}: {rate} new connections per second are more than the about {possible:.0} \
         that one thread on this machine can generate: lower --rate",
        scenario.name
    );
    Ok(())
}

/// What a connection on loopback takes its client, seconds.
fn connect_s() -> Result<f64> {
    const BATCHES: usize = 5;
    const CONNECTIONS: u32 = 50;
    let listener = TcpListener::bind("127.0.0.1:0").context("listen on 127.0.0.1")?;
    let address = listener.local_addr()?;
    let mut batches = Vec::new();
    for _ in 0..BATCHES {
        let begin = Instant::now();
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            streams.push(TcpStream::connect(address).context("connect on loopback")?);
        }
        batches.push(begin.elapsed().as_secs_f64() / f64::from(CONNECTIONS));
        for _ in streams {
            listener.accept().context("accept on loopback")?;
        }
    }
    Ok(median(&batches))
}
