//! The loads of `bench sites`. Each says how many requests a server answered; none is for latency.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use srv::measure::load::Figures;
use srv_tests::server::binary;
use srv_tests::wrk::Wrk;

use crate::servers::{FILE, Running, SCRIPT};

/// Connections at a time, of all loads but those with streams.
const CONNECTIONS: u32 = 64;
/// Clients that make handshakes: each makes the next when it has its answer.
const CLIENTS: u32 = 16;
/// Connections with streams, and streams of each.
const STREAMED: (u32, u32) = (4, 100);

/// What is asked of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// A file, by TLS, on connections that stay.
    TlsKept,
    /// A file, on a TLS connection of its own, with a full handshake.
    TlsFull,
    /// A file, on a TLS connection of its own, which continues an earlier session.
    TlsResumed,
    /// A file, by HTTP/2 over TLS, 100 streams at a time.
    Http2,
    /// What a PHP script says, by plain HTTP/1.1, on connections that stay.
    FastCgi,
}

impl Load {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [
        Self::TlsKept,
        Self::TlsFull,
        Self::TlsResumed,
        Self::Http2,
        Self::FastCgi,
    ];

    /// Its name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TlsKept => "TLS, kept alive",
            Self::TlsFull => "TLS, full handshakes",
            Self::TlsResumed => "TLS, resumed sessions",
            Self::Http2 => "HTTP/2, 100 streams",
            Self::FastCgi => "FastCGI, kept alive",
        }
    }

    /// How many requests the server answered in this time.
    ///
    /// # Errors
    /// A tool is not installed, or requests failed.
    pub(crate) fn run(self, server: &Running, duration: Duration) -> Result<u64> {
        match self {
            Self::TlsKept => wrk(&format!("https://{}{FILE}", server.tls), duration),
            Self::FastCgi => wrk(&format!("http://{}{SCRIPT}", server.plain), duration),
            Self::TlsFull => handshakes(server, duration, false),
            Self::TlsResumed => handshakes(server, duration, true),
            Self::Http2 => streams(server, duration),
        }
    }
}

fn wrk(url: &str, duration: Duration) -> Result<u64> {
    let wrk = Wrk {
        connections: CONNECTIONS,
        duration,
        close: false,
    };
    let seen = wrk.run_url(url)?;
    ensure!(seen.errors() == 0, "wrk saw errors: {seen:?}");
    Ok(seen.requests)
}

fn handshakes(server: &Running, duration: Duration, resumes: bool) -> Result<u64> {
    let mut command = Command::new(binary()?);
    command.args(["load", "--insecure", "--json", "--clients"]);
    command.arg(CLIENTS.to_string());
    command
        .arg("--duration")
        .arg(format!("{}s", duration.as_secs()));
    command.args(resumes.then_some("--resume"));
    command.arg(format!("https://{}{FILE}", server.tls));
    let output = command.output().context("run srv load")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "srv load: {}: {said}",
        output.status
    );
    let figures: Figures = serde_json::from_slice(&output.stdout).context("read its figures")?;
    ensure!(
        figures.lost.is_empty(),
        "srv load lost requests: {:?}",
        figures.lost
    );
    let resumed = figures.resumed.unwrap_or(0);
    ensure!(
        !resumes || resumed * 10 >= figures.answered * 9,
        "only {resumed} of {} sessions were resumed",
        figures.answered
    );
    Ok(figures.answered as u64)
}

fn streams(server: &Running, duration: Duration) -> Result<u64> {
    let (connections, streams) = STREAMED;
    let mut command = Command::new("h2load");
    command.args(["--clients", &connections.to_string()]);
    command.args(["--max-concurrent-streams", &streams.to_string()]);
    command.args(["--duration", &duration.as_secs().to_string()]);
    let output = command
        .arg(format!("https://{}{FILE}", server.tls))
        .output();
    let output = output.context("h2load is not installed: apt-get install nghttp2-client")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "h2load: {}: {said}", output.status);
    ensure!(
        said.contains("Application protocol: h2"),
        "no HTTP/2: {said}"
    );
    // status codes: 51234 2xx, 0 3xx, 0 4xx, 0 5xx
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("status codes: "));
    let answered = line.and_then(|line| line.split(" 2xx").next()?.parse().ok());
    let answered = answered.with_context(|| format!("read what h2load says: {said}"))?;
    ensure!(answered > 0, "h2load got no answer: {said}");
    Ok(answered)
}
