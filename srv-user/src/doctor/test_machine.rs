//! The machines of the tests: one that lacks nothing, and variants of it that differ in one fact.

use rustix::thread::CapabilitySet;

use super::{Check, Condition, Facts, ProgramState, Report};

/// A machine on which everything works.
pub(crate) fn healthy() -> Facts {
    Facts {
        program: ProgramState::Loads,
        release: "6.12.9".into(),
        version: (6, 12),
        has_btf: true,
        has_pidfd_getfd: true,
        ptrace_scope: Some(1),
        capabilities: CapabilitySet::all(),
        is_initial_user_namespace: true,
        unprivileged_bpf_disabled: Some(2),
        memlock_bytes: Some(8 << 20),
        open_files_soft: Some(1024),
        open_files: Some(1 << 20),
        openat2_refusal: None,
        tcp_abort_on_overflow: Some(0),
        somaxconn: Some(4096),
        tcp_max_syn_backlog: Some(1024),
        tcp_syncookies: Some(1),
        tcp_migrate_req: Some(0),
        tcp_fastopen: Some(1),
        ip_local_port_range: Some((32768, 60999)),
        ip_unprivileged_port_start: Some(1024),
        cpus_online: 8,
        cpus_allowed: 8,
        cpu_quota: None,
        default_workers: 8,
        cgroup2: Some("/sys/fs/cgroup".into()),
        container: None,
        is_pid_1: false,
        is_network_of_pid_1: Some(true),
        has_seccomp_filter: false,
        worker_user: Ok(65_534),
        filters_system_calls: true,
        landlock_abi: 7,
    }
}

/// The lines that are not ok, by name.
pub(crate) fn lacks(facts: &Facts) -> Vec<(String, Condition)> {
    let checks = Report::of(facts).checks.into_iter();
    let lacking = checks.filter(|check| check.verdict != Condition::Ok);
    lacking.map(|check| (check.name, check.verdict)).collect()
}

/// The only line that is not ok after `change` to a machine that lacks nothing.
#[track_caller]
pub(crate) fn only_lack(change: impl FnOnce(&mut Facts)) -> Check {
    let mut facts = healthy();
    change(&mut facts);
    let checks = Report::of(&facts).checks.into_iter();
    let mut checks: Vec<Check> = checks
        .filter(|check| check.verdict != Condition::Ok)
        .collect();
    assert_eq!(checks.len(), 1, "{checks:#?}");
    checks.remove(0)
}
