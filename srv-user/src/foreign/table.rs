//! Another server's group as a plain text table. Pure.

use std::fmt::Write as _;

use super::report::{ForeignListener, ForeignStatus};
use crate::view::{or_dash, program, table};

/// The group, for people.
pub fn group(status: &ForeignStatus) -> String {
    let agent = match (status.agent, &status.policy) {
        (Some(pid), Some(policy)) => format!("agent {pid}, policy {policy}"),
        (None, Some(policy)) => format!("no agent, policy {policy}"),
        _ => "observed".to_owned(),
    };
    let program = match (status.agent, &status.policy) {
        (None, Some(_)) => {
            "the program chooses as long as the group stays as it was; its counts went with \
             the agent, `srv detach` takes it off"
                .to_owned()
        }
        _ => program(&status.program),
    };
    let server = or_dash(!status.server.is_empty(), &status.server);
    let mut text = format!("{} ({server}; {agent}): {}\n", status.listen, program);
    let header = [
        "slot", "worker", "owners", "state", "steered", "live", "recv-q", "backlog", "active",
    ];
    for (signal, why) in status.signals.iter().filter(|(_, why)| *why != "known") {
        let _ = writeln!(text, "goes without {signal}: {why}");
    }
    text += &table(&header, status.listeners.iter().map(row).collect());
    text += &balance(status);
    text
}

fn balance(status: &ForeignStatus) -> String {
    let balance = &status.balance;
    let shares = match &balance.connections {
        None => "live connections: not known by socket".to_owned(),
        Some(shares) => format!(
            "live connections {}: CV {:.4}, max/mean {:.3}",
            shares.sum, shares.cv, shares.max_over_mean
        ),
    };
    let (queued, half_open) = (balance.queued, status.half_open);
    let mut text = format!("{shares}; queued {queued}, half-open {half_open}\n");
    if balance.empty_while_others_queue > 0 {
        let _ = writeln!(
            text,
            "connections wait while {} of {} queues are empty",
            balance.empty_while_others_queue,
            status.listeners.len()
        );
    }
    text
}

fn row(listener: &ForeignListener) -> Vec<String> {
    let workers: Vec<String> = listener.workers.iter().map(u32::to_string).collect();
    vec![
        listener.slot.map_or("-".into(), |slot| slot.to_string()),
        or_dash(!workers.is_empty(), workers.join(",")),
        listener.owners.to_string(),
        listener.sleep.clone(),
        listener.steered.to_string(),
        or_dash(listener.live.is_some(), listener.live.unwrap_or(0)),
        listener.queued.to_string(),
        listener.backlog.to_string(),
        listener
            .connections
            .map_or("-".into(), |count| count.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::control::ProgramStatus;
    use crate::foreign::report::{Balance, Shares};

    #[test]
    fn a_group_reads_like_this() {
        let listener = ForeignListener {
            slot: Some(0),
            workers: vec![4712],
            owners: 3,
            steered: 800,
            sleep: "busy".into(),
            live: Some(12),
            queued: 4,
            backlog: 511,
            connections: Some(13),
            inode: 31_415,
            cookie: 0x1001,
            fd: 5,
        };
        let unknown = ForeignListener {
            slot: None,
            workers: Vec::new(),
            steered: 0,
            sleep: "unknown".into(),
            live: None,
            queued: 0,
            connections: None,
            ..listener.clone()
        };
        let status = ForeignStatus {
            listen: "127.0.0.1:8080".parse().unwrap(),
            namespace: 1,
            server: "nginx".into(),
            agent: Some(99),
            policy: Some("least".into()),
            program: ProgramStatus {
                attached: true,
                why_not: None,
                runs: 801,
                steered: 800,
                acks: 0,
                fallbacks: [("not_syn".into(), 1)].into(),
            },
            signals: BTreeMap::from([
                ("live".into(), "no BTF".into()),
                ("sleep".into(), "known".into()),
            ]),
            listeners: vec![listener, unknown],
            half_open: 2,
            balance: Balance {
                connections: Some(Shares {
                    sum: 13,
                    cv: 1.0,
                    max_over_mean: 2.0,
                }),
                queued: 4,
                empty_while_others_queue: 1,
            },
        };
        assert_eq!(
            group(&status),
            "\
127.0.0.1:8080 (nginx; agent 99, policy least): steered by the BPF program; 801 runs, 800 steered
left to the kernel's hash: 1 not_syn
goes without live: no BTF
slot  worker  owners  state    steered  live  recv-q  backlog  active
   0    4712       3  busy         800    12       4      511      13
   -       -       3  unknown        0     -       0      511       -
live connections 13: CV 1.0000, max/mean 2.000; queued 4, half-open 2
connections wait while 1 of 2 queues are empty
"
        );
    }
}
