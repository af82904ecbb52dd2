//! The lines about network settings: limits of queues, and which ports are free.

use rustix::thread::CapabilitySet;

use super::{Check, Condition, Facts};
use crate::serve::config::{BACKLOG, LISTEN};

/// The lines about network settings.
pub(crate) fn checks(facts: &Facts) -> Vec<Check> {
    vec![
        somaxconn(facts),
        syn_cookies(facts),
        syn_backlog(facts),
        abort_on_overflow(facts),
        migration(facts),
        fast_open(facts),
        local_ports(facts),
        low_ports(facts),
    ]
}

fn somaxconn(facts: &Facts) -> Check {
    let name = "net.core.somaxconn";
    match facts.somaxconn {
        Some(limit) if limit < BACKLOG => Check::lacks(
            Condition::Degraded,
            name,
            limit.to_string(),
            format!(
                "an accept queue holds {limit} connections instead of {BACKLOG}, so the kernel drops SYNs in a burst"
            ),
            set(name, BACKLOG),
        ),
        limit => Check::ok(name, shown(limit)),
    }
}

fn syn_cookies(facts: &Facts) -> Check {
    let name = "net.ipv4.tcp_syncookies";
    match facts.tcp_syncookies {
        Some(0) => Check::lacks(
            Condition::Degraded,
            name,
            "0",
            "during a SYN flood the queues are full, and no client can connect",
            set(name, 1),
        ),
        Some(2) => Check::lacks(
            Condition::Degraded,
            name,
            "2: each connection begins with a SYN cookie",
            "srv steers, but there is no Fast Open, a worker accepts a connection before its first \
             bytes have come, and without TCP timestamps it has no window scaling",
            set(name, 1),
        ),
        value => Check::ok(name, shown(value)),
    }
}

fn syn_backlog(facts: &Facts) -> Check {
    let name = "net.ipv4.tcp_max_syn_backlog";
    match (facts.tcp_max_syn_backlog, facts.tcp_syncookies) {
        // With SYN cookies, the backlog of the listener is the limit.
        (Some(limit), Some(0)) if limit < BACKLOG => Check::lacks(
            Condition::Degraded,
            name,
            limit.to_string(),
            format!(
                "without SYN cookies, a socket holds {limit} half-open connections instead of {BACKLOG}"
            ),
            set(name, BACKLOG),
        ),
        (limit, _) => Check::ok(name, shown(limit)),
    }
}

fn abort_on_overflow(facts: &Facts) -> Check {
    let name = "net.ipv4.tcp_abort_on_overflow";
    match facts.tcp_abort_on_overflow {
        Some(value @ 1..) => Check::lacks(
            Condition::Degraded,
            name,
            value.to_string(),
            "if the accept queue is full when a handshake completes, the kernel resets the client; with 0 the client tries again",
            set(name, 0),
        ),
        value => Check::ok(name, shown(value)),
    }
}

fn migration(facts: &Facts) -> Check {
    // The master keeps the listeners open, so no connection has to migrate.
    Check::ok(
        "net.ipv4.tcp_migrate_req",
        format!(
            "{}; srv serve does not need migration",
            shown(facts.tcp_migrate_req)
        ),
    )
}

/// The bit of `tcp_fastopen` for servers.
const FAST_OPEN_SERVER: u32 = 2;

fn fast_open(facts: &Facts) -> Check {
    let name = "net.ipv4.tcp_fastopen";
    let value = facts.tcp_fastopen.unwrap_or(0);
    if value & FAST_OPEN_SERVER != 0 {
        return Check::ok(name, format!("{value}: --fast-open works"));
    }
    let on = value | FAST_OPEN_SERVER;
    Check::ok(
        name,
        format!("{value}: --fast-open needs {on} ({})", set(name, on)),
    )
}

fn local_ports(facts: &Facts) -> Check {
    let name = "net.ipv4.ip_local_port_range";
    let port = LISTEN.port();
    match facts.ip_local_port_range {
        Some((first, last)) if (first..=last).contains(&port) => Check::lacks(
            Condition::Degraded,
            name,
            format!("{first} to {last}"),
            format!(
                "an outgoing connection can use port {port} at the moment when srv starts to listen on it"
            ),
            set("net.ipv4.ip_local_reserved_ports", port.into()),
        ),
        Some((first, last)) => Check::ok(name, format!("{first} to {last}")),
        None => Check::ok(name, shown(None)),
    }
}

fn low_ports(facts: &Facts) -> Check {
    let name = "ports below 1024";
    let first = facts.ip_unprivileged_port_start.unwrap_or(1024);
    if facts.capabilities.contains(CapabilitySet::NET_BIND_SERVICE) || first == 0 {
        return Check::ok(name, "srv may listen on them");
    }
    // Nothing is lost unless the user asks for such a port.
    Check::ok(
        name,
        format!("srv may listen on a port below {first} only with CAP_NET_BIND_SERVICE"),
    )
}

fn set(name: &str, value: u32) -> String {
    format!("sysctl -w {name}={value}")
}

fn shown(value: Option<u32>) -> String {
    value.map_or("this kernel does not have it".into(), |value| {
        value.to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::test_machine::{healthy, lacks, only_lack};

    #[test]
    fn a_short_accept_queue_is_degraded() {
        let check = only_lack(|facts| facts.somaxconn = Some(128));
        assert_eq!(
            (check.name.as_str(), check.verdict),
            ("net.core.somaxconn", Condition::Degraded)
        );
        assert_eq!(check.mend.unwrap(), "sysctl -w net.core.somaxconn=4096");
    }

    #[test]
    fn syn_cookies_are_degraded_unless_they_come_only_under_pressure() {
        for value in [0, 2] {
            let check = only_lack(|facts| {
                facts.tcp_syncookies = Some(value);
                facts.tcp_max_syn_backlog = Some(BACKLOG);
            });
            assert_eq!(check.name, "net.ipv4.tcp_syncookies");
            assert_eq!(check.verdict, Condition::Degraded);
        }
    }

    #[test]
    fn resets_at_full_queues_are_degraded() {
        let check = only_lack(|facts| facts.tcp_abort_on_overflow = Some(1));
        assert_eq!(
            check.mend.unwrap(),
            "sysctl -w net.ipv4.tcp_abort_on_overflow=0"
        );
    }

    #[test]
    fn the_syn_backlog_matters_only_without_cookies() {
        let few = Facts {
            tcp_max_syn_backlog: Some(128),
            ..healthy()
        };
        assert_eq!(syn_backlog(&few).verdict, Condition::Ok);
        let without = Facts {
            tcp_syncookies: Some(0),
            ..few
        };
        assert_eq!(syn_backlog(&without).verdict, Condition::Degraded);
    }

    #[test]
    fn a_default_port_among_the_ephemeral_ones_is_degraded() {
        let check = only_lack(|facts| facts.ip_local_port_range = Some((1024, 65535)));
        assert_eq!(
            check.mend.unwrap(),
            "sysctl -w net.ipv4.ip_local_reserved_ports=8080"
        );
    }

    #[test]
    fn what_is_only_a_choice_is_no_lack() {
        let facts = Facts {
            tcp_migrate_req: None,
            tcp_fastopen: None,
            capabilities: healthy().capabilities - CapabilitySet::NET_BIND_SERVICE,
            ..healthy()
        };
        assert_eq!(lacks(&facts), []);
        assert!(
            low_ports(&facts)
                .found
                .contains("only with CAP_NET_BIND_SERVICE")
        );
        assert!(fast_open(&facts).found.contains("net.ipv4.tcp_fastopen=2"));
    }
}
