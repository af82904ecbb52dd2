//! What steering needs: the program, the kernel's features, privileges. What
//! the program's own loading proves, no line contradicts.

use rustix::thread::CapabilitySet;

use super::{Check, Condition, Facts, ProgramState};

/// The lines about it, the decisive one first.
pub fn checks(facts: &Facts) -> Vec<Check> {
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

/// What unsteered serving loses.
const UNSTEERED: &str = "no steering: the kernel's hash chooses, idle workers still take over";
/// What only the steering of other servers needs.
const NO_ATTACH: &str = "no steering of servers that are not srv's own";

fn steering(facts: &Facts) -> Check {
    let name = "BPF program";
    match &facts.program {
        ProgramState::Loads => Check::ok(name, "loads here"),
        ProgramState::Refused(why) => Check::lacks(
            Condition::Missing,
            name,
            format!("does not load here: {why}"),
            UNSTEERED,
            "see what is missing below, or serve without it: --no-bpf",
        ),
        ProgramState::NotBuilt => Check::lacks(
            Condition::Missing,
            name,
            "this binary carries no BPF program",
            UNSTEERED,
            "cargo xtask setup, then cargo xtask build",
        ),
    }
}

/// What a kernel can do from some version on.
struct Feature {
    since: (u32, u32),
    name: &'static str,
    verdict: Condition,
    costs: &'static str,
    /// Loading the program proves that it is there, backported maybe.
    is_proven_by_load: bool,
}

const FEATURES: [Feature; 6] = [
    Feature {
        since: (4, 5),
        name: "EPOLLEXCLUSIVE",
        verdict: Condition::Prevents,
        costs: "the accept modes ring and shared",
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
        costs: "steering needs CAP_SYS_ADMIN",
        is_proven_by_load: false,
    },
    Feature {
        since: (5, 12),
        name: "BPF's atomic additions that fetch",
        verdict: Condition::Missing,
        costs: UNSTEERED,
        is_proven_by_load: true,
    },
    Feature {
        since: (5, 14),
        name: "migration between listeners",
        verdict: Condition::Degraded,
        costs: "a listener that another server closes resets what waits there",
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
            let found = format!("Linux {}: before {}", facts.release, feature.name);
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
    let mend = "a kernel built with CONFIG_DEBUG_INFO_BTF=y";
    Check::lacks(
        Condition::Degraded,
        name,
        "no /sys/kernel/btf/vmlinux",
        "srv attach steers other servers in turn: it goes without queues, sleep and live \
         (srv status says so)",
        mend,
    )
}

struct Capability {
    bit: CapabilitySet,
    name: &'static str,
    /// `CAP_SYS_ADMIN` stands in for it.
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
        costs: "no steering of new listeners of other servers without touching them",
    },
    Capability {
        bit: CapabilitySet::SYS_PTRACE,
        name: "CAP_SYS_PTRACE",
        is_part_of_sys_admin: false,
        costs: "no steering of other users' servers",
    },
];

fn capability(facts: &Facts, capability: &Capability) -> Check {
    let name = capability.name;
    let by_admin =
        capability.is_part_of_sys_admin && facts.capabilities.contains(CapabilitySet::SYS_ADMIN);
    let is_held = facts.capabilities.contains(capability.bit);
    if capability.bit == CapabilitySet::BPF && facts.program == ProgramState::Loads {
        return Check::ok(name, "suffices: the program loads");
    }
    if !is_held && !by_admin {
        return Check::lacks(
            Condition::Missing,
            name,
            "not held",
            capability.costs,
            how_to_grant(facts, name),
        );
    }
    if !facts.is_initial_user_namespace {
        let found = "held in a user namespace, where it does not count";
        let mend = "run outside of the user namespace (rootful container, sudo)";
        return Check::lacks(Condition::Missing, name, found, capability.costs, mend);
    }
    Check::ok(
        name,
        if is_held {
            "held"
        } else {
            "held as part of CAP_SYS_ADMIN"
        },
    )
}

fn how_to_grant(facts: &Facts, name: &str) -> String {
    let short = name.trim_start_matches("CAP_");
    if facts.container.is_some() {
        return format!("start the container with --cap-add={short}");
    }
    let lower = name.to_lowercase();
    format!("sudo; or setcap {lower}+ep on the binary; or AmbientCapabilities={name} in its unit")
}

fn pidfd_getfd(facts: &Facts) -> Check {
    let name = "pidfd_getfd";
    if facts.has_pidfd_getfd {
        return Check::ok(name, "there");
    }
    let mend = "Linux 5.6 or newer";
    Check::lacks(Condition::Missing, name, "not there", NO_ATTACH, mend)
}

/// Yama's say in who may take a socket: `pidfd_getfd` asks as an attaching
/// debugger does (security/yama/yama_lsm.c).
fn ptrace_scope(facts: &Facts) -> Check {
    let name = "kernel.yama.ptrace_scope";
    let is_held = facts.capabilities.contains(CapabilitySet::SYS_PTRACE);
    match facts.ptrace_scope {
        None => Check::ok(name, "not there"),
        Some(scope @ 3..) => Check::lacks(
            Condition::Missing,
            name,
            format!("{scope}: nobody may take a socket"),
            NO_ATTACH,
            "a reboot with a lower value: it cannot be lowered while running",
        ),
        // What is lost then, the line on the capability says.
        Some(scope @ 1..=2) if !is_held => Check::ok(
            name,
            format!("{scope}: one's own servers need CAP_SYS_PTRACE, too"),
        ),
        Some(scope) => Check::ok(name, scope.to_string()),
    }
}

fn unprivileged_bpf(facts: &Facts) -> Check {
    let name = "kernel.unprivileged_bpf_disabled";
    match facts.unprivileged_bpf_disabled {
        // The kernel never lets the unprivileged load this program type.
        Some(value) => Check::ok(name, format!("{value}; does not matter here")),
        None => Check::ok(name, "not there; does not matter here"),
    }
}

/// What the maps and the program weigh, with room to spare.
const LOCKED_BYTES: u64 = 16 << 20;

fn memlock(facts: &Facts) -> Check {
    let name = "RLIMIT_MEMLOCK";
    match facts.memlock_bytes {
        _ if facts.version >= (5, 11) => {
            Check::ok(name, "does not count BPF memory on this kernel")
        }
        Some(bytes) if bytes < LOCKED_BYTES && facts.program != ProgramState::Loads => {
            Check::lacks(
                Condition::Degraded,
                name,
                format!("{} KiB", bytes >> 10),
                "loading may fail with EPERM: before Linux 5.11, BPF memory counts here",
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
            "it may be what refuses the bpf system call",
            "a profile that allows bpf (docker's own does, with --cap-add=BPF)",
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
    fn kernels_lack_what_came_after_them() {
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

    /// As attach and status say: it goes without what it cannot read.
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
    fn a_container_is_told_about_containers() {
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
    fn sockets_that_cannot_be_taken_cost_other_servers_only() {
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
    fn a_filter_is_suspected_only_when_the_program_was_refused() {
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
