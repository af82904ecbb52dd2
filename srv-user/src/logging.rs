//! The log: lines on standard error, as text or JSON, of master, workers and agents. No
//! line of it ends or delays the process that writes it ([`stderr`]).

mod filter;
mod stderr;

use std::fmt;
use std::io::{self, IsTerminal as _};

pub use stderr::{catch_up, complain};

/// Starts logging. `RUST_LOG` filters; without it, lines from level info on are written.
/// From now on no write to standard error waits, and a panic is a line, too.
pub fn start(json: bool) {
    stderr::open(json);
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => {
                stderr::report(format_args!("{panic}\n{backtrace}"));
            }
            _ => stderr::report(format_args!("{panic}")),
        }
    }));
    let asked = std::env::var("RUST_LOG").unwrap_or_default();
    let (filter, not_understood) = filter::parse(&asked);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Line)
        // It would be printed by a macro that panics.
        .log_internal_errors(false)
        .with_target(false);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(io::stderr().is_terminal()).init();
    }
    for directive in not_understood {
        tracing::warn!("RUST_LOG: `{directive}` is not understood and has no effect");
    }
}

/// Takes one line per write, as the formatter writes.
struct Line;

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        stderr::write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line that no tracing event produces.
struct Plain<'a> {
    level: &'static str,
    text: fmt::Arguments<'a>,
    /// Lines that were lost before it.
    lost: Option<u64>,
}

impl Plain<'_> {
    /// Formats the line as tracing-subscriber formats its own.
    fn format(&self, json: bool) -> String {
        let now = humantime::format_rfc3339_micros(std::time::SystemTime::now());
        if !json {
            return format!("{now} {:>5} {}\n", self.level, self.text);
        }
        let mut fields = serde_json::json!({ "message": self.text.to_string() });
        if let Some(lost) = self.lost {
            fields["lost_lines"] = lost.into();
        }
        let now = now.to_string();
        let line = serde_json::json!({ "timestamp": now, "level": self.level, "fields": fields });
        format!("{line}\n")
    }
}
