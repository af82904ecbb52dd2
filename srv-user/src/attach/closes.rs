//! Loading the program that counts closed connections, and reading its counts.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use aya::Ebpf;
use aya::maps::HashMap;
use srv_common::observed::Observed;

use super::{object, tracepoint};
use srv_steer::btf;
use srv_steer::program::loader;

/// A thread: the id of its process, and its own id.
pub type Thread = (u32, u32);

/// Counts how many connections of one local port each thread closes, in all network namespaces,
/// until it is dropped. A connection that either side resets is not counted.
pub struct Closes {
    ebpf: Ebpf,
}

/// Inode number of the first PID namespace (PROC_PID_INIT_INO, include/linux/proc_ns.h).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

impl Closes {
    /// Starts to count.
    ///
    /// # Errors
    /// The kernel refuses the program or has no BTF, or this process is in a PID namespace and
    /// does not see the ids by which the program counts.
    pub fn of_port(port: u16) -> anyhow::Result<Self> {
        let namespace = std::fs::read_link("/proc/self/ns/pid");
        ensure!(
            namespace.is_ok_and(|name| name.as_os_str() == FIRST_PID_NAMESPACE),
            "count closed connections: this process is in a PID namespace of its own; start the container with --pid=host"
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
            .context("load the program that counts closed connections (this needs CAP_BPF and CAP_PERFMON: sudo)")?;
        tracepoint::attach(&mut ebpf, "count_closes")?;
        Ok(Self { ebpf })
    }

    /// How many connections each thread has closed so far.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn counts(&self) -> anyhow::Result<BTreeMap<Thread, u64>> {
        let map = self.ebpf.map("CLOSES").context("find map CLOSES")?;
        let Ok(map) = HashMap::<_, u64, u64>::try_from(map) else {
            bail!(
                "read map CLOSES: the embedded BPF object has another layout than this binary; build \
                 both with `cargo xtask build`"
            );
        };
        let split = |thread: u64| ((thread >> 32) as u32, thread as u32);
        let entries = map
            .iter()
            .map(|entry| entry.map(|(thread, count)| (split(thread), count)));
        entries.collect::<Result<_, _>>().context("read map CLOSES")
    }
}
