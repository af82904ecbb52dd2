//! What workers can be made to give up here.

use super::{Check, Condition, Facts};

/// The lines about it.
pub fn checks(facts: &Facts) -> Vec<Check> {
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
            "a worker that somebody takes over reads and writes what root owns",
            "CAP_SETUID, CAP_SETGID and CAP_KILL; or start srv as another user",
        ),
    }
}

fn system_calls(facts: &Facts) -> Check {
    let name = "worker system calls";
    if facts.filters_system_calls {
        return Check::ok(name, "filtered: those that serving needs");
    }
    Check::lacks(
        Condition::Degraded,
        name,
        "not filtered: no seccomp here",
        "a worker that somebody takes over may ask the kernel for anything",
        "a kernel built with CONFIG_SECCOMP_FILTER=y",
    )
}

fn landlock(facts: &Facts) -> Check {
    let name = "Landlock";
    match facts.landlock_abi {
        0 => Check::lacks(
            Condition::Degraded,
            name,
            "not there, not enabled, or kept away by a container's filter",
            "a worker that somebody takes over may read outside of its root",
            "Linux 5.13 or newer, booted with landlock among its lsm=",
        ),
        abi => Check::ok(name, format!("ABI {abi}{}", lacks(abi))),
    }
}

/// What older ABIs do not know.
fn lacks(abi: u32) -> &'static str {
    match abi {
        1..=3 => ": files, but neither TCP (Linux 6.7) nor signals (6.12)",
        4..=5 => ": files and TCP, but not signals (Linux 6.12)",
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
