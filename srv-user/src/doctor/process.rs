//! The lines about what this process has: files, CPUs, and the container around it.

use super::{Check, Condition, Facts};
use crate::kernel::open_files;
use crate::serve::config::Limits;

/// The lines about the resources of this process.
pub(crate) fn checks(facts: &Facts) -> Vec<Check> {
    vec![
        open_files(facts),
        openat2(facts),
        cpus(facts),
        cgroup(facts),
        container(facts),
    ]
}

/// Files that a worker has open beside its connections, and some more in reserve.
const OWN_FILES: u64 = 512;

fn open_files(facts: &Facts) -> Check {
    let name = "RLIMIT_NOFILE";
    let connections = u64::from(Limits::default().connections);
    let Some(files) = facts.open_files else {
        return Check::ok(name, "unlimited");
    };
    let needed = connections + OWN_FILES;
    let workers = facts.default_workers;
    let fewest = open_files::of_master(workers, 1, workers.into());
    let found = match facts.open_files_soft {
        Some(soft) if soft != files => {
            format!("{files}; srv raises the soft limit of {soft} to it")
        }
        _ => files.to_string(),
    };
    let mend =
        format!("ulimit -n {needed}, or LimitNOFILE={needed} in the unit; or fewer --connections");
    if files < fewest {
        let costs = format!(
            "with the default of {workers} workers, the master alone needs at least {fewest}"
        );
        return Check::lacks(Condition::Prevents, name, found, costs, mend);
    }
    if files < needed {
        let costs = format!(
            "a worker runs out of files before it has {connections} connections, its limit"
        );
        return Check::lacks(Condition::Degraded, name, found, costs, mend);
    }
    Check::ok(name, found)
}

fn openat2(facts: &Facts) -> Check {
    let name = "openat2";
    let Some(why) = &facts.openat2_refusal else {
        return Check::ok(name, "srv can call it");
    };
    Check::lacks(
        Condition::Degraded,
        name,
        format!("srv cannot call it: {why}"),
        "srv makes one system call for each part of the name of a file instead of one for all; access to files is restricted as before",
        "use Linux 5.6 or newer, and a container or SystemCallFilter= that allows openat2",
    )
}

fn cpus(facts: &Facts) -> Check {
    let name = "CPUs";
    let mut found = format!("{} of {}", facts.cpus_allowed, facts.cpus_online);
    if let Some(quota) = facts.cpu_quota {
        found += &format!(", quota {quota:.2}");
    }
    found += &format!("; workers by default: {}", facts.default_workers);
    if facts.cpu_quota.is_some_and(|quota| quota < 1.0) {
        let costs = "the kernel stops all workers whenever the quota is used up, so some requests take long";
        let mend = "set a quota of one CPU or more (docker --cpus, CPUQuota= in the unit)";
        return Check::lacks(Condition::Degraded, name, found, costs, mend);
    }
    Check::ok(name, found)
}

fn cgroup(facts: &Facts) -> Check {
    match &facts.cgroup2 {
        Some(mount) => Check::ok("cgroup v2", mount.display().to_string()),
        None => Check::ok("cgroup v2", "not mounted; srv serve does not need it"),
    }
}

fn container(facts: &Facts) -> Check {
    let mut found = vec![
        facts
            .container
            .clone()
            .unwrap_or_else(|| "no sign of one".into()),
    ];
    if facts.is_pid_1 {
        found.push("srv has PID 1, so it reaps orphaned processes".into());
    }
    if facts.is_network_of_pid_1 == Some(false) {
        found.push(
            "srv has a network namespace of its own, and clients must be able to reach it".into(),
        );
    }
    Check::ok("container", found.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::test_machine::{healthy, lacks, only_lack};

    #[test]
    fn few_files_degrade_and_almost_none_prevent() {
        for (files, verdict) in [(1024, Condition::Degraded), (32, Condition::Prevents)] {
            let check = only_lack(|facts| facts.open_files = Some(files));
            assert_eq!(
                (check.name.as_str(), check.verdict),
                ("RLIMIT_NOFILE", verdict)
            );
        }
        assert_eq!(
            open_files(&Facts {
                open_files: None,
                ..healthy()
            })
            .verdict,
            Condition::Ok
        );
    }

    #[test]
    fn the_limit_that_srv_will_use_counts() {
        let check = open_files(&healthy());
        assert_eq!(
            check.found,
            "1048576; srv raises the soft limit of 1024 to it"
        );
        let many = Facts {
            default_workers: 256,
            open_files: Some(1024),
            ..healthy()
        };
        assert_eq!(open_files(&many).verdict, Condition::Prevents);
    }

    #[test]
    fn a_sandbox_that_refuses_openat2_is_named() {
        let check = only_lack(|facts| facts.openat2_refusal = Some("EPERM".into()));
        assert_eq!(check.name, "openat2");
        assert!(check.found.contains("EPERM") && check.mend.unwrap().contains("SystemCallFilter"));
    }

    #[test]
    fn less_than_one_cpu_is_degraded() {
        let check = only_lack(|facts| facts.cpu_quota = Some(0.5));
        assert_eq!(
            (check.name.as_str(), check.verdict),
            ("CPUs", Condition::Degraded)
        );
    }

    #[test]
    fn a_smaller_share_of_the_machine_is_no_lack() {
        let facts = Facts {
            cgroup2: None,
            cpu_quota: Some(1.5),
            cpus_allowed: 2,
            default_workers: 1,
            ..healthy()
        };
        assert_eq!(lacks(&facts), []);
        assert_eq!(
            cpus(&facts).found,
            "2 of 8, quota 1.50; workers by default: 1"
        );
    }

    #[test]
    fn a_container_is_described() {
        let facts = Facts {
            container: Some("docker".into()),
            is_pid_1: true,
            is_network_of_pid_1: Some(false),
            ..healthy()
        };
        let found = container(&facts).found;
        assert!(found.contains("docker") && found.contains("PID 1") && found.contains("network"));
    }
}
