//! wrk, the closed-loop load tool: for how fast and at what cost a server
//! answers when it is never idle. Not for latency: it waits for answers before
//! it asks again and so hides queues.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

/// How to load.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Wrk {
    /// Connections at a time.
    pub connections: u32,
    /// Whole seconds.
    pub duration: Duration,
    /// Whether each request closes its connection.
    pub close: bool,
}

/// What wrk saw.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Responses.
    pub requests: u64,
    /// How long it really ran, µs.
    pub duration_us: u64,
    /// Connections that did not come about.
    pub connect_errors: u64,
    /// Connections that broke while reading.
    pub read_errors: u64,
    /// Connections that broke while writing.
    pub write_errors: u64,
    /// Responses that took longer than 2 s.
    pub timeouts: u64,
    /// Responses of status 400 or more.
    pub status_errors: u64,
}

/// Prints the summary for machines instead of scraping the one for people.
const SCRIPT: &str = r#"
function done(summary, latency, requests)
  local e = summary.errors
  io.stderr:write(string.format('{"requests":%d,"duration_us":%d,"connect_errors":%d,' ..
    '"read_errors":%d,"write_errors":%d,"timeouts":%d,"status_errors":%d}\n',
    summary.requests, summary.duration, e.connect, e.read, e.write, e.timeout, e.status))
end
"#;

impl Wrk {
    /// Loads `path` of the server, from one thread.
    ///
    /// # Errors
    /// wrk is not installed, failed, or got no response at all.
    pub fn run(&self, server: SocketAddr, path: &str) -> Result<Seen> {
        self.run_url(&format!("http://{server}{path}"))
    }

    /// Loads `url`, which may be of https, from one thread. It takes any certificate.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_url(&self, url: &str) -> Result<Seen> {
        let folder = tempfile::tempdir().context("create a temporary folder")?;
        let script = folder.path().join("done.lua");
        std::fs::write(&script, SCRIPT).context("write wrk's script")?;
        let mut command = Command::new("wrk");
        command.args([
            "--threads",
            "1",
            "--connections",
            &self.connections.to_string(),
        ]);
        command.args(["--duration", &format!("{}s", self.duration.as_secs())]);
        if self.close {
            command.args(["--header", "Connection: close"]);
        }
        command.arg("--script").arg(&script);
        let output = command.arg(url).output().context(
            "wrk is not installed; `cargo xtask bench` installs it, or: apt-get install wrk",
        )?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "wrk: {}: {said}", output.status);
        let seen: Seen =
            serde_json::from_str(&said).with_context(|| format!("read wrk's summary `{said}`"))?;
        ensure!(seen.requests > 0, "wrk got no response from {url}: {said}");
        Ok(seen)
    }
}

impl Seen {
    /// Requests that got no good response.
    pub fn errors(&self) -> u64 {
        self.connect_errors
            + self.read_errors
            + self.write_errors
            + self.timeouts
            + self.status_errors
    }

    /// Responses per second.
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / (self.duration_us as f64 / 1e6)
    }
}
