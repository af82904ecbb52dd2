//! What else this machine worked on while something was measured: the CPU time that
//! neither this process nor the processes that it started have used. Reads /proc.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use procfs::process::{Process, all_processes};
use procfs::{CurrentSI as _, KernelStats};

use crate::measure::result::Others;

/// So many of the busiest names are given.
const NAMED: usize = 3;
/// If the processes of a name used less than this part of the CPUs, it is not given.
const SHARE_MIN: f64 = 0.01;

/// The begin of a measurement. Times are ticks of `CLK_TCK`.
pub struct Watch {
    /// Of all CPUs, idle time included.
    all: u64,
    /// Of all processes.
    used: u64,
    /// Of this process and of its children that ended.
    own: u64,
    /// By process id and start time: name and what it has used.
    processes: BTreeMap<(i32, u64), (String, u64)>,
}

impl Watch {
    /// Begins now.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn begin() -> Result<Self> {
        let cpus = KernelStats::current().context("read /proc/stat")?.total;
        // Interrupts are left out: most of them are of the measurement's own packets.
        let used = cpus.user + cpus.nice + cpus.system;
        let interrupts = cpus.irq.unwrap_or(0) + cpus.softirq.unwrap_or(0);
        let waiting = cpus.idle + cpus.iowait.unwrap_or(0) + cpus.steal.unwrap_or(0);
        let own = Process::myself().and_then(|process| process.stat());
        let own = own.context("read /proc/self/stat")?;
        let children = (own.cutime + own.cstime).max(0) as u64;
        let own_id = (own.pid, own.starttime);
        let mut processes = BTreeMap::new();
        for process in all_processes().context("list /proc")?.flatten() {
            // One that ended meanwhile is not there at the end either.
            if let Ok(stat) = process.stat() {
                processes.insert(
                    (stat.pid, stat.starttime),
                    (stat.comm, stat.utime + stat.stime),
                );
            }
        }
        processes.remove(&own_id);
        Ok(Self {
            all: used + interrupts + waiting,
            used,
            own: own.utime + own.stime + children,
            processes,
        })
    }

    /// What others used until now. The servers of a comparison have all ended by then,
    /// so that what they used is this process's children's.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn end(&self) -> Result<Others> {
        let now = Self::begin()?;
        let all = now.all.saturating_sub(self.all).max(1) as f64;
        let own = now.own.saturating_sub(self.own);
        let used = now.used.saturating_sub(self.used).saturating_sub(own);
        let shares = self.ticks_until(&now).into_iter();
        let shares = shares.map(|(name, ticks)| (name.to_owned(), ticks as f64 / all));
        let busiest = shares.filter(|(_, share)| *share >= SHARE_MIN);
        Ok(Others {
            share: used as f64 / all,
            busiest: busiest.take(NAMED).collect(),
        })
    }

    /// What the processes of each name have used that were there at both times, the
    /// busiest first.
    fn ticks_until<'a>(&self, now: &'a Self) -> Vec<(&'a str, u64)> {
        let mut by_name: BTreeMap<&str, u64> = BTreeMap::new();
        for (id, (name, used)) in &now.processes {
            if let Some((_, before)) = self.processes.get(id) {
                *by_name.entry(name).or_default() += used.saturating_sub(*before);
            }
        }
        let mut by_name: Vec<_> = by_name.into_iter().collect();
        by_name.sort_by_key(|(_, ticks)| Reverse(*ticks));
        by_name
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::measure::baseline::child::Child;

    #[test]
    fn a_process_that_works_is_named_while_it_runs() {
        let script = "echo ready >&2; while :; do :; done";
        let mut child = Child::spawn(Command::new("dash").args(["-c", script])).unwrap();
        child.await_line("ready").unwrap();
        let watch = Watch::begin().unwrap();
        let ticks = || {
            let now = Watch::begin().unwrap();
            let ticks = watch.ticks_until(&now);
            let found = ticks.iter().find(|(name, _)| *name == "dash");
            found.map_or(0, |(_, ticks)| *ticks)
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while ticks() == 0 {
            assert!(Instant::now() < deadline, "a busy process used no time");
            std::thread::yield_now();
        }
        let others = watch.end().unwrap();
        assert!((0.0..=1.0).contains(&others.share), "{}", others.share);
    }
}
