//! One log, as the log writer has it: its outlet, and the lines that wait for room there. They are
//! bounded; a line beyond that is lost.

use std::io;

use super::outlet::Outlet;
use crate::values::{AccessLog, AccessLogFormat};

/// The most bytes that wait for room.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// A log.
pub(super) struct Sink {
    log: AccessLog,
    /// `None`: it could not be opened.
    outlet: Option<Outlet>,
    lines: Vec<u8>,
    /// How many bytes of `lines` were written.
    written_bytes: usize,
    /// Why it takes no lines now.
    trouble: Option<String>,
    /// Whether it must be opened anew.
    is_stale: bool,
}

/// What became of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) written: u64,
    pub(super) lost: u64,
}

impl Sink {
    /// Opens a log. If it cannot be opened, its lines are lost, and the log says why.
    pub(super) fn open(log: AccessLog) -> Self {
        let (outlet, trouble) = match Outlet::open(&log.to) {
            Ok(outlet) => (Some(outlet), None),
            Err(error) => (None, Some(error.to_string())),
        };
        if let Some(trouble) = &trouble {
            tracing::error!(
                "open access log {}: {trouble}; its lines are lost until it can be opened (srv tries \
                 again every 10 s)",
                log.to
            );
        }
        Self {
            is_stale: outlet.is_none(),
            log,
            outlet,
            lines: Vec::new(),
            written_bytes: 0,
            trouble,
        }
    }

    pub(super) fn format(&self) -> AccessLogFormat {
        self.log.format
    }

    /// Whether it must be opened anew.
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Whether lines wait for room.
    pub(super) fn has_lines(&self) -> bool {
        self.written_bytes < self.lines.len()
    }

    /// Adds a line, which `write` writes. False: there is no room, and it is lost.
    pub(super) fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        if self.is_stale || self.lines.len() - self.written_bytes >= WAITING_BYTES_MAX {
            return false;
        }
        write(&mut self.lines);
        true
    }

    /// Writes what there is room for.
    pub(super) fn flush(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        let rest = &self.lines[self.written_bytes..];
        let Some(outlet) = self.outlet.as_mut().filter(|_| !rest.is_empty()) else {
            return outcome;
        };
        let (taken, result) = outlet.write(rest);
        outcome.written = lines_in(&rest[..taken]);
        self.written_bytes += taken;
        let recovers = result
            .as_ref()
            .err()
            .is_none_or(|error| outlet.recovers_from(error));
        self.note(result);
        if !recovers {
            self.is_stale = true;
            outcome.lost = self.give_up();
        }
        if !self.has_lines() {
            self.lines.clear();
            self.written_bytes = 0;
        } else if self.written_bytes >= WAITING_BYTES_MAX {
            self.lines.drain(..self.written_bytes);
            self.written_bytes = 0;
        }
        outcome
    }

    /// Gives up the lines that wait: how many they are.
    pub(super) fn give_up(&mut self) -> u64 {
        let lost = lines_in(&self.lines[self.written_bytes..]);
        self.lines.clear();
        self.written_bytes = 0;
        lost
    }

    /// Says when writing fails, and when it works again.
    fn note(&mut self, result: io::Result<()>) {
        let trouble = result.err().map(|error| error.to_string());
        let to = &self.log.to;
        match (&self.trouble, &trouble) {
            (None, Some(trouble)) => tracing::error!(
                "write access log {to}: {trouble}; up to 1 MiB of lines waits, and what does not fit \
                 is lost"
            ),
            (Some(_), None) => tracing::info!("write access log {to}: it works again"),
            _ => {}
        }
        self.trouble = trouble;
    }
}

fn lines_in(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::AccessLogTo;

    fn sink(path: &str) -> Sink {
        Sink::open(AccessLog {
            to: AccessLogTo::File(path.into()),
            format: AccessLogFormat::Common,
        })
    }

    #[test]
    fn each_line_is_written_or_lost() {
        let mut full = sink("/dev/full");
        let mut added = 0;
        while full.add(|lines| lines.extend_from_slice(b"0123456\n")) {
            added += 1;
            if added % 1000 == 0 {
                assert_eq!(full.flush(), Outcome::default());
            }
        }
        assert_eq!(added * 8, WAITING_BYTES_MAX as u64);
        full.outlet = sink("/dev/null").outlet;
        let outcome = full.flush();
        assert_eq!((outcome.written, outcome.lost), (added, 0));
        assert!(!full.has_lines() && full.trouble.is_none());
    }

    #[test]
    fn one_that_cannot_be_opened_takes_nothing_and_is_stale() {
        let mut absent = sink("/nowhere/at/all");
        assert!(!absent.add(|lines| lines.push(b'\n')) && absent.is_stale());
        assert_eq!(absent.flush(), Outcome::default());
    }
}
