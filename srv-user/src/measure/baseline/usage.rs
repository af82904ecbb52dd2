//! What a process and all its descendants have used, CPU time and memory, and
//! what the whole machine had to give, as the kernel accounts them. Reads
//! /proc, changes nothing.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use procfs::process::{Process, all_processes};
use procfs::{CurrentSI as _, KernelStats};
use rustix::process::Pid;

/// A process and its descendants, as they were when it was taken.
#[derive(Debug)]
pub struct Tree {
    processes: Vec<Process>,
}

/// Resident memory, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// Proportional set size: shared pages count in part.
    pub pss_bytes: u64,
    /// Anonymous pages: heap and stacks, written copies of mapped files.
    pub anonymous_bytes: u64,
}

impl Tree {
    /// The process `root` and all its descendants.
    ///
    /// # Errors
    /// There is no such process, or /proc cannot be read.
    pub fn of(root: Pid) -> Result<Self> {
        let root = root.as_raw_nonzero().get();
        let mut children: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
        for process in all_processes().context("list /proc")?.flatten() {
            // One that ended meanwhile is no descendant any more.
            if let Ok(stat) = process.stat() {
                children.entry(stat.ppid).or_default().push(process);
            }
        }
        let mut processes = vec![Process::new(root).with_context(|| format!("read /proc/{root}"))?];
        let mut next = 0;
        while let Some(process) = processes.get(next) {
            next += 1;
            let own = children.remove(&process.pid()).unwrap_or_default();
            processes.extend(own);
        }
        Ok(Self { processes })
    }

    /// Their process ids, the root's first.
    pub fn pids(&self) -> impl Iterator<Item = Pid> {
        self.processes
            .iter()
            .filter_map(|process| Pid::from_raw(process.pid))
    }

    /// User and system time of all threads, ns.
    ///
    /// # Errors
    /// One of the processes ended: its time is lost to accounting.
    pub fn cpu_ns(&self) -> Result<u64> {
        let mut sum_ns = 0;
        for process in &self.processes {
            let pid = process.pid;
            // A process that has ended is listed until its parent has waited for it.
            let is_dead = process.stat().is_ok_and(|stat| stat.state == 'Z');
            ensure!(!is_dead, "read CPU time of {pid}: it has ended");
            for task in process
                .tasks()
                .with_context(|| format!("read CPU time of {pid}"))?
            {
                let schedstat = task.and_then(|task| task.schedstat());
                sum_ns += schedstat
                    .with_context(|| format!("read CPU time of {pid}"))?
                    .sum_exec_runtime;
            }
        }
        Ok(sum_ns)
    }

    /// Resident memory of all processes.
    ///
    /// # Errors
    /// One of the processes ended.
    pub fn memory(&self) -> Result<Memory> {
        let mut memory = Memory::default();
        for process in &self.processes {
            let pid = process.pid;
            let rollup = process
                .smaps_rollup()
                .with_context(|| format!("read /proc/{pid}/smaps_rollup"))?;
            for map in &rollup.memory_map_rollup {
                let bytes = |key: &str| map.extension.map.get(key).copied().unwrap_or(0);
                memory.pss_bytes += bytes("Pss");
                memory.anonymous_bytes += bytes("Anonymous");
            }
        }
        Ok(memory)
    }

    /// How many processes, `root` included.
    pub fn len(&self) -> usize {
        self.processes.len()
    }

    /// Never: a tree has its root.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }
}

/// What the CPUs of this machine have spent so far, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct MachineTime {
    all: u64,
    /// Given to other guests (`steal` in proc_stat(5)).
    by_hypervisor: u64,
}

impl MachineTime {
    /// Since boot.
    ///
    /// # Errors
    /// `/proc/stat` cannot be read.
    pub fn now() -> Result<Self> {
        let cpus = KernelStats::current().context("read /proc/stat")?.total;
        let by_hypervisor = cpus.steal.unwrap_or(0);
        let waiting = cpus.idle + cpus.iowait.unwrap_or(0);
        let interrupts = cpus.irq.unwrap_or(0) + cpus.softirq.unwrap_or(0);
        let working = cpus.user + cpus.nice + cpus.system + interrupts;
        Ok(Self {
            all: working + waiting + by_hypervisor,
            by_hypervisor,
        })
    }

    /// The part of the time from then to now that the hypervisor gave to
    /// others, 0 to 1 (`steal` in proc_stat(5)).
    ///
    /// # Errors
    /// `/proc/stat` cannot be read.
    pub fn hypervisor_share_since(self) -> Result<f64> {
        let now = Self::now()?;
        let taken = now.by_hypervisor.saturating_sub(self.by_hypervisor);
        Ok(taken as f64 / now.all.saturating_sub(self.all).max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::measure::baseline::child::Child;

    #[test]
    fn a_tree_holds_descendants_and_their_usage() {
        let script = "sh -c 'echo ready >&2; while :; do :; done'; :";
        let mut child = Child::spawn(Command::new("sh").args(["-c", script])).unwrap();
        child.await_line("ready").unwrap();
        let tree = Tree::of(child.pid()).unwrap();
        assert_eq!(tree.len(), 2);
        assert!(tree.memory().unwrap().pss_bytes > 100_000);
        let before_ns = tree.cpu_ns().unwrap();
        while tree.cpu_ns().unwrap() < before_ns + 1_000_000 {
            std::thread::yield_now();
        }
        // The inner shell does not hear of the outer one's end.
        for process in &tree.processes[1..] {
            let pid = Pid::from_raw(process.pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
}
