//! Loading the program that counts closes, and reading what it has counted.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use aya::maps::HashMap;
use aya::programs::BtfTracePoint;
use aya::{Btf, Ebpf};
use srv_common::observed::Observed;

use super::btf;
use super::object;
use srv_steer::program::loader;

/// A thread, by its process's id and its own.
pub type Thread = (u32, u32);

/// Counts, for as long as it lives, which thread closes how many connections of one
/// local port, in any network namespace. A connection that either side resets is not counted.
pub struct Closes {
    ebpf: Ebpf,
}

/// Inode number of the first PID namespace (PROC_PID_INIT_INO, include/linux/proc_ns.h).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

impl Closes {
    /// Begins to count.
    ///
    /// # Errors
    /// The kernel refuses the program, lacks BTF, or this process does not see the ids
    /// that the kernel would count by.
    pub fn of_port(port: u16) -> anyhow::Result<Self> {
        let namespace = std::fs::read_link("/proc/self/ns/pid");
        ensure!(
            namespace.is_ok_and(|name| name.as_os_str() == FIRST_PID_NAMESPACE),
            "count closes: this process is in a PID namespace of its own (docker run --pid=host)"
        );
        let kernel = btf::Btf::of_kernel()?;
        let observed = Observed {
            port: port.into(),
            skc_num: kernel.offset("sock.__sk_common.skc_num")?,
        };
        let words = observed.words();
        let mut loader = loader();
        let loader = loader.override_global("OBSERVED", &words[..], true);
        let loaded = loader.load(object::built()?);
        let mut ebpf = loaded
            .context("load the program that counts closes (needs CAP_BPF and CAP_PERFMON)")?;
        attach(&mut ebpf)?;
        Ok(Self { ebpf })
    }

    /// What each thread has closed so far.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counts(&self) -> anyhow::Result<BTreeMap<Thread, u64>> {
        let map = self.ebpf.map("CLOSES").context("find map CLOSES")?;
        let Ok(map) = HashMap::<_, u64, u64>::try_from(map) else {
            bail!("map CLOSES has another layout than this binary: `cargo xtask build`");
        };
        let split = |thread: u64| ((thread >> 32) as u32, thread as u32);
        let entries = map
            .iter()
            .map(|entry| entry.map(|(thread, count)| (split(thread), count)));
        entries.collect::<Result<_, _>>().context("read map CLOSES")
    }
}

fn attach(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    let btf = Btf::from_sys_fs().context("read the kernel's BTF")?;
    let program = ebpf.program_mut("count_closes");
    let program: &mut BtfTracePoint = program.context("find program count_closes")?.try_into()?;
    program
        .load("inet_sock_set_state", &btf)
        .context("load the program that counts closes (needs CAP_BPF and CAP_PERFMON)")?;
    program
        .attach()
        .context("attach to tracepoint inet_sock_set_state")?;
    Ok(())
}
