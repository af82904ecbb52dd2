//! What the kernel counts when listeners can take no more: TcpExt's ListenOverflows and
//! ListenDrops, of the whole network namespace. (A listener's own `sk_drops` is of no use here:
//! with TCP_DEFER_ACCEPT it counts the last ACK of every handshake.)

use std::io;

/// Counts since the machine started, or between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overflow {
    /// An accept queue was full.
    pub overflows: u64,
    /// SYNs and handshakes dropped at a listener for that reason or another,
    /// such as a full SYN queue.
    pub drops: u64,
}

impl Overflow {
    /// Asks the kernel.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn read() -> io::Result<Self> {
        const PATH: &str = "/proc/self/net/netstat";
        let text = std::fs::read_to_string(PATH)?;
        parse(&text).ok_or_else(|| io::Error::other(format!("there is no ListenDrops in {PATH}")))
    }

    /// What has been counted since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            overflows: self.overflows.saturating_sub(before.overflows),
            drops: self.drops.saturating_sub(before.drops),
        }
    }
}

/// A line of names and a line of values.
fn parse(text: &str) -> Option<Overflow> {
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |name| {
        let mut pairs = names.split(' ').zip(values.split(' '));
        pairs.find(|pair| pair.0 == name)?.1.parse().ok()
    };
    Some(Overflow {
        overflows: value("ListenOverflows")?,
        drops: value("ListenDrops")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_by_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 7 8 9\n\
                    IpExt: InNoRoutes\nIpExt: 1\n";
        let counts = Overflow {
            overflows: 8,
            drops: 9,
        };
        assert_eq!(parse(text), Some(counts));
        assert_eq!(parse("TcpExt: A\nTcpExt: 1\n"), None);
    }
}
