//! The lines about what workers can give up on this machine.

use super::{Check, Condition, Facts};

/// The lines about the sandbox of the workers.
pub(crate) fn checks(facts: &Facts) -> Vec<Check> {
    vec![worker_user(facts), system_calls(facts), landlock(facts)]
}

fn worker_user(facts: &Facts) -> Check {
    let name = "worker user";
    match &facts.worker_user {
        Ok(uid) => Check::ok(name, format!("{uid} by default, without capabilities")),
        Err(why) => Check::lacks(
            Condition::Degraded,
            name,
            format!("root, without capabilities: {why}"),
            "an attacker who controls a worker can read and write the files of root",
            "give srv CAP_SETUID, CAP_SETGID and CAP_KILL, or start it as another user",
        ),
    }
}

fn system_calls(facts: &Facts) -> Check {
    let name = "worker system calls";
    if facts.filters_system_calls {
        return Check::ok(name, "filtered: only those that serving needs are allowed");
    }
    Check::lacks(
        Condition::Degraded,
        name,
        "not filtered: this kernel has no seccomp filters",
        "an attacker who controls a worker can make any system call",
        "use a kernel built with CONFIG_SECCOMP_FILTER=y",
    )
}

fn landlock(facts: &Facts) -> Check {
    let name = "Landlock";
    match facts.landlock_abi {
        0 => Check::lacks(
            Condition::Degraded,
            name,
            "the kernel does not have it, it is not enabled, or the filter of a container blocks it",
            "an attacker who controls a worker can read files outside of the root directory of the site",
            "use Linux 5.13 or newer, booted with landlock in the parameter lsm=",
        ),
        abi => Check::ok(name, format!("ABI {abi}{}", lacks(abi))),
    }
}

/// What an older ABI cannot restrict.
fn lacks(abi: u32) -> &'static str {
    match abi {
        1..=3 => ": it restricts files, but neither TCP (Linux 6.7) nor signals (Linux 6.12)",
        4..=5 => ": it restricts files and TCP, but not signals (Linux 6.12)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use crate::doctor::test_machine::only_lack;

    #[test]
    fn each_is_told_apart() {
        let root = only_lack(|facts| facts.worker_user = Err("EPERM".into()));
        assert_eq!(root.name, "worker user");
        assert!(root.mend.unwrap().contains("CAP_SETUID"));
        let calls = only_lack(|facts| facts.filters_system_calls = false);
        assert_eq!(calls.name, "worker system calls");
        let files = only_lack(|facts| facts.landlock_abi = 0);
        assert_eq!(files.name, "Landlock");
    }
}
