//! Warnings about settings that this machine does not fulfil. srv logs them once, at the start.

use rustix::process::{Resource, getrlimit};

use crate::serve::config::Settings;

/// File descriptors that a worker needs beside connections, listeners and memory: the channel,
/// epoll, and the files that it sends.
const OTHERS: u64 = 32;
/// `TFO_SERVER_ENABLE` (include/net/tcp.h).
const FAST_OPEN_SERVER: u32 = 0x2;

/// Logs a warning for each setting that has no effect, or less effect than it says. There are
/// `listeners` at each address.
pub(super) fn warn(settings: &Settings, listeners: usize) {
    let fast_open = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen");
    let files = getrlimit(Resource::Nofile).maximum;
    let own = OTHERS + settings.listen.len() as u64 * (1 + listeners as u64);
    let doubts = [
        fast_open_doubt(settings.fast_open, &fast_open.unwrap_or_default()),
        connections_doubt(settings.serving.limits.connections, files, own),
    ];
    for doubt in doubts.into_iter().flatten() {
        tracing::warn!("{doubt}");
    }
}

fn fast_open_doubt(asked: u32, sysctl: &str) -> Option<String> {
    let flags: u32 = sysctl.trim().parse().ok()?;
    (asked > 0 && flags & FAST_OPEN_SERVER == 0).then(|| {
        format!(
            "--fast-open {asked} has no effect: net.ipv4.tcp_fastopen is {flags}, which does not \
             include the bit for servers: run `sysctl -w net.ipv4.tcp_fastopen={}`",
            flags | FAST_OPEN_SERVER
        )
    })
}

fn connections_doubt(asked: u32, files: Option<u64>, own: u64) -> Option<String> {
    let files = files?;
    let possible = files.saturating_sub(own).max(1);
    (possible < u64::from(asked)).then(|| {
        format!(
            "each worker holds {possible} connections at most, not {asked}: the hard limit of \
             open files is {files}: raise it (`ulimit -Hn`, or LimitNOFILE= in a unit)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_no_effect_is_doubted() {
        for (asked, sysctl) in [(0, "1\n"), (16, "3\n"), (16, "2\n"), (16, "")] {
            assert_eq!(fast_open_doubt(asked, sysctl), None);
        }
        let doubt = fast_open_doubt(16, "1\n").unwrap();
        assert!(doubt.contains("tcp_fastopen=3"), "{doubt}");
        assert_eq!(connections_doubt(1000, None, 50), None);
        assert_eq!(connections_doubt(974, Some(1024), 50), None);
        let doubt = connections_doubt(975, Some(1024), 50).unwrap();
        assert!(
            doubt.contains("974 connections at most, not 975"),
            "{doubt}"
        );
        assert!(connections_doubt(2, Some(20), 50).is_some());
    }
}
