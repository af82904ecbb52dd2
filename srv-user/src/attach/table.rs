//! Text rendering of an attached group and of its workers. Pure.

use std::fmt::Write as _;

use super::rates::WorkerRate;
use crate::control::attached::{Activity, AttachedListener, AttachedStatus, Attachment, Signal};
use crate::control::text::{counts, known, or_dash};
use crate::output::table::table;

/// The group as text.
pub(crate) fn group(status: &AttachedStatus) -> String {
    let agent = match status.agent {
        Some(pid) => format!("agent {pid}"),
        None => "no agent".to_owned(),
    };
    let policy = match &status.policy {
        Some(policy) => format!(", policy {policy}"),
        None => String::new(),
    };
    let server = or_dash(!status.server.is_empty(), &status.server);
    let program = program(status);
    let mut text = format!("{} ({server}; {agent}{policy}): {program}\n", status.listen);
    for (signal, is_known) in status.signals.iter().flatten() {
        if let Signal::Missing(why) = is_known {
            let _ = writeln!(text, "goes without the signal {signal}: {why}");
        }
    }
    let header = [
        "slot",
        "workers",
        "owners",
        "sleep",
        "steered",
        "acks",
        "live",
        "queued",
        "backlog",
        "connections",
    ];
    text += &table(&header, &["sleep"], status.listeners.iter().map(row));
    text += &balance(status);
    text
}

/// A table of the connections that each worker accepted in an interval.
pub(crate) fn workers(workers: &[WorkerRate]) -> String {
    let header = [
        "pid",
        "thread",
        "command",
        "accepted",
        "accepts_per_s",
        "share",
        "connections",
    ];
    let row = |worker: &WorkerRate| {
        vec![
            worker.pid.to_string(),
            known(worker.thread),
            worker.command.clone(),
            known(worker.accepted),
            known(worker.accepts_per_s.map(|rate| format!("{rate:.1}"))),
            known(worker.share.map(|share| format!("{:.1} %", 100.0 * share))),
            known(worker.connections),
        ]
    };
    table(&header, &["command"], workers.iter().map(row))
}

fn program(status: &AttachedStatus) -> String {
    let program = &status.program;
    let mut text = match &program.attachment {
        Attachment::Attached => "steered by the BPF program".to_owned(),
        Attachment::NotAttached(why) => format!("not steered: {why}"),
        Attachment::Unknown(why) => format!("unknown whether it is steered: {why}"),
    };
    if let (Some(runs), Some(steered)) = (program.runs, program.steered) {
        let _ = write!(text, "; {runs} runs, {steered} steered");
        if let Some(acks @ 1..) = program.acks {
            let _ = write!(text, ", {acks} ACKs to SYN cookies or to nothing");
        }
    } else if program.attachment == Attachment::Attached {
        text += "; without an agent its counts are unknown, and it steers until a socket joins or \
                 leaves the group; `srv detach` removes it";
    }
    let fallbacks = counts(program.fallbacks.iter().flatten());
    if !fallbacks.is_empty() {
        let _ = write!(text, "\nleft to the kernel's hash: {fallbacks}");
    }
    text
}

fn balance(status: &AttachedStatus) -> String {
    let balance = &status.balance;
    let shares = match &balance.connections {
        None => "connections: unknown for each socket".to_owned(),
        Some(shares) => format!(
            "connections {}: CV {:.4}, max/mean {:.3}",
            shares.sum, shares.cv, shares.max_over_mean
        ),
    };
    let (queued, half_open) = (balance.queued, status.half_open);
    let mut text = format!("{shares}; queued {queued}, half-open {half_open}\n");
    if balance.empty_while_others_queue > 0 {
        let _ = writeln!(
            text,
            "connections wait although {} of {} queues are empty",
            balance.empty_while_others_queue,
            status.listeners.len()
        );
    }
    text
}

fn row(listener: &AttachedListener) -> Vec<String> {
    let workers: Vec<String> = listener.workers.iter().map(u32::to_string).collect();
    vec![
        known(listener.slot),
        or_dash(!workers.is_empty(), workers.join(",")),
        listener.owners.to_string(),
        known(listener.sleep.map(Activity::name)),
        known(listener.steered),
        known(listener.acks),
        known(listener.live),
        listener.queued.to_string(),
        listener.backlog.to_string(),
        known(listener.connections),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::control::attached::{AttachedProgram, Balance, Shares};

    fn listeners() -> Vec<AttachedListener> {
        let listener = AttachedListener {
            slot: Some(0),
            workers: vec![4712],
            owners: 3,
            steered: Some(800),
            acks: Some(7),
            sleep: Some(Activity::Busy),
            live: Some(12),
            queued: 4,
            backlog: 511,
            connections: Some(13),
            inode: 31_415,
            cookie: 0x1001,
            fd: Some(5),
        };
        let unknown = AttachedListener {
            slot: None,
            workers: Vec::new(),
            steered: None,
            acks: None,
            sleep: None,
            live: None,
            queued: 0,
            connections: None,
            ..listener.clone()
        };
        vec![listener, unknown]
    }

    #[test]
    fn the_text_of_a_group() {
        let status = AttachedStatus {
            listen: "127.0.0.1:8080".parse().unwrap(),
            read_at_us: 1,
            namespace: 1,
            server: "nginx".into(),
            agent: Some(99),
            policy: Some("least".into()),
            program: AttachedProgram {
                attachment: Attachment::Attached,
                runs: Some(808),
                steered: Some(800),
                acks: Some(7),
                fallbacks: Some([("not_syn".into(), 1)].into()),
            },
            signals: Some(BTreeMap::from([
                ("live".into(), Signal::Missing("no BTF".into())),
                ("sleep".into(), Signal::Known),
            ])),
            listeners: listeners(),
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
127.0.0.1:8080 (nginx; agent 99, policy least): steered by the BPF program; 808 runs, 800 steered, 7 ACKs to SYN cookies or to nothing
left to the kernel's hash: 1 not_syn
goes without the signal live: no BTF
slot  workers  owners  sleep  steered  acks  live  queued  backlog  connections
   0     4712       3  busy       800     7    12       4      511           13
   -        -       3  -            -     -     -       0      511            -
connections 13: CV 1.0000, max/mean 2.000; queued 4, half-open 2
connections wait although 1 of 2 queues are empty
"
        );
    }
}
