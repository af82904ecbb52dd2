//! The tracepoint of TCP state changes, to which the programs that count connections are attached.

use anyhow::Context as _;
use aya::programs::BtfTracePoint;
use aya::{Btf, Ebpf};

/// `include/trace/events/sock.h`.
const STATE_CHANGE: &str = "inet_sock_set_state";

/// Loads the program called `name`, and makes the kernel run it at each state change. The kernel
/// stops when `ebpf` is dropped.
///
/// # Errors
/// There is no such program, or the kernel has no such tracepoint or refuses the program.
pub(super) fn attach(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<()> {
    let btf = Btf::from_sys_fs().context("read the kernel's BTF")?;
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("find the program {name} in the BPF object"))?;
    let program: &mut BtfTracePoint = program.try_into()?;
    program.load(STATE_CHANGE, &btf).with_context(|| {
        format!("load the program {name} (this needs CAP_BPF and CAP_PERFMON: sudo)")
    })?;
    program
        .attach()
        .with_context(|| format!("attach the program {name} to the tracepoint {STATE_CHANGE}"))?;
    Ok(())
}
