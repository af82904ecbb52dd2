//! The lines about what steering needs: the program, features of the kernel, privileges. If the
//! program loads, that proves that its requirements are met, and no line contradicts it.

use rustix::thread::CapabilitySet;

use super::{Check, Condition, Facts, ProgramState};

/// The lines about steering; the first one decides.
pub(crate) fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![steering(facts)];
    checks.extend(kernel(facts));
    checks.push(btf(facts));
    checks.extend(
        CAPABILITIES
            .iter()
            .map(|capability| self::capability(facts, capability)),
    );
    checks.extend([pidfd_getfd(facts), ptrace_scope(facts)]);
    checks.extend([unprivileged_bpf(facts), memlock(facts), seccomp(facts)]);
    checks
}

/// What is lost if srv cannot steer its own workers.
const UNSTEERED: &str = "srv does not steer: the kernel's hash chooses, and idle workers still \
                         steal connections from busy ones";
/// What is lost if srv cannot attach to other servers.
const NO_ATTACH: &str = "srv attach does not work";

fn steering(facts: &Facts) -> Check {
    let name = "BPF program";
    match &facts.program {
        ProgramState::Loads => Check::ok(name, "it loads on this machine"),
        ProgramState::Refused(why) => Check::lacks(
            Condition::Missing,
            name,
            format!("it does not load on this machine: {why}"),
            UNSTEERED,
            "see the lines below, or serve without steering: --no-bpf",
        ),
        ProgramState::NotBuilt => Check::lacks(
            Condition::Missing,
            name,
            "this binary carries no BPF program",
            UNSTEERED,
            "build srv again: cargo xtask setup, then cargo xtask build",
        ),
    }
}

/// A feature that kernels have from some version on.
struct Feature {
    since: (u32, u32),
    name: &'static str,
    verdict: Condition,
    costs: &'static str,
    /// Whether a program that loads proves the feature, which a distribution may have backported.
    is_proven_by_load: bool,
}

const FEATURES: [Feature; 6] = [
    Feature {
        since: (4, 5),
        name: "EPOLLEXCLUSIVE",
        verdict: Condition::Prevents,
        costs: "srv serve cannot use the accept modes ring and shared",
        is_proven_by_load: true,
    },
    Feature {
        since: (4, 19),
        name: "SK_REUSEPORT programs",
        verdict: Condition::Missing,
        costs: UNSTEERED,
        is_proven_by_load: true,
    },
    Feature {
        since: (5, 5),
        name: "memory-mapped BPF arrays",
        verdict: Condition::Missing,
        costs: UNSTEERED,
        is_proven_by_load: true,
    },
    Feature {
        since: (5, 8),
        name: "CAP_BPF",
        verdict: Condition::Degraded,
        costs: "to steer, srv needs CAP_SYS_ADMIN",
        is_proven_by_load: false,
    },
    Feature {
        since: (5, 12),
        name: "atomic BPF instructions that return the old value",
        verdict: Condition::Missing,
        costs: UNSTEERED,
        is_proven_by_load: true,
    },
    Feature {
        since: (5, 14),
        name: "migration between listeners",
        verdict: Condition::Degraded,
        costs: "if an attached server closes a listener, the kernel resets the connections that wait there",
        is_proven_by_load: false,
    },
];

fn kernel(facts: &Facts) -> Vec<Check> {
    let loads = facts.program == ProgramState::Loads;
    let absent = FEATURES
        .iter()
        .filter(|feature| facts.version < feature.since && !(loads && feature.is_proven_by_load));
    let lines: Vec<Check> = absent
        .map(|feature| {
            let (major, minor) = feature.since;
            let found = format!("Linux {} has no {}", facts.release, feature.name);
            let mend = format!("Linux {major}.{minor} or newer");
            Check::lacks(feature.verdict, "kernel", found, feature.costs, mend)
        })
        .collect();
    if lines.is_empty() {
        vec![Check::ok("kernel", format!("Linux {}", facts.release))]
    } else {
        lines
    }
}

fn btf(facts: &Facts) -> Check {
    let name = "kernel BTF";
    if facts.has_btf {
        return Check::ok(name, "/sys/kernel/btf/vmlinux");
    }
    let mend = "use a kernel built with CONFIG_DEBUG_INFO_BTF=y";
    Check::lacks(
        Condition::Degraded,
        name,
        "this kernel has no /sys/kernel/btf/vmlinux",
        "srv attach steers other servers in turn: it goes without the signals queues, sleep and \
         live (srv status lists them)",
        mend,
    )
}

struct Capability {
    bit: CapabilitySet,
    name: &'static str,
    /// Whether `CAP_SYS_ADMIN` includes it.
    is_part_of_sys_admin: bool,
    costs: &'static str,
}

const CAPABILITIES: [Capability; 4] = [
    Capability {
        bit: CapabilitySet::BPF,
        name: "CAP_BPF",
        is_part_of_sys_admin: true,
        costs: UNSTEERED,
    },
    Capability {
        bit: CapabilitySet::PERFMON,
        name: "CAP_PERFMON",
        is_part_of_sys_admin: true,
        costs: UNSTEERED,
    },
    Capability {
        bit: CapabilitySet::NET_ADMIN,
        name: "CAP_NET_ADMIN",
        is_part_of_sys_admin: true,
        costs: "on some kernels a server that stops cannot refuse new connections while it drains",
    },
    Capability {
        bit: CapabilitySet::SYS_PTRACE,
        name: "CAP_SYS_PTRACE",
        is_part_of_sys_admin: false,
        costs: "srv attach cannot steer the servers of other users",
    },
];

fn capability(facts: &Facts, capability: &Capability) -> Check {
    let name = capability.name;
    let by_admin =
        capability.is_part_of_sys_admin && facts.capabilities.contains(CapabilitySet::SYS_ADMIN);
    let is_held = facts.capabilities.contains(capability.bit);
    if capability.bit == CapabilitySet::BPF && facts.program == ProgramState::Loads {
        return Check::ok(name, "what srv holds suffices, since the program loads");
    }
    if !is_held && !by_admin {
        return Check::lacks(
            Condition::Missing,
            name,
            "srv does not hold it",
            capability.costs,
            how_to_grant(facts, name),
        );
    }
    if !facts.is_initial_user_namespace {
        let found = "srv holds it in a user namespace, where it does not count";
        let mend = "run srv outside of the user namespace (rootful container, sudo)";
        return Check::lacks(Condition::Missing, name, found, capability.costs, mend);
    }
    Check::ok(
        name,
        if is_held {
            "srv holds it"
        } else {
            "srv holds it as part of CAP_SYS_ADMIN"
        },
    )
}

fn how_to_grant(facts: &Facts, name: &str) -> String {
    let short = name.trim_start_matches("CAP_");
    if facts.container.is_some() {
        return format!("start the container with --cap-add={short}");
    }
    let lower = name.to_lowercase();
    format!("sudo, or setcap {lower}+ep on the binary, or AmbientCapabilities={name} in the unit")
}

fn pidfd_getfd(facts: &Facts) -> Check {
    let name = "pidfd_getfd";
    if facts.has_pidfd_getfd {
        return Check::ok(name, "this kernel has it");
    }
    let mend = "use Linux 5.6 or newer";
    Check::lacks(
        Condition::Missing,
        name,
        "this kernel does not have it",
        NO_ATTACH,
        mend,
    )
}

/// Yama restricts which process may take a socket: for `pidfd_getfd` the kernel makes the same check
/// as for a debugger (security/yama/yama_lsm.c).
fn ptrace_scope(facts: &Facts) -> Check {
    let name = "kernel.yama.ptrace_scope";
    let is_held = facts.capabilities.contains(CapabilitySet::SYS_PTRACE);
    match facts.ptrace_scope {
        None => Check::ok(name, "this kernel does not have it"),
        Some(scope @ 3..) => Check::lacks(
            Condition::Missing,
            name,
            format!("{scope}: no process may take a socket from another"),
            NO_ATTACH,
            "reboot with a lower value; the kernel does not lower it while it runs",
        ),
        // The line about the capability says what is lost.
        Some(scope @ 1..=2) if !is_held => Check::ok(
            name,
            format!("{scope}: servers of the same user need CAP_SYS_PTRACE, too"),
        ),
        Some(scope) => Check::ok(name, scope.to_string()),
    }
}

fn unprivileged_bpf(facts: &Facts) -> Check {
    let name = "kernel.unprivileged_bpf_disabled";
    match facts.unprivileged_bpf_disabled {
        // The kernel never lets an unprivileged process load a program of this type.
        Some(value) => Check::ok(name, format!("{value}; it does not matter for srv")),
        None => Check::ok(
            name,
            "this kernel does not have it; it does not matter for srv",
        ),
    }
}

/// More than the memory of the maps and the program.
const LOCKED_BYTES: u64 = 16 << 20;

fn memlock(facts: &Facts) -> Check {
    let name = "RLIMIT_MEMLOCK";
    match facts.memlock_bytes {
        _ if facts.version >= (5, 11) => {
            Check::ok(name, "it does not limit BPF memory on this kernel")
        }
        Some(bytes) if bytes < LOCKED_BYTES && facts.program != ProgramState::Loads => {
            Check::lacks(
                Condition::Degraded,
                name,
                format!("{} KiB", bytes >> 10),
                "the kernel may refuse the program with EPERM: before Linux 5.11 it counts BPF memory",
                "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit",
            )
        }
        _ => Check::ok(name, "enough"),
    }
}

fn seccomp(facts: &Facts) -> Check {
    let name = "seccomp";
    match (&facts.program, facts.has_seccomp_filter) {
        (_, false) => Check::ok(name, "no filter"),
        (ProgramState::Refused(_), true) => Check::lacks(
            Condition::Degraded,
            name,
            "a filter is active",
            "the filter may refuse the system call bpf",
            "use a profile that allows bpf (the default of docker does, with --cap-add=BPF)",
        ),
        (_, true) => Check::ok(name, "a filter is active"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Report;
    use crate::doctor::test_machine::{healthy, lacks, only_lack};

    #[test]
    fn an_unprivileged_user_serves_without_steering() {
        let facts = Facts {
            program: ProgramState::Refused("EPERM".into()),
            capabilities: CapabilitySet::empty(),
            ..healthy()
        };
        let report = Report::of(&facts);
        assert!(report.serves && !report.steers);
        assert_eq!(report.exit_code(false), 0);
        let names: Vec<String> = lacks(&facts).into_iter().map(|(name, _)| name).collect();
        let capabilities = ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_SYS_PTRACE"];
        assert_eq!(names[0], "BPF program");
        assert_eq!(names[1..], capabilities);
    }

    #[test]
    fn a_binary_without_the_program_says_how_to_get_it() {
        let check = only_lack(|facts| facts.program = ProgramState::NotBuilt);
        assert_eq!(check.verdict, Condition::Missing);
        assert!(check.mend.unwrap().contains("cargo xtask"));
    }

    #[test]
    fn a_kernel_lacks_the_features_of_later_ones() {
        for (version, lacking, serves) in [
            ((4, 4), 6, false),
            ((4, 18), 5, true),
            ((5, 4), 4, true),
            ((5, 7), 3, true),
            ((5, 11), 2, true),
            ((5, 12), 1, true),
            ((5, 13), 1, true),
            ((5, 14), 0, true),
        ] {
            let facts = Facts {
                version,
                program: ProgramState::NotBuilt,
                ..healthy()
            };
            let kernel = lacks(&facts)
                .into_iter()
                .filter(|(name, _)| name == "kernel");
            assert_eq!(kernel.count(), lacking, "{version:?}");
            assert_eq!(Report::of(&facts).serves, serves, "{version:?}");
        }
    }

    #[test]
    fn a_program_that_loads_refutes_the_version_number() {
        // As on distributions that port features back.
        let facts = Facts {
            version: (4, 18),
            release: "4.18.0-el8".into(),
            ..healthy()
        };
        let report = Report::of(&facts);
        assert!(report.serves && report.steers);
        assert!(
            lacks(&facts)
                .iter()
                .all(|(_, verdict)| *verdict == Condition::Degraded)
        );
    }

    /// `srv attach` and `srv status` say the same.
    #[test]
    fn without_btf_other_servers_are_steered_in_turn() {
        let check = only_lack(|facts| facts.has_btf = false);
        assert_eq!(
            (check.name.as_str(), check.verdict),
            ("kernel BTF", Condition::Degraded)
        );
        let costs = check.costs.unwrap();
        for word in ["in turn", "goes without", "queues", "sleep", "live"] {
            assert!(costs.contains(word), "{costs}");
        }
    }

    #[test]
    fn sys_admin_stands_in_for_all_but_ptrace() {
        let check = only_lack(|facts| {
            facts.capabilities = CapabilitySet::SYS_ADMIN;
            facts.program = ProgramState::Loads;
        });
        assert_eq!(check.name, "CAP_SYS_PTRACE");
    }

    #[test]
    fn capabilities_of_a_user_namespace_do_not_count() {
        let facts = Facts {
            program: ProgramState::Refused("EPERM".into()),
            is_initial_user_namespace: false,
            ..healthy()
        };
        let text = Report::of(&facts).to_string();
        assert!(
            text.contains("CAP_BPF") && text.contains("does not count"),
            "{text}"
        );
    }

    #[test]
    fn in_a_container_the_remedy_is_a_flag_of_the_container() {
        let check = only_lack(|facts| {
            facts.capabilities -= CapabilitySet::SYS_PTRACE | CapabilitySet::SYS_ADMIN;
            facts.container = Some("docker".into());
        });
        assert_eq!(
            check.mend.unwrap(),
            "start the container with --cap-add=SYS_PTRACE"
        );
    }

    #[test]
    fn if_sockets_cannot_be_taken_only_attach_is_lost() {
        let no_call = only_lack(|facts| facts.has_pidfd_getfd = false);
        let no_ptrace = only_lack(|facts| facts.ptrace_scope = Some(3));
        for check in [no_call, no_ptrace] {
            assert_eq!(check.costs.as_deref(), Some(NO_ATTACH));
        }
    }

    #[test]
    fn small_locked_memory_matters_only_on_old_kernels() {
        let old = Facts {
            version: (5, 10),
            memlock_bytes: Some(64 << 10),
            program: ProgramState::Refused("EPERM".into()),
            ..healthy()
        };
        assert_eq!(memlock(&old).verdict, Condition::Degraded);
        assert_eq!(
            memlock(&Facts {
                memlock_bytes: None,
                ..old.clone()
            })
            .verdict,
            Condition::Ok
        );
        assert_eq!(
            memlock(&Facts {
                version: (5, 11),
                ..old
            })
            .verdict,
            Condition::Ok
        );
    }

    #[test]
    fn a_filter_is_suspected_only_if_the_program_was_refused() {
        let filtered = Facts {
            has_seccomp_filter: true,
            ..healthy()
        };
        assert_eq!(seccomp(&filtered).verdict, Condition::Ok);
        let refused = Facts {
            program: ProgramState::Refused("EPERM".into()),
            ..filtered
        };
        assert_eq!(seccomp(&refused).verdict, Condition::Degraded);
    }
}
