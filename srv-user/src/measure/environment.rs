//! Where a measurement was taken: enough to judge whether two reports can be
//! compared. Reads only; what cannot be found out is reported as unknown.

use std::fmt;
use std::process::Command;

use serde::Serialize;

use crate::measure::baseline::{nginx, srv};

/// The machine, the system and the versions.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    /// Kernel release.
    pub kernel: String,
    /// CPU model.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cores: usize,
    /// Load average over the last minute, before the bench began.
    pub load: String,
    /// Version of the binary under test, with the commit that it was built from.
    pub srv: String,
    /// Version of nginx.
    pub nginx: String,
    /// Version of wrk.
    pub wrk: String,
    /// The largest accept queue that the system allows.
    pub somaxconn: String,
}

impl Environment {
    /// Finds all of it out.
    pub fn read() -> Self {
        Self {
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            cpu: cpu_model(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load: first_word("/proc/loadavg"),
            srv: srv::executable().map_or_else(
                |error| format!("{error:#}"),
                |path| said(&path.to_string_lossy(), &["--version"]),
            ),
            nginx: nginx::version().unwrap_or_else(|error| format!("{error:#}")),
            wrk: said("wrk", &["-v"]),
            somaxconn: first_word("/proc/sys/net/core/somaxconn"),
        }
    }
}

impl Environment {
    /// What a figure depends on that no machine had a part in; as [`Self::labelled`].
    pub fn of_the_program(&self) -> Vec<(String, String)> {
        let pairs = [("srv", &self.srv)];
        pairs
            .map(|(label, value)| (label.to_owned(), value.clone()))
            .into()
    }

    /// Label and value, in the order in which to print them.
    pub fn labelled(&self) -> Vec<(String, String)> {
        let cores = self.cores.to_string();
        let pairs = [
            ("kernel", &self.kernel),
            ("CPU", &self.cpu),
            ("cores", &cores),
            ("load average before", &self.load),
            ("srv", &self.srv),
            ("nginx", &self.nginx),
            ("net.core.somaxconn", &self.somaxconn),
        ];
        pairs
            .map(|(label, value)| (label.to_owned(), value.clone()))
            .to_vec()
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "kernel {} · {} · {} cores · load {}",
            self.kernel, self.cpu, self.cores, self.load
        )?;
        writeln!(f, "{} · {} · {}", self.srv, self.nginx, self.wrk)
    }
}

fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or_else(|| "unknown CPU".into(), |(_, model)| model.to_owned())
}

fn first_word(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .next()
        .unwrap_or("unknown")
        .to_owned()
}

/// The first line that a program says, up to where wrk names its author.
fn said(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else {
        return format!("{program} unknown");
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    let line = line.split(" Copyright").next().unwrap_or_default().trim();
    if line.is_empty() {
        return format!("{program} unknown");
    }
    line.to_owned()
}
